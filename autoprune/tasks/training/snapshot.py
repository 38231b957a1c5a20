"""Training that is interrupted and goes on as if it had not been."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import CheckpointError, TaskError
from autoprune.tasks.base import Hook
from autoprune.tasks.training.loop import device_of
from autoprune.tasks.training.optimizers import SCALER
from autoprune.tasks.weight_files.pickled import read_checkpoint, write_tensors
from autoprune.tasks.weight_files.state_dicts import maps_to

FORMAT = 1


@dataclass(frozen=True)
class Snapshot:
    """Training between two steps, as tensors on the CPU and plain values.

    Attributes:
        step: how many steps are done.
        state_dict: parameters and buffers of the network.
        optimizer: the optimizer's state, as its `state_dict()` gives it.
        random: device type to the state of torch's global generator there; those of Python and NumPy are not kept.
        extra: what other hooks have to remember.
    """

    step: int
    state_dict: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    random: Mapping[str, Tensor]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def remaining(self, plan: TrainingPlan) -> TrainingPlan:
        """Returns the plan from here on."""
        return replace(plan, begin=self.step)


def take_snapshot(
    network: nn.Module, optimizer: torch.optim.Optimizer, step: int, extra: Mapping[str, Any] | None = None
) -> Snapshot:
    """Returns a copy of training after its first `step` steps; training on does not change it.

    Args:
        network: what is trained.
        optimizer: of its parameters.
        step: how many steps are done.
        extra: what other hooks have to remember.

    Raises:
        TypeError: `extra` holds something else than tensors, numbers, text, None, and lists, tuples and dictionaries.
    """
    device, random = device_of(network), {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(device)
    state, kept = copied(network.state_dict(), "state_dict"), copied(optimizer.state_dict(), "optimizer")
    return Snapshot(step, state, kept, random, copied(extra or {}, "extra"))


def copied(value: Any, path: str) -> Any:
    """Returns a copy of tensors and plain values, on the CPU, that `torch.load(weights_only=True)` can read.

    Subclasses of plain types (NumPy has some) become the plain types.

    Raises:
        TypeError: there is something else in it; the message begins where.
    """
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {_key(key, path): copied(item, f"{path}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [copied(item, f"{path}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    return _plain(value, path)


def _key(key: Any, path: str) -> str | int:
    if isinstance(key, str | int) and not isinstance(key, bool):
        return cast("str | int", _plain(key, path))
    raise TypeError(f"a snapshot's {path} should have text or integers as keys but has {key!r}")


def _plain(value: Any, path: str) -> bool | int | float | str | None:
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"a snapshot holds tensors and plain values only, but {path} is a {type(value).__name__}")


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Writes the file whole or not at all; as a checkpoint it also serves wherever dense weights are read.

    Raises:
        OSError: it cannot be written.
    """
    write_tensors(path, {"snapshot": FORMAT, **vars(snapshot)})


def read_snapshot(path: Path) -> Snapshot:
    """Returns what `write_snapshot` wrote; nothing in the file is executed.

    Raises:
        CheckpointError: the file is missing or damaged, a newer release wrote it, or it is none of ours.
    """
    content = read_checkpoint(path)
    if not isinstance(content, dict) or "snapshot" not in content:
        raise CheckpointError(f"{path} is no snapshot of a training run; `autoprune train` leaves them in its folder")
    version = content["snapshot"]
    if version != FORMAT:
        raise CheckpointError(
            f"{path} is a snapshot of format {version}; this release of autoprune reads {FORMAT}: "
            "resume with the release that wrote it"
        )
    found: dict[str, Any] = {field.name: content.get(field.name) for field in fields(Snapshot)}
    odd = [name for name, value in found.items() if not _fits(name, value)]
    if odd:
        raise CheckpointError(f"{path} is damaged: {' and '.join(odd)} is not what autoprune writes")
    return Snapshot(**found)


def _fits(name: str, value: Any) -> bool:
    if name == "step":
        return type(value) is int and value >= 0
    if not isinstance(value, dict):
        return False
    if name == "optimizer":
        return isinstance(value.get("state"), dict) and isinstance(value.get("param_groups"), list)
    return name != "random" or ("cpu" in value and maps_to(value, Tensor))


def checkpointing(
    save: Callable[[Snapshot], None],
    every_steps: int | None = None,
    extra: Callable[[], Mapping[str, Any]] = dict,
) -> Hook:
    """Returns a hook that hands over a snapshot after every so many steps, every whole pass and the last step.

    Args:
        save: takes each snapshot.
        every_steps: None: only after passes and at the end.
        extra: asked for what other hooks have to remember, each time.

    Raises:
        TaskError: `every_steps` is below 1, or the task's own training loop does not call `on_start`.
    """
    if every_steps is not None and every_steps < 1:
        raise TaskError(f"snapshots should be taken every 1 or more steps, not every {every_steps}")
    run = _Checkpointing(save, every_steps, extra)
    return Hook(on_start=run.start, after_step=run.require_start, after_epoch=run.end_epoch, at_rest=run.rest)


@dataclass
class _Checkpointing:
    """What `checkpointing` remembers of the training that it follows."""

    save: Callable[[Snapshot], None]
    every_steps: int | None
    extra: Callable[[], Mapping[str, Any]]
    optimizer: torch.optim.Optimizer | None = None
    epoch_ended: bool = False

    def start(self, network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        self.optimizer, self.epoch_ended = optimizer, False

    def require_start(self, network: nn.Module, step: int, steps: int, loss: float) -> None:
        if self.optimizer is None:
            raise TaskError(
                "snapshots need the optimizer, but the task's own training loop does not call the hooks' on_start; "
                "call on_start(network, optimizer, steps) first and at_rest(network, step, steps) last of each step"
            )

    def end_epoch(self, network: nn.Module, epoch: int) -> None:
        self.epoch_ended = True

    def rest(self, network: nn.Module, step: int, steps: int) -> None:
        due = self.every_steps is not None and step % self.every_steps == 0
        if self.optimizer is not None and (due or self.epoch_ended or step == steps):
            self.epoch_ended = False
            self.save(take_snapshot(network, self.optimizer, step, self.extra()))


def resume(snapshot: Snapshot) -> Hook:
    """Returns a hook with which `snapshot.remaining(plan)` goes on exactly where the snapshot was taken.

    Put it before all others: when their on_start is called weights, optimizer and random states are as they were. The
    network comes in the shape that it had then (a thinned one thinned); its weights are filled in.

    Raises:
        CheckpointError: on_start: the snapshot does not fit the network or the optimizer.
        TaskError: the plan does not begin where the snapshot was taken.
    """

    def on_start(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        try:
            network.load_state_dict(snapshot.state_dict)
        except RuntimeError as fault:
            raise CheckpointError(f"the snapshot does not fit {type(network).__name__}: {fault}") from fault
        load_optimizer(optimizer, snapshot.optimizer)
        device = device_of(network)
        torch.set_rng_state(snapshot.random["cpu"])
        if device.type == "cuda" and "cuda" in snapshot.random:
            torch.cuda.set_rng_state(snapshot.random["cuda"], device)

    return Hook(on_start=on_start, after_backward=_first_step(snapshot.step + 1))


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Gives an optimizer the state that a snapshot holds of one like it.

    Raises:
        CheckpointError: it was another optimizer, or of another network.
    """
    kind, own = type(optimizer).__name__, optimizer.state_dict()["param_groups"]
    if (SCALER in state) != (SCALER in optimizer.state_dict()):
        raise CheckpointError(
            "the snapshot was taken with another precision: of it and this training only one is fp16; "
            "resume with the plan it was taken with"
        )
    pairs = zip(state["param_groups"], own, strict=False)  # torch says where their number differs
    changed = sorted({name for given, group in pairs for name in _changed(given, group)})
    if changed:
        raise CheckpointError(
            f"the snapshot was taken with another optimizer than this {kind}: they differ in {', '.join(changed)}; "
            "resume with the plan it was taken with"
        )
    try:
        optimizer.load_state_dict(copied(state, "optimizer"))  # else torch would train on the snapshot's own tensors
    except ValueError as fault:
        raise CheckpointError(f"the snapshot's {kind} does not fit the network: {fault}") from fault
    for parameter, kept in optimizer.state.items():
        for name, tensor in kept.items():
            if isinstance(tensor, Tensor) and tensor.dim() > 0 and tensor.shape != parameter.shape:
                raise CheckpointError(
                    f"the snapshot's {kind} does not fit the network: {name} is {list(tensor.shape)} "
                    f"for a parameter of {list(parameter.shape)}"
                )


def _changed(given: Mapping[str, Any], group: Mapping[str, Any]) -> set[str]:
    """Returns the settings, besides the rate, that two parameter groups do not share."""
    names = (given.keys() | group.keys()) - {"params", "lr"}
    return {name for name in names if name not in given or name not in group or given[name] != group[name]}


def _first_step(expected: int) -> Callable[[nn.Module, int], None]:
    """Refuses a first step of another number."""
    first = True

    def check(network: nn.Module, step: int) -> None:
        nonlocal first
        if first and step != expected:
            raise TaskError(
                f"training began at step {step}, but the snapshot was taken before step {expected}; "
                "train with snapshot.remaining(plan)"
            )
        first = False

    return check

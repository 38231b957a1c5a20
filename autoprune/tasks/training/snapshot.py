"""Training that is interrupted and goes on as if it had not been."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import CheckpointError, TaskError
from autoprune.files import write_whole
from autoprune.tasks.base import Hook
from autoprune.tasks.training.loop import device_of
from autoprune.tasks.weights import read_checkpoint

FORMAT = 1
_FIELDS = ("step", "state_dict", "optimizer", "random", "extra")


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

    Raises:
        TypeError: `extra` holds something else than tensors, numbers, text, None, and lists, tuples and dictionaries.
    """
    state, kept = dict(network.state_dict()), optimizer.state_dict()
    return Snapshot(
        step,
        copied(state, "state_dict"),
        copied(kept, "optimizer"),
        _random_states(device_of(network)),
        copied(dict(extra or {}), "extra"),
    )


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


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
    content = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError
    torch.save({"snapshot": FORMAT, **{name: getattr(snapshot, name) for name in _FIELDS}}, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getbuffer())


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
    odd = [name for name in _FIELDS if not _fits(name, content.get(name))]
    if odd:
        raise CheckpointError(f"{path} is damaged: {' and '.join(odd)} is not what autoprune writes")
    return Snapshot(**{name: content[name] for name in _FIELDS})


def _fits(name: str, value: Any) -> bool:
    if name == "step":
        return type(value) is int and value >= 0
    if not isinstance(value, dict):
        return False
    if name == "optimizer":
        return isinstance(value.get("state"), dict) and isinstance(value.get("param_groups"), list)
    if name == "random" and "cpu" not in value:
        return False
    return name != "random" or all(isinstance(item, Tensor) for item in value.values())


def checkpointing(
    save: Callable[[Snapshot], None],
    every_steps: int | None = None,
    extra: Callable[[], Mapping[str, Any]] = dict,
) -> Hook:
    """Returns a hook that hands over a snapshot after every so many steps, every whole pass and the last step.

    Args:
        every_steps: None: only after passes and at the end.
        extra: asked for what other hooks have to remember, each time.

    Raises:
        TaskError: `every_steps` is below 1, or the task's own training loop does not call `on_start`.
    """
    if every_steps is not None and every_steps < 1:
        raise TaskError(f"snapshots should be taken every 1 or more steps, not every {every_steps}")
    return _Checkpointing(save, every_steps, extra).hook()


class _Checkpointing:
    def __init__(
        self, save: Callable[[Snapshot], None], every_steps: int | None, extra: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._save, self._every_steps, self._extra = save, every_steps, extra
        self._optimizer: torch.optim.Optimizer | None = None
        self._epoch_ended = False

    def hook(self) -> Hook:
        return Hook(
            on_start=self._start, after_step=self._require_start, after_epoch=self._end_epoch, at_rest=self._rest
        )

    def _start(self, network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        self._optimizer, self._epoch_ended = optimizer, False

    def _require_start(self, network: nn.Module, step: int, steps: int, loss: float) -> None:
        if self._optimizer is None:
            raise TaskError(
                "snapshots need the optimizer, but the task's own training loop does not call the hooks' on_start; "
                "call on_start(network, optimizer, steps) first and at_rest(network, step, steps) last of each step"
            )

    def _end_epoch(self, network: nn.Module, epoch: int) -> None:
        self._epoch_ended = True

    def _rest(self, network: nn.Module, step: int, steps: int) -> None:
        due = self._every_steps is not None and step % self._every_steps == 0
        if self._optimizer is not None and (due or self._epoch_ended or step == steps):
            self._epoch_ended = False
            self._save(take_snapshot(network, self._optimizer, step, self._extra()))


def resume(snapshot: Snapshot) -> Hook:
    """Returns a hook with which `snapshot.remaining(plan)` goes on exactly where the snapshot was taken.

    Put it before all others: when their on_start is called weights, optimizer and random states are as they were. The
    network comes in the shape that it had then (a thinned one thinned); its weights are filled in.

    Raises:
        CheckpointError: on_start: the snapshot does not fit the network or the optimizer.
        TaskError: the plan does not begin where the snapshot was taken.
    """

    def on_start(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        _fill(network, snapshot.state_dict)
        _load_optimizer(optimizer, snapshot.optimizer)
        _set_random_states(device_of(network), snapshot.random)

    return Hook(on_start=on_start, after_backward=_first_step(snapshot.step + 1))


def _fill(network: nn.Module, state: Mapping[str, Any]) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as fault:
        raise CheckpointError(f"the snapshot does not fit {type(network).__name__}: {fault}") from fault


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    kind, own = type(optimizer).__name__, optimizer.state_dict()["param_groups"]
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


def _set_random_states(device: torch.device, states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


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

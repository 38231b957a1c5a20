"""Hooks that take snapshots of training, and that go on from one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import CheckpointError, TaskError
from autoprune.tasks.base import Hook
from autoprune.tasks.training.loop import device_of
from autoprune.tasks.training.snapshot import Snapshot, copied, take_snapshot


def checkpointing(
    save: Callable[[Snapshot], None],
    every_steps: int | None = None,
    extra: Callable[[], Mapping[str, Any]] = dict,
) -> Hook:
    """A hook that hands over a snapshot after every so many steps, after every whole pass and after the last step.

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
    """A hook with which `snapshot.remaining(plan)` goes on exactly where the snapshot was taken.

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
    """The settings, besides the rate, that two parameter groups do not share."""
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

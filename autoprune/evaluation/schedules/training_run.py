"""Training with a pruning schedule: what acts inside it joined into hooks, in segments between changes of shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.config.schedule import PolicySection, ScheduleFile
from autoprune.core.trial import Score
from autoprune.errors import CheckpointError, UserError
from autoprune.evaluation.checkpoints.reshape import Shape, Shaped, reshape
from autoprune.evaluation.metrics import Batches, evaluate_with_top_5, zeros_in
from autoprune.evaluation.schedules.active_pruners import Passed, TrainingParts, carried_in
from autoprune.evaluation.schedules.builders import plan_of
from autoprune.evaluation.schedules.shape_changes import planned_changes, remove_dead, thin_masked
from autoprune.evaluation.schedules.ticket_rounds import TicketRounds
from autoprune.evaluation.scoring import ScoringSamples
from autoprune.graph.groups import find_groups
from autoprune.pruning.schedules import Unit
from autoprune.pruning.surgery.masks import Masks
from autoprune.pruning.training.masking import Masking
from autoprune.tasks.base import Hook, Task
from autoprune.tasks.training.distillation import distillation
from autoprune.tasks.training.loop import count_steps
from autoprune.tasks.training.optimizers import rate_of
from autoprune.tasks.training.resuming import checkpointing, resume
from autoprune.tasks.training.snapshot import Snapshot


@dataclass(frozen=True)
class Watching:
    """Where a run's progress goes.

    Attributes:
        note: takes the measurements of an epoch, or of the end, by name.
        save: takes a snapshot; the newest is what the run goes on from.
        save_early: takes the snapshot that the rounds of a lottery ticket go back to.
        every: steps between snapshots; there is one after every epoch too.
        hooks: further ones, for progress.
    """

    note: Callable[[Mapping[str, Any]], None]
    save: Callable[[Snapshot], None]
    save_early: Callable[[Snapshot], None]
    every: int | None = None
    hooks: Sequence[Hook] = ()


class _Reshape(Exception):
    """Training stops because the network is about to change its shape."""


class TrainingRun:
    """One training by a schedule.

    A change of shape (thinning, removal of layers) ends a segment: training goes on with a smaller network, a new
    optimizer, whose momentum starts at zero, and the rate of the unbroken run; masks of weights are carried over.

    Args:
        dense: with the weights that training starts from; not changed.
        inputs: `[2, …]` samples.

    Raises:
        UserError: the schedule does not fit the network.
    """

    def __init__(
        self, task: Task, dense: nn.Module, inputs: Tensor, schedule: ScheduleFile, watching: Watching, seed: int = 0
    ) -> None:
        self._task, self._dense, self._inputs = task, dense, inputs
        self._schedule, self._watching, self._seed = schedule, watching, seed
        self.plan = plan_of(schedule.train, seed)
        self.steps = count_steps(task, self.plan)
        self._epoch_steps = max(1, count_steps(task, replace(self.plan, steps=None, epochs=1.0)))
        self._validation = Batches(task, "validation", None, 250, 0, inputs.device).load()
        self.network = reshape(dense, find_groups(dense, inputs), Shape())
        self.shape, self._reshaped = Shape(), 0
        self._changes = planned_changes(schedule, self._epoch_steps)
        self._rounds = TicketRounds(schedule.rounds, watching.save_early)
        self._passed: dict[Unit, int] = {"step": 0, "epoch": 0}
        self._since: Passed | None = None
        self._losses: list[float] = []
        self._optimizer: torch.optim.Optimizer | None = None
        self._check()
        self.parts = self._at_work()

    def _check(self) -> None:
        for policy in self._schedule.policies:
            start, end, _, unit = policy.timing()
            last = max(start, end or 0) * (self._epoch_steps if unit == "epoch" else 1)
            if last > self.steps:
                raise UserError(
                    f"a policy reaches to {unit} {max(start, end or 0)}, after the last of {self.steps} steps"
                )

    def _at_work(self, passed: Passed | None = None, carry: Masks | None = None) -> TrainingParts:
        """The schedule's parts on the network as it is now."""
        scoring = self._schedule.scoring
        samples = ScoringSamples(self._task, self._inputs.device, scoring.samples, scoring.batch_size, self._seed)
        return TrainingParts(self.network, self._inputs, self._schedule, samples, passed, carry)

    def resume(self, snapshot: Snapshot, early: Snapshot | None) -> None:
        """Goes on from a snapshot of a run with the same schedule, network and data.

        Raises:
            CheckpointError: it is of another run.
        """
        state = snapshot.extra
        try:
            self.shape = Shape(tuple(state["removed"]), state["kept"])
            self.network = reshape(self._dense, find_groups(self._dense, self._inputs), self.shape)
            self.network.load_state_dict(snapshot.state_dict)
            self._reshaped, self._rounds.done, self._rounds.early = state["reshaped"], state["round"], early
            self._passed, self._losses = dict(state["passed"]), list(state["losses"])
            since = state["since"]  # the parts were put to work at the last change of shape
            self._since = None if since is None else dict(since)
            self.parts = self._at_work(self._since, carried_in(state["parts"]))
            self.network.load_state_dict(snapshot.state_dict)  # a fresh pruning may have masked already
            self.parts.load_state_dict(state["parts"])
        except (KeyError, TypeError, RuntimeError) as fault:
            raise CheckpointError(f"the snapshot is not of this schedule and network: {fault!r}") from fault

    @property
    def masking(self) -> Masking:
        """What holds the network's masked weights at zero."""
        return self.parts.masking

    def run(self, snapshot: Snapshot | None = None) -> Score:
        """Trains to the end, from a snapshot if `resume` was called with it; the final score on validation samples."""
        while True:
            if self._reshape_where_due():
                snapshot = None  # it is of the shape that was
            try:
                self._task.train(self.network, replace(self.plan, begin=self._passed["step"]), self._hooks(snapshot))
            except _Reshape:
                snapshot = None
                continue
            snapshot = self._begin_round()
            if snapshot is None:
                break
        self.parts.finish()
        return self._measure("final")

    def _hooks(self, snapshot: Snapshot | None) -> list[Hook]:
        hooks = [resume(snapshot)] if snapshot is not None else []
        if self._schedule.distill is not None:
            distill = self._schedule.distill
            hooks.append(distillation(self._dense, distill.temperature, distill.weight))
        own = Hook(
            loss_term=self._term, on_start=self._start, after_step=self._after_step, after_epoch=self._after_epoch
        )
        saving = checkpointing(self._watching.save, self._watching.every, self._state)
        return [*hooks, own, *self._watching.hooks, saving, Hook(at_rest=self._stop_where_due)]

    def _start(self, network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        self._optimizer = optimizer
        self.masking.hold()
        self._rounds.keep_early(network, optimizer, self._passed)

    def _term(self, network: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor | None:
        return self.parts.term(self._passed)

    def _after_step(self, network: nn.Module, step: int, steps: int, loss: float) -> None:
        assert self._optimizer is not None  # training has started
        before, self._passed = self._passed, {**self._passed, "step": step}
        self._losses.append(loss)
        self.parts.step(before, self._passed, rate_of(self._optimizer) / (1 - self.plan.momentum))
        self._rounds.keep_early(network, self._optimizer, self._passed)

    def _after_epoch(self, network: nn.Module, epoch: int) -> None:
        self._passed = {**self._passed, "epoch": epoch}
        self.parts.epoch(self._passed)
        self._measure("epoch")
        self._losses = []
        network.train()

    def _state(self) -> dict[str, Any]:
        return {
            "removed": list(self.shape.removed),
            "kept": {name: list(stays) for name, stays in self.shape.kept.items()},
            "reshaped": self._reshaped,
            "round": self._rounds.done,
            "passed": _plain(self._passed),
            "since": None if self._since is None else _plain(self._since),
            "losses": list(self._losses),
            "parts": self.parts.state_dict(),
        }

    def _stop_where_due(self, network: nn.Module, step: int, steps: int) -> None:
        left = self._changes[self._reshaped :]
        if left and left[0][0] == step:
            raise _Reshape

    def _reshape_where_due(self) -> bool:
        """Makes the changes of shape that are due now; whether there were any."""
        due = [policy for step, policy in self._changes[self._reshaped :] if step <= self._passed["step"]]
        for policy in due:
            self._reshape(policy)
            self._reshaped += 1
        return bool(due)

    def _reshape(self, policy: PolicySection) -> None:
        """Goes on with what a change of shape leaves of the network."""
        if policy.remove_layers is not None:
            self.parts.finish_penalties(self._passed, policy.remove_layers)
        self.masking.hold()
        before = Shaped(self.network, self._inputs, self.shape, self.masking.masks)
        if policy.remove_layers is not None:
            after = remove_dead(before, self._note_change)
        else:
            after = thin_masked(before, self.parts.prunings.values(), self._note_change)
        self.network, self.shape, self._since = after.network, after.shape, dict(self._passed)
        self.parts = self._at_work(self._since, after.masks)

    def _note_change(self, what: Mapping[str, Any]) -> None:
        self._watching.note({**what, "step": self._passed["step"]})

    def _begin_round(self) -> Snapshot | None:
        """Prunes for the next round of a lottery ticket; the snapshot that it starts from, None if there is none."""
        if self._rounds.over:
            return None
        self._measure("round")
        (pruning,) = self.parts.prunings.values()
        early = self._rounds.begin(pruning, self.masking)
        self._passed = {"step": early.step, "epoch": int(early.extra["epoch"])}
        self._losses = []
        return early

    def _measure(self, event: str) -> Score:
        """Judges the network on the validation samples, and notes it."""
        self.masking.hold()
        score, top_5 = evaluate_with_top_5(self.network, self._task, self._validation)
        measured: dict[str, float | None] = {
            "accuracy": score.accuracy,
            "loss": score.loss,
            "top_5": top_5,
            "training_loss": sum(self._losses) / len(self._losses) if self._losses else None,
            "rate": rate_of(self._optimizer) if self._optimizer is not None else None,
            "zeros": zeros_in(self.network),
            **self.parts.measured(),
        }
        known = {name: value for name, value in measured.items() if value is not None}
        epochs = -(-self.steps // self._epoch_steps)
        total = {"epochs": self._rounds.done * epochs + self._passed["epoch"]}  # over all rounds
        self._watching.note({"event": event, "round": self._rounds.done, **_plain(self._passed), **total, **known})
        return score


def _plain(passed: Mapping[Unit, int]) -> dict[str, int]:
    return {str(unit): count for unit, count in passed.items()}

"""Training with a pruning schedule: what acts inside it joined into hooks, in segments between changes of shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from autoprune.config.schedule import PolicySection, ScheduleFile
from autoprune.core.trial import Score
from autoprune.errors import CheckpointError, UserError
from autoprune.evaluation.judging import Batches, judge_top_5, zeros_in
from autoprune.evaluation.reshaping import Shape, carried, reshape
from autoprune.evaluation.schedule_parts import plan_of
from autoprune.evaluation.scoring import ScoringImages
from autoprune.evaluation.training_parts import Passed, TrainingParts, carried_in
from autoprune.graph.branches import choose_branches, find_branches
from autoprune.graph.groups import ChannelGraph, Kept, find_groups
from autoprune.pruning.masking import Masking
from autoprune.pruning.masks import Masks
from autoprune.pruning.removal import dead_branches, remove_branches
from autoprune.pruning.schedules import Unit
from autoprune.pruning.thinning import thin
from autoprune.tasks.base import Hook, Task
from autoprune.tasks.distillation import distillation
from autoprune.tasks.optimizers import rate_of
from autoprune.tasks.resuming import checkpointing, resume
from autoprune.tasks.snapshot import Snapshot, take_snapshot
from autoprune.tasks.training import count_steps


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
        self.shape, self._reshaped, self.round = Shape(), 0, 0
        self._passed: dict[Unit, int] = {"step": 0, "epoch": 0}
        self._since: Passed | None = None
        self._early: Snapshot | None = None
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
        images = ScoringImages(self._task, self._inputs.device, scoring.images, scoring.batch, self._seed)
        return TrainingParts(self.network, self._inputs, self._schedule, images, passed, carry)

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
            self._reshaped, self.round = state["reshaped"], state["round"]
            self._passed, self._losses, self._early = dict(state["passed"]), list(state["losses"]), early
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
        """Trains to the end, from a snapshot if `resume` was called with it; the final score on validation images."""
        while True:
            if self._reshape_where_due():
                snapshot = None  # it is of the shape that was
            try:
                self._task.train(self.network, replace(self.plan, begin=self._passed["step"]), self._hooks(snapshot))
            except _Reshape:
                snapshot = None
                continue
            if not self._begin_round():
                break
            snapshot = self._early
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
        self._keep_early(network)

    def _keep_early(self, network: nn.Module) -> None:
        """Keeps the state that rounds go back to, when it is reached in the first."""
        rounds = self._schedule.rounds
        if rounds is None or self._early is not None or self._optimizer is None:
            return
        if self._passed["step"] == (0 if rounds.rewind == "initial" else rounds.rewind):
            self._early = take_snapshot(
                network, self._optimizer, self._passed["step"], {"epoch": self._passed["epoch"]}
            )
            self._watching.save_early(self._early)

    def _term(self, network: nn.Module, inputs: Tensor, outputs: Tensor) -> Tensor | None:
        return self.parts.term(self._passed)

    def _after_step(self, network: nn.Module, step: int, steps: int, loss: float) -> None:
        rate = rate_of(self._optimizer) if self._optimizer is not None else self.plan.rate
        before, self._passed = self._passed, {**self._passed, "step": step}
        self._losses.append(loss)
        self.parts.step(before, self._passed, rate / (1 - self.plan.momentum))
        self._keep_early(network)

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
            "round": self.round,
            "passed": _plain(self._passed),
            "since": None if self._since is None else _plain(self._since),
            "losses": list(self._losses),
            "parts": self.parts.state_dict(),
        }

    def _reshapings(self) -> list[tuple[int, PolicySection]]:
        """The changes of shape, by the step after which they come."""
        found = []
        for policy in self._schedule.policies:
            if policy.thin or policy.remove_layers:
                start, _, _, unit = policy.timing()
                found.append((start * (self._epoch_steps if unit == "epoch" else 1), policy))
        return sorted(found, key=lambda each: each[0])

    def _stop_where_due(self, network: nn.Module, step: int, steps: int) -> None:
        left = self._reshapings()[self._reshaped :]
        if left and left[0][0] == step:
            raise _Reshape

    def _reshape_where_due(self) -> bool:
        """Makes the changes of shape that are due now; whether there were any."""
        due = [policy for step, policy in self._reshapings()[self._reshaped :] if step <= self._passed["step"]]
        for policy in due:
            if policy.thin:
                self._thin()
            else:
                self._remove_dead(cast(str, policy.remove_layers))
            self._reshaped += 1
        return bool(due)

    def _remove_dead(self, penalty: str) -> None:
        """Removes the residual branches of which the penalty has masked a layer that all passes."""
        self.parts.finish_penalties(self._passed, penalty)
        graph = find_groups(self.network, self._inputs)
        self._remove(graph, dead_branches(self.network, graph, 0.0, statistic="max"))

    def _remove(self, graph: ChannelGraph, names: Sequence[str]) -> None:
        branches = choose_branches(find_branches(self.network, graph), names)
        layers = [layer for branch in branches for layer in branch.layers]
        self._watching.note({"event": "removed", "branches": list(names), "step": self._passed["step"]})
        self._become(
            lambda network, check_on: remove_branches(network, graph, names, check_on),
            self.shape.without(names, layers),
        )

    def _thin(self) -> None:
        """Removes the channels, and then the whole layers, that prunings have masked."""
        kept: dict[str, Sequence[int]] = {}
        removed = [name for pruning in self.parts.prunings.values() for name in pruning.removed()]
        for pruning in self.parts.prunings.values():
            for group, stays in pruning.kept().items():
                both = set(kept.get(group, stays)) & set(stays)
                kept[group] = tuple(sorted(both)) or tuple(stays)
        if not kept and not removed:
            raise UserError("there is nothing to thin: no pruner of pattern 'filter' or 'layer' has pruned by then")
        if kept:
            self._thin_to(kept)
        if removed:
            self._remove(find_groups(self.network, self._inputs), removed)

    def _thin_to(self, kept: Kept) -> None:
        graph = find_groups(self.network, self._inputs)
        widths = {group: len(stays) for group, stays in kept.items()}
        self._watching.note({"event": "thinned", "widths": widths, "step": self._passed["step"]})
        self._become(lambda network, check_on: thin(network, graph, kept, check_on), self.shape.thinned(graph, kept))

    def _become(self, transform: Callable[[nn.Module, Tensor | None], nn.Module], shape: Shape) -> None:
        """Goes on with what a change of shape makes of the network."""
        self.masking.hold()
        masks = carried(self.network, self.masking.masks, lambda twin: transform(twin, None))
        self.network = transform(self.network, self._inputs)
        self.shape, self._since = shape, dict(self._passed)
        self.parts = self._at_work(self._since, masks)

    def _begin_round(self) -> bool:
        """Prunes and rewinds for the next round of a lottery ticket; false if there is none."""
        rounds = self._schedule.rounds
        if rounds is None or self.round >= rounds.count:
            return False
        if self._early is None:
            raise UserError(f"the first round ended before step {rounds.rewind}, to which the others should go back")
        self._measure("round")
        self.round += 1
        (pruning,) = self.parts.prunings.values()
        pruning.update(self.round / rounds.count)
        self.masking.remember(self._early.state_dict)
        self._passed = {"step": self._early.step, "epoch": int(self._early.extra["epoch"])}
        self._losses = []
        return True

    def _measure(self, event: str) -> Score:
        """Judges the network on the validation images, and notes it."""
        self.masking.hold()
        score, top_5 = judge_top_5(self.network, self._task, self._validation)
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
        total = {"epochs": self.round * epochs + self._passed["epoch"]}  # over all rounds
        self._watching.note({"event": event, "round": self.round, **_plain(self._passed), **total, **known})
        return score


def _plain(passed: Mapping[Unit, int]) -> dict[str, int]:
    return {str(unit): count for unit, count in passed.items()}

"""Training by a pruning schedule: in segments between changes of shape, and in the rounds of a lottery ticket."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from autoprune.config.schedule import PolicySection, ScheduleFile
from autoprune.core.trial import Score
from autoprune.errors import CheckpointError, UserError
from autoprune.evaluation.checkpoints.reshape import ReshapedNetwork, reshape
from autoprune.evaluation.data import Batches, ScoringSamples, takes_channels_last
from autoprune.evaluation.metrics import evaluate, zeros_in
from autoprune.evaluation.schedules.active_pruners import (
    CARRIED,
    ActivePruners,
    Passed,
    penalties_acting,
    pruners_over,
)
from autoprune.evaluation.schedules.continuation import continue_from
from autoprune.graph.groups import find_groups
from autoprune.graph.inputs import ModelInputs
from autoprune.pruning.schedules import Unit
from autoprune.pruning.surgery.branch_removal import dead_branches
from autoprune.pruning.surgery.masks import Masks
from autoprune.pruning.surgery.provenance import PrunedShape, provenance_of
from autoprune.pruning.training.gradual import Pruning
from autoprune.tasks.base import Hook, Task
from autoprune.tasks.training.calls import train_with_hooks
from autoprune.tasks.training.distillation import distillation
from autoprune.tasks.training.loop import count_steps
from autoprune.tasks.training.optimizers import rate_of
from autoprune.tasks.training.snapshot import Snapshot, checkpointing, copied, resume, take_snapshot


@dataclass(frozen=True)
class TrainingCallbacks:
    """The functions that a training run reports to.

    Attributes:
        record: takes an event (`{"event": "epoch", …}`) with its measurements by name.
        save: takes a snapshot; the newest is what the run goes on from.
        save_every: steps between snapshots; there is one after every epoch too.
        hooks: further ones, for progress.
        say: takes a sentence for the user.
    """

    record: Callable[[Mapping[str, Any]], None]
    save: Callable[[Snapshot], None]
    save_every: int | None = None
    hooks: Sequence[Hook] = ()
    say: Callable[[str], None] = lambda _: None


class _Pause(Exception):
    """Training stops because the network is about to change its shape, or for good."""


class TrainingRun:
    """One training by a schedule.

    A change of shape (thinning, removal of layers) ends a segment: training goes on with a smaller network, a new
    optimizer, whose momentum starts at zero, and the rate of the unbroken run; masks of weights are carried over.

    Args:
        task: its data and its training loop are used, and its loss where a criterion differentiates it.
        dense: the network with the weights that training starts from; not changed. The masks noted on it hold.
        inputs: two samples as the network takes them, see `ModelInputs.of`.
        schedule: what is pruned and when.
        callbacks: what the run reports to.
        seed: of the training plan, and of random draws.
        before: the last snapshot of the training that this one goes on with, where its schedule starts later.

    Attributes:
        network: what is trained: a copy of the dense one, in the shape that it has by now.
        shapes: what was removed by then, one loss after the other.
        plan: how it is trained.
        steps: the number of the last step.
        active: the schedule's prunings and penalties on the network.

    Raises:
        UserError: the schedule does not fit the network.
    """

    def __init__(
        self,
        task: Task,
        dense: nn.Module,
        inputs: Any,
        schedule: ScheduleFile,
        callbacks: TrainingCallbacks,
        seed: int = 0,
        before: Snapshot | None = None,
    ) -> None:
        self._task, self._dense, self._inputs = task, dense, ModelInputs.of(inputs)
        self._schedule, self._callbacks, self._seed = schedule, callbacks, seed
        self.plan = schedule.train.plan(seed)
        self.steps = count_steps(task, self.plan, dense)
        self._steps_per_epoch = max(1, count_steps(task, replace(self.plan, steps=None, epochs=1.0), dense))
        self._channels_last = takes_channels_last(dense, self._inputs)
        self._validation = Batches(task, "validation", None, 250, 0, self._inputs.device, self._channels_last).load()
        begin = schedule.start_epoch
        self._begin = begin * self._steps_per_epoch
        self._last = min(self.steps, (schedule.stop_epoch or sys.maxsize) * self._steps_per_epoch)
        self._check_times()
        self.network = reshape(dense, self._inputs, ())
        self.shapes: tuple[PrunedShape, ...] = ()
        self._changes = _shape_changes(schedule, self._steps_per_epoch)
        self._changes_made = sum(step < self._begin for step, _ in self._changes)
        self._round = 0
        self._passed: dict[Unit, int] = {"step": self._begin, "epoch": begin}
        self._passed_at_change: Passed | None = self._passed if begin else None
        self._losses: list[float] = []
        self._optimizer: torch.optim.Optimizer | None = None
        self._start_from: Snapshot | None = None
        self._said = ""
        self.active = self._activate(provenance_of(dense).masks) if not begin else self._go_on(before)

    def _check_times(self) -> None:
        for policy in self._schedule.policies:
            start, end, _, unit = policy.timing()
            last = max(start, end or 0)
            if last * (self._steps_per_epoch if unit == "epoch" else 1) > self.steps:
                raise UserError(f"a policy reaches to {unit} {last}, after the last of {self.steps} steps")
        if (early := self._rewind_step()) is not None and early > self.steps:
            raise UserError(f"rounds should go back to step {early}, after the last of {self.steps} steps")

    def _rewind_step(self) -> int | None:
        """Returns the step to whose weights rounds go back; None where there are no rounds."""
        rounds = self._schedule.rounds
        return None if rounds is None else 0 if rounds.rewind == "initial" else rounds.rewind

    def _go_on(self, before: Snapshot | None) -> ActivePruners:
        """Puts on the network what goes on from the training before, as it was then, and what begins only now."""
        goes_on = {
            "prunings": frozenset(self._schedule.pruners) - pruners_over(self._schedule, self._passed),
            "penalties": penalties_acting(self._schedule, self._passed),
        }
        found = continue_from(before, self._dense, replace(self.plan, begin=self._begin), goes_on)
        self._said = f"starting at epoch {self._schedule.start_epoch}: {found.said}"
        left_out = found.done | pruners_over(self._schedule, self._passed, at_end=False)
        if found.start is not None:
            self.network.load_state_dict(found.start.state_dict)
        active = self._activate(found.carried, left_out)
        states = found.active.get("prunings", {})
        for name, pruning in active.prunings.items():
            if name in states:
                pruning.load_state_dict(states[name])
            else:
                pruning.update_if_due()
        active.load_penalties(found.active.get("penalties", {}))
        self._start_from = found.start and replace(found.start, state_dict=copied(self.network.state_dict(), "state"))
        return active

    def _activate(self, carried: Masks | None = None, left_out: Collection[str] = ()) -> ActivePruners:
        """Puts the schedule's prunings and penalties on the network as it is now."""
        scoring = self._schedule.scoring
        samples = ScoringSamples(
            self._task,
            self._inputs.device,
            scoring.samples,
            scoring.batch_size,
            self._seed,
            channels_last=self._channels_last,
        )
        passed = self._passed_at_change
        return ActivePruners(self.network, self._inputs, self._schedule, samples, passed, carried, left_out)

    def resume(self, snapshot: Snapshot) -> None:
        """Makes `run` go on from a snapshot of a run with the same schedule, network and data.

        Raises:
            CheckpointError: it is of another run.
        """
        state = snapshot.extra
        try:
            self.shapes = tuple(map(PrunedShape.from_plain, state["shapes"]))
            self.network = reshape(self._dense, self._inputs, self.shapes)
            self.network.load_state_dict(snapshot.state_dict)
            self._changes_made, self._losses = state["changes_made"], list(state["losses"])
            self._passed, self._passed_at_change = state["passed"], state["passed_at_change"]
            left_out = self._schedule.pruners.keys() - state["active"]["prunings"].keys()
            self.active = self._activate(state["active"][CARRIED], left_out)
            self.network.load_state_dict(snapshot.state_dict)  # a fresh pruning may have masked already
            self.active.load_state_dict(state["active"])
        except (KeyError, TypeError, RuntimeError) as fault:
            raise CheckpointError(f"the snapshot is not of this schedule and network: {fault!r}") from fault
        self._start_from, self._said = snapshot, ""

    def state_dict(self) -> dict[str, Any]:
        """Returns what the rounds of a lottery ticket reset with the network: optimizer, random states and counts."""
        assert self._optimizer is not None  # rounds keep their early state while they train
        snapshot = take_snapshot(self.network, self._optimizer, self._passed["step"])
        return {"passed": self._passed, "optimizer": snapshot.optimizer, "random": snapshot.random}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Makes the next round begin where `state_dict` was taken, on the network with the weights of that time."""
        self._passed, self._losses = state["passed"], []
        weights = self.network.state_dict()  # `Pruning.rounds` has put them back
        self._start_from = Snapshot(self._passed["step"], weights, state["optimizer"], state["random"])

    def run(self) -> Score:
        """Trains to the end, and returns the final score on the validation samples."""
        if self._said:
            self._callbacks.say(self._said)
        rounds = self._schedule.rounds
        if rounds is None:
            self._train()
        else:
            (pruning,) = self.active.prunings.values()
            for number in pruning.rounds(rounds.count, self, early=True):
                self._round = number
                self._train()
                if number < rounds.count:
                    self._measure("round")
        self.active.finish()
        return self._measure("final")

    def _train(self) -> None:
        """Trains to the plan's last step, and changes the network's shape on the way."""
        while True:
            for step, policy in self._changes[self._changes_made :]:
                if step <= self._passed["step"]:
                    self._change_shape(policy)
            if self._passed["step"] >= self._last:
                return
            try:
                plan = replace(self.plan, begin=self._passed["step"])
                train_with_hooks(self._task, self.network, plan, self._hooks())
                return
            except _Pause:
                continue

    def _hooks(self) -> list[Hook]:
        hooks = [] if self._start_from is None else [resume(self._start_from)]
        self._start_from = None
        if (distill := self._schedule.distill) is not None:
            hooks.append(distillation(self._dense, distill.temperature, distill.weight))
        own = Hook(
            on_start=self._start,
            after_step=self._after_step,
            after_epoch=self._after_epoch,
            at_rest=self._keep_early_where_due,
        )
        if self._schedule.penalties:
            own = replace(own, loss_term=lambda *_: self.active.term(self._passed))
        saving = checkpointing(self._callbacks.save, self._callbacks.save_every, self._state)
        return [*hooks, own, *self._callbacks.hooks, saving, Hook(at_rest=self._stop_where_due)]

    def _start(self, network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        self._optimizer = optimizer
        self.active.masking.hold()
        self._keep_early_where_due()

    def _after_step(self, network: nn.Module, step: int, steps: int, loss: float) -> None:
        assert self._optimizer is not None  # training has started
        before, self._passed = self._passed, {**self._passed, "step": step}
        self._losses.append(loss)
        self.active.step(before, self._passed, rate_of(self._optimizer) / (1 - self.plan.momentum))

    def _after_epoch(self, network: nn.Module, epoch: int) -> None:
        self._passed = {**self._passed, "epoch": epoch}
        self.active.epoch(self._passed)
        self._measure("epoch")
        self._losses = []
        network.train()

    def _keep_early_where_due(self, *_: object) -> None:
        if self._round == 0 and self._passed["step"] == self._rewind_step():
            (pruning,) = self.active.prunings.values()
            pruning.keep_early(self)

    def _stop_where_due(self, network: nn.Module, step: int, steps: int) -> None:
        stops = step == self._last < self.steps
        if stops or any(due == step for due, _ in self._changes[self._changes_made :]):
            raise _Pause

    def _state(self) -> dict[str, Any]:
        return {
            "shapes": [shape.to_plain() for shape in self.shapes],
            "changes_made": self._changes_made,
            "passed": self._passed,
            "passed_at_change": self._passed_at_change,
            "losses": self._losses,
            "active": self.active.state_dict(),
        }

    def _change_shape(self, policy: PolicySection) -> None:
        """Goes on with what a change of shape leaves of the network."""
        if policy.remove_layers is not None:
            self.active.finish_penalties(self._passed, policy.remove_layers)
        masking = self.active.masking
        masking.hold()
        masking.plain_norms()  # of the network that is copied
        before = ReshapedNetwork(self.network, self._inputs, self.shapes, masking.masks)
        if policy.remove_layers is not None:
            graph = find_groups(self.network, self._inputs)
            after = self._without_branches(before, dead_branches(self.network, graph))
        else:
            after = self._thinned(before, self.active.prunings.values())
        self.network, self.shapes = after.network, after.shapes
        self._changes_made += 1
        self._passed_at_change = self._passed
        self.active = self._activate(after.masks, pruners_over(self._schedule, self._passed))
        self._start_from = None  # a snapshot is of the shape that was

    def _thinned(self, before: ReshapedNetwork, prunings: Iterable[Pruning]) -> ReshapedNetwork:
        """Returns the network without the channels, and then without the whole layers, that prunings have masked.

        Raises:
            UserError: there are none.
        """
        kept: dict[str, Sequence[int]] = {}
        removed: list[str] = []
        for pruning in prunings:
            removed += pruning.removed_branches()
            for group, stays in pruning.kept_channels().items():
                both = set(kept.get(group, stays)) & set(stays)
                kept[group] = tuple(sorted(both)) or tuple(stays)
        if not kept and not removed and 0 < self._begin == self._passed["step"]:
            return before  # the training before has thinned it at its end
        if not kept and not removed:
            raise UserError("there is nothing to thin: no pruner of pattern 'filter' or 'layer' has pruned by then")
        if kept:
            self._record("thinned", widths={group: len(stays) for group, stays in kept.items()})
            before = before.thinned(kept)
        return self._without_branches(before, removed) if removed else before

    def _without_branches(self, before: ReshapedNetwork, names: Sequence[str]) -> ReshapedNetwork:
        self._record("removed", branches=list(names))
        return before.without(names)

    def _record(self, event: str, **values: Any) -> None:
        self._callbacks.record({"event": event, **values, "step": self._passed["step"]})

    def _measure(self, event: str) -> Score:
        """Evaluates the network on the validation samples, and records that with what else can be measured."""
        self.active.masking.hold()
        score = evaluate(self.network, self._task, self._validation)
        measured: dict[str, float | None] = {
            **score.numbers(),
            "training_loss": sum(self._losses) / len(self._losses) if self._losses else None,
            "rate": rate_of(self._optimizer) if self._optimizer is not None else None,
            "zeros": zeros_in(self.network),
            **self.active.measured(),
        }
        known = {name: value for name, value in measured.items() if value is not None}
        step, epoch = self._passed["step"], self._passed["epoch"]
        epochs = self._round * -(-self.steps // self._steps_per_epoch) + epoch  # over all rounds
        counts = {"round": self._round, "step": step, "epoch": epoch, "epochs": epochs}
        self._callbacks.record({"event": event, **counts, **known})
        return score


def _shape_changes(schedule: ScheduleFile, steps_per_epoch: int) -> list[tuple[int, PolicySection]]:
    """Returns the changes of shape in their order, each with the step after which it comes."""
    found = []
    for policy in schedule.policies:
        if policy.thin or policy.remove_layers:
            start, _, _, unit = policy.timing()
            found.append((start * (steps_per_epoch if unit == "epoch" else 1), policy))
    return sorted(found, key=lambda change: change[0])

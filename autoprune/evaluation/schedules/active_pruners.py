"""The prunings and penalties of a schedule, active on one network together."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.config.schedule import ScheduleFile
from autoprune.evaluation.data import ScoringSamples
from autoprune.evaluation.schedules.builders import build_penalty, build_pruning, timing_of
from autoprune.pruning.schedules import Unit
from autoprune.pruning.surgery.masks import Masks
from autoprune.pruning.training.gradual import Pruning
from autoprune.pruning.training.masking import Masking
from autoprune.pruning.training.penalties import Penalty

# Owner of masks that were held before the network was thinned.
_CARRIED = "carried"

Passed = Mapping[Unit, int]
"""Steps and epochs that have passed."""


@dataclass(frozen=True)
class _Period:
    """The time in which a penalty acts, in steps or epochs that have passed."""

    start: int
    end: int
    unit: Unit

    def covers(self, passed: Passed) -> bool:
        return self.start <= passed[self.unit] < self.end

    def over(self, passed: Passed) -> bool:
        return passed[self.unit] >= self.end


@dataclass
class _ActivePenalty:
    """A penalty and when it acts; what it led to zero is masked once, when its time is over."""

    penalty: Penalty
    period: _Period
    ended: bool = False

    def finish(self) -> None:
        if not self.ended:
            self.penalty.finish()
            self.ended = True


class ActivePruners:
    """The prunings and penalties of a schedule on one network, all on one masking.

    Args:
        network: what is trained; masked in place.
        inputs: `[2, …]` samples.
        schedule: what is pruned and when.
        samples: read by criteria that need data; their seed is that of random draws.
        passed: prunings and penalties that are over by then are left out; None: training is about to begin.
        carried: masks of weights from before the network was thinned, which hold for good.

    Raises:
        UserError: a pruner or penalty does not fit the network.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Tensor,
        schedule: ScheduleFile,
        samples: ScoringSamples,
        passed: Passed | None = None,
        carried: Masks | None = None,
    ) -> None:
        self.masking = Masking(network)
        if carried:
            self.masking.set(_CARRIED, carried)
        self.prunings: dict[str, Pruning] = {}
        for name in schedule.pruners:
            timing = timing_of(name, schedule)
            if passed is None or (timing is not None and passed[timing.unit] < timing.end):
                self.prunings[name] = build_pruning(name, schedule, network, inputs, samples, self.masking, passed)
        self._penalties: dict[str, _ActivePenalty] = {}
        for name, section in schedule.penalties.items():
            period = _period_of(name, schedule)
            if passed is None or not period.over(passed):
                penalty = build_penalty(name, section, network, inputs, self.masking)
                self._penalties[name] = _ActivePenalty(penalty, period)

    def term(self, passed: Passed) -> Tensor | None:
        """Returns the scalar that the penalties active now add to the loss; None where there are none."""
        terms = [active.penalty.term() for active in self._penalties.values() if active.period.covers(passed)]
        found = [term for term in terms if term is not None]
        return torch.stack(found).sum() if found else None

    def step(self, before: Passed, now: Passed, rate: float) -> None:
        """Follows a step of the optimizer: updates masks where it is time, and holds them.

        Args:
            before: what had passed before the step.
            now: what has passed with it.
            rate: the effective rate, see `Penalty.step`.
        """
        for active in self._penalties.values():
            if active.period.covers(before):
                active.penalty.step(rate)
        for pruning in self.prunings.values():
            pruning.step()
        self.finish_penalties(now)
        self.masking.hold()

    def epoch(self, now: Passed) -> None:
        """Follows the end of an epoch."""
        for pruning in self.prunings.values():
            pruning.epoch()
        self.finish_penalties(now)

    def finish(self) -> None:
        """Ends the training: masks what the penalties led to zero."""
        for active in self._penalties.values():
            active.finish()
        self.masking.hold()

    def finish_penalties(self, now: Passed, *names: str) -> None:
        """Masks, once, what penalties led to zero: those whose time is over, and those named."""
        for name, active in self._penalties.items():
            if name in names or active.period.over(now):
                active.finish()

    def measured(self) -> dict[str, float]:
        """Returns the share of structures that each pruner has masked, and what each penalty adds to the loss."""
        shares = {f"sparsity.{name}": _sparsity(pruning) for name, pruning in self.prunings.items()}
        with torch.no_grad():
            terms = {f"penalty.{name}": active.penalty.term() for name, active in self._penalties.items()}
        return {**shares, **{name: float(term) for name, term in terms.items() if term is not None}}

    def state_dict(self) -> dict[str, Any]:
        """Returns what a snapshot must hold: tensors and plain values."""
        return {
            _CARRIED: dict(self.masking.of(_CARRIED)),
            "prunings": {name: pruning.state_dict() for name, pruning in self.prunings.items()},
            "penalties": {
                name: {"state": active.penalty.state_dict(), "ended": active.ended}
                for name, active in self._penalties.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` gave, on the network with the weights of that time."""
        for name, pruning in self.prunings.items():
            pruning.load_state_dict(state["prunings"][name])
        for name, active in self._penalties.items():
            active.penalty.load_state_dict(state["penalties"][name]["state"])
            active.ended = state["penalties"][name]["ended"]


def carried_masks(state: Mapping[str, Any]) -> Masks:
    """Returns the masks from before a thinning that a `state_dict` holds."""
    found: Masks = state[_CARRIED]
    return found


def _period_of(penalty: str, schedule: ScheduleFile) -> _Period:
    """Returns when a penalty acts: as its policy says, else, and without an end, to the end of the training."""
    for policy in schedule.policies:
        if policy.penalty == penalty:
            start, end, _, unit = policy.timing()
            return _Period(start, sys.maxsize if end is None else end, unit)
    return _Period(0, sys.maxsize, "step")


def _sparsity(pruning: Pruning) -> float:
    dense = sum(group.width for group in pruning.groups)
    return 1 - sum(pruning.allocation.values()) / dense if dense else 0.0

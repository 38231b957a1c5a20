"""The prunings and penalties of a schedule at work on one network, together."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.config.schedule import ScheduleFile
from autoprune.evaluation.schedules.builders import Acting, Span, penalty_of, pruning_of, timing_of
from autoprune.evaluation.scoring import ScoringSamples
from autoprune.pruning.schedules import Unit
from autoprune.pruning.surgery.masks import Masks
from autoprune.pruning.training.gradual import Pruning
from autoprune.pruning.training.masking import Masking

# Owner of masks that were held before the network was thinned.
_CARRIED = "carried"

Passed = Mapping[Unit, int]
"""Steps and epochs that have passed."""


class TrainingParts:
    """What acts on a network's weights while it trains, all on one masking.

    Args:
        passed: what is over by then is left out; None: training is about to begin.
        carry: masks of weights from before the network was thinned, which hold for good.

    Raises:
        UserError: a part does not fit the network.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Tensor,
        schedule: ScheduleFile,
        samples: ScoringSamples,
        passed: Passed | None = None,
        carry: Masks | None = None,
    ) -> None:
        self.masking = Masking(network)
        if carry:
            self.masking.set(_CARRIED, carry)
        self.prunings: dict[str, Pruning] = {
            name: pruning_of(name, schedule, network, inputs, samples, self.masking, samples.seed, passed)
            for name in schedule.pruners
            if passed is None or not _is_over(name, schedule, passed)
        }
        self.penalties: dict[str, Acting] = {}
        for name, section in schedule.penalties.items():
            span = _span(name, schedule)
            if passed is None or not span.over(passed):
                self.penalties[name] = Acting(penalty_of(name, section, network, inputs, self.masking), span)

    def term(self, passed: Passed) -> Tensor | None:
        """What the penalties that act now add to the loss."""
        terms = [acting.penalty.term() for acting in self.penalties.values() if acting.span.covers(passed)]
        found = [term for term in terms if term is not None]
        return torch.stack(found).sum() if found else None

    def step(self, before: Passed, now: Passed, rate: float) -> None:
        """A step of the optimizer is done, at an effective rate (see `Penalty.step`)."""
        for acting in self.penalties.values():
            if acting.span.covers(before):
                acting.penalty.step(rate)
        for pruning in self.prunings.values():
            pruning.step()
        self.finish_penalties(now)
        self.masking.hold()

    def epoch(self, now: Passed) -> None:
        """An epoch is done."""
        for pruning in self.prunings.values():
            pruning.epoch()
        self.finish_penalties(now)

    def finish(self) -> None:
        """Training is over."""
        for acting in self.penalties.values():
            acting.finish()
        self.masking.hold()

    def finish_penalties(self, now: Passed, *names: str) -> None:
        """Masks, once, what penalties made of no use: those whose time is over, and those named."""
        for name, acting in self.penalties.items():
            if name in names or acting.span.over(now):
                acting.finish()

    def measured(self) -> dict[str, float]:
        """The share of structures that each pruner has masked, and what each penalty adds to the loss."""
        shares = {f"sparsity.{name}": _sparsity(pruning) for name, pruning in self.prunings.items()}
        with torch.no_grad():
            terms = {f"penalty.{name}": acting.penalty.term() for name, acting in self.penalties.items()}
        return {**shares, **{name: float(term) for name, term in terms.items() if term is not None}}

    def state_dict(self) -> dict[str, Any]:
        """What a snapshot must hold: tensors and plain values."""
        return {
            "carried": dict(self.masking.of(_CARRIED)),
            "prunings": {name: pruning.state_dict() for name, pruning in self.prunings.items()},
            "penalties": {
                name: {"state": acting.penalty.state_dict(), "finished": acting.finished}
                for name, acting in self.penalties.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` gave, on the network with the weights of that time."""
        for name, pruning in self.prunings.items():
            pruning.load_state_dict(state["prunings"][name])
        for name, acting in self.penalties.items():
            acting.penalty.load_state_dict(state["penalties"][name]["state"])
            acting.finished = state["penalties"][name]["finished"]


def carried_in(state: Mapping[str, Any]) -> Masks:
    """The masks from before a thinning that a `state_dict` holds."""
    found: Masks = state["carried"]
    return found


def _is_over(pruner: str, schedule: ScheduleFile, passed: Passed) -> bool:
    """Whether a pruner has nothing left to do on a network that changed its shape."""
    timing = timing_of(pruner, schedule)
    return timing is None or passed[timing.unit] >= timing.end


def _span(penalty: str, schedule: ScheduleFile) -> Span:
    """When a penalty acts: as its policy says, else, and without an end, to the end of the training."""
    for policy in schedule.policies:
        if policy.penalty == penalty:
            start, end, _, unit = policy.timing()
            return Span(start, sys.maxsize if end is None else end, unit)
    return Span(0, sys.maxsize, "step")


def _sparsity(pruning: Pruning) -> float:
    dense = sum(group.width for group in pruning.groups)
    return 1 - sum(pruning.allocation.values()) / dense if dense else 0.0

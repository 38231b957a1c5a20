"""The prunings and penalties of a schedule, built from what its file says, and active on one network together."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from autoprune import registry
from autoprune.config.schedule import PenaltySection, PrunerSection, ScheduleFile
from autoprune.core.allocation import Allocation
from autoprune.errors import UserError
from autoprune.evaluation.data import ScoringSamples
from autoprune.graph.inputs import ModelInputs
from autoprune.pruning.patterns import parse_pattern
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.schedules import Timing, Unit
from autoprune.pruning.surgery.masks import Masks
from autoprune.pruning.training.gradual import Pruning
from autoprune.pruning.training.group_lasso import Thresholding
from autoprune.pruning.training.masking import Masking
from autoprune.pruning.training.penalties import Penalty

log = logging.getLogger(__name__)

CARRIED, MASKS = "carried", "masks"
"""In `ActivePruners.state_dict`, the masks that hold for good, which CARRIED owns, and those of each pruner."""

Passed = Mapping[Unit, int]
"""Steps and epochs that have passed."""


@dataclass
class _ActivePenalty:
    """A penalty and the steps or epochs in which it acts; what it led to zero is masked once, when they are over."""

    penalty: Penalty
    start: int
    end: int
    unit: Unit
    ended: bool = False

    def acts(self, passed: Passed) -> bool:
        return self.start <= passed[self.unit] < self.end

    def finish(self) -> None:
        if not self.ended:
            self.penalty.finish()
            self.ended = True


class ActivePruners:
    """The prunings and penalties of a schedule on one network, all on one masking.

    Args:
        network: what is trained; masked in place.
        inputs: two samples.
        schedule: what is pruned and when.
        samples: read by criteria that need data; their seed is that of random draws.
        passed: penalties that are over by then are left out; None: training is about to begin.
        carried: masks of weights from before, which hold for good.
        left_out: names of the pruners that have done all they had to.

    Raises:
        UserError: a pruner or penalty does not fit the network.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: ModelInputs,
        schedule: ScheduleFile,
        samples: ScoringSamples,
        passed: Passed | None = None,
        carried: Masks | None = None,
        left_out: Collection[str] = (),
    ) -> None:
        self.masking = Masking(network)
        if carried:
            self.masking.set(CARRIED, carried)
        self.prunings: dict[str, Pruning] = {}
        for name in schedule.pruners:
            if name not in left_out:
                self.prunings[name] = _build_pruning(name, schedule, network, inputs, samples, self.masking, passed)
        self._penalties: dict[str, _ActivePenalty] = {}
        for name, section in schedule.penalties.items():
            start, end, unit = _period_of(name, schedule)
            if passed is None or name in penalties_acting(schedule, passed):
                penalty = _build_penalty(name, section, network, inputs, self.masking)
                self._penalties[name] = _ActivePenalty(penalty, start, end, unit)

    def term(self, passed: Passed) -> Tensor | None:
        """Returns the scalar, `[]`, that the penalties active now add to the loss; None where there are none."""
        terms = [active.penalty.term() for active in self._penalties.values() if active.acts(passed)]
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
            if active.acts(before):
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
        if self.masking.plain_norms():
            log.warning("channels are masked and not thinned: to the norms over them they are zeros from here on")

    def finish_penalties(self, now: Passed, *names: str) -> None:
        """Masks, once, what penalties led to zero: those whose time is over, and those named."""
        for name, active in self._penalties.items():
            if name in names or now[active.unit] >= active.end:
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
            CARRIED: dict(self.masking.of(CARRIED)),
            MASKS: {name: dict(self.masking.of(pruning)) for name, pruning in self.prunings.items()},
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
        self.load_penalties({name: state["penalties"][name] for name in self._penalties})

    def load_penalties(self, states: Mapping[str, Any]) -> None:
        """Goes on from the states of some penalties, by name, as `state_dict` gave them."""
        for name, state in states.items():
            self._penalties[name].penalty.load_state_dict(state["state"])
            self._penalties[name].ended = state["ended"]


def pruners_over(schedule: ScheduleFile, passed: Passed, at_end: bool = True) -> frozenset[str]:
    """Returns the names of the pruners of which the last update is over.

    Args:
        schedule: says when they update.
        passed: steps and epochs that have passed.
        at_end: whether those are over of which the last update is due just now.
    """
    timings = {name: _timing_of(name, schedule) for name in schedule.pruners}
    return frozenset(
        name for name, each in timings.items() if each is None or passed[each.unit] >= each.end + (not at_end)
    )


def penalties_acting(schedule: ScheduleFile, passed: Passed) -> frozenset[str]:
    """Returns the names of the penalties whose time is not over."""
    periods = {name: _period_of(name, schedule) for name in schedule.penalties}
    return frozenset(name for name, (_, end, unit) in periods.items() if passed[unit] < end)


def _period_of(penalty: str, schedule: ScheduleFile) -> tuple[int, int, Unit]:
    """Returns when a penalty acts: as its policy says, else, and without an end, to the end of the training."""
    for policy in schedule.policies:
        if policy.penalty == penalty:
            start, end, _, unit = policy.timing()
            return start, sys.maxsize if end is None else end, unit
    return 0, sys.maxsize, "step"


def _sparsity(pruning: Pruning) -> float:
    dense = sum(group.width for group in pruning.groups)
    return 1 - sum(pruning.allocation.values()) / dense if dense else 0.0


def _timing_of(pruner: str, schedule: ScheduleFile) -> Timing | None:
    """Returns when a pruner updates its masks; None where it does so between rounds."""
    if schedule.rounds is not None:
        return None
    policy = next(policy for policy in schedule.policies if policy.pruner == pruner)
    start, end, frequency, unit = policy.timing()
    return Timing(start, start if end is None else end, frequency, unit)


def _build_pruning(
    name: str,
    schedule: ScheduleFile,
    network: nn.Module,
    inputs: ModelInputs,
    samples: ScoringSamples,
    masking: Masking,
    passed: Mapping[Unit, int] | None = None,
) -> Pruning:
    """Puts a pruner of the schedule on a network; for its arguments see `ActivePruners`.

    Raises:
        UserError: a layer, number or width does not fit; the message begins with the pruner's name.
    """
    section = schedule.pruners[name]
    try:
        pruner = _build_pruner(section)
        amount = section.sparsity if section.threshold is None else section.threshold
        if section.widths is None and (section.threshold is None) != pruner.allocator.sparsity:
            wanted = "sparsity" if pruner.allocator.sparsity else "threshold"
            raise UserError(f"allocator {pruner.allocator.name!r} goes by a {wanted}; give `{wanted}:`")
        return Pruning(
            network,
            pruner,
            amount,
            inputs=inputs,
            widths=None if section.widths is None else _read_widths(section),
            layers=section.layers,
            initial=section.initial,
            timing=_timing_of(name, schedule),
            statistics_batches=samples,
            loss=samples.task.loss,
            seed=samples.seed,
            masking=masking,
            passed=passed,
        )
    except UserError as fault:
        raise UserError(f"pruner {name!r}: {fault}") from fault


def _build_pruner(section: PrunerSection) -> Pruner:
    """Returns the named pruner with what the schedule says otherwise."""
    parts: dict[str, Any] = {
        kind: registry.resolve(kind, name)
        for kind in ("criterion", "schedule", "allocator")
        if (name := getattr(section, kind)) is not None
    }
    if section.pattern is not None:
        parts["pattern"] = parse_pattern(section.pattern)
    settings = {"combine": section.combine, "normalise": section.normalise}
    parts.update({name: value for name, value in settings.items() if value is not None})
    pruner: Pruner = replace(registry.resolve("pruner", section.pruner), **parts)
    return pruner


def _read_widths(section: PrunerSection) -> Mapping[str, int]:
    assert section.widths is not None
    try:
        content = yaml.safe_load(section.widths.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as fault:
        raise UserError(f"{section.widths} cannot be read: {fault}") from fault
    return Allocation.from_json(content.get("widths", content) if isinstance(content, dict) else content)


def _build_penalty(
    name: str, section: PenaltySection, network: nn.Module, inputs: ModelInputs, masking: Masking
) -> Penalty:
    """Puts a penalty of the schedule on a network.

    Raises:
        UserError: it does not have a setting, lacks one, or matches no layer; the message begins with its name.
    """
    make = registry.resolve("penalty", section.penalty)
    settings = _penalty_settings(section)
    known = set(inspect.signature(make).parameters)
    unknown = sorted(set(settings) - known)
    if unknown:
        raise UserError(f"penalty {name!r}: {section.penalty} does not take {', '.join(unknown)}")
    if "masking" in known:
        settings["masking"] = masking
    try:
        penalty: Penalty = make(network, inputs, **settings)
    except TypeError as fault:
        missing = str(fault).partition("missing ")[2] or str(fault)
        raise UserError(f"penalty {name!r}: {section.penalty} needs {missing.partition(': ')[2] or missing}") from fault
    except UserError as fault:
        raise UserError(f"penalty {name!r}: {fault}") from fault
    return penalty


def _penalty_settings(section: PenaltySection) -> dict[str, Any]:
    """Returns what the schedule gives, under the names of the penalties' arguments."""
    given = section.model_dump(exclude={"penalty"}, exclude_none=True)
    fields = {"threshold": "at", "threshold_by": "by", "threshold_every": "every"}
    thresholds = {fields[key]: given.pop(key) for key in fields.keys() & given.keys()}
    if thresholds:
        given["thresholding"] = Thresholding(**thresholds)
    if "sparsity" in given:
        given["amount"] = given.pop("sparsity")
    return given

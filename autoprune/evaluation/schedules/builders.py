"""From what a schedule file says to prunings, penalties and plans at work on one network."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml
from torch import Tensor, nn

from autoprune import registry
from autoprune.config.schedule import PenaltySection, PlanSection, PrunerSection, ScheduleFile
from autoprune.core.allocation import Allocation
from autoprune.errors import UserError
from autoprune.evaluation.scoring import ScoringSamples
from autoprune.graph.groups import find_groups
from autoprune.pruning.patterns import parse_pattern
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.schedules import Timing, Unit
from autoprune.pruning.training.gradual import Pruning
from autoprune.pruning.training.group_lasso import Thresholding
from autoprune.pruning.training.masking import Masking
from autoprune.pruning.training.penalties import Penalty
from autoprune.tasks.base import TrainingPlan


@dataclass(frozen=True)
class Span:
    """When a part acts, in steps or epochs that have passed."""

    start: int
    end: int
    unit: Unit

    def covers(self, passed: Mapping[Unit, int]) -> bool:
        return self.start <= passed[self.unit] < self.end

    def over(self, passed: Mapping[Unit, int]) -> bool:
        return passed[self.unit] >= self.end


@dataclass
class Acting:
    """A penalty and when it acts; what it made of no use is masked once, when its time is over."""

    penalty: Penalty
    span: Span
    finished: bool = False

    def finish(self) -> None:
        if not self.finished:
            self.penalty.finish()
            self.finished = True


def plan_of(section: PlanSection, seed: int) -> TrainingPlan:
    """The training plan of a schedule."""
    values = section.model_dump()
    epochs = values.pop("epochs")
    return TrainingPlan(**values, epochs=1.0 if epochs is None else epochs, seed=seed)


def pruner_of(section: PrunerSection) -> Pruner:
    """The named pruner with what the schedule says otherwise."""
    pruner: Pruner = registry.resolve("pruner", section.pruner)
    for kind in ("criterion", "schedule", "allocator"):
        name = getattr(section, kind)
        if name is not None:
            pruner = replace(pruner, **{kind: registry.resolve(kind, name)})
    if section.pattern is not None:
        pruner = replace(pruner, pattern=parse_pattern(section.pattern))
    if section.combine is not None:
        pruner = replace(pruner, combine=section.combine)
    return pruner if section.normalise is None else replace(pruner, normalise=section.normalise)


def pruning_of(
    name: str,
    schedule: ScheduleFile,
    network: nn.Module,
    inputs: Tensor,
    samples: ScoringSamples,
    masking: Masking,
    seed: int,
    passed: Mapping[Unit, int] | None = None,
) -> Pruning:
    """A pruner of the schedule at work on a network.

    Raises:
        UserError: a layer, number or width does not fit; the message begins with the pruner's name.
    """
    section = schedule.pruners[name]
    try:
        pruner = pruner_of(section)
        amount = section.sparsity if section.threshold is None else section.threshold
        if section.widths is None and (section.threshold is None) != pruner.allocator.sparsity:
            wanted = "sparsity" if pruner.allocator.sparsity else "threshold"
            raise UserError(f"allocator {pruner.allocator.name!r} goes by a {wanted}; give `{wanted}:`")
        return Pruning(
            network,
            pruner,
            amount,
            inputs=inputs,
            widths=None if section.widths is None else _widths(section),
            layers=section.layers,
            initial=section.initial,
            timing=timing_of(name, schedule),
            statistics_batches=samples,
            loss=samples.task.loss,
            seed=seed,
            masking=masking,
            passed=passed,
        )
    except UserError as fault:
        raise UserError(f"pruner {name!r}: {fault}") from fault


def timing_of(name: str, schedule: ScheduleFile) -> Timing | None:
    """When a pruner updates its masks; None where rounds say so."""
    if schedule.rounds is not None:
        return None
    policy = next(policy for policy in schedule.policies if policy.pruner == name)
    start, end, frequency, unit = policy.timing()
    return Timing(start, start if end is None else end, frequency, unit)


def _widths(section: PrunerSection) -> Mapping[str, int]:
    assert section.widths is not None
    try:
        content = yaml.safe_load(section.widths.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as fault:
        raise UserError(f"{section.widths} cannot be read: {fault}") from fault
    return Allocation.from_json(content.get("widths", content) if isinstance(content, dict) else content)


def penalty_of(name: str, section: PenaltySection, network: nn.Module, inputs: Tensor, masking: Masking) -> Penalty:
    """A penalty of the schedule at work on a network.

    Raises:
        UserError: it does not have a setting, lacks one, or matches no layer; the message begins with its name.
    """
    make = registry.resolve("penalty", section.penalty)
    given = {key: value for key, value in section.model_dump(exclude={"penalty"}).items() if value is not None}
    settings = _renamed(given)
    known = set(inspect.signature(make).parameters)
    if "settings" in known:  # the L1 penalty is a group lasso of single weights
        known |= set(inspect.signature(registry.resolve("penalty", "group_lasso")).parameters) - {"pattern"}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise UserError(f"penalty {name!r}: {section.penalty} does not take {', '.join(unknown)}")
    if "masking" in known:
        settings["masking"] = masking
    try:
        made: Penalty = make(network, find_groups(network, inputs), **settings)
    except TypeError as fault:
        missing = str(fault).partition("missing ")[2] or str(fault)
        raise UserError(f"penalty {name!r}: {section.penalty} needs {missing.partition(': ')[2] or missing}") from fault
    except UserError as fault:
        raise UserError(f"penalty {name!r}: {fault}") from fault
    return made


def _renamed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The file's words as the penalties' arguments."""
    settings = {key: value for key, value in given.items() if not key.startswith("threshold")}
    places = {"threshold": "at", "threshold_by": "by", "threshold_every": "every"}
    thresholds = {places[key]: value for key, value in given.items() if key in places}
    if thresholds:
        settings["thresholding"] = Thresholding(**thresholds)
    if "sparsity" in settings:
        settings["amount"] = settings.pop("sparsity")
    return settings

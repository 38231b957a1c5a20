"""Builds prunings and penalties from what a schedule file says."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml
from torch import Tensor, nn

from autoprune import registry
from autoprune.config.schedule import PenaltySection, PrunerSection, ScheduleFile
from autoprune.core.allocation import Allocation
from autoprune.errors import UserError
from autoprune.evaluation.data import ScoringSamples
from autoprune.graph.groups import find_groups
from autoprune.pruning.patterns import parse_pattern
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.schedules import Timing, Unit
from autoprune.pruning.training.gradual import Pruning
from autoprune.pruning.training.group_lasso import Thresholding
from autoprune.pruning.training.masking import Masking
from autoprune.pruning.training.penalties import Penalty


def timing_of(pruner: str, schedule: ScheduleFile) -> Timing | None:
    """Returns when a pruner updates its masks; None where it does so between rounds."""
    if schedule.rounds is not None:
        return None
    policy = next(policy for policy in schedule.policies if policy.pruner == pruner)
    start, end, frequency, unit = policy.timing()
    return Timing(start, start if end is None else end, frequency, unit)


def build_pruning(
    name: str,
    schedule: ScheduleFile,
    network: nn.Module,
    inputs: Tensor,
    samples: ScoringSamples,
    masking: Masking,
    passed: Mapping[Unit, int] | None = None,
) -> Pruning:
    """Puts a pruner of the schedule on a network.

    Args:
        name: the pruner's, in the schedule.
        schedule: says which pruner that is, how much goes and when.
        network: what is trained; masked in place.
        inputs: `[2, …]` samples.
        samples: read by criteria that need data; their seed is that of random draws.
        masking: the one on which all of the schedule act together.
        passed: as of `Pruning`.

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
            timing=timing_of(name, schedule),
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


def build_penalty(name: str, section: PenaltySection, network: nn.Module, inputs: Tensor, masking: Masking) -> Penalty:
    """Puts a penalty of the schedule on a network.

    Args:
        name: the penalty's, in the schedule.
        section: what the schedule says of it.
        network: what is trained; masked in place.
        inputs: `[2, …]` samples.
        masking: the one on which all of the schedule act together.

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
        penalty: Penalty = make(network, find_groups(network, inputs), **settings)
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

"""The changes of shape that a schedule plans: what prunings and penalties have masked is removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from autoprune.config.schedule import PolicySection, ScheduleFile
from autoprune.errors import UserError
from autoprune.evaluation.checkpoints.reshape import Shaped
from autoprune.graph.groups import find_groups
from autoprune.pruning.surgery.branch_removal import dead_branches
from autoprune.pruning.training.gradual import Pruning

Note = Callable[[Mapping[str, Any]], None]
"""Takes what is about to be done."""


def planned_changes(schedule: ScheduleFile, epoch_steps: int) -> list[tuple[int, PolicySection]]:
    """The changes of shape in their order, by the step after which they come."""
    found = []
    for policy in schedule.policies:
        if policy.thin or policy.remove_layers:
            start, _, _, unit = policy.timing()
            found.append((start * (epoch_steps if unit == "epoch" else 1), policy))
    return sorted(found, key=lambda each: each[0])


def remove_dead(before: Shaped, note: Note) -> Shaped:
    """Without the residual branches of which a layer that all passes is masked whole."""
    graph = find_groups(before.network, before.inputs)
    return _remove(before, dead_branches(before.network, graph, 0.0, statistic="max"), note)


def thin_masked(before: Shaped, prunings: Iterable[Pruning], note: Note) -> Shaped:
    """Without the channels, and then without the whole layers, that prunings have masked.

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
    if not kept and not removed:
        raise UserError("there is nothing to thin: no pruner of pattern 'filter' or 'layer' has pruned by then")
    if kept:
        note({"event": "thinned", "widths": {group: len(stays) for group, stays in kept.items()}})
        before = before.thinned(kept)
    return _remove(before, removed, note) if removed else before


def _remove(before: Shaped, names: Sequence[str], note: Note) -> Shaped:
    note({"event": "removed", "branches": list(names)})
    return before.without(names)

"""What narrowing groups is expected to cost before anything was judged."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from autoprune.searchers.base import SearchProblem


def expected_rise(problem: SearchProblem, before: Mapping[str, int], after: Mapping[str, int]) -> float:
    """By how much narrowing some groups is expected to be worse; comparable within one problem alone.

    By the mean over the sensitivity curves of each criterion, as if the groups did not matter to each other; without
    curves by the share of each group's importance that goes, and without that by the share of its width.
    """
    changed = [name for name in problem.space.names if after[name] < before[name]]
    if not problem.curves:
        return sum(_lost_importance(problem, name, before[name], after[name]) for name in changed)
    rises = [
        float(np.subtract(*curves.curve(name, problem.objective).at([after[name], before[name]])))
        for curves in problem.curves.values()
        for name in changed
    ]
    return sum(rises) / len(problem.curves)


def _lost_importance(problem: SearchProblem, name: str, before: int, after: int) -> float:
    """The share of a group's scores that goes; the lowest scores go first."""
    width = next(group.width for group in problem.space.groups if group.name == name)
    scores = problem.importance.get(name, np.ones(width))
    kept = np.sort(scores)[::-1]
    return float(kept[after:before].sum() / max(float(kept.sum()), 1e-12))

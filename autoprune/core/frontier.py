"""What no other trial beats in everything at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoprune.core.trial import Objective, Trial, ranked, value


def non_dominated(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """`[n]` whether no other of the `[n, objective]` points is at most as great in all and less in one.

    Of equal points the first counts alone.
    """
    kept = np.ones(len(points), dtype=bool)
    for i, point in enumerate(points):
        no_worse, less = (points <= point).all(axis=1), (points < point).any(axis=1)
        kept[i] = not (no_worse & less).any() and not no_worse[:i].any()
    return kept


def frontier(trials: Sequence[Trial], objective: Objective, costs: Sequence[str]) -> list[Trial]:
    """The final trials that none beats in the objective and all of the named costs at once, the cheapest first.

    Of trials that are equal in all of these the earliest counts alone. The order is by the first cost, then the next.
    """
    scored = ranked(trials, objective)
    points = np.array(
        [[value(t.score, objective), *(t.costs[kind] for kind in costs)] for t in scored if t.score], dtype=np.float64
    ).reshape(len(scored), 1 + len(costs))
    found = [trial for trial, kept in zip(scored, non_dominated(points).tolist(), strict=True) if kept]
    return sorted(found, key=lambda trial: [trial.costs[kind] for kind in costs])

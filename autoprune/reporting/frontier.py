"""The trials that no other beats in everything at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from autoprune.core.budget import EFFECTIVE_KINDS
from autoprune.core.metrics import Objective
from autoprune.core.trial import Trial, ranked, value
from autoprune.files import csv_text


def non_dominated(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns `[n]`: whether no other of the `[n, objective]` points is at most as great in all and less in one.

    Of equal points the first counts alone.
    """
    kept = np.ones(len(points), dtype=bool)
    for i, point in enumerate(points):
        no_worse, less = (points <= point).all(axis=1), (points < point).any(axis=1)
        kept[i] = not (no_worse & less).any() and not no_worse[:i].any()
    return kept


def frontier(trials: Sequence[Trial], objective: Objective, costs: Sequence[str]) -> list[Trial]:
    """Returns the final trials that none beats in the objective and all of the named costs at once, the cheapest first.

    Of trials that are equal in all of these the earliest counts alone. The order is by the first cost, then the next.

    Args:
        trials: of which those that failed, were dropped early or are rounds on the way are left out.
        objective: the less, the better.
        costs: their kinds, such as `flops`.
    """
    scored = ranked(trials, objective)
    points = np.array(
        [[value(t.score, objective), *(t.costs[kind] for kind in costs)] for t in scored if t.score], dtype=np.float64
    ).reshape(len(scored), 1 + len(costs))
    found = [trial for trial, kept in zip(scored, non_dominated(points).tolist(), strict=True) if kept]
    return sorted(found, key=lambda trial: [trial.costs[kind] for kind in costs])


def frontier_csv(frontier: Sequence[Trial], dense: Mapping[str, int], effective: bool = False) -> str:
    """Returns one line a trial, in the order given; `autoprune apply RUN --trial N` makes its network.

    Args:
        frontier: trials that have a score.
        dense: what the dense network costs; beside each cost stands the share of it that is kept.
        effective: whether the costs leave out weights that are set to zero.
    """
    names = {kind: f"effective_{kind}" if effective and kind in EFFECTIVE_KINDS else kind for kind in dense}
    metrics = list(frontier[0].score.metrics) if frontier and frontier[0].score else []
    headings = ["trial", *metrics, "loss", "samples"]
    headings += [heading for name in names.values() for heading in (name, f"{name}_kept")]
    rows = []
    for trial in frontier:
        assert trial.score is not None, "a trial of a frontier has a score"
        costs = [cell for kind in names for cell in (trial.costs[kind], round(trial.costs[kind] / dense[kind], 6))]
        measured = [trial.score.get(name) for name in (*metrics, "loss")]
        rows.append([trial.number, *measured, trial.score.samples, *costs])
    return csv_text(headings, rows)

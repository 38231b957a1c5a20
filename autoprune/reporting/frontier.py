"""The frontier of a run for a spreadsheet; its picture is in `plots`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from autoprune.core.kinds import EFFECTIVE_KINDS
from autoprune.core.trial import Trial


def frontier_csv(frontier: Sequence[Trial], dense: Mapping[str, int], effective: bool = False) -> str:
    """One line a trial, in the order given; `autoprune apply RUN --trial N` makes its network.

    Args:
        dense: what the dense network costs; beside each cost stands the share of it that is kept.
        effective: whether the costs leave out weights that are set to zero.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = {kind: f"effective_{kind}" if effective and kind in EFFECTIVE_KINDS else kind for kind in dense}
    headings = [heading for name in names.values() for heading in (name, f"{name}_kept")]
    writer.writerow(["trial", "accuracy", "loss", "images", *headings])
    for trial in frontier:
        assert trial.score is not None, "a trial of a frontier has a score"
        costs = [cell for kind in names for cell in (trial.costs[kind], round(trial.costs[kind] / dense[kind], 6))]
        writer.writerow([trial.number, trial.score.accuracy, trial.score.loss, trial.score.images, *costs])
    return text.getvalue()

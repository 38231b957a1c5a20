"""The levels of a run's sweep in its ledger."""

from __future__ import annotations

import json
from pathlib import Path

from autoprune.core.sensitivity import SensitivityCurves, curves_from_json
from tests.journeys import SEARCH, Cli, history_of


def curves_of(run: Path) -> SensitivityCurves:
    (curves,) = curves_from_json(json.loads((run / "sensitivity.json").read_text()), "the run's file")
    return curves


def test_every_level_says_what_it_cost(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed(*SEARCH, "--output", "run")
    works = [record["work"] for record in history_of(workdir / "run").of("level")]
    assert all(isinstance(work, int) and work > 0 for work in works)
    curves = curves_of(workdir / "run")
    assert sum(works) == curves.work
    assert curves.naive_work is not None
    assert sum(works) < curves.naive_work

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from autoprune.core.allocation import Allocation
from autoprune.core.trial import Candidate, Score, Trial
from autoprune.reporting.frontier import frontier_csv
from autoprune.reporting.plots import plot_frontier
from autoprune.reporting.results import Result

DENSE = {"flops": 200, "params": 30, "size": 400}
TRIALS = [
    Trial(
        Candidate(n, Allocation({"a": n + 1})),
        Score(1.0 - n / 10, n / 10, 50),
        {"flops": 10 * n, "params": n, "size": n},
    )
    for n in (4, 7)
]


def test_the_csv_says_what_is_kept_of_the_dense_network() -> None:
    first, second = csv.DictReader(io.StringIO(frontier_csv(TRIALS, DENSE)))
    assert (first["trial"], second["trial"]) == ("4", "7")
    assert (second["accuracy"], second["samples"]) == ("0.7", "50")
    assert (second["flops"], second["flops_kept"], second["params_kept"]) == ("70", "0.35", "0.233333")


def test_effective_costs_are_called_so() -> None:
    heading = frontier_csv(TRIALS, DENSE, effective=True).splitlines()[0]
    assert heading == (
        "trial,accuracy,loss,samples,effective_flops,effective_flops_kept,effective_params,effective_params_kept,"
        "size,size_kept"
    )


@pytest.mark.parametrize("limits", [{"flops": 100}, {"flops": 100, "params": 20, "size": 300}, {"size": 300}])
def test_the_picture_takes_any_limits(tmp_path: Path, limits: dict[str, int]) -> None:
    dense = Result("dense", None, {}, Score(0.1, 0.95, 10), None, DENSE, 1.5)
    path = tmp_path / "frontier.png"
    plot_frontier(TRIALS, TRIALS, [dense], limits, path)
    assert path.read_bytes().startswith(b"\x89PNG")

from __future__ import annotations

import csv
import io
import json

import pytest

from autoprune.core.sparsity import SparsityRow, SparsityTable
from autoprune.reporting.sparsity import sparsity_csv, sparsity_json, sparsity_text

NAME = "layers[bold]." + "x" * 200 + ".漢字.weight"
LINEAR = SparsityRow(NAME, (4, 2), 3, 0, 0.5, 0.25, 0.0, 0.25, 0.0, 0.1, -0.02, 0.05)
CONVOLUTION = SparsityRow("conv.weight", (64, 3, 11, 11), 23_232, 2, 0.0, 0.0, 0.0, 0.0, 0.0, None, None, None)
TABLE = SparsityTable([LINEAR, CONVOLUTION])


def test_the_text_has_the_zoos_headings_and_five_decimals_and_cuts_no_name() -> None:
    heading, linear, convolution, total = sparsity_text(TABLE).splitlines()
    assert heading.split("  ")[0] == "Name"
    for column in ("Shape", "NNZ (dense)", "NNZ (sparse)", "Cols (%)", "2D (%)", "Fine (%)", "Std", "Abs-Mean"):
        assert column in heading
    assert linear.startswith(NAME)
    assert linear.removeprefix(NAME).split() == (
        "(4, 2) 8 3 50.00000 25.00000 0.00000 25.00000 0.00000 62.50000 0.10000 -0.02000 0.05000".split()
    )
    assert convolution.split()[-9:] == "0.00000 0.00000 0.00000 0.00000 0.00000 0.00000 - - -".split()
    assert total.split() == "Total sparsity: - 23240 23235 - - - - - 0.02151 - - -".split()
    assert len({len(line) for line in (heading, convolution, total)}) == 1  # numbers end below one another


def test_the_text_has_no_colours_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    assert "\x1b" not in sparsity_text(TABLE)
    assert NAME in sparsity_text(TABLE)
    assert len(sparsity_text(SparsityTable([])).splitlines()) == 2


def test_the_csv_holds_fractions_and_ends_with_the_total() -> None:
    linear, convolution, total = csv.DictReader(io.StringIO(sparsity_csv(TABLE)))
    assert list(linear) == "name shape nnz_dense nnz_sparse cols rows ch 2d 3d fine std mean abs_mean".split()
    assert (linear["name"], linear["shape"], linear["fine"], linear["mean"]) == (NAME, "4x2", "0.625", "-0.02")
    assert (convolution["shape"], convolution["std"]) == ("64x3x11x11", "")
    assert (total["name"], total["shape"], total["cols"], total["nnz_sparse"]) == ("total", "", "", "23235")


def test_the_json_holds_fractions_and_null_where_there_is_no_value() -> None:
    read = json.loads(sparsity_json(TABLE))
    assert read["rows"][0] == {
        "name": NAME, "shape": [4, 2], "nnz_dense": 8, "nnz_sparse": 3, "cols": 0.5, "rows": 0.25, "ch": 0.0,
        "2d": 0.25, "3d": 0.0, "fine": 0.625, "std": 0.1, "mean": -0.02, "abs_mean": 0.05,
    }  # fmt: skip
    assert (read["rows"][1]["std"], read["rows"][1]["abs_mean"]) == (None, None)
    assert read["total"] == {"nnz_dense": 23_240, "nnz_sparse": 23_235, "fine": 5 / 23_240}

"""`autoprune evaluate FILE --sparsity-table`."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from autoprune.evaluation.checkpoints.checkpoint import load
from tests.journeys import Cli, DigitsRun


def test_the_totals_of_a_pruned_checkpoint_are_its_parameters_that_are_neither_biases_nor_norms(
    autoprune: Cli, digits_run: DigitsRun
) -> None:
    file = digits_run.folder / "weights" / "1.pt"
    table = json.loads(autoprune.succeed("evaluate", file, "--sparsity-table", "json").out)
    network = load(file)
    weights = {name: p for name, p in network.named_parameters() if p.dim() > 1}
    assert {row["name"]: tuple(row["shape"]) for row in table["rows"]} == {
        n: tuple(p.shape) for n, p in weights.items()
    }
    others = sum(p.numel() for p in network.parameters() if p.dim() == 1)
    params = json.loads(autoprune.succeed("evaluate", file, "--json").out)["params"]
    assert table["total"]["nnz_dense"] == params - others
    assert table["total"]["nnz_sparse"] == sum(int(p.count_nonzero()) for p in weights.values())
    assert others > 0


def test_zeros_of_a_network_that_autoprune_cannot_build_are_shown_in_three_forms(autoprune: Cli, workdir: Path) -> None:
    state = nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(8, 5)).state_dict()
    state["0.weight"][1] = 0
    state["3.weight"][:, 2:4] = 0
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, "own.pth")
    outcome = autoprune.succeed("evaluate", "own.pth", "--sparsity-table")
    assert outcome.err == ""
    assert outcome.out == autoprune.succeed("evaluate", "own.pth", "--sparsity-table", "text").out
    _, convolution, linear, total = (line.split() for line in outcome.out.splitlines())
    assert convolution[0] == "0.weight"
    assert convolution[5:13] == "300 225 0.00000 0.00000 0.00000 25.00000 25.00000 25.00000".split()
    assert linear[:11] == "3.weight (5, 8) 40 30 25.00000 0.00000 0.00000 0.00000 0.00000 25.00000".split()
    assert total[:5] == "Total sparsity: - 340 255".split()
    rows = list(csv.DictReader(io.StringIO(autoprune.succeed("evaluate", "own.pth", "--sparsity-table", "csv").out)))
    assert [(row["name"], row["fine"]) for row in rows] == [
        ("0.weight", "0.25"),
        ("3.weight", "0.25"),
        ("total", "0.25"),
    ]
    read = json.loads(autoprune.succeed("evaluate", "own.pth", "--sparsity-table=json").out)
    assert [row["3d"] for row in read["rows"]] == [0.25, 0.0]


def test_weights_that_are_not_finite_are_named_on_stderr(autoprune: Cli, workdir: Path) -> None:
    torch.save({"a.weight": torch.tensor([[0.0, math.nan], [math.inf, 0.0]])}, "diverged.pt")
    outcome = autoprune.succeed("evaluate", "diverged.pt", "--sparsity-table", "json")
    assert "a.weight: 2 NaN or infinite, counted as not zero" in outcome.err
    (row,) = json.loads(outcome.out)["rows"]
    assert (row["nnz_sparse"], row["std"]) == (2, None)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["missing.pt", "--sparsity-table"], "missing.pt does not exist"),
        ([".", "--sparsity-table"], "is a folder of several files of weights"),
        (["scalar.pt", "--sparsity-table"], "holds no weights of convolutions or linear layers"),
        (["damaged.pt", "--sparsity-table", "csv"], "is truncated or damaged"),
        (["text.pt", "--sparsity-table"], "is not a checkpoint"),
        (["scalar.pt", "--sparsity-table", "jsn"], "did you mean 'json'?"),
        (["--sparsity-table", "scalar.pt"], "invalid choice: 'scalar.pt'"),
        (["scalar.pt", "--sparsity-table", "--json"], "give --sparsity-table json"),
        (["scalar.pt", "--sparsity-table", "--task", "digit"], "did you mean 'digits'?"),
    ],
)
def test_what_cannot_be_tabled_gets_one_message(
    autoprune: Cli, workdir: Path, arguments: list[str], expected: str
) -> None:
    torch.save({"a.weight": torch.tensor(1.0), "a.bias": torch.zeros(3)}, "scalar.pt")
    torch.save(nn.Linear(50, 50).state_dict(), "damaged.pt")
    Path("damaged.pt").write_bytes(Path("damaged.pt").read_bytes()[:3000])
    Path("text.pt").write_text("hello")
    assert expected in autoprune.refused("evaluate", *arguments)

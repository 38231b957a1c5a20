from __future__ import annotations

import csv
import io
import json
import math
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autoprune.errors import CheckpointError
from autoprune.evaluation.sparsity import sparsity_table, weight_sparsity
from tests.journeys import Cli, DigitsRun

# Distiller's model zoo, AlexNet pruned by sensitivity: shape, NNZ (dense), NNZ (sparse), then in percent Cols, Rows,
# Ch, 2D, 3D, Fine. It prints 256,565 for features.module.6, one less than its own percentage and its own total say.
ALEXNET = {
    "features.module.0.weight": ((64, 3, 11, 11), 23232, 13411, 0, 0, 0, 0, 0, 42.27359),
    "features.module.3.weight": ((192, 64, 5, 5), 307200, 115560, 0, 0, 0, 1.91243, 0, 62.38281),
    "features.module.6.weight": ((384, 192, 3, 3), 663552, 256566, 0, 0, 0, 6.18490, 0, 61.33445),
    "features.module.8.weight": ((256, 384, 3, 3), 884736, 315065, 0, 0, 0, 6.96411, 0, 64.38881),
    "features.module.10.weight": ((256, 256, 3, 3), 589824, 186938, 0, 0, 0, 15.49225, 0, 68.30614),
    "classifier.1.weight": ((4096, 9216), 37748736, 3398881, 0, 0.21973, 0, 0.21973, 0, 90.99604),
    "classifier.4.weight": ((4096, 4096), 16777216, 1782769, 0.21973, 3.46680, 0, 3.46680, 0, 89.37387),
    "classifier.6.weight": ((1000, 4096), 4096000, 994738, 3.36914, 0, 0, 0, 0, 75.71440),
}


def made(shape: tuple[int, ...], nonzero: int, dead_rows: int, dead_columns: int) -> Tensor:
    """A weight with so many dead kernels (of a linear layer: rows), dead columns, and no other dead structure.

    It is laid out as `[rows, entries]`: every live row and column is given one weight, the rest go where there is room.
    """
    weight = torch.zeros(shape)
    rows = weight.view(-1, shape[-1]) if len(shape) == 2 else weight.view(shape[0] * shape[1], -1)
    # Dead kernels are spread, so that no filter and no channel dies of them.
    spread = torch.arange(dead_rows) * (len(rows) // max(dead_rows, 1) | 1) % len(rows)
    live = torch.ones(len(rows), dtype=torch.bool)
    live[spread if len(shape) > 2 else torch.arange(dead_rows)] = False
    assert int((~live).sum()) == dead_rows
    width = rows.shape[1] - dead_columns
    places = live.nonzero().flatten()
    rows[places, torch.arange(len(places)) % width] = 1.0
    block = torch.zeros(len(places), rows.shape[1], dtype=torch.bool)
    block[:, :width] = True
    free = (block & (rows[places] == 0)).flatten().nonzero().flatten()[: nonzero - len(places)]
    rows[places[free // rows.shape[1]], free % rows.shape[1]] = 0.5
    return weight


def test_the_alexnet_table_of_the_model_zoo_agrees_with_the_definitions() -> None:
    state = {}
    for name, (shape, dense, sparse, columns, rows, _, kernels, _, _) in ALEXNET.items():
        structures = shape[0] if len(shape) == 2 else shape[0] * shape[1]
        assert math.prod(shape) == dense
        dead = round((rows if len(shape) == 2 else kernels) / 100 * structures)
        state[name] = made(shape, sparse, dead, round(columns / 100 * shape[1]))
    table = sparsity_table({**state, "classifier.1.bias": torch.zeros(4096)})
    for found in table.weights:
        shape, dense, sparse, *percent = ALEXNET[found.name]
        assert (found.shape, found.dense, found.sparse) == (shape, dense, sparse)
        shares = (found.columns, found.rows, found.channels, found.kernels, found.filters, found.fine)
        assert [f"{100 * share:.5f}" for share in shares] == [f"{share:.5f}" for share in percent], found.name
    assert table.dense == 61_090_496
    assert table.sparse == 7_063_928
    assert f"{100 * table.fine:.5f}" == "88.43694"
    assert f"{100 * (1 - 256_565 / 663_552):.5f}" == "61.33461"  # where it prints 61.33445


def test_the_mobilenet_table_of_the_model_zoo_says_58_97_percent_where_its_text_says_51_6() -> None:
    """The table's counts give the table's total; no row or total of it gives the text's 51.6 %."""
    dense, sparse = 4_209_088, 1_726_917
    assert 100 * (1 - sparse / dense) == pytest.approx(58.97171, abs=6e-6)
    pruned = {32768: 13108, 65536: 26215, 131072: 52429, 262144: 104858, 524288: 209716, 1048576: 419431}
    untouched = [864, 288, 2048, 576, 8192, 1152, 16384, 1152, 2304, 2304, *[4608] * 6, 9216]
    rows = [(size, left) for size, left in pruned.items() for _ in range(5 if size == 262144 else 1)]
    classifier = (1_024_000, 409_600)
    assert sum(size for size, _ in [*rows, classifier]) + sum(untouched) - dense == 0
    assert sum(left for _, left in [*rows, classifier]) + sum(untouched) - sparse == 0
    without_classifier = 1 - (sparse - classifier[1]) / (dense - classifier[0])
    assert 100 * without_classifier != pytest.approx(51.6, abs=0.05)


def _slow(weight: Tensor) -> dict[str, float]:
    """Every share by loops over indices."""
    out, inside = weight.shape[:2]
    zero = (weight == 0).tolist()

    def dead(part: object) -> bool:
        return all(dead(each) for each in part) if isinstance(part, list) else bool(part)

    kernels = [dead(zero[o][i]) for o, i in product(range(out), range(inside))]
    filters = [dead(zero[o]) for o in range(out)]
    channels = [all(dead(zero[o][i]) for o in range(out)) for i in range(inside)]
    if weight.dim() == 2:
        shares = {"rows": filters, "columns": channels, "kernels": filters}
    else:
        shares = {"filters": filters, "channels": channels, "kernels": kernels}
    return {name: sum(found) / len(found) for name, found in shares.items()}


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3), (6, 4, 3, 2), (6, 1, 3, 3), (3, 2, 2, 2, 2)])
def test_every_share_and_moment_equals_a_slow_loop(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    weight[torch.rand(shape, generator=generator) < 0.6] = 0
    weight[1] = 0
    weight[:, shape[1] - 1] = 0 if shape[1] > 1 else weight[:, 0]
    found = weight_sparsity("w", weight)
    expected = dict.fromkeys(("columns", "rows", "channels", "kernels", "filters"), 0.0) | _slow(weight)
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected)
    values = weight.flatten().tolist()
    mean = sum(values) / len(values)
    assert found.mean == pytest.approx(mean)
    assert found.std == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)))
    assert found.magnitude == pytest.approx(sum(map(abs, values)) / len(values))
    assert found.fine == pytest.approx(sum(v == 0 for v in values) / len(values))


def test_only_floating_point_weights_of_two_dimensions_count() -> None:
    state = {
        "conv.weight": torch.ones(2, 1, 3, 3),
        "conv.bias": torch.zeros(2),
        "bn.weight": torch.zeros(2),
        "bn.running_mean": torch.zeros(2, 2),
        "codes.weight": torch.zeros(2, 2, dtype=torch.int64),
        "weight": torch.tensor([[0.0, math.nan]]),
    }
    table = sparsity_table(state)
    assert [(weight.name, weight.sparse) for weight in table.weights] == [("conv.weight", 18), ("weight", 1)]


def test_a_file_without_weights_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"model\.pt holds no weight"):
        sparsity_table({"bias": torch.zeros(3)}, "model.pt")


def test_the_command_prints_text_csv_and_json(autoprune: Cli, workdir: Path) -> None:
    state = {"some.network.conv.weight": torch.zeros(4, 2, 3, 3), "fc.weight": torch.eye(4)}
    state["some.network.conv.weight"][0, 0, 0, 0] = 1
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, "any.pth")
    lines = autoprune.succeed("evaluate", "any.pth", "--sparsity-table").out.splitlines()
    assert lines[0].split()[:4] == ["name", "shape", "NNZ", "(dense)"]
    assert lines[1].split()[0] == "some.network.conv.weight"
    assert lines[-1].split() == ["total", "88", "5", "94.31818"]
    described = json.loads(autoprune.succeed("evaluate", "any.pth", "--sparsity-table", "json").out)
    assert described["total"] == {"dense": 88, "sparse": 5, "fine": pytest.approx(83 / 88)}
    rows = list(csv.DictReader(io.StringIO(autoprune.succeed("evaluate", "any.pth", "--sparsity-table", "csv").out)))
    assert [row["name"] for row in rows] == ["some.network.conv.weight", "fc.weight", "total"]
    assert (rows[0]["shape"], float(rows[0]["kernels"]), float(rows[0]["filters"])) == ("4x2x3x3", 7 / 8, 3 / 4)


def test_a_pruned_checkpoint_has_its_own_shapes(autoprune: Cli, workdir: Path, digits_run: DigitsRun) -> None:
    path = digits_run.folder / "weights" / "1.pt"
    described = json.loads(autoprune.succeed("evaluate", path, "--sparsity-table", "json").out)
    shapes = {weight["name"]: weight["shape"] for weight in described["weights"]}
    state = torch.load(path, weights_only=True)["state_dict"]
    assert shapes == {name: list(t.shape) for name, t in state.items() if t.dim() >= 2}


def test_what_is_no_checkpoint_or_no_format_is_refused(autoprune: Cli, workdir: Path) -> None:
    assert "no such checkpoint" in autoprune.refused("evaluate", "none.pt", "--sparsity-table")
    Path("text.pt").write_text("no checkpoint")
    assert "text.pt" in autoprune.refused("evaluate", "text.pt", "--sparsity-table")
    torch.save({"a": torch.zeros(3)}, "flat.pt")
    assert "no weight of two or more" in autoprune.refused("evaluate", "flat.pt", "--sparsity-table")
    assert "invalid choice: 'html'" in autoprune.refused("evaluate", "flat.pt", "--sparsity-table", "html")

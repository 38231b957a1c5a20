"""Rows of the matrix as files and tables, and the networks' random values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.zoo.examination import Row, draw_allocation
from tests.zoo.matrix import chosen, examine_apart, read, summary, table
from tests.zoo.networks import NETWORKS
from tests.zoo.networks.jostle import jostle, settle_statistics
from tests.zoo.running import one_sample, train_once


def _row(name: str, **given: object) -> dict[str, object]:
    row = {"failure": None, "groups": 3, "least": 0.2, "seconds": 1.0, "difference": 1e-15, "own_class": True}
    return Row(name, **{**row, **given}).as_dict()  # type: ignore[arg-type]


def test_the_summary_counts_every_row_that_was_tried() -> None:
    rows = [
        _row("a"),
        _row("b", least=0.5, own_class=False, trains="RuntimeError"),
        _row("c", difference=1e-3),
        {"network": "d", "failure": "exit code -9: "},
    ]
    assert "2 (50%) were captured and thinned exactly, 1 (25%) reach 0.35" in summary(rows)
    assert "1 are wrong" in summary(rows)
    assert "1 are of their own class, 1 train" in summary(rows)
    lines = table(rows).splitlines()
    assert lines[2] == "| a | yes | 3 | 0.2 | 1 | 1.0e-15 | exact | yes | yes |"
    assert lines[4].startswith("| c | differs |")
    assert lines[5] == "| d | exit code -9:  |  |  |  |  |  |  |  |"


def test_a_row_that_was_cut_off_is_tried_again_and_the_last_one_counts(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    lines = [json.dumps({"network": "a", "groups": n}) for n in (1, 2)] + ['{"network": "b", "gro']
    file.write_text("\n".join(lines))
    assert read(file) == {"a": {"network": "a", "groups": 2}}
    assert read(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("ends", "row"),
    [
        ("", {"network": "a", "half": 1}),
        ("while True: pass", {"network": "a", "half": 1, "failure": "more than 1 s"}),
        ("sys.exit('no memory')", {"network": "a", "half": 1, "failure": "exit code 1: no memory"}),
    ],
)
def test_a_network_that_dies_or_takes_too_long_stops_nothing(
    ends: str, row: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = json.dumps({"network": "a", "half": 1})
    (tmp_path / "row_maker.py").write_text(f"import sys\nprint({said!r}, flush=True)\n{ends}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert examine_apart("row_maker", "a", limit=1, memory=1) == row


def test_networks_are_chosen_by_the_beginnings_of_their_names() -> None:
    assert chosen([]) == list(NETWORKS)
    assert {name.partition("/")[0] for name in chosen(["own/", "smp/"])} == {"own", "smp"}
    with pytest.raises(SystemExit, match="nothing"):
        chosen(["nothing"])


def test_allocations_keep_at_least_one_structure_of_each_group() -> None:
    for draw in range(20):
        kept = draw_allocation({"a": 1, "b": 5}, draw)
        assert kept["a"] == [0]
        assert 1 <= len(kept["b"]) == len(set(kept["b"]))
        assert set(kept["b"]) <= set(range(5))
    assert all(len(draw_allocation({"b": 16}, draw)["b"]) >= 14 for draw in (2, 5, 8))
    assert draw_allocation({"b": 50}, 0) != draw_allocation({"b": 50}, 1)


def test_the_first_sample_is_taken_of_tensors_that_hold_samples() -> None:
    taken = one_sample({"x": torch.zeros(2, 3), "shared": torch.zeros(5), "n": 4}, 2)
    assert (taken["x"].shape, taken["shared"].shape, taken["n"]) == ((1, 3), (5,), 4)
    assert len(one_sample([torch.zeros(2, 3)] * 2, 2)) == 1


def test_constant_values_become_random_and_others_stay() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LayerNorm(4))
    nn.init.zeros_(network[1].weight)
    nn.init.constant_(network[2].weight, 1e-6)
    weight = network[0].weight.clone()
    jostle(network, seed=0)
    assert torch.equal(network[0].weight, weight)
    for norm in network[1:]:
        assert bool(((norm.weight >= 0.5) & (norm.weight <= 1.5)).all())
        assert bool((norm.weight.diff().abs() > 0).all())
        assert bool((norm.bias.diff().abs() > 0).all())
    assert float(network[1].running_var.std()) > 0.01


def test_settled_statistics_are_those_of_a_run_and_nothing_else_changes() -> None:
    norm = nn.BatchNorm1d(4).eval()
    settle_statistics(norm, lambda: norm(torch.randn(200, 4) * 100 + 7))
    assert (norm.running_var > 1000).all()
    assert not norm.training
    assert (norm.momentum, int(norm.num_batches_tracked or 0)) == (0.1, 0)


def test_a_network_is_built_the_same_each_time_and_no_random_state_is_used() -> None:
    zoo, state = NETWORKS["own/auxiliary head"], torch.random.get_rng_state()
    one, two = zoo.build(), zoo.build()
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_step_that_fails_says_why() -> None:
    zoo = NETWORKS["own/auxiliary head"]
    assert train_once(zoo.build(torch.float32), zoo) is None
    broken = zoo.build(torch.float32)
    broken.head = nn.Linear(7, 5)
    assert "mat1" in (train_once(broken, zoo) or "")

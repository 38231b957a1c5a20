from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoprune.core.space import SpaceRules, build_space
from autoprune.graph.groups import find_groups
from autoprune.pruning.patterns import parse_pattern
from autoprune.pruning.pruner import find_structures
from autoprune.running.coverage import Coverage, measure_coverage


class LanguageModel(nn.Module):
    """An LSTM between an embedding and an output layer that hold most of the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(300, 8), nn.LSTM(8, 8, batch_first=True)
        self.out = nn.Linear(8, 300)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(self.embedding(x))[0])


def covered(pattern: str, **rules: object) -> Coverage:
    network, inputs = LanguageModel().eval(), torch.randint(0, 300, (2, 5))
    structures = find_structures(network, find_groups(network, inputs), parse_pattern(pattern))
    space = build_space(SpaceRules(**rules), structures.groups)  # type: ignore[arg-type]
    return measure_coverage(network, structures, structures.cost_table(network, inputs), space)


@pytest.mark.parametrize("pattern", ["filter", "element"])
def test_shares_are_of_the_whole_network_and_what_is_passed_over_is_named(pattern: str) -> None:
    found = covered(pattern)
    for kind in ("flops", "params"):
        assert found.searched[kind] + sum(each.shares[kind] for each in found.passed) == pytest.approx(1)
    network = LanguageModel()
    lstm = sum(each.numel() for each in network.lstm.parameters() if pattern == "filter" or each.dim() > 1)
    assert found.searched["params"] == pytest.approx(lstm / sum(p.numel() for p in network.parameters()))
    assert found.searched["params"] < 0.11
    _, passed, _ = found.lines()
    assert "embedding: holds the first layer (protect: first)" in passed


def test_the_narrowest_allocation_is_said() -> None:
    found = covered("filter", min_keep=0.5)
    *_, line = found.lines()
    assert line.startswith("the narrowest that the space allows has ")
    assert 0.5 < found.narrowest["params"] < 1


def test_excluded_groups_are_passed_over_with_their_share() -> None:
    found = covered("filter", protect=(), exclude=("lstm",))
    assert {each.groups for each in found.passed} >= {("lstm",)}
    assert found.groups == 1


def test_layers_of_which_all_groups_are_searched_pass_nothing_over_but_the_output() -> None:
    found = covered("filter", protect=())
    assert [each.reason for each in found.passed if max(each.shares.values()) > 0] == ["it is the network's output"]

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import UserError
from autoprune.graph.groups import find_groups
from autoprune.pruning.surgery.masks import build_masks, choose_kept, mask_network, top_k_mask


def test_the_highest_scores_stay_and_of_equal_ones_the_lower_index_goes_first() -> None:
    assert top_k_mask(np.array([3.0, 1.0, 2.0, 1.0]), 2).nonzero()[0].tolist() == [0, 2]
    assert top_k_mask(np.array([1.0, 2.0, 1.0, 1.0]), 2).nonzero()[0].tolist() == [1, 3]
    assert top_k_mask(np.zeros(5), 2).nonzero()[0].tolist() == [3, 4]
    assert top_k_mask(np.zeros(5), 5).nonzero()[0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("keep", [0, 4, -1])
def test_as_many_as_there_are_can_be_kept_and_at_least_one(keep: int) -> None:
    with pytest.raises(UserError, match=f"of 3 structures 1 to 3 can be kept, not {keep}"):
        top_k_mask(np.zeros(3), keep)


def test_a_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(UserError, match="not a number"):
        top_k_mask(np.array([1.0, np.nan]), 1)


def test_an_allocation_of_a_group_without_scores_names_those_there_are() -> None:
    assert choose_kept({"a": np.array([2.0, 1.0]), "b": np.zeros(2)}, {"a": 1}) == {"a": (0,)}
    with pytest.raises(UserError, match="no scores for group b; there are a"):
        choose_kept({"a": np.zeros(2)}, {"b": 1})


def _network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Sigmoid(), nn.Conv2d(3, 2, 1)).eval()


def test_producers_norms_and_consumers_of_a_channel_are_masked() -> None:
    network = _network()
    masks = build_masks(network, find_groups(network, torch.randn(2, 1, 4, 4)), {"0": [0, 2]})
    assert {name: mask.flatten(1).tolist() if mask.dim() > 1 else mask.tolist() for name, mask in masks.items()} == {
        "0.weight": [[1], [0], [1]], "0.bias": [1, 0, 1], "1.weight": [1, 0, 1], "1.bias": [1, 0, 1],
        "3.weight": [[1, 0, 1], [1, 0, 1]],
    }  # fmt: skip


def test_only_consumers_are_masked_where_only_they_are_asked_for() -> None:
    network = _network()
    graph = find_groups(network, torch.randn(2, 1, 4, 4))
    assert list(build_masks(network, graph, {"0": [0, 2]}, sides=("in",))) == ["3.weight"]


def test_nothing_is_masked_where_everything_stays() -> None:
    network = _network()
    assert not build_masks(network, find_groups(network, torch.randn(2, 1, 4, 4)), {"0": [0, 1, 2]})


def test_a_masked_channel_is_gone_even_where_the_activation_makes_something_of_zero() -> None:
    network = _network()
    masked = mask_network(network, find_groups(network, torch.randn(2, 1, 4, 4)), {"0": [1]})
    with torch.no_grad():
        only = torch.einsum("o,nhw->nohw", masked[3].weight[:, 1, 0, 0], masked[:3](torch.ones(1, 1, 2, 2))[:, 1])
        torch.testing.assert_close(masked(torch.ones(1, 1, 2, 2)), only + masked[3].bias.view(1, 2, 1, 1))

"""The LASSO's scores against contributions made one by one and regressed by coordinate group_sweep."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import lasso_path
from torch import Tensor, nn

from autoprune.graph.groups import find_groups
from autoprune.pruning.criteria.reconstruction import RECONSTRUCTION, entry_penalties
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.statistics.collection import CalibrationData, collect_statistics
from tests.graph.contract import randomise


class Users(nn.Module):
    """Channels used by a grouped convolution, by two layers at once, behind a flattening, and by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 4, 3, stride=2, groups=2)
        self.left, self.right = nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 1, bias=False)
        self.conv, self.flat = nn.Conv2d(5, 3, 2, padding=1, dilation=2), nn.Linear(20, 6)
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(F.relu(self.stem(x))).relu()
        x = F.relu(self.left(x) + self.right(x))
        return self.out(torch.sigmoid(self.flat(x.flatten(1)))) + self.conv(x).sum((1, 2, 3))[:, None]


# Group to the layers that use it, each with the inputs that belong to each structure, worked out by hand.
USERS: Mapping[str, Mapping[str, Sequence[Sequence[int]]]] = {
    "stem": {"grouped": [[i, i + 3] for i in range(3)]},
    "grouped": {"left": [[i, i + 2] for i in range(2)], "right": [[i, i + 2] for i in range(2)]},
    "left": {"conv": [[i] for i in range(5)], "flat": [list(range(4 * i, 4 * i + 4)) for i in range(5)]},
    "flat": {"out": [[i] for i in range(6)]},
}


def _case() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    network = randomise(Users().double()).eval()
    return network, [(torch.randn(size, 2, 6, 6, dtype=torch.float64), torch.arange(size) % 4) for size in (5, 4)]


def _contributions(
    network: nn.Module, layer: str, structures: Sequence[Sequence[int]], batches: list[tuple[Tensor, Tensor]]
) -> NDArray[np.float64]:
    """`[samples x positions x out, structures]`: the layer without bias, run with all other inputs zero."""
    module = network.get_submodule(layer)
    caught: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].detach()))
    for inputs, _ in batches:
        network(inputs)
    handle.remove()
    seen, silent = torch.cat(caught), module(torch.zeros_like(torch.cat(caught)))
    columns = []
    for structure in structures:
        alone = torch.zeros_like(seen)
        alone[:, structure] = seen[:, structure]
        columns.append((module(alone) - silent).detach().flatten())
    return torch.stack(columns, 1).numpy()


@pytest.mark.parametrize("group", USERS)
def test_scores_are_the_penalties_at_which_coordinate_descent_lets_structures_in(group: str) -> None:
    network, batches = _case()
    graph = find_groups(network, batches[0][0][:2])
    scores = Pruner("plain", RECONSTRUCTION, combine="sum", normalise=False).estimate_importance(
        network, graph, CalibrationData(batches, F.cross_entropy)
    )
    assert set(scores) == set(USERS)
    least, most = np.zeros(len(scores[group])), np.zeros(len(scores[group]))
    for layer, structures in USERS[group].items():
        found = _contributions(network, layer, structures, batches)
        penalties, used = _slow_path(found)
        entry, ever = used.argmax(1), used.any(1)
        assert ever.sum() >= len(ever) - 1  # one behind the flattening is never active
        least += np.where(ever, penalties[entry], 0)
        most += np.where(ever, penalties[np.maximum(entry - 1, 0)], penalties[-1])
    assert (least <= scores[group]).all()
    assert (scores[group] <= most).all()


def _slow_path(contributions: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A fine grid of falling penalties, and by structure and penalty whether the coefficient is not zero."""
    scale = float(np.square(contributions).sum() / contributions.shape[1])
    target = contributions.sum(1)
    highest = np.abs(contributions.T @ target).max() * 1.001
    grid = np.geomspace(highest, highest * 1e-5, 300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of a tolerance next to rounding
        alphas, coefficients, _ = lasso_path(contributions, target, alphas=grid / len(target), tol=1e-12)
    return np.asarray(alphas) * len(target) / scale, np.abs(coefficients) > 0


@pytest.mark.parametrize("group", USERS)
def test_gram_matrices_are_those_of_contributions_made_one_by_one(group: str) -> None:
    network, batches = _case()
    graph = find_groups(network, batches[0][0][:2])
    found = collect_statistics(
        network, graph, (), frozenset({"consumers"}), CalibrationData(batches, F.cross_entropy)
    ).consumers[group]
    assert set(found) == set(USERS[group])
    for layer, structures in USERS[group].items():
        columns = _contributions(network, layer, structures, batches)
        np.testing.assert_allclose(found[layer].gram.numpy(), columns.T @ columns, rtol=1e-9)


def test_orthogonal_contributions_enter_at_their_squares() -> None:
    np.testing.assert_allclose(entry_penalties(np.diag([1.0, 4.0, 0.0, 3.0])), [0.5, 2.0, 0.0, 1.5])


def test_what_contributes_the_same_shares_a_score_and_what_adds_nothing_has_none() -> None:
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(40, 5))
    columns[:, 3] = columns[:, 1]
    columns[:, 4] = 0.01 * columns[:, 0]
    scores = entry_penalties(columns.T @ columns)
    assert scores[1] == scores[3] > 0
    assert scores[4] == 0 < scores[0]


def test_a_structure_that_another_cancels_is_scored_below_one_that_stands_alone() -> None:
    rng = np.random.default_rng(0)
    alone, large, rest = rng.normal(size=(3, 100))
    columns = np.stack([alone, 5 * large, -5 * large + 0.1 * rest], 1)
    scores = entry_penalties(columns.T @ columns)
    assert scores[0] > scores[1:].max()
    assert np.square(columns).sum(0)[0] < np.square(columns).sum(0)[1:].min()


def test_a_group_that_only_a_transposed_convolution_uses_is_scored_by_l1() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2)).eval()
    inputs = torch.randn(3, 2, 4, 4)
    graph = find_groups(network, inputs)
    scores = Pruner("plain", RECONSTRUCTION, normalise=False).estimate_importance(
        network, graph, CalibrationData([(inputs, torch.arange(3))], F.cross_entropy)
    )["0"]
    np.testing.assert_allclose(scores, network[0].weight.detach().double().abs().sum((1, 2, 3)).numpy())

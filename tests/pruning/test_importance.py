from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune import registry
from autoprune.graph.groups import find_groups
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.statistics.collection import CalibrationData
from autoprune.pruning.surgery.masks import mask_network
from autoprune.pruning.surgery.thinning import thin
from tests.graph.contract import randomise
from tests.pruning.criteria.test_structures_of_several_rows import Attention

READING = [name for name in registry.CRITERIA if registry.resolve("criterion", name).reads_data]
KEPT = {"embed": (0, 2, 3, 5), "q": (0, 2, 3), "up": (1, 2, 4, 6)}


def _batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(4, 3, 5, generator=generator, dtype=torch.float64), torch.tensor([0, 2, 1, 1])) for _ in range(2)
    ]


@pytest.mark.parametrize("name", READING)
def test_what_a_network_has_left_is_scored_as_in_the_thinned_network(name: str) -> None:
    torch.manual_seed(0)
    dense = randomise(Attention(4).double()).eval()
    batches = _batches()
    graph = find_groups(dense, batches[0][0][:2])
    small, masked = thin(dense, graph, KEPT), mask_network(dense, graph, KEPT)
    pruner = Pruner("plain", registry.resolve("criterion", name), combine="sum", normalise=False)
    data = CalibrationData(batches, F.cross_entropy)
    expected = dict(pruner.estimate_importance(small, batches[0][0][:2], data))
    found = pruner.estimate_importance(masked, graph, data, kept=KEPT)
    plain = pruner.estimate_importance(masked, graph, data)
    for group, kept in KEPT.items():
        left = found[group][list(kept)]
        if name == "reconstruction":  # its penalties are relative to the mean over all structures
            left, expected[group] = (scores / scores.sum() for scores in (left, expected[group]))
        np.testing.assert_allclose(left, expected[group], rtol=1e-6, err_msg=group)
    assert not np.allclose(found["up"], plain["up"])  # with norms over zeros as well


@pytest.mark.parametrize("name", READING)
def test_a_users_hooks_run_once_in_each_pass(name: str) -> None:
    class Doubling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.head = nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.first(x)) + 0)

    torch.manual_seed(0)
    network = randomise(Doubling().double()).eval()
    batches = [(inputs[:, 0], targets) for inputs, targets in _batches()]
    pruner = Pruner("plain", registry.resolve("criterion", name), normalise=False)
    data = CalibrationData(batches, F.cross_entropy)
    plain = pruner.estimate_importance(network, batches[0][0], data)["first"]
    network.act.register_forward_hook(lambda module, args, output: output + 1)
    hooked = pruner.estimate_importance(network, batches[0][0], data)["first"]
    network.act._forward_hooks.clear()

    class Written(Doubling):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.first(x)) + 1)

    written = Written().double().eval()
    written.load_state_dict(network.state_dict())
    np.testing.assert_allclose(hooked, pruner.estimate_importance(written, batches[0][0], data)["first"])
    assert name == "apoz" or name == "mean_activation" or not np.allclose(hooked, plain)

"""Weight norm while channels go: the weights that stay are what they were."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.allocation import Allocation
from autoprune.evaluation.candidate_builder import PrunedNetwork
from autoprune.evaluation.parents import restore_parent
from autoprune.evaluation.prunable_model import analyze
from autoprune.graph.costs import build_cost_table, measure_costs
from autoprune.graph.groups import find_groups
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.modules.weight_norm import find_weight_norms
from autoprune.pruning.criteria.gradients import TAYLOR_GATE
from autoprune.pruning.pruner import L1_FILTER, Pruner
from autoprune.pruning.statistics.collection import CalibrationData
from autoprune.pruning.surgery.masked_run import run_masked
from autoprune.pruning.surgery.thinning import thin
from autoprune.pruning.training.gradual import Pruning
from tests.graph.contract import randomise

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")

WRAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
    f"{age}, {what}": partial(wrap, dim=dim)
    for age, wrap in (("old", nn.utils.weight_norm), ("new", nn.utils.parametrizations.weight_norm))
    for what, dim in (("rows", 0), ("columns", 1), ("whole", None))
}
LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": nn.Linear,
    "convolution": lambda inputs, outputs: nn.Conv1d(inputs, outputs, 3, padding=1),
    "transposed": lambda inputs, outputs: nn.ConvTranspose1d(inputs, outputs, 3, padding=1),
}
KEPT = {"first": [0, 2, 3, 6], "second": [1, 4]}


class Chain(nn.Module):
    def __init__(self, make: Callable[[int, int], nn.Module], wrap: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.first, self.second, self.last = wrap(make(3, 8)), wrap(make(8, 5)), wrap(make(5, 2))

    def forward(self, x: Tensor) -> Tensor:
        turned = isinstance(self.first, nn.Linear)
        x = x.mT if turned else x
        return self.last(torch.sigmoid(self.second(torch.sigmoid(self.first(x)))))


def _chain(layer: str, wrap: str) -> tuple[Chain, Tensor]:
    torch.manual_seed(0)
    network = randomise(Chain(LAYERS[layer], WRAPS[wrap]).double()).eval()
    assert isinstance(network, Chain)
    return network, torch.randn(4, 3, 6, dtype=torch.float64)


def _without(network: Chain, inputs: Tensor) -> Tensor:
    """The dense network with hooks that hide channels from what uses them."""

    def hide(kept: list[int], module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        axis = -1 if isinstance(module, nn.Linear) else 1
        gone = [i for i in range(args[0].size(axis)) if i not in kept]
        return (args[0].index_fill(axis, torch.tensor(gone), 0),)

    users = {"first": network.second, "second": network.last}
    handles = [users[name].register_forward_pre_hook(partial(hide, kept)) for name, kept in KEPT.items()]
    found = network(inputs)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("layer", LAYERS)
def test_thinned_and_masked_are_the_dense_network_without_the_channels(layer: str, wrap: str) -> None:
    network, inputs = _chain(layer, wrap)
    graph = find_groups(network, inputs)
    assert {group.name: group.group.width for group in graph.groups} == {"first": 8, "second": 5}
    expected = _without(network, inputs)
    torch.testing.assert_close(run_masked(network, graph, KEPT, ModelInputs.of(inputs)), expected)
    thinned = thin(network, graph, KEPT)
    torch.testing.assert_close(thinned(inputs), expected)
    torch.testing.assert_close(thinned.train()(inputs), expected)
    widths = {name: len(kept) for name, kept in KEPT.items()}
    assert measure_costs(thinned, inputs) == build_cost_table(network, graph, inputs).costs(widths)
    names = ("in_features", "out_features") if layer == "linear" else ("in_channels", "out_channels")
    assert [getattr(thinned.second, name) for name in names] == [4, 2]
    torch.testing.assert_close(network(inputs), _chain(layer, wrap)[0](inputs))


@pytest.mark.parametrize("wrap", WRAPS)
def test_the_computed_weight_is_torchs(wrap: str) -> None:
    network, inputs = _chain("convolution", wrap)
    network(inputs)
    for norm in find_weight_norms(network):
        torch.testing.assert_close(norm.weight(network), network.get_submodule(norm.module).weight)
        assert norm.bias in dict(network.named_parameters())


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_network_trains_with_masked_channels_and_is_thinned_to_the_same(wrap: str) -> None:
    network, inputs = _chain("convolution", wrap)
    pruning = Pruning(network, L1_FILTER, widths={"first": 4, "second": 2}, inputs=inputs)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        network(inputs).square().mean().backward()
        optimizer.step()
        pruning.step()
    trained = network(inputs)
    assert bool(trained.isfinite().all())
    torch.testing.assert_close(pruning.finish(thin=True)(inputs), trained)


def test_filters_are_scored_by_the_computed_weight_and_gates_by_the_scale() -> None:
    network, inputs = _chain("convolution", "new, rows")
    pruner = Pruner("plain", L1_FILTER.criterion, normalise=False)
    expected = network.first.weight.detach().abs().sum((1, 2)).numpy()
    assert pruner.estimate_importance(network, inputs)["first"] == pytest.approx(expected)
    batches: list[tuple[Any, Tensor]] = [(inputs, torch.zeros(4, dtype=torch.long))]
    loss = lambda outputs, targets: F.cross_entropy(outputs.mean(2), targets)  # noqa: E731
    gates = Pruner("plain", TAYLOR_GATE, normalise=False).estimate_importance(
        network, inputs, CalibrationData(batches, loss)
    )["first"]
    gate = torch.ones(8, dtype=torch.float64, requires_grad=True)
    network.first.register_forward_hook(lambda module, args, output: output * gate.view(1, -1, 1))
    loss(network(inputs), batches[0][1]).backward(inputs=[gate])
    assert gates == pytest.approx(gate.grad.square().numpy())


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_child_starts_from_what_its_parent_left(wrap: str) -> None:
    network, inputs = _chain("convolution", wrap)
    prunable = analyze(network, inputs, L1_FILTER)
    widths = Allocation({"first": 4, "second": 2})
    small = prunable.structures.prune(network, prunable.importance, widths)
    parent = restore_parent(prunable, PrunedNetwork(small, prunable, widths).checkpoint({}, {}))
    torch.testing.assert_close(parent.network(inputs), small(inputs))

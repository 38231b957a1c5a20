from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import DataError, UserError
from autoprune.graph.groups import find_groups
from autoprune.graph.layers import Layer
from autoprune.pruning.criteria.base import Need
from autoprune.pruning.statistics.collection import CalibrationData, NetworkStatistics, collect_statistics
from tests.graph.contract import randomise
from tests.graph.networks import LeNet, resnet_b
from tests.graph.unusual_networks import UNUSUAL

EVERYTHING: frozenset[Need] = frozenset({"activations", "gradients", "gates"})


def _batches(shape: tuple[int, ...], sizes: tuple[int, ...] = (4, 3)) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(size, *shape, generator=generator), torch.arange(size) % 3) for size in sizes]


def _collect(network: nn.Module, source: CalibrationData, needs: frozenset[Need] = EVERYTHING) -> NetworkStatistics:
    shape = (3, 32, 32) if isinstance(network, LeNet) else (3, 8, 8)
    graph = find_groups(network, torch.zeros(2, *shape))
    layers: list[Layer] = [layer for layer in graph.layers if layer.produces]
    return collect_statistics(network, graph, layers, needs, source)


def test_only_what_is_needed_is_gathered() -> None:
    network, source = resnet_b(), CalibrationData(_batches((3, 8, 8)), F.cross_entropy)
    for need in EVERYTHING:
        found = _collect(network, source, frozenset({need}))
        assert [name for name in sorted(EVERYTHING) if getattr(found, name)] == [need]


def test_activations_do_not_depend_on_how_samples_are_batched() -> None:
    network = randomise(LeNet("flatten"))
    whole, parts = _batches((3, 32, 32), (7,)), _batches((3, 32, 32), (7,))[0]
    split = [(parts[0][:2], parts[1][:2]), (parts[0][2:], parts[1][2:])]
    one, other = (_collect(network, CalibrationData(b, F.cross_entropy)).activations["conv1"] for b in (whole, split))
    torch.testing.assert_close(one.nonzero, other.nonzero)
    torch.testing.assert_close(one.magnitude, other.magnitude)


def test_gradients_are_averaged_over_batches_and_not_over_samples() -> None:
    network = randomise(LeNet("flatten"))
    batches = _batches((3, 32, 32), (4, 2))
    found = _collect(network, CalibrationData(batches, F.cross_entropy)).gradients["conv2"]
    one, other = (_collect(network, CalibrationData([batch], F.cross_entropy)).gradients["conv2"] for batch in batches)
    torch.testing.assert_close(found.square, (one.square + other.square) / 2)
    torch.testing.assert_close(found.magnitude, (one.magnitude + other.magnitude) / 2)


def test_a_batch_is_forgotten_before_the_next_is_read() -> None:
    alive: list[weakref.ref[Tensor]] = []

    class Watched:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for _ in range(3):
                gc.collect()
                assert sum(ref() is not None for ref in alive) <= 1  # the loop's own variable
                inputs = torch.randn(2, 3, 8, 8)
                alive.append(weakref.ref(inputs))
                yield inputs, torch.tensor([0, 1])
                del inputs

    _collect(resnet_b(), CalibrationData(Watched(), F.cross_entropy))
    assert len(alive) == 3


def test_the_network_is_seen_in_evaluation_mode() -> None:
    network = randomise(
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.9), nn.Conv2d(8, 3, 1))
    )
    source = CalibrationData(
        _batches((3, 8, 8)), lambda outputs, targets: F.cross_entropy(outputs.mean((2, 3)), targets)
    )
    one, other = _collect(network.eval(), source), _collect(network.train(), source)
    assert all(module.training for module in network.modules())
    torch.testing.assert_close(one.gradients["0"].square, other.gradients["0"].square)
    torch.testing.assert_close(one.activations["0"].magnitude, other.activations["0"].magnitude)


def test_statistics_can_be_gathered_where_gradients_are_switched_off_or_weights_frozen() -> None:
    network, source = randomise(resnet_b()), CalibrationData(_batches((3, 8, 8)), F.cross_entropy)
    expected = _collect(network, source)
    network.requires_grad_(False)
    with torch.no_grad():
        found = _collect(network, source)
    for name, gate in expected.gates.items():
        torch.testing.assert_close(found.gates[name], gate)
        torch.testing.assert_close(found.gradients[name].square, expected.gradients[name].square)


def test_a_loss_that_cannot_be_differentiated_is_refused() -> None:
    source = CalibrationData(_batches((3, 8, 8)), lambda outputs, targets: torch.tensor(0.5))
    with pytest.raises(UserError, match="cannot be differentiated"):
        _collect(resnet_b(), source)


def test_no_samples_at_all_are_refused() -> None:
    with pytest.raises(DataError, match="no samples"):
        _collect(resnet_b(), CalibrationData([], F.cross_entropy))


@pytest.mark.parametrize("name", ["shared_modules", "functional_norm", "in_place", "zeros", "data_dependent"])
def test_unusual_networks_are_seen_as_they_run(name: str) -> None:
    case = UNUSUAL[name]
    torch.manual_seed(0)
    network = randomise(case.build().double()).eval()
    batches = [(inputs.double(), targets) for inputs, targets in _batches(case.shape, (4,))]
    graph = find_groups(network, batches[0][0][:2])
    layers = [layer for layer in graph.layers if layer.produces]

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.flatten(1).mean(1) - targets).square().mean()

    found = collect_statistics(network, graph, layers, EVERYTHING, CalibrationData(batches, loss))
    for group in graph.groups:
        layer = group.group.producers[0]
        network.zero_grad()
        loss(network(batches[0][0]), batches[0][1]).backward()
        gradient = network.get_submodule(layer).weight.grad
        torch.testing.assert_close(found.gradients[layer].magnitude, gradient.abs())
        torch.testing.assert_close(found.gradients[layer].square, gradient.square())
        assert layer in found.activations

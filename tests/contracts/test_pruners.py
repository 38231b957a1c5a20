"""Every pruner and criterion of the registry against the published contracts, and on further networks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from autoprune import registry
from autoprune.cli import main
from autoprune.errors import UserError
from autoprune.graph.groups import find_groups
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.statistics.collection import CalibrationData
from autoprune.testing import CriterionContract, PrunerContract
from autoprune.testing.pruners import INPUTS, importance, loss
from tests.graph.contract import randomise
from tests.graph.networks import WELL_KNOWN, resnet_b


class TestEveryPruner(PrunerContract):
    @pytest.fixture(autouse=True, params=sorted(registry.PRUNERS))
    def _named(self, request: pytest.FixtureRequest) -> None:
        self.pruner = registry.resolve("pruner", request.param)
        assert self.pruner.name == request.param


class TestEveryCriterion(CriterionContract):
    @pytest.fixture(autouse=True, params=sorted(registry.CRITERIA))
    def _named(self, request: pytest.FixtureRequest) -> None:
        self.criterion = registry.resolve("criterion", request.param)
        assert self.criterion.name == request.param


@pytest.fixture(params=sorted(registry.PRUNERS))
def pruner(request: pytest.FixtureRequest) -> Pruner:
    found: Pruner = registry.resolve("pruner", request.param)
    return found


def test_a_pruner_that_reads_data_refuses_an_empty_set(pruner: Pruner) -> None:
    if not pruner.criterion.reads_data:
        pytest.skip("reads no data")
    network = resnet_b()
    with pytest.raises(UserError, match="no samples"):
        pruner.estimate_importance(network, find_groups(network, INPUTS), CalibrationData([], loss))


def test_a_pruner_is_made_of_parts_that_have_names(pruner: Pruner) -> None:
    described = pruner.describe()
    for kind in ("criterion", "pattern", "schedule", "allocator"):
        assert described[kind] in registry.table(kind)


@pytest.mark.parametrize("name", ["resnet_b", "resnext", "unet_transposed", "mobilenet_v3", "shufflenet_v2_numbers"])
def test_every_structure_of_every_group_has_a_finite_score(pruner: Pruner, name: str) -> None:
    network = randomise(WELL_KNOWN[name].build())
    graph = find_groups(network, INPUTS)
    scores = importance(pruner, network, graph)
    assert {group: values.shape[-1] for group, values in scores.items()} == {
        group.name: group.width for group in pruner.find_structures(network, graph).groups
    }
    assert all(np.isfinite(values).all() for values in scores.values())
    assert all((values >= 0).all() for values in scores.values())


@pytest.mark.parametrize("name", ["l1_filter", "l2_filter", "taylor"])
def test_a_filter_of_zeros_goes_before_all_others(name: str) -> None:
    network = resnet_b()
    with torch.no_grad():
        network.get_submodule("0.1.conv2").weight[5] = 0
    scores = importance(registry.resolve("pruner", name), network, find_groups(network, INPUTS))["0.1.conv2"]
    assert int(scores.argmin()) == 5


def test_scores_are_those_of_the_network_given(pruner: Pruner) -> None:
    network = randomise(resnet_b())
    graph = find_groups(network, INPUTS)
    twin = randomise(copy.deepcopy(network), seed=5)
    found, expected = importance(pruner, twin, graph), importance(pruner, twin, find_groups(twin, INPUTS))
    assert all(np.array_equal(values, expected[group]) for group, values in found.items())


@pytest.mark.parametrize(("what", "names"), [("pruners", registry.PRUNERS), ("criteria", registry.CRITERIA)])
def test_each_is_listed_with_one_line(what: str, names: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(names)
    assert all(len(line.split()) > 4 and line.endswith(".") for line in lines)

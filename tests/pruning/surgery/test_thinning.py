from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.graph.groups import find_groups
from autoprune.pruning.surgery.checking import ThinningError, check_same_outputs
from autoprune.pruning.surgery.masks import mask_network
from autoprune.pruning.surgery.thinning import thin
from autoprune.pruning.surgery.written_forward import WrittenForward
from autoprune.tasks.models.cifar_resnet import CifarResNet
from tests.graph.contract import batch, check_network, randomise, same_outputs, widths
from tests.graph.indexed_networks import INDEXED
from tests.graph.networks import WELL_KNOWN, Case, LeNet, resnet_b, vgg
from tests.graph.ordinary_networks import ORDINARY
from tests.graph.unusual_networks import UNUSUAL, FunctionalNorm

CASES = {**WELL_KNOWN, **UNUSUAL, **INDEXED, **ORDINARY}
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.1}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_thinned_equals_masked_and_costs_are_exact(case: Case) -> None:
    torch.manual_seed(0)
    network = randomise(case.build()).to(case.dtype).train()
    check_network(network, batch(case.shape, case.integers, case.dtype), TOLERANCE[case.dtype], draws=2)


@pytest.mark.parametrize("name", ["resnet20", "lenet_numbers", "shufflenet_v2_numbers", "functional_norm", "slices"])
def test_a_thinned_network_can_be_thinned_again(name: str) -> None:
    case = CASES[name]
    network, inputs = randomise(case.build()).double(), batch(case.shape, case.integers, torch.float64)
    graph = find_groups(network, inputs)
    kept = {group.name: list(range(1, group.group.width)) or [0] for group in graph.groups}
    again = check_network(thin(network, graph, kept), inputs, 1e-4, draws=1)
    assert sorted(g.group.width for g in again.groups) == sorted(
        len(stays) for stays in kept.values() if len(stays) > 1
    )


def test_the_own_class_comes_back_where_no_argument_names_a_channel_count() -> None:
    network, inputs = resnet_b(), torch.randn(2, 3, 8, 8)
    graph = find_groups(network, inputs)
    thinned = thin(network, graph, {group.name: [0] for group in graph.groups})
    assert type(thinned) is type(network)
    assert [thinned.get_submodule("0.1.conv2").in_channels, thinned.get_submodule("0.1.bn3").num_features] == [1, 1]
    lenet = LeNet("numbers")
    graph = find_groups(lenet, torch.randn(2, 3, 32, 32))
    assert type(thin(lenet, graph, {"conv1": [1]})) is LeNet
    written = thin(lenet, graph, {"conv2": [1]})
    assert isinstance(written, LeNet)
    assert isinstance(written, WrittenForward)


def test_a_thinned_network_learns_and_leaves_frozen_parameters_frozen() -> None:
    network = vgg()
    network[0][0].requires_grad_(False)
    inputs = torch.randn(4, 3, 8, 8)
    graph = find_groups(network, inputs)
    thinned = thin(network, graph, {group.name: [0, 1] for group in graph.groups}).train()
    assert not thinned[0][0].weight.requires_grad
    optimizer = torch.optim.SGD([p for p in thinned.parameters() if p.requires_grad], 0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(thinned(inputs), torch.tensor([0, 1, 2, 3]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < losses[0]


def _rewritten(network: nn.Module, inputs: Tensor) -> nn.Module:
    graph = find_groups(network, inputs)
    thinned = thin(network, graph, {group.name: [0, 2] for group in graph.groups})
    assert any(isinstance(module, WrittenForward) for module in thinned.modules())
    return thinned


def test_a_rewritten_network_survives_copying_saving_and_exporting() -> None:
    network, inputs = randomise(CifarResNet(1)).double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    thinned = _rewritten(network, inputs).eval()
    file = io.BytesIO()
    torch.save(thinned, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    exported = torch.export.export(thinned, (inputs,)).module()
    for twin in (copy.deepcopy(thinned), loaded, exported):
        torch.testing.assert_close(twin(inputs), thinned(inputs))
    assert loaded.state_dict().keys() == network.state_dict().keys()


def test_a_rewritten_network_keeps_what_its_graph_does_not_use_and_follows_its_mode() -> None:
    network, inputs = randomise(FunctionalNorm()).double().train(), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    thinned = _rewritten(network, inputs)
    file = io.BytesIO()
    torch.save(thinned, file)
    file.seek(0)
    for twin in (thinned, copy.deepcopy(thinned), torch.load(file, weights_only=False)):
        assert list(twin.state_dict()) == list(network.state_dict())
        assert twin.training
        assert not torch.equal(twin(inputs), twin(inputs))  # dropout is on
        twin.eval()
        torch.testing.assert_close(twin(inputs), twin(inputs))
        statistics = twin.bn.running_mean.clone()
        twin.train()(inputs)
        assert not torch.equal(twin.bn.running_mean, statistics)  # and batch norm learns


def test_modules_in_different_modes_stay_in_them() -> None:
    network, inputs = CifarResNet(1).train(), torch.randn(2, 3, 16, 16)
    network.bn1.eval()
    graph = find_groups(network, inputs)
    thinned = thin(network, graph, {"conv1": [0, 3], "layer2.0.conv2": [1]}, check_on=inputs)
    modes = {name: module.training for name, module in network.named_modules()}
    assert {name: module.training for name, module in thinned.named_modules() if name in modes} == modes


def test_a_network_that_divides_by_a_variance_is_compared_where_it_is_finite() -> None:
    class Standardising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.out(x / x.var((2, 3), keepdim=True))

    network, inputs = Standardising(), torch.randn(2, 3, 5, 5)
    graph = find_groups(network, inputs)
    assert mask_network(network, graph, {"conv": [1, 2]})(inputs).isnan().any()
    assert thin(network, graph, {"conv": [1, 2]}, check_on=inputs)(inputs).isfinite().all()


def test_a_difference_of_outputs_is_an_error() -> None:
    network, inputs = vgg().double().eval(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    graph = find_groups(network, inputs)
    thinned = thin(network, graph, {"0.0": [1, 2]}, check_on=inputs)
    with torch.no_grad():
        thinned[9].bias[2] += 1e-3
    with pytest.raises(ThinningError, match=r"differs from the masked one's by 0\.001"):
        check_same_outputs(thinned, mask_network(network, graph, {"0.0": [1, 2]}), inputs)
    with torch.no_grad():
        thinned[9].bias[2] = torch.nan
    with pytest.raises(ThinningError, match="finite elsewhere"):
        check_same_outputs(thinned, network, inputs)


def test_the_check_happens_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs = vgg(), torch.randn(2, 3, 8, 8)
    graph = find_groups(network, inputs)
    monkeypatch.setattr("autoprune.pruning.surgery.thinning._select_entries", lambda holders, dim, stays: None)
    thin(network, graph, {"0.0": [1, 2]})
    with pytest.raises((ThinningError, RuntimeError)):
        thin(network, graph, {"1.0": [1]}, check_on=inputs)


def test_weight_norm_of_the_old_style_is_followed_by_its_rows() -> None:
    with pytest.warns(FutureWarning):
        conv = nn.utils.weight_norm(nn.Conv2d(3, 4, 1))
    network, inputs = nn.Sequential(conv, nn.Conv2d(4, 5, 1), nn.Conv2d(5, 2, 1)), torch.randn(2, 3, 4, 4)
    conv(inputs)
    graph = find_groups(network, inputs)
    assert widths(graph)["1"] == 5
    same_outputs(thin(network, graph, {"1": [0]}), mask_network(network, graph, {"1": [0]}), inputs, 1e-4)


def test_a_written_forward_follows_the_network_to_another_device_and_type() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).view(-1, x.shape[1], 8)
            return self.last(x + torch.arange(x.shape[1], dtype=x.dtype, device=x.device)[:, None])

    network, inputs = Positions().double(), torch.randn(2, 4, 5, dtype=torch.float64)
    thinned = thin(network, find_groups(network, inputs), {"first": [1, 4, 6]})
    assert isinstance(thinned, WrittenForward)
    expected = thinned(inputs)
    single = copy.deepcopy(thinned).float()(inputs.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)
    assert copy.deepcopy(thinned).to("meta")(inputs.to("meta")).device.type == "meta"

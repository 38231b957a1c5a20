from __future__ import annotations

import copy
import io
from collections.abc import Collection
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune.errors import UserError
from autoprune.evaluation.checkpoints.export import export_network
from autoprune.graph.branches import find_branches
from autoprune.graph.costs import count_flops, count_params
from autoprune.graph.groups import ChannelGraph, find_groups
from autoprune.pruning.surgery.branch_removal import branch_masks, dead_branches, remove_branches
from autoprune.pruning.surgery.checking import ThinningError
from autoprune.pruning.surgery.thinning import thin
from autoprune.pruning.surgery.written_forward import WrittenForward
from autoprune.tasks.models.cifar_resnet import CifarResNet
from tests.graph.contract import batch, check_network, randomise, same_outputs, usable, widths
from tests.graph.indexed_networks import INDEXED
from tests.graph.networks import WELL_KNOWN
from tests.graph.ordinary_networks import ORDINARY
from tests.graph.test_branches import EXPECTED, Added
from tests.graph.unusual_networks import UNUSUAL

CASES = {**WELL_KNOWN, **UNUSUAL, **INDEXED, **ORDINARY}


def prepared(name: str) -> tuple[nn.Module, Tensor, ChannelGraph]:
    case = CASES[name]
    torch.manual_seed(0)
    network, inputs = randomise(case.build()).double(), batch(case.shape, case.integers, torch.float64)
    return network, inputs, find_groups(network, inputs)


def zeroed(network: nn.Module, graph: ChannelGraph, names: Collection[str]) -> nn.Module:
    """A copy of the network in which every parameter of some branches is zero, module by module."""
    twin = copy.deepcopy(network)
    for branch in find_branches(network, graph):
        for name in branch.tensors if branch.name in names else ():
            path, _, key = name.rpartition(".")
            held = twin.get_submodule(path)._parameters.get(key)
            if held is not None:
                nn.init.zeros_(held)
    return twin


@pytest.mark.parametrize("name", EXPECTED)
def test_removed_branches_leave_the_same_outputs_as_masked_ones(name: str) -> None:
    network, inputs, graph = prepared(name)
    state = copy.deepcopy(network.state_dict())
    every = EXPECTED[name]
    for names in (every, every[:1], every[-1:], every[::2]):
        removed = remove_branches(network, graph, names, check_on=inputs)
        same_outputs(removed, zeroed(network, graph, names), inputs, 1e-9)
        usable(removed, inputs, 1e-9)
        gone = {t for branch in find_branches(network, graph) if branch.name in names for t in branch.tensors}
        assert set(removed.state_dict()) == set(state) - gone
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize("name", EXPECTED)
def test_what_is_left_can_be_thinned_saved_and_lose_the_other_branches(name: str) -> None:
    network, inputs, graph = prepared(name)
    every = EXPECTED[name]
    removed = remove_branches(network, graph, every[1::2])
    graph = check_network(removed, inputs, 1e-4, draws=1)
    assert tuple(branch.name for branch in find_branches(removed, graph)) == every[::2]
    kept = {group.name: [group.group.width - 1] for group in graph.groups}
    thinned = thin(removed, graph, kept, check_on=inputs)
    again = remove_branches(thinned, find_groups(thinned, inputs), every[::2], check_on=inputs)
    usable(again, inputs, 1e-9)


def test_thinning_before_and_after_removal_is_the_same() -> None:
    network, inputs, graph = prepared("resnet20")
    names = ("layer1.0.conv1", "layer2.0.conv1", "layer3.2.conv1")
    removed = remove_branches(network, graph, names)
    after = find_groups(removed, inputs)
    # The stream of the second stage is named after the first layer that still makes it.
    assert widths(after) == {
        "conv1": 16, "layer1.1.conv1": 16, "layer1.2.conv1": 16, "layer2.1.conv1": 32, "layer2.1.conv2": 16,
        "layer2.2.conv1": 32, "layer3.0.conv1": 64, "layer3.0.conv2": 32, "layer3.1.conv1": 64,
    }  # fmt: skip
    kept = {name: [1, 3] for name in widths(after) if name.endswith("conv1") and name != "conv1"}
    one = thin(removed, after, kept, check_on=inputs)
    thinned = thin(network, graph, kept, check_on=inputs)
    other = remove_branches(thinned, find_groups(thinned, inputs), names, check_on=inputs)
    assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in other.state_dict().items()}
    same_outputs(one, other, inputs, 1e-9)


def test_modules_that_served_a_branch_alone_are_gone_and_those_still_called_stay() -> None:
    network, _, graph = prepared("mobilenet_v2")
    removed = remove_branches(network, graph, EXPECTED["mobilenet_v2"])
    assert type(removed) is type(network)
    assert any(isinstance(module, WrittenForward) for module in removed.modules())
    assert [name for name, _ in removed.named_modules() if name] == [
        "0",
        "0.0",
        "0.0.0",
        "0.0.1",
        "0.0.2",
        "0.1",
        "0.2",
        "1",
        "2",
        "3",
    ]
    network, _, graph = prepared("resnet20")
    removed = remove_branches(network, graph, ["layer1.0.conv1"])
    assert [name for name, _ in removed.layer1.named_modules()][:4] == ["", "0", "0.shortcut", "1"]

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.conv, self.head = nn.ReLU(), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)
            self.empty = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(x + self.act(self.conv(x))))

    shared, inputs = Shared(), torch.randn(2, 3, 4, 4)
    removed = remove_branches(shared, find_groups(shared, inputs), ["conv"], check_on=inputs)
    assert [name for name, _ in removed.named_modules() if name] == ["act", "head", "empty"]


def test_a_module_of_two_names_goes_under_both() -> None:
    network = Added(lambda n, x: x + n.a(x))
    network.alias = nn.ModuleList([network.a])
    inputs = torch.randn(2, 3, 4, 4)
    removed = remove_branches(network, find_groups(network, inputs), ["a"], check_on=inputs)
    assert not [name for name in removed.state_dict() if name.startswith(("a.", "alias"))]


@pytest.mark.parametrize("name", ["resnet20", "resnet_b", "mobilenet_v3", "vit_fused", "convnext"])
def test_flops_and_parameters_shrink_by_what_the_branch_had(name: str) -> None:
    network, inputs, graph = prepared(name)
    branches = find_branches(network, graph)[:1]
    removed = remove_branches(network, graph, [branches[0].name])
    parameters = dict(network.named_parameters())
    held = sum(parameters[each].numel() for each in branches[0].tensors if each in parameters)
    assert count_params(network) - count_params(removed) == held > 0
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        removed.eval()(inputs[:1])
    assert counter.get_total_flops() == count_flops(removed, inputs) < count_flops(network, inputs)


def test_the_flops_of_a_resnet_without_a_block_are_what_arithmetic_says() -> None:
    network, inputs = CifarResNet(3), torch.randn(2, 3, 32, 32)
    removed = remove_branches(network, find_groups(network, inputs), ["layer1.1.conv1", "layer3.0.conv1"])
    block = 2 * 16 * 16 * 9 * 32 * 32
    wider = (32 * 64 + 64 * 64) * 9 * 8 * 8
    assert count_flops(network, inputs) - count_flops(removed, inputs) == 2 * (block + wider)


def test_a_network_without_some_branches_learns() -> None:
    torch.manual_seed(0)
    network, inputs = CifarResNet(1).train(), torch.randn(8, 3, 8, 8)
    network.layer1[0].conv1.weight.requires_grad_(False)
    removed = remove_branches(network, find_groups(network, inputs), ["layer2.0.conv1"], check_on=inputs).train()
    assert [name for name, p in removed.named_parameters() if not p.requires_grad] == ["layer1.0.conv1.weight"]
    optimizer = torch.optim.SGD([p for p in removed.parameters() if p.requires_grad], 0.05)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(removed(inputs), torch.arange(8) % 4)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        assert all(p.grad is not None for p in removed.parameters() if p.requires_grad)
        optimizer.step()
    assert min(losses[-5:]) < 0.5 * losses[0]


def test_gradients_are_those_of_the_masked_network() -> None:
    network, inputs, graph = prepared("resnet_b")
    names = ("0.1.conv1",)  # the sum behind it is written into, right where the projection's result would be
    removed, masked = remove_branches(network, graph, names).eval(), zeroed(network, graph, names).eval()
    for twin in (removed, masked):
        twin(inputs).square().sum().backward()
    expected = dict(masked.named_parameters())
    for name, parameter in removed.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad)


def test_a_sum_that_was_written_into_leaves_the_shortcut_as_it_is() -> None:
    def written(n: Added, x: Tensor) -> Tensor:
        x = x.relu_()
        return (x + n.a(x)).clamp_(0.2).mul_(2.0) + x

    network, inputs = Added(written), torch.randn(2, 3, 4, 4)
    removed = remove_branches(network, find_groups(network, inputs), ["a"], check_on=inputs)
    removed(inputs).sum().backward()
    assert removed.stem.weight.grad.abs().sum() > 0


def test_dropout_and_norms_follow_the_mode() -> None:
    def dropping(n: Added, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, n.training) + F.dropout(n.a(x), 0.5, n.training)

    network, inputs = Added(dropping).train(), torch.randn(2, 3, 4, 4)
    removed = remove_branches(network, find_groups(network, inputs), ["a"], check_on=inputs)
    assert removed.training
    assert not torch.equal(removed(inputs), removed(inputs))
    assert torch.equal(removed.eval()(inputs), removed(inputs))

    def inside(n: Added, x: Tensor) -> Tensor:
        x = x + F.dropout(n.a(x), 0.5, n.training)
        return x + F.dropout(n.b(x), 0.5, n.training)

    network = Added(inside).train()
    graph = find_groups(network, inputs)
    for gone, asked in ((["a"], True), (["b"], True), (["a", "b"], False)):
        removed = remove_branches(network, graph, gone, check_on=inputs)
        assert torch.equal(removed(inputs), removed(inputs)) != asked


def test_removing_nothing_gives_the_networks_own_class() -> None:
    network, _, graph = prepared("resnet20")
    assert type(remove_branches(network, graph, ())) is CifarResNet


def test_unknown_branches_are_refused_before_anything_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _, graph = prepared("resnet20")
    monkeypatch.setattr("autoprune.pruning.surgery.branch_removal.copy_network", None)
    with pytest.raises(UserError, match="no branch 'conv1' can be removed"):
        remove_branches(network, graph, ["layer1.0.conv1", "conv1"])


def test_a_difference_to_the_masked_network_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs, graph = prepared("resnet20")
    monkeypatch.setattr("autoprune.pruning.surgery.branch_removal.branch_masks", lambda network, branches: {})
    with pytest.raises(ThinningError, match="differs"):
        remove_branches(network, graph, ["layer1.0.conv1"], check_on=inputs)


def test_a_network_without_some_branches_survives_saving() -> None:
    network, inputs, graph = prepared("resnet20")
    removed = remove_branches(network, graph, EXPECTED["resnet20"][:4])
    file = io.BytesIO()
    torch.save(removed, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert list(loaded.state_dict()) == list(removed.state_dict())
    same_outputs(loaded, removed, inputs, 1e-9)


def test_an_exported_network_needs_the_branches_no_more(tmp_path: Path) -> None:
    network, inputs, graph = prepared("resnet_b")
    removed = remove_branches(network.eval(), graph, EXPECTED["resnet_b"])
    written = export_network(removed, inputs, tmp_path / "small", "pt2")
    same_outputs(torch.export.load(written).module(), removed, torch.cat([inputs, inputs]), 1e-9)


def test_a_branch_is_dead_if_a_layer_that_all_must_pass_is() -> None:
    network, _, graph = prepared("mobilenet_v3")
    with torch.no_grad():
        network.get_submodule("0.1.gate.fc1").weight.zero_()
    assert dead_branches(network, graph) == ()
    weight = network.get_submodule("0.1.depthwise.0").weight
    with torch.no_grad():
        weight.zero_()
        weight[0, 0, 0, 0] = 1e-30
    assert dead_branches(network, graph) == ()
    with torch.no_grad():
        weight.zero_()
    assert dead_branches(network, graph) == ("0.1.expand.0",)


def test_the_masks_of_branches_cover_biases_and_norms_and_nothing_else() -> None:
    network, _, graph = prepared("resnet20")
    first = find_branches(network, graph)[0]
    masks = branch_masks(network, [first])
    parameters = {name for name, _ in network.named_parameters()}
    assert set(masks) == set(first.tensors) & parameters
    assert {name.rpartition(".")[0] for name in masks} == {
        f"layer1.0.{name}" for name in ("conv1", "bn1", "conv2", "bn2")
    }
    assert not any(bool(mask.any()) for mask in masks.values())
    assert branch_masks(network, ()) == {}

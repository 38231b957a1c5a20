from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autoprune import registry
from autoprune.errors import UserError
from autoprune.graph.branches import Branch, find_branches
from autoprune.graph.groups import ChannelGraph, find_groups
from autoprune.graph.profile import measure_costs
from autoprune.pruning.removal import branch_costs, branch_masks, dead_branches, remove_branches
from autoprune.pruning.thinning import thin
from tests.graph.contract import randomise
from tests.graph.networks import WELL_KNOWN

RESIDUAL = ("resnet20", "resnet_b", "resnext", "pre_activation", "mobilenet_v2", "mobilenet_v3", "shufflenet_v1")
INPUTS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def _found(network: nn.Module) -> tuple[ChannelGraph, tuple[Branch, ...]]:
    graph = find_groups(network, INPUTS)
    return graph, find_branches(network, graph)


@pytest.fixture(params=RESIDUAL)
def network(request: pytest.FixtureRequest) -> nn.Module:
    return randomise(WELL_KNOWN[request.param].build()).eval()


def _zeroed(network: nn.Module, branches: tuple[Branch, ...]) -> nn.Module:
    """The network with every parameter of some branches set to zero, by their modules."""
    twin = copy.deepcopy(network)
    for branch in branches:
        for layer in branch.layers:
            for parameter in twin.get_submodule(layer).parameters():
                nn.init.zeros_(parameter)
    return twin


def test_removed_branches_leave_the_outputs_of_the_masked_network(network: nn.Module) -> None:
    graph, branches = _found(network)
    assert branches
    before = copy.deepcopy(network.state_dict())
    choices = [*((branch,) for branch in branches[:3]), branches[::2], branches]
    for chosen in choices:
        removed = remove_branches(network, graph, branches, [branch.name for branch in chosen])
        with torch.no_grad():
            torch.testing.assert_close(removed(INPUTS), _zeroed(network, chosen)(INPUTS), rtol=1e-4, atol=1e-4)
        gone = {name for name in before if any(name.startswith(f"{la}.") for b in chosen for la in b.layers)}
        assert set(removed.state_dict()) == set(before) - gone
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())


def test_the_predicted_costs_are_those_of_the_removed_network(network: nn.Module) -> None:
    graph, branches = _found(network)
    costs = branch_costs(network, graph, branches, INPUTS)
    assert costs.dense() == measure_costs(network, INPUTS)
    for chosen in (branches[:1], branches[::2], branches):
        removed = remove_branches(network, graph, branches, [branch.name for branch in chosen])
        assert costs.costs({branch.name: 0 for branch in chosen}) == measure_costs(removed, INPUTS)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            removed(INPUTS[:1])
        assert counter.get_total_flops() == costs.cost({branch.name: 0 for branch in chosen}, "flops")


def test_what_is_left_can_be_thinned_trained_copied_and_saved(network: nn.Module) -> None:
    graph, branches = _found(network)
    removed = remove_branches(network, graph, branches, [branches[0].name], check_on=INPUTS)
    rest = find_groups(removed, INPUTS)
    thinned = thin(removed, rest, {group.name: range(max(1, group.group.width // 2)) for group in rest.groups}, INPUTS)
    thinned.train()(INPUTS).square().mean().backward()
    assert all(parameter.grad is not None for parameter in thinned.parameters())
    twin = copy.deepcopy(removed).eval()
    file = io.BytesIO()
    torch.save(removed.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(twin(INPUTS), removed.eval()(INPUTS))


def test_every_block_of_resnet20_is_a_branch_also_where_the_shortcut_pads() -> None:
    _, branches = _found(registry.resolve("model", "resnet20")())
    names = [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)]
    assert [branch.name for branch in branches] == names
    assert branches[3].weights == branches[3].through == ("layer2.0.conv1", "layer2.0.conv2")
    assert branches[3].layers == tuple(f"layer2.0.{name}" for name in ("conv1", "bn1", "conv2", "bn2"))


class _Residual(nn.Module):
    """A convolution around which a shortcut leads; what differs is given."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.conv, self.relu = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.other = nn.Conv2d(4, 4, 1)
        self.plain = nn.BatchNorm2d(4, affine=False)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.kind == "shared":
            return self.conv(x + self.conv(x))
        if self.kind == "used":
            y = self.conv(x)
            return torch.cat([x + y, y], 1)
        if self.kind == "broadcast":
            return x.mean((2, 3), keepdim=True) + self.conv(x)
        if self.kind == "in place":
            return x + self.conv(self.relu(x))
        if self.kind == "shifted":
            return x + (self.conv(x) + 1.0)
        if self.kind == "unscaled norm":
            return x + self.plain(self.conv(x))
        if self.kind == "weighted sum":
            return torch.add(x, self.conv(x), alpha=2)
        if self.kind == "projection":
            return self.other(x) + self.conv(self.conv_again(x))
        if self.kind == "written later":
            return torch.cat([self.relu(x + self.conv(x)), x], 1)
        assert self.kind == "nested"
        return x + self.other(x + self.conv(x))

    def conv_again(self, x: Tensor) -> Tensor:
        return torch.relu(nn.functional.conv2d(x, self.stem.weight[:, :1].expand(4, 4, 1, 1)))


@pytest.mark.parametrize(
    "kind", ["shared", "used", "broadcast", "in place", "shifted", "unscaled norm", "weighted sum"]
)
def test_what_cannot_go_without_a_trace_is_no_branch(kind: str) -> None:
    network = _Residual(kind).eval()
    nn.init.constant_(network.plain.running_mean, 0.5)
    assert _found(network)[1] == ()


def test_of_nested_branches_the_innermost_goes() -> None:
    network = _Residual("nested").eval()
    graph, branches = _found(network)
    assert [branch.name for branch in branches] == ["conv"]
    remove_branches(network, graph, branches, ["conv"], check_on=INPUTS)


def test_a_shortcut_that_is_used_again_is_not_written_over() -> None:
    network = _Residual("written later").eval()
    graph, branches = _found(network)
    assert [branch.name for branch in branches] == ["conv"]
    remove_branches(network, graph, branches, ["conv"], check_on=INPUTS)


def test_a_branch_is_dead_if_a_layer_that_all_passes_is() -> None:
    network = registry.resolve("model", "resnet20")()
    _, branches = _found(network)
    assert dead_branches(network, branches, 1e-3) == ()
    with torch.no_grad():
        network.get_submodule("layer1.1.conv2").weight.fill_(1e-4)
        network.get_submodule("layer2.0.conv1").weight.fill_(1e-4)
        network.get_submodule("layer2.0.conv1").weight[0, 0, 0, 0] = 0.5
    assert dead_branches(network, branches, 1e-3) == ("layer1.1.conv1", "layer2.0.conv1")
    assert dead_branches(network, branches, 1e-3, by="max") == ("layer1.1.conv1",)


def test_the_masks_of_branches_cover_biases_and_normalisations() -> None:
    network = registry.resolve("model", "resnet20")()
    _, branches = _found(network)
    masks = branch_masks(network, branches[:1])
    assert {name.rpartition(".")[0] for name in masks} == set(branches[0].layers)
    assert not any(bool(mask.any()) for mask in masks.values())
    assert branch_masks(network, ()) == {}


def test_an_unknown_branch_is_named() -> None:
    network = registry.resolve("model", "resnet20")()
    graph, branches = _found(network)
    with pytest.raises(UserError, match=r"layer1\.0\.conv'; did you mean 'layer1\.0\.conv1'"):
        remove_branches(network, graph, branches, ["layer1.0.conv"])

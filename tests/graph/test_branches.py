from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from autoprune.core.costs import CostTable
from autoprune.errors import UserError
from autoprune.graph.branches import Branch, build_branch_costs, choose_branches, find_branches, find_kinds
from autoprune.graph.costs import measure_costs
from autoprune.graph.groups import find_groups
from autoprune.pruning.surgery.branch_removal import remove_branches
from autoprune.tasks.models.cifar_resnet import CifarResNet
from tests.graph.contract import batch, randomise
from tests.graph.indexed_networks import INDEXED
from tests.graph.networks import WELL_KNOWN, Residual, classifier, conv_bn
from tests.graph.ordinary_networks import ORDINARY
from tests.graph.unusual_networks import UNUSUAL

CASES = {**WELL_KNOWN, **UNUSUAL, **INDEXED, **ORDINARY}
# Every network with branches that can go; in all others none must be found.
EXPECTED: dict[str, tuple[str, ...]] = {
    "resnet20": tuple(f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)),
    "resnet_b": ("0.1.conv1", "0.2.conv1"),
    "resnext": ("0.1.conv1", "0.2.conv1"),
    "pre_activation": ("conv1",),
    "mobilenet_v2": ("0.1.expand.0", "0.2.expand.0"),
    "mobilenet_v3": ("0.1.expand.0", "0.2.expand.0"),
    "shufflenet_v1": ("conv1.0",),
    "vit_fused": tuple(f"blocks.{i}.{part}" for i in (0, 1) for part in ("attention.qkv", "mlp.0")),
    "vit_module": tuple(f"blocks.{i}.{part}" for i in (0, 1) for part in ("attention", "mlp.0")),
    "convnext": ("depthwise",),
    "layer_scale": ("conv",),
    "zeros": ("conv.0",),
    "slices": ("left",),
    "experts": ("router",),
    "hook_gain": ("wide",),
    "hook_watching": ("wide",),
    "hook_on_inputs": ("wide",),
    "hook_per_channel": ("wide",),
}


class Added(nn.Module):
    """A stem, a sum made of it by a function of the network and the stem's result, and a head."""

    def __init__(self, add: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.stem, self.add, self.head = nn.Conv2d(3, 6, 1), add, nn.Conv2d(6, 2, 1)
        self.a, self.b, self.c = (nn.Conv2d(6, 6, 1) for _ in range(3))
        self.scale = nn.Parameter(torch.rand(6, 1, 1))
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.add(self, self.stem(x)))


def branches_of(network: nn.Module, shape: tuple[int, ...] = (3, 5, 5)) -> tuple[Branch, ...]:
    return find_branches(network, find_groups(network, torch.randn(2, *shape)))


def names(network: nn.Module, shape: tuple[int, ...] = (3, 5, 5)) -> tuple[str, ...]:
    return tuple(branch.name for branch in branches_of(network, shape))


@pytest.mark.parametrize("name", CASES)
def test_the_expected_branches_are_found_in_every_network(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    network = case.build().to(case.dtype)
    state = copy.deepcopy(network.state_dict())
    graph = find_groups(network, batch(case.shape, case.integers, case.dtype))
    found = find_branches(network, graph)
    assert tuple(branch.name for branch in found) == EXPECTED.get(name, ())
    taken = [node for branch in found for node in branch.nodes]
    assert len(set(taken)) == len(taken)
    assert all(torch.equal(tensor, state[key]) for key, tensor in network.state_dict().items())
    assert all(module.training for module in network.modules())


def test_a_branch_names_its_layers_weights_and_tensors_in_forward_order() -> None:
    branch = branches_of(CifarResNet(1), (3, 8, 8))[1]
    assert branch.weights == branch.necessary == ("layer2.0.conv1", "layer2.0.conv2")
    assert branch.layers == tuple(f"layer2.0.{name}" for name in ("conv1", "bn1", "conv2", "bn2"))
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert branch.tensors == (
        "layer2.0.conv1.weight", *(f"layer2.0.bn1.{name}" for name in norm),
        "layer2.0.conv2.weight", *(f"layer2.0.bn2.{name}" for name in norm),
    )  # fmt: skip


def test_only_layers_that_everything_passes_are_necessary() -> None:
    case = CASES["mobilenet_v3"]
    first = branches_of(case.build(), case.shape)[0]
    assert set(first.weights) - set(first.necessary) == {"0.1.gate.fc1", "0.1.gate.fc2"}
    case = CASES["vit_fused"]  # which asks for the shape of the branch's input, no path for what it holds
    assert all(branch.necessary == branch.weights for branch in branches_of(case.build(), case.shape))

    def parallel(n: Added, x: Tensor) -> Tensor:
        return x + n.c(torch.cat([n.a(x), n.b(x)], 1))

    network = Added(parallel, c=nn.Conv2d(12, 6, 1))
    assert [branch.necessary for branch in branches_of(network)] == [("c",)]


def test_of_two_operands_with_layers_the_one_with_more_is_the_branch_and_the_first_of_equals() -> None:
    assert names(Added(lambda n, x: n.a(x) + n.c(n.b(x)))) == ("b",)
    assert names(Added(lambda n, x: n.c(n.b(x)) + n.a(x))) == ("b",)
    assert names(Added(lambda n, x: n.b(x) + n.a(x))) == ("b",)
    # Only the operand beside one of the sum's own shape can be it.
    assert names(Added(lambda n, x: n.c(n.b(x)) + n.a(x.mean((2, 3), keepdim=True)))) == ("a",)


def test_of_nested_branches_the_inner_ones_stay() -> None:
    def nested(n: Added, x: Tensor) -> Tensor:
        y = n.a(x)
        return x + n.c(y + n.b(y))

    assert names(Added(nested)) == ("b",)


def test_an_outer_branch_is_found_where_the_inner_one_cannot_go() -> None:
    def nested(n: Added, x: Tensor) -> Tensor:
        y = n.a(x)
        return x + n.c(y + n.b(y) + 0 * y.mean((2, 3), keepdim=True))

    def constant_inside(n: Added, x: Tensor) -> Tensor:
        y = n.a(x)
        return x + n.c(y + (n.b(y) + 1))

    assert names(Added(nested)) == ("b",)
    assert names(Added(constant_inside)) == ("a",)


@pytest.mark.parametrize(
    "add",
    [
        lambda n, x: torch.add(x, n.a(x)), lambda n, x: torch.add(input=x, other=n.a(x), alpha=1),
        lambda n, x: x.add(n.a(x)), lambda n, x: x.add_(n.a(x)), lambda n, x: n.a(x).add_(x), lambda n, x: n.a(x) + x,
        lambda n, x: x + n.a(x) * n.scale, lambda n, x: x + F.dropout(n.a(x), 0.5, n.training),
        lambda n, x: x + n.a(n.a(x)), lambda n, x: x + n.a(x.relu()).sigmoid() * n.b(x),
        lambda n, x: x[:, :, :3] + n.a(x)[:, :, 2:],
    ],
)  # fmt: skip
def test_additions_in_all_their_forms_are_found(add: Callable[[Added, Tensor], Tensor]) -> None:
    assert names(Added(add)) == ("a",)


def _used_twice(n: Added, x: Tensor) -> Tensor:
    y = n.a(x)
    return (x + y) * y.mean()


@pytest.mark.parametrize(
    ("reason", "add"),
    [
        ("alpha", lambda n, x: torch.add(x, n.a(x), alpha=2)),
        ("subtraction", lambda n, x: x - n.a(x)),
        ("a constant shortcut", lambda n, x: n.a(x) + n.scale),
        ("a constant shortcut of the sum's shape", lambda n, x: n.a(x) + n.scale.expand(2, 6, 5, 5)),
        ("made of a constant", lambda n, x: x + n.a(n.scale.expand(2, 6, 5, 5))),
        ("a number", lambda n, x: n.a(x) + 1),
        ("added to itself", lambda n, x: (lambda y: y + y)(n.a(x))),
        ("a layer used elsewhere", lambda n, x: n.a(x + n.a(x))),
        ("a weight used elsewhere", lambda n, x: (x + n.a(x)) * n.a.weight.mean()),
        ("a result used elsewhere", _used_twice),
        ("the shortcut is repeated", lambda n, x: x.mean((2, 3), keepdim=True) + n.a(x)),
        ("the shortcut has another type", lambda n, x: x.to(torch.float16) + n.a(x)),
        ("a constant inside", lambda n, x: x + (n.a(x) + 1)),
        ("its input inside", lambda n, x: x + (n.a(x) - 0.5 * x)),
        ("zero is not kept", lambda n, x: x + n.a(x).sigmoid()),
        ("normalised by itself", lambda n, x: x + (lambda y: y / y.std())(n.a(x))),
        ("no layers", lambda n, x: x + x.relu() * n.scale),
    ],
)  # fmt: skip
def test_what_cannot_go_is_refused(reason: str, add: Callable[[Added, Tensor], Tensor]) -> None:
    assert names(Added(add)) == (), reason


@pytest.mark.parametrize("statistics", ["fresh", "trained"])
def test_a_norm_without_scale_and_shift_is_no_end_of_a_branch(statistics: str) -> None:
    plain = Added(lambda n, x: x + n.norm(n.a(x)), norm=nn.BatchNorm2d(6, affine=False))
    if statistics == "trained":
        randomise(plain)
    assert names(plain) == ()
    assert names(Added(lambda n, x: x + n.b(n.norm(n.a(x))), norm=nn.BatchNorm2d(6, affine=False))) == ("a",)
    assert names(Added(lambda n, x: x + n.norm(n.a(x)), norm=nn.BatchNorm2d(6))) == ("a",)


def test_a_weight_of_zeros_divided_by_its_norm_is_no_zero() -> None:
    assert names(Added(lambda n, x: x + n.a(x), a=weight_norm(nn.Conv2d(6, 6, 1)))) == ()


def test_a_tensor_that_a_module_outside_holds_keeps_the_branch() -> None:
    tied = Added(lambda n, x: x + n.a(x))
    tied.b.weight = tied.a.weight
    assert names(tied) == ()
    bare = Added(lambda n, x: x + n.a(x) * n.scale)
    bare.unused = nn.Module()
    bare.unused.same = bare.scale
    assert names(bare) == ()
    named_twice = Added(lambda n, x: x + n.a(x))
    named_twice.alias = named_twice.a
    assert names(named_twice) == ("a",)


def test_in_a_copy_of_the_network_the_same_branches_are_found() -> None:
    for bare in (False, True):
        network = Added(lambda n, x: x + n.a(x) * n.scale)
        network.b.shared = network.scale if bare else network.a.weight
        graph = find_groups(network, torch.randn(2, 3, 5, 5))
        assert find_branches(network, graph) == find_branches(copy.deepcopy(network), graph) == ()
        del network.b.shared
        graph = find_groups(network, torch.randn(2, 3, 5, 5))
        (found,) = find_branches(network, graph)
        assert find_branches(copy.deepcopy(network), graph) == (found,)


def test_neither_weights_nor_inputs_decide_what_is_a_branch() -> None:
    network = randomise(CifarResNet(1))
    expected = names(network, (3, 8, 8))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    graph = find_groups(network, torch.zeros(2, 3, 8, 8))
    assert tuple(branch.name for branch in find_branches(network, graph)) == expected == (
        "layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1",
    )  # fmt: skip
    leaky = Added(lambda n, x: x + (n.a(x) - 0.5 * x))
    nn.init.zeros_(leaky.stem.bias)
    assert find_branches(leaky, find_groups(leaky, torch.zeros(2, 3, 5, 5))) == ()


def test_a_bare_parameter_goes_with_its_branch_unless_it_is_used_elsewhere() -> None:
    (own,) = branches_of(Added(lambda n, x: x + n.a(x) * n.scale))
    assert own.tensors == ("a.weight", "a.bias", "scale")
    assert own.layers == ("a", "")
    (shared,) = branches_of(Added(lambda n, x: (x + n.a(x) * n.scale) * n.scale))
    assert shared.tensors == ("a.weight", "a.bias")


def test_what_is_written_into_the_shortcut_before_the_branch_belongs_to_the_shortcut() -> None:
    assert names(Added(lambda n, x: x + n.a(F.relu_(x)))) == ("a",)


def test_a_sum_that_is_written_into_later_is_known() -> None:
    written = classifier(nn.Sequential(conv_bn(3, 8), Residual(8, 8)), 16)
    assert [branch.copied for branch in branches_of(written)] == [True]
    assert [branch.copied for branch in branches_of(Added(lambda n, x: (x + n.a(x)).view(-1, 6, 5, 5).relu_()))] == [
        True
    ]
    assert [branch.copied for branch in branches_of(Added(lambda n, x: (x + n.a(x)).relu()))] == [False]
    assert [branch.copied for branch in branches_of(Added(lambda n, x: x.add_(n.a(x)).relu_()))] == [False]


def test_a_name_that_is_no_branch_is_refused_with_the_nearest() -> None:
    found = branches_of(CifarResNet(1), (3, 8, 8))
    assert [branch.name for branch in choose_branches(found, ["layer3.0.conv1", "layer1.0.conv1"])] == [
        "layer1.0.conv1",
        "layer3.0.conv1",
    ]
    with pytest.raises(UserError, match=r"no branch 'layer1.0.conv2' can be removed; did you mean 'layer1.0.conv1'"):
        choose_branches(found, ["layer1.0.conv2"])
    with pytest.raises(UserError, match="branches: none"):
        choose_branches((), ["x"])


def _costs(network: nn.Module, inputs: Tensor) -> CostTable:
    graph = find_groups(network, inputs)
    return build_branch_costs(network, graph, find_branches(network, graph))


@pytest.mark.parametrize("name", EXPECTED)
def test_predicted_costs_are_those_of_the_network_without_the_branches(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    network, inputs = randomise(case.build()), batch(case.shape, case.integers, torch.float32)
    graph = find_groups(network, inputs)
    table = build_branch_costs(network, graph, find_branches(network, graph))
    every = EXPECTED[name]
    assert table.widths == dict.fromkeys(every, 1)
    assert table.dense() == measure_costs(network, inputs)
    subsets = [every, every[:1], every[1::2], every[len(every) // 2 :], every[1:]]
    if len(every) <= 2:
        subsets = [gone for size in range(1, len(every) + 1) for gone in itertools.combinations(every, size)]
    for gone in subsets:
        removed = remove_branches(network, graph, gone)
        assert table.costs(dict.fromkeys(gone, 0)) == measure_costs(removed, inputs), gone


def test_the_cost_of_a_block_worked_by_hand() -> None:
    case = CASES["resnet20"]
    network, inputs = case.build(), batch(case.shape, False, torch.float32)
    table = _costs(network, inputs)
    saved = {kind: dense - table.cost({"layer1.2.conv1": 0}, kind) for kind, dense in table.dense().items()}
    weights, norms = 2 * 16 * 16 * 9, 2 * 16 * 4
    assert saved["flops"] == 2 * weights * 16 * 16
    assert saved["params"] == weights + norms // 2
    assert saved["size"] == 4 * (weights + norms) + 2 * 8  # each norm counts its batches
    assert table.by_layer("flops")["layer1.2.conv1"] == weights * 16 * 16


def test_a_network_without_branches_is_all_constant() -> None:
    case = CASES["vgg"]
    network, inputs = case.build(), batch(case.shape, False, torch.float32)
    table = _costs(network, inputs)
    assert not table.widths
    assert table.dense() == measure_costs(network, inputs)


def test_branches_that_are_left_out_are_part_of_the_constant() -> None:
    case = CASES["resnet20"]
    network, inputs = case.build(), batch(case.shape, False, torch.float32)
    graph = find_groups(network, inputs)
    table = build_branch_costs(network, graph, find_branches(network, graph)[2:4])
    assert table.widths == {"layer1.2.conv1": 1, "layer2.0.conv1": 1}
    assert table.dense() == measure_costs(network, inputs)


def kinds_of(network: nn.Module, *shape: int) -> dict[str, str]:
    found = find_groups(network, torch.randn(2, *shape))
    kinds = find_kinds(network, found)
    return {group.name: kinds.get(group.name, "") for group in found.groups}


@pytest.mark.parametrize("name", ["vit_fused", "vit_module"])
def test_of_a_transformer_heads_hidden_units_and_the_stream_are_told_apart(name: str) -> None:
    network = CASES[name].build()
    kinds = kinds_of(network, *CASES[name].shape)
    blocks = [(f"blocks.{i}.attention" + (".qkv" if name == "vit_fused" else ""), f"blocks.{i}.mlp.0") for i in (0, 1)]
    assert [name for name, kind in kinds.items() if kind == "heads"] == [heads for heads, _ in blocks]
    assert [name for name, kind in kinds.items() if kind == "hidden"] == [hidden for _, hidden in blocks]
    assert [kind for name, kind in kinds.items() if "blocks" not in name] == ["stream"]


def test_between_the_convolutions_of_a_block_channels_are_hidden_and_a_stem_without_addition_is_of_no_kind() -> None:
    kinds = kinds_of(classifier(nn.Sequential(conv_bn(3, 6), Residual(6, 8)), 16), 3, 8, 8)
    assert kinds == {"0.0.0": "", "0.1.conv1": "hidden", "0.1.conv2": "hidden", "0.1.conv3": "stream"}


def test_the_channels_of_a_single_head_are_no_hidden_units_and_the_pooler_behind_the_stream_is_of_no_kind() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(5))
            self.pooler, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            x = x + self.out((self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1) @ self.v(x))
            return self.head(self.pooler(x[:, 0]).tanh())

    assert kinds_of(Single(), 5, 8) == {"embed": "stream", "v": "", "pooler": ""}

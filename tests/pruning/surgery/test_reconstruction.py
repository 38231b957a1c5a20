from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import symbolic_trace

from autoprune.errors import DataError, TaskError
from autoprune.graph.groups import ChannelGraph, find_groups
from autoprune.pruning.surgery import reconstruction
from autoprune.pruning.surgery.reconstruction import LayerAddition, observe_additions, refit
from autoprune.pruning.surgery.thinning import thin
from tests.graph.contract import randomise
from tests.graph.networks import WELL_KNOWN, mobilenet_v2

Batches = list[tuple[Tensor, Tensor]]


def _batches(shape: Sequence[int], sizes: Sequence[int] = (40, 24)) -> Batches:
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(n, *shape, generator=generator, dtype=torch.float64), torch.zeros(n)) for n in sizes]


def _build_case(build: Any, shape: Sequence[int]) -> tuple[nn.Module, ChannelGraph, Batches]:
    torch.manual_seed(0)
    network = randomise(build().double()).eval()
    batches = _batches(shape)
    return network, find_groups(network, batches[0][0][:2]), batches


def _chain(groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=groups), nn.Sigmoid(),
        nn.Conv2d(4, 4, 3, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def _lstsq(inputs: Tensor, outputs: Tensor, bias: bool) -> tuple[Tensor, Tensor]:
    """Weights `[out, in]` and biases that map rows of inputs onto rows of outputs."""
    rows = torch.cat([inputs, torch.ones(len(inputs), 1)], 1) if bias else inputs
    found = torch.from_numpy(np.linalg.lstsq(rows.detach().numpy(), outputs.detach().numpy(), rcond=None)[0]).T
    return (found[:, :-1], found[:, -1]) if bias else (found, torch.zeros(len(found)))


def _unfolded(inputs: Tensor) -> Tensor:
    return F.unfold(inputs, 3).movedim(1, 2).flatten(0, 1)


def _rows(outputs: Tensor) -> Tensor:
    return outputs.movedim(1, -1).flatten(0, -2)


@pytest.mark.parametrize("groups", [1, 2])
def test_weights_are_those_of_least_squares_from_inputs_already_refitted(
    groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconstruction, "RIDGE", 1e-13)
    dense, graph, batches = _build_case(lambda: _chain(groups), (2, 6, 6))
    kept = {"0": [0, 2], "2": [1], "4": [0, 3]} if groups == 2 else {"0": [0, 2, 3, 5], "2": [1, 2], "4": [0, 3]}
    thinned = thin(dense, graph, kept)
    refit(thinned, dense, graph, kept, batches)
    seen = torch.cat([inputs for inputs, _ in batches])

    stays = [1, 3] if groups == 2 else [1, 2]  # output channels of layer 2
    per_group = dense[:3](seen)[:, stays].chunk(groups, 1)
    for i, (inputs, outputs) in enumerate(zip(thinned[:2](seen).chunk(groups, 1), per_group, strict=True)):
        weight, bias = _lstsq(_unfolded(inputs), _rows(outputs), bias=True)
        own = slice(i * len(bias), (i + 1) * len(bias))
        torch.testing.assert_close(thinned[2].weight[own].flatten(1), weight, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(thinned[2].bias[own], bias, rtol=1e-5, atol=1e-7)

    weight, _ = _lstsq(_unfolded(thinned[:4](seen)), _rows(dense[:5](seen)[:, [0, 3]]), bias=False)
    torch.testing.assert_close(thinned[4].weight.flatten(1), weight, rtol=1e-5, atol=1e-7)
    weight, bias = _lstsq(thinned[:7](seen), dense(seen), bias=True)
    torch.testing.assert_close(thinned[7].weight, weight, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(thinned[7].bias, bias, rtol=1e-5, atol=1e-7)


def test_layers_behind_that_lost_nothing_are_fitted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "RIDGE", 1e-13)
    dense, graph, batches = _build_case(_chain, (2, 6, 6))
    kept = {"0": [0, 2, 3, 5]}
    thinned = thin(dense, graph, kept)
    refit(thinned, dense, graph, kept, batches)
    seen = torch.cat([inputs for inputs, _ in batches])
    weight, _ = _lstsq(_unfolded(thinned[:4](seen)), _rows(dense[:5](seen)), bias=False)
    torch.testing.assert_close(thinned[4].weight.flatten(1), weight, rtol=1e-5, atol=1e-7)
    weight, bias = _lstsq(thinned[:7](seen), dense(seen), bias=True)
    torch.testing.assert_close(thinned[7].weight, weight, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(thinned[7].bias, bias, rtol=1e-5, atol=1e-7)


class Twice(nn.Module):
    """One layer called twice, on other inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.shared = nn.Linear(3, 6), nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.first(x).relu()) * self.shared(self.second(x).relu())


def test_all_calls_of_a_layer_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "RIDGE", 1e-13)
    dense, graph, batches = _build_case(Twice, (3,))
    kept = {"first": [0, 1, 4]}
    thinned = thin(dense, graph, kept)
    refit(thinned, dense, graph, kept, batches)
    seen = torch.cat([inputs for inputs, _ in batches])
    inputs = torch.cat([thinned.first(seen).relu(), thinned.second(seen).relu()])
    outputs = torch.cat([dense.shared(dense.first(seen).relu()), dense.shared(dense.second(seen).relu())])
    weight, bias = _lstsq(inputs, outputs, bias=True)
    torch.testing.assert_close(thinned.shared.weight, weight, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(thinned.shared.bias, bias, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("positions", [5, 32], ids=["sampled", "all"])
def test_a_channel_that_repeats_another_can_go_without_a_trace(positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "RIDGE", 1e-13)
    monkeypatch.setattr(reconstruction, "POSITIONS", positions)
    dense, graph, batches = _build_case(_chain, (2, 6, 6))
    with torch.no_grad():
        dense[0].weight[4], dense[0].bias[4] = 2 * dense[0].weight[1], 2 * dense[0].bias[1]
    kept = {"0": [0, 1, 2, 3, 5]}
    thinned = thin(dense, graph, kept)
    seen = batches[0][0]
    assert (thinned(seen) - dense(seen)).abs().max() > 0.01
    refit(thinned, dense, graph, kept, batches)
    torch.testing.assert_close(thinned(seen), dense(seen), rtol=1e-6, atol=1e-8)


class _Turned(nn.Module):
    """A linear layer whose weight is `[in, out]`, computed by `addmm` over rows."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], -1)


class _OwnBlock(nn.Module):
    """Attention and MLP by turned layers, as in GPT-2, on a residual stream with norms."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.query, self.key, self.value = _Turned(8, 8), _Turned(8, 8), _Turned(8, 8)
        self.out, self.up, self.down = _Turned(8, 8), _Turned(8, 12), _Turned(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        heads = (each(y).unflatten(-1, (4, 2)).transpose(1, 2) for each in (self.query, self.key, self.value))
        x = x + self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def _torchs_block(norm_first: bool) -> nn.Module:
    return nn.TransformerEncoderLayer(8, 4, 12, batch_first=True, norm_first=norm_first)


TRANSFORMERS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "norm behind": (lambda: _torchs_block(False), "1.self_attn", "1.linear1"),
    "norm in front": (lambda: _torchs_block(True), "1.self_attn", "1.linear1"),
    "own": (_OwnBlock, "1.query", "1.up"),
}


def _repeat_first(layer: Any, rows: Sequence[int], of: Sequence[int]) -> None:
    """Makes some outputs of a layer repeat others."""
    for tensor in (layer.weight.T if isinstance(layer, _Turned) else layer.weight, layer.bias):
        tensor[list(rows)] = tensor[list(of)]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_heads_and_hidden_units_that_repeat_others_can_go_without_a_trace(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconstruction, "RIDGE", 1e-13)
    block, heads, hidden = TRANSFORMERS[name]
    dense, graph, batches = _build_case(lambda: nn.Sequential(nn.Linear(5, 8), block(), nn.Linear(8, 3)), (6, 5))
    with torch.no_grad():
        _repeat_first(dense.get_submodule(hidden), [4, 7], [1, 1])
        if name == "own":
            for part in (dense[1].query, dense[1].key, dense[1].value):
                _repeat_first(part, [4, 5], [0, 1])
        else:
            for tensor in (dense[1].self_attn.in_proj_weight, dense[1].self_attn.in_proj_bias):
                for offset in (0, 8, 16):
                    tensor[offset + 4 : offset + 6] = tensor[offset : offset + 2]
    kept = {heads: [0, 1, 3], hidden: [0, 1, 2, 3, 5, 6, 8, 9, 10, 11]}
    thinned = thin(dense, graph, kept)
    seen = batches[0][0]
    assert (thinned(seen) - dense(seen)).abs().max() > 0.01
    kinds = [type(module) for module in dense.modules()]
    refit(thinned, dense, graph, kept, batches, consumers_only=True)
    torch.testing.assert_close(thinned(seen), dense(seen), rtol=1e-6, atol=1e-8)
    assert [type(module) for module in dense.modules()] == kinds


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_come_nearer_to_the_dense_ones_also_where_the_stream_is_thinned(name: str) -> None:
    block, heads, hidden = TRANSFORMERS[name]
    dense, graph, batches = _build_case(
        lambda: nn.Sequential(nn.Linear(5, 8), block(), block(), nn.Linear(8, 3)), (6, 5)
    )
    unseen = _batches((6, 5), (64,))[0][0].flip(0).roll(1, -1)
    for kept in ({heads: [0, 2]}, {hidden: list(range(6))}, {"0": [0, 1, 3, 4, 6, 7]}):
        thinned = thin(dense, graph, kept)
        before = (thinned(unseen) - dense(unseen)).square().mean()
        refit(thinned, dense, graph, kept, batches)
        assert (thinned(unseen) - dense(unseen)).square().mean() < 0.7 * before


def test_the_ridge_holds_weights_and_leaves_the_bias_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "RIDGE", 1e9)
    dense, graph, batches = _build_case(_chain, (2, 6, 6))
    kept = {"0": [0, 2, 3, 5]}
    thinned = thin(dense, graph, kept)
    refit(thinned, dense, graph, kept, batches)
    torch.testing.assert_close(thinned[2].weight, dense[2].weight[:, kept["0"]], rtol=1e-6, atol=1e-7)
    seen = torch.cat([inputs for inputs, _ in batches])
    torch.testing.assert_close(_rows(thinned[:3](seen)).mean(0), _rows(dense[:3](seen)).mean(0))


@pytest.mark.parametrize("name", ["resnet_b", "resnext", "vgg", "densenet", "mobilenet_v2", "shufflenet_v2_numbers"])
def test_outputs_come_nearer_to_the_dense_networks(name: str) -> None:
    case = WELL_KNOWN[name]
    dense, graph, batches = _build_case(case.build, case.shape)
    kept = {group.name: list(range((group.group.width + 1) // 2)) for group in graph.groups}
    thinned = thin(dense, graph, kept)
    unseen = _batches(case.shape, (64,))[0][0].flip(0).roll(1, -1)
    before = (thinned(unseen) - dense(unseen)).square().mean()
    state = copy.deepcopy(dense.state_dict())
    refit(thinned.train(), dense.train(), graph, kept, batches)
    assert thinned.training
    assert dense.training
    assert (thinned.eval()(unseen) - dense.eval()(unseen)).square().mean() < 0.9 * before
    assert all(torch.equal(tensor, state[key]) for key, tensor in dense.state_dict().items())
    assert not any(module._forward_hooks for network in (dense, thinned) for module in network.modules())


@pytest.mark.parametrize("consumers_only", [True, False])
def test_layers_before_the_thinned_one_and_depthwise_ones_and_norms_stay(consumers_only: bool) -> None:
    dense, graph, batches = _build_case(lambda: mobilenet_v2(False), (3, 8, 8))
    kept = {"0.1.expand.0": [0, 3, 4, 7]}
    thinned = thin(dense, graph, kept)
    before = copy.deepcopy(thinned.state_dict())
    refit(thinned, dense, graph, kept, batches, consumers_only=consumers_only)
    changed = [name for name, tensor in thinned.state_dict().items() if not torch.equal(tensor, before[name])]
    pointwise = [
        f"{name}.weight"
        for name, module in thinned.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1 and module.kernel_size == (1, 1)
    ]
    first = pointwise.index("0.1.project.0.weight")
    assert first > 0
    behind = pointwise[first + 1 :]
    assert behind
    ends = [name for name in before if name not in pointwise and name in changed]
    assert [name for name in changed if name in pointwise] == [pointwise[first], *([] if consumers_only else behind)]
    assert all(isinstance(thinned.get_submodule(name.rpartition(".")[0]), nn.Linear) for name in ends)
    assert bool(ends) != consumers_only


class _Side(nn.Module):
    """Two branches that meet at the end; the second has nothing to do with the first."""

    def __init__(self) -> None:
        super().__init__()
        self.thinned, self.user = nn.Linear(4, 6), nn.Linear(6, 3)
        self.apart, self.other = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        one = self.user(self.thinned(x).relu())
        return torch.cat([one, self.other(self.apart(x).relu())], 1)


def test_layers_that_see_nothing_of_the_loss_stay_though_they_come_later() -> None:
    dense, graph, batches = _build_case(_Side, (4,))
    thinned = thin(dense, graph, {"thinned": [0, 2, 5]})
    refit(thinned, dense, graph, {"thinned": [0, 2, 5]}, batches)
    assert not torch.allclose(thinned.user.weight, dense.user.weight[:, [0, 2, 5]])
    for name in ("apart.weight", "apart.bias", "other.weight", "other.bias"):
        torch.testing.assert_close(thinned.get_parameter(name), dense.get_parameter(name), rtol=1e-12, atol=1e-12)


class _Unread:
    def __iter__(self) -> Any:
        raise AssertionError("there is nothing to refit")


def test_nothing_removed_changes_nothing_and_reads_nothing() -> None:
    dense, graph, _ = _build_case(_chain, (2, 6, 6))
    thinned = thin(dense, graph, {"0": range(6)})
    refit(thinned, dense, graph, {"0": range(6)}, _Unread())  # type: ignore[arg-type]
    assert all(torch.equal(tensor, dense.state_dict()[name]) for name, tensor in thinned.state_dict().items())


def test_removing_dead_channels_changes_next_to_nothing() -> None:
    dense, graph, batches = _build_case(_chain, (2, 6, 6))
    with torch.no_grad():
        dense[0].weight[[1, 4]], dense[0].bias[[1, 4]] = 0, -1
    kept = {"0": [0, 2, 3, 5]}
    thinned = thin(dense, graph, kept)
    refit(thinned, dense, graph, kept, batches)
    for name, tensor in thin(dense, graph, kept).state_dict().items():
        torch.testing.assert_close(thinned.state_dict()[name], tensor, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dead", [[2], [0, 1, 2]])
def test_weights_of_inputs_that_are_never_seen_stay(dead: list[int]) -> None:
    dense, graph, batches = _build_case(_chain, (2, 6, 6))
    with torch.no_grad():
        dense[0].weight[dead], dense[0].bias[dead] = 0, -1
    kept = {"0": [0, 1, 2]}
    thinned = thin(dense, graph, kept)
    refit(thinned, dense, graph, kept, batches)
    torch.testing.assert_close(thinned[2].weight[:, dead], dense[2].weight[:, dead])
    assert not torch.allclose(thinned[2].bias, dense[2].bias)


def test_faulty_batches_are_refused() -> None:
    dense, graph, batches = _build_case(_chain, (2, 6, 6))
    kept = {"0": [0, 1, 2], "2": [0, 1]}

    def try_on(given: Any) -> None:
        refit(thin(dense, graph, kept), dense, graph, kept, given)

    with pytest.raises(DataError, match="no samples to reconstruct outputs from"):
        try_on([])
    with pytest.raises(DataError, match="gone through only once"):
        try_on(batch for batch in batches)
    with pytest.raises(TaskError, match="layer 2 cannot be reconstructed: its inputs or outputs are not finite"):
        try_on([(torch.full((2, 2, 6, 6), torch.nan, dtype=torch.float64), torch.zeros(2))])


def test_batches_that_become_more_are_refused() -> None:
    dense, graph, batches = _build_case(_chain, (2, 6, 6))
    kept = {"0": [0, 1, 2]}

    class Growing:
        passes = 0

        def __iter__(self) -> Any:
            self.passes += 1
            return iter(batches * self.passes)

    with pytest.raises(DataError, match="not the same at every pass"):
        refit(thin(dense, graph, kept), dense, graph, kept, Growing())


def test_a_layer_too_wide_for_its_equations_is_left_and_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reconstruction, "MOST_INPUTS", 20)
    monkeypatch.setattr(logging.getLogger("autoprune"), "propagate", True)
    dense, graph, batches = _build_case(_chain, (2, 6, 6))
    kept = {"0": [0, 1, 2], "2": [0, 1]}
    thinned = thin(dense, graph, kept)
    refit(thinned, dense, graph, kept, batches)
    assert torch.equal(thinned[2].weight, dense[2].weight[:2, :3])
    assert not torch.allclose(thinned[4].weight, dense[4].weight[:, :2])
    assert "2 is not reconstructed: it has 27 inputs, more than 20" in caplog.text


class _Stream(nn.Module):
    """Residual blocks with batch norm, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(8, 12, 3, padding=1) for _ in range(4))
        self.second = nn.ModuleList(nn.Conv2d(12, 8, 3, padding=1) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(4))
        self.head = nn.Linear(8, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        stream = self.stem(inputs)
        for first, second, norm in zip(self.first, self.second, self.norms, strict=True):
            stream = torch.relu(stream + norm(second(torch.relu(first(stream)))))
        return self.head(stream.mean((2, 3)))


def test_a_branch_compensates_for_what_its_shortcut_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    network, graph, batches = _build_case(_Stream, (3, 6, 6))
    kept = {group.name: list(range(6)) for group in graph.groups if group.group.width == 12}
    assert len(kept) == 4

    def error() -> float:
        thinned = thin(network, graph, kept)
        refit(thinned, network, graph, kept, batches)
        with torch.no_grad():
            return float(sum((thinned(inputs) - network(inputs)).square().sum() for inputs, _ in batches))

    mended = error()
    monkeypatch.setattr(reconstruction, "observe_additions", lambda *_: contextlib.nullcontext())
    assert mended < 0.8 * error()


def test_layers_behind_compensate_for_what_the_consumers_could_not() -> None:
    network, graph, batches = _build_case(_Stream, (3, 6, 6))
    kept = {"first.0": list(range(4)), "first.1": list(range(4))}
    errors = []
    for consumers_only in (True, False):
        thinned = thin(network, graph, kept)
        refit(thinned, network, graph, kept, batches, consumers_only=consumers_only)
        with torch.no_grad():
            errors.append(float(sum((thinned(inputs) - network(inputs)).square().sum() for inputs, _ in batches)))
    assert errors[1] < 0.9 * errors[0]


class _Again(nn.Module):
    """One residual block, gone through twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1), nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        for _ in range(2):
            inputs = inputs + self.second(torch.relu(self.first(inputs)))
        return self.head(inputs.mean((2, 3)))


def test_a_branch_that_is_gone_through_twice_is_fitted_to_its_own_outputs_of_both() -> None:
    network, graph, batches = _build_case(_Again, (3, 5, 5))
    thinned = thin(network, graph, {"first": [0, 1, 2, 3, 5, 6]})
    before = copy.deepcopy(thinned)
    refit(thinned, network, graph, {"first": [0, 1, 2, 3, 5, 6]}, batches)
    with torch.no_grad():
        wanted = network(batches[0][0])
        errors = [float((each(batches[0][0]) - wanted).square().mean()) for each in (thinned, before)]
    assert errors[0] < 0.5 * errors[1]


class _Block(nn.Module):
    """A convolution with batch norm, and something that joins it to its input."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], calls: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.drop = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Identity()
        self.join, self.calls = join, calls
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
            self.norm.running_var.copy_(torch.tensor([0.3, 1.5, 4.0]))
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = inputs
        for _ in range(self.calls):
            outputs = self.conv(outputs)
        return self.join(self.drop(self.norm(outputs)), inputs)


def _in_place(branch: Tensor, shortcut: Tensor) -> Tensor:
    branch += shortcut
    return branch


ADDED = {
    "an operator": lambda branch, shortcut: branch + shortcut,
    "the other way round": lambda branch, shortcut: shortcut + branch,
    "in place": _in_place,
    "a function": torch.add,
    "a method": lambda branch, shortcut: branch.add_(shortcut),
}
NOT_ADDED = {
    "not linear on its way": lambda branch, shortcut: branch.relu() + shortcut,
    "of another shape": lambda branch, shortcut: branch + shortcut[:, :, :1, :1],
    "with a factor": lambda branch, shortcut: torch.add(branch, shortcut, alpha=2),
    "a number": lambda branch, _: branch + 1.0,
    "a product": lambda branch, shortcut: branch * shortcut,
}


def _seen(block: nn.Module, inputs: Tensor) -> tuple[list[tuple[str, Tensor, Tensor]], Tensor]:
    found: list[tuple[str, Tensor, Tensor]] = []

    def take(name: str, addition: LayerAddition) -> None:
        found.append((name, addition.other.clone(), addition.slope))

    with torch.no_grad(), observe_additions(block, ["conv"], take):
        return found, block(inputs)


@pytest.mark.parametrize("make", [lambda block: block, symbolic_trace], ids=["as it is", "traced"])
@pytest.mark.parametrize("join", ADDED.values(), ids=list(ADDED))
def test_a_sum_is_the_layer_s_output_times_the_slope_and_what_it_is_added_to(
    join: Callable[[Tensor, Tensor], Tensor], make: Callable[[nn.Module], nn.Module]
) -> None:
    block, inputs = _Block(join), torch.randn(2, 3, 5, 5)
    [(name, other, slope)], outputs = _seen(make(block), inputs)
    assert name == "conv"
    torch.testing.assert_close(other, inputs)
    with torch.no_grad():
        changed = slope[:, None, None] * (block.conv(inputs) - block.conv(inputs).mean(0))
        moved = block.norm(block.conv(inputs)) - block.norm(block.conv(inputs).mean(0, keepdim=True))
        torch.testing.assert_close(changed, moved)
        torch.testing.assert_close(outputs, block.norm(block.conv(inputs)) + other)


@pytest.mark.parametrize("join", NOT_ADDED.values(), ids=list(NOT_ADDED))
def test_what_else_becomes_of_an_output_is_not_shown(join: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert _seen(_Block(join), torch.randn(2, 3, 5, 5))[0] == []


def test_the_last_of_several_calls_is_not_shown() -> None:
    assert _seen(_Block(torch.add, calls=2), torch.randn(2, 3, 5, 5))[0] == []


def test_nothing_is_left_on_the_network() -> None:
    block = _Block(torch.add)
    _seen(block, torch.randn(2, 3, 5, 5))
    assert not any(module._forward_hooks for module in block.modules())

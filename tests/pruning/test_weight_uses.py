from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.graph.costs import count_flops
from autoprune.pruning.weight_uses import find_weights, measure_effective


def _positions(network: nn.Module, inputs: Any) -> dict[str, int]:
    return {weight.layer.weight_name: weight.layer.positions for weight in find_weights(network, inputs)}


class Own(nn.Module):
    """Parameters of its own in every kind of product, and some that are only added or normalise."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 4, 6))
        self.norm = nn.LayerNorm([4, 6])
        self.right = nn.Parameter(torch.randn(6, 5))
        self.linear = nn.Parameter(torch.randn(7, 5))
        self.heads = nn.Parameter(torch.randn(2, 7, 3))
        self.left = nn.Parameter(torch.randn(8, 4))
        self.table = nn.Parameter(torch.randn(9, 2))
        self.scale = nn.Parameter(torch.randn(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.position) * self.scale[:, 0, 0]
        y = F.linear(x @ self.right, self.linear)
        y = torch.einsum("bnd,hde->bnhe", y, self.heads) + self.table[:4][None, :, :, None]
        return (self.left @ y.flatten(2)).sum((1, 2))


def test_own_parameters_are_weights_where_something_is_multiplied_with_them() -> None:
    network, inputs = Own(), torch.randn(2, 4, 6)
    found = {weight.layer.weight_name: weight for weight in find_weights(network, inputs)}
    assert {name: weight.layer.positions for name, weight in found.items()} == {
        "right": 4, "linear": 4, "heads": 4, "left": 6,
    }  # fmt: skip
    kinds = {name: weight.layer.kind for name, weight in found.items()}
    assert kinds == {"right": "transposed", "linear": "linear", "heads": "linear", "left": "linear"}
    assert count_flops(network, inputs) == sum(
        2 * weight.layer.positions * network.get_parameter(name).numel() for name, weight in found.items()
    )


class Tied(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embedding, self.output = nn.Embedding(20, 8), nn.Linear(8, 20)
        self.output.weight = self.embedding.weight
        self.layers = kind(8, 8, num_layers=2, batch_first=True, bidirectional=False)  # type: ignore[call-arg]

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.layers(self.embedding(tokens))[0])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_every_weight_of_a_recurrent_network_is_used_at_each_step(kind: type[nn.RNNBase]) -> None:
    network, tokens = Tied(kind), torch.randint(20, (3, 5))
    names = [f"layers.weight_{part}_l{i}" for i in (0, 1) for part in ("ih", "hh")]
    assert _positions(network, tokens) == dict.fromkeys(["embedding.weight", *names], 5)


def test_attention_is_counted_by_the_rows_that_queries_keys_and_values_use() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    query, key = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    assert _positions(attention, (query, query, query)) == {"in_proj_weight": 5, "out_proj.weight": 5}
    across = {weight.layer.weight_name: weight for weight in find_weights(attention, (query, key, key))}
    assert across["in_proj_weight"].uncounted == "its entries are used unequally often"
    assert not across["out_proj.weight"].uncounted


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_a_weight_that_weight_norm_makes_is_counted_by_what_it_is_made_of(wrap: Any) -> None:
    network = nn.Sequential(wrap(nn.Conv2d(3, 4, 3)), wrap(nn.ConvTranspose2d(4, 6, 3, groups=2)))
    weights = find_weights(network, torch.randn(2, 3, 8, 8))
    assert [(weight.layer.kind, weight.layer.groups, weight.layer.positions) for weight in weights] == [
        ("convolution", 1, 36), ("transposed", 2, 36),
    ]  # fmt: skip
    assert [weight.layer.type for weight in weights] == ["Conv2d", "ConvTranspose2d"]
    assert all(network.get_parameter(weight.layer.weight_name).dim() == 4 for weight in weights)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True))


def test_of_a_weight_that_is_not_zero_where_its_parameter_is_the_multiply_adds_are_unknown() -> None:
    [weight] = find_weights(Standardised(3, 4, 3, bias=False), torch.randn(2, 3, 8, 8))
    assert weight.uncounted == "what is multiplied is computed of it (mean, sub)"
    assert weight.layer.positions == 0


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.training_head = nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(5, 3)
        self.norm = nn.LayerNorm([2, 2])

    def forward(self, x: Tensor) -> Any:
        x = self.body(x)
        return (self.head(x), self.training_head(x)) if self.training else self.head(x)


def test_weights_that_evaluation_leaves_unused_come_last_and_cost_nothing() -> None:
    weights = find_weights(Auxiliary(), torch.randn(2, 4))
    assert [(weight.layer.name, weight.used, weight.layer.positions) for weight in weights] == [
        ("body", True, 1), ("head", True, 1), ("training_head", False, 0),
    ]  # fmt: skip


def test_effective_costs_leave_out_what_is_zero_wherever_it_is_multiplied() -> None:
    network, inputs = Own(), torch.randn(2, 4, 6)
    with torch.no_grad():
        network.right[0] = 0  # 5 entries, at 4 positions
        network.heads[1, 2, 1] = 0
        network.position.zero_()
    dense, params = count_flops(network, inputs), sum(each.numel() for each in network.parameters())
    costs = measure_effective(network, inputs)
    assert costs["flops"] == dense - 2 * 4 * 6
    assert costs["params"] == params - 6


def test_the_network_is_left_as_it_was() -> None:
    network = Auxiliary().train()
    network.norm.eval()
    find_weights(network, torch.randn(2, 4))
    assert network.training
    assert not network.norm.training
    assert all(parameter.grad is None for parameter in network.parameters())

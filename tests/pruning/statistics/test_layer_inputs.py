from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.graph.groups import find_groups
from autoprune.pruning.statistics.layer_inputs import (
    WeightedLayer,
    inputs_at,
    is_observed,
    observable,
    observe_layers,
    outputs_at,
    sample_positions,
    weighted_layer,
)

LAYERS: dict[str, tuple[WeightedLayer, tuple[int, ...]]] = {
    "plain": (nn.Conv2d(4, 6, 3), (3, 4, 9, 8)),
    "padded": (nn.Conv2d(4, 6, (3, 5), padding=(1, 2), stride=(2, 1)), (3, 4, 9, 8)),
    "dilated": (nn.Conv2d(4, 6, (3, 2), dilation=(2, 3)), (3, 4, 9, 8)),
    "same": (nn.Conv2d(4, 6, (4, 3), padding="same"), (3, 4, 9, 8)),
    "reflected": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (3, 4, 9, 8)),
    "circular": (nn.Conv1d(4, 6, 5, padding=2, padding_mode="circular"), (3, 4, 30)),
    "grouped": (nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False), (3, 4, 9, 8)),
    "volume": (nn.Conv3d(4, 6, (1, 2, 3), stride=(1, 1, 2)), (3, 4, 3, 5, 6)),
    "few positions": (nn.Conv2d(4, 6, 3), (3, 4, 4, 3)),
    "linear": (nn.Linear(4, 6), (3, 4)),
    "tokens": (nn.Linear(4, 6, bias=False), (3, 5, 7, 4)),
}


@pytest.mark.parametrize("last", [False, True], ids=["channels_first", "channels_last"])
@pytest.mark.parametrize("name", LAYERS)
def test_windows_times_the_weight_are_the_outputs_at_the_same_positions(name: str, last: bool) -> None:
    layer, shape = LAYERS[name][0].double(), LAYERS[name][1]
    inputs = torch.randn(shape, dtype=torch.float64)
    if last and len(shape) == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    output = layer(inputs).detach()
    chosen = sample_positions(layer, output, 10, "layer", 0)
    windows, groups = inputs_at(layer, inputs, chosen), getattr(layer, "groups", 1)
    rows = windows.reshape(len(windows), groups, -1)
    weight = layer.weight.detach().reshape(groups, 6 // groups, -1)
    found = torch.einsum("rgi,goi->rgo", rows, weight).flatten(1)
    if layer.bias is not None:
        found += layer.bias.detach()
    torch.testing.assert_close(found, outputs_at(layer, output, chosen))
    assert len(found) == len(output) * min(10, output[0].numel() // 6)


def test_positions_are_spread_and_the_same_for_the_same_use() -> None:
    layer = nn.Conv2d(1, 1, 1)
    output = torch.zeros(300, 1, 8, 8)
    first = sample_positions(layer, output, 10, "a", 0)
    torch.manual_seed(1)
    assert torch.equal(first, sample_positions(layer, output, 10, "a", 0))
    assert not torch.equal(first, sample_positions(layer, output, 10, "a", 1))
    assert not torch.equal(first, sample_positions(layer, output, 10, "b", 0))
    assert set(first.flatten().tolist()) == set(range(64))


def test_every_call_of_a_layer_is_shown_and_none_afterwards() -> None:
    layer = nn.Linear(2, 2)
    network = nn.Sequential(layer, nn.ReLU(), layer)
    seen: list[tuple[str, int, Tensor]] = []
    layers = [layer for layer in find_groups(network, torch.ones(2, 2)).layers if layer.name == "0"]
    with observe_layers(network, layers, 1, lambda name, call, inputs, output: seen.append((name, call, inputs))):
        network(torch.ones(1, 2))
    network(torch.ones(1, 2))
    assert [(name, call) for name, call, _ in seen] == [("0", 0), ("0", 1)]
    torch.testing.assert_close(seen[1][2], layer(torch.ones(1, 2)).relu())


class Functions(nn.Module):
    """Linear functions of parameters: with the module's own weight and bias, turned, scaled, of part of a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.scaled, self.part = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 8)
        self.turned = nn.Module()
        self.turned.weight, self.turned.bias = nn.Parameter(torch.randn(7, 4)), nn.Parameter(torch.randn(4))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.plain.weight, bias=self.plain.bias)
        x = F.linear(x, 2 * self.scaled.weight, self.scaled.bias)
        x = F.linear(x, self.part.weight[:7], self.part.bias[:7])
        x = torch.addmm(self.turned.bias, x.flatten(0, -2), self.turned.weight).view(*x.shape[:-1], 4)
        return self.attention(x, x, x)[0]


def test_linear_functions_of_a_whole_weight_and_its_bias_are_shown_by_sample() -> None:
    torch.manual_seed(0)
    network, inputs = Functions().eval(), torch.randn(3, 5, 4)
    layers = [layer for layer in find_groups(network, inputs).layers if is_observed(layer)]
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    copied = observable(network)
    with observe_layers(copied, layers, 3, lambda name, call, inputs, output: seen.update({name: (inputs, output)})):
        outputs = copied(inputs)
    torch.testing.assert_close(outputs, network(inputs))
    assert type(network.attention) is nn.MultiheadAttention
    assert all(one is other for one, other in zip(network.parameters(), copied.parameters(), strict=True))
    assert set(seen) == {"plain", "turned", "attention.out_proj"}
    for layer in layers:
        if layer.name in seen:
            module, (given, output) = weighted_layer(network, layer), seen[layer.name]
            assert len(given) == len(output) == 3
            torch.testing.assert_close(given @ module.weight.T + module.bias, output)

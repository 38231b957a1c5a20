"""Every criterion once more, slowly: loops over filters, plain autograd batch by batch, activations collected whole."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batches = Sequence[tuple[Tensor, Tensor]]


class Mixed(nn.Module):
    """Grouped, coupled and transposed convolutions and linear layers, with and without batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn_stem = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.grouped, self.bn_grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(8)
        self.left, self.bn_left = nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.right, self.bn_right = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.up, self.bn_up = nn.ConvTranspose2d(6, 4, 2, 2), nn.BatchNorm2d(4)
        self.up_grouped = nn.ConvTranspose2d(4, 6, 2, 2, groups=2)
        self.fc1, self.bn_fc1, self.fc2 = nn.Linear(6, 10), nn.BatchNorm1d(10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.all_activations(x)["outputs"]

    def all_activations(self, x: Tensor) -> dict[str, Tensor]:
        """The output, and by layer what it makes behind its ReLU."""
        found: dict[str, Tensor] = {}
        found["stem"] = F.relu(self.bn_stem(self.stem(x)))
        found["grouped"] = F.relu(self.bn_grouped(self.grouped(found["stem"])))
        left, right = self.bn_left(self.left(found["grouped"])), self.bn_right(self.right(found["grouped"]))
        found["left"] = found["right"] = torch.relu(left + right)
        found["up"] = F.relu(self.bn_up(self.up(found["left"])))
        found["up_grouped"] = self.up_grouped(found["up"]).relu()
        found["fc1"] = F.relu(self.bn_fc1(self.fc1(found["up_grouped"].mean((2, 3)))))
        found["outputs"] = self.fc2(found["fc1"])
        return found


# Group to its structures, each a mapping from layer to the output channels it holds, worked out by hand.
STRUCTURES: Mapping[str, Sequence[Mapping[str, Sequence[int]]]] = {
    "stem": [{"stem": [i, i + 4]} for i in range(4)],
    "grouped": [{"grouped": [i, i + 4]} for i in range(4)],
    "left": [{"left": [i], "right": [i]} for i in range(6)],
    "up": [{"up": [i, i + 2]} for i in range(2)],
    "up_grouped": [{"up_grouped": [i, i + 3]} for i in range(3)],
    "fc1": [{"fc1": [i]} for i in range(10)],
}
NORMS = {name: f"bn_{name}" for name in ("stem", "grouped", "left", "right", "up", "fc1")}


def structure_score(
    criterion: str, network: Mixed, layer: str, held: Sequence[Sequence[int]], which: int, batches: Batches
) -> float | None:
    """The score of one structure by one layer, of which it holds some channels; None where there is nothing to go by.

    Args:
        criterion: its name.
        network: whose layer it is.
        layer: its name.
        held: the channels of every structure.
        which: of them is scored.
        batches: that are read.
    """
    module = network.get_submodule(layer)
    if criterion in ("bn_scale", "apoz", "mean_activation", "taylor", "gradient", "saliency", "taylor_gate"):
        found = [channel_score(criterion, network, layer, channel, batches) for channel in held[which]]
        if None in found:
            return None
        total = sum(score for score in found if score is not None)
        return total / len(found) if criterion in ("bn_scale", "apoz", "mean_activation") else total
    rows = [
        [value for channel in channels for value in _filter(module, module.weight, channel).tolist()]
        for channels in held
    ]
    deviation = statistics.pstdev(module.weight.flatten().tolist())
    return {
        "l1": lambda row: sum(map(abs, row)),
        "l2": lambda row: math.hypot(*row),
        "magnitude": lambda row: sum(map(abs, row)) / len(row),
        "threshold": lambda row: max(map(abs, row)),
        "std_threshold": lambda row: max(map(abs, row)) / deviation,
        "fpgm": lambda row: sum(math.dist(row, other) for other in rows),
    }[criterion](rows[which])


def channel_score(criterion: str, network: Mixed, layer: str, channel: int, batches: Batches) -> float | None:
    """The score of one output channel of one layer; None where the criterion has nothing to go by."""
    if criterion == "bn_scale":
        norm = network.get_submodule(NORMS[layer]) if layer in NORMS else None
        return None if norm is None else abs(float(norm.weight.detach()[channel]))
    if criterion in ("apoz", "mean_activation"):
        seen = torch.cat([network.all_activations(inputs)[layer] for inputs, _ in batches])[:, channel].flatten()
        values = seen.tolist()
        return sum(value != 0 if criterion == "apoz" else value for value in values) / len(values)
    return _mean_over_batches(criterion, network, layer, channel, batches)


def _mean_over_batches(criterion: str, network: Mixed, layer: str, channel: int, batches: Batches) -> float:
    found = []
    for inputs, targets in batches:
        twin = copy.deepcopy(network).eval().requires_grad_()
        F.cross_entropy(twin(inputs), targets).backward()
        module = twin.get_submodule(layer)
        weight, gradient = (_filter(module, tensor, channel) for tensor in (module.weight, module.weight.grad))
        if criterion == "taylor":
            found.append(sum((w * g) ** 2 for w, g in zip(weight.tolist(), gradient.tolist(), strict=True)))
        elif criterion == "gradient":
            found.append(sum(abs(g) for g in gradient.tolist()))
        elif criterion == "saliency":
            found.append(sum(abs(w * g) for w, g in zip(weight.tolist(), gradient.tolist(), strict=True)))
        else:
            assert criterion == "taylor_gate"
            found.append(_gate(network, layer, channel, inputs, targets) ** 2)
    return sum(found) / len(found)


def _gate(network: Mixed, layer: str, channel: int, inputs: Tensor, targets: Tensor) -> float:
    """The derivative of the loss by a factor that a hook puts on one channel."""
    gate = torch.ones((), dtype=torch.float64, requires_grad=True)

    def close(module: nn.Module, args: object, output: Tensor) -> Tensor:
        factors = [gate if i == channel else torch.ones_like(gate) for i in range(output.size(1))]
        return output * torch.stack(factors).view(1, -1, *[1] * (output.dim() - 2))

    handle = network.get_submodule(NORMS.get(layer, layer)).register_forward_hook(close)
    F.cross_entropy(network(inputs), targets).backward(inputs=[gate])
    handle.remove()
    return float(gate.grad)


def _filter(module: nn.Module, tensor: Tensor, channel: int) -> Tensor:
    """The entries of a weight-shaped tensor that make one output channel."""
    if not isinstance(module, nn.ConvTranspose2d):
        return tensor.detach()[channel].flatten()
    group, within = divmod(channel, module.out_channels // module.groups)
    first = group * (module.in_channels // module.groups)
    return torch.cat(
        [tensor.detach()[i, within].flatten() for i in range(first, first + module.in_channels // module.groups)]
    )

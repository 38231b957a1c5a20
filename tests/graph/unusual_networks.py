"""Small networks with operations that are easily followed wrongly, each with the groups that must be found in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from tests.graph.networks import Case, conv_bn


class Head(nn.Module):
    """One convolution, an operation on its activation, and a head: what the operation does to the 8 channels."""

    def __init__(self, operation: Callable[[Tensor], Tensor], ins: int = 8, extra: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.operation, self.extra = nn.Conv2d(3, 8, 3, padding=1), operation, extra
        self.after, self.linear = nn.Conv2d(ins, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.operation(x) if self.extra is None else self.extra(x)
        return self.linear(self.after(x).mean((2, 3)))


class Attention(nn.Module):
    """Fused projections, written by hand."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5
        return self.out((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, c))


class TransformerBlock(nn.Module):
    def __init__(self, width: int, fused: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, 2) if fused else nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))
        self.fused = fused

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.norm1(x)
        x = x + (self.attention(y) if self.fused else self.attention(y, y, y, need_weights=False)[0])
        if mask is not None:
            x = x * mask
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.blocks = nn.Sequential(TransformerBlock(8, fused), TransformerBlock(8, fused))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.size(0), -1, -1), x), dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0]) * scale


class ConvNext(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 8, 7, padding=3, groups=8)
        self.norm, self.wide, self.narrow = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale, self.head = nn.Parameter(torch.full((8,), 0.5)), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = (self.scale * self.narrow(F.gelu(self.wide(y)))).permute(0, 3, 1, 2)
        return self.head((x + y).mean([-2, -1]))


class LayerScale(nn.Module):
    """A residual stream with a learned scale and a fixed one per channel, and no norm that mixes channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.register_buffer("mean", torch.rand(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.fc((x + self.scale * self.conv(x - self.mean)).amax((2, 3)))


class Audio(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(2, 8, 5, dilation=2), nn.GroupNorm(2, 8)
        self.conv2, self.norm2 = nn.Conv1d(8, 6, 3, stride=2), nn.BatchNorm1d(6)
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(x)))
        return self.linear(F.avg_pool1d(F.relu(self.norm2(self.conv2(x))), 3).mean(-1))


class SharedModules(nn.Module):
    """One convolution called twice, one weight in two modules, one activation under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.act = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.PReLU(8)
        self.same_act = self.act
        self.one, self.two = nn.Conv2d(8, 5, 1, bias=False), nn.Conv2d(8, 5, 1, bias=False)
        self.two.weight = self.one.weight
        self.middle = nn.Conv2d(8, 8, 1)
        self.out = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.twice(self.same_act(self.twice(self.stem(x)))))
        x = self.middle(x)
        return self.out(self.one(x) + self.two(x)).mean((2, 3))


class PartlyFollowed(nn.Module):
    """A convolution called once where it is followed and once where it is not; a weight also used bare."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bare, self.free = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm, self.linear = nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.conv(x).cumsum(1))
        y = self.free(self.norm(self.bare(y))) + F.conv2d(y, self.bare.weight)
        return self.linear(y.mean((2, 3))) * self.norm.weight.sum()


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.inner(x)
        return x


class BranchingConvolution(nn.Conv2d):
    """A subclass whose flow depends on data: it must not be taken for a plain convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(1) if x.sum() > 0 else x)


class StandardisedConvolution(nn.Conv2d):
    """Overrides what `Conv2d.forward` calls."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight / weight.std(), bias)


class DataDependent(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.conv1, self.inner, self.conv2 = nn.Conv2d(3, 8, 1), inner, nn.Conv2d(8, 6, 1)
        self.linear = nn.Linear(6, 2)

    def forward(self, x: Tensor, **unused: Any) -> Tensor:
        return self.linear(F.relu(self.conv2(self.inner(self.conv1(x)))).mean((2, 3)))


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Parameter(torch.randn(8))
        self.conv = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(F.conv2d(x, self.weight, self.bias))).mean((2, 3))


class FunctionalNorm(nn.Module):
    """Batch norm called as a function, with dropout whose argument is the mode, and channels named by number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.linear = nn.Conv2d(3, 8, 1), _FunctionalBatchNorm(8), nn.Linear(8, 3)
        self.unused, self.auxiliary = nn.Linear(3, 3), nn.Parameter(torch.rand(3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.bn(self.conv(x))), 0.5, self.training)
        return self.linear(x.view(-1, 8, 16).mean(2))


class _FunctionalBatchNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)


class ManyOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.low, self.high = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        low = F.relu(self.low(F.elu(self.conv(x))))
        return {"low": (low, low.shape[2]), "high": [self.high(low)]}


class ZeroShortcut(nn.Module):
    """A shortcut that is widened by concatenating zeros."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stem, self.conv, self.linear = conv_bn(3, 6), conv_bn(6, 10), nn.Linear(10, 3)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv(x)
        b, c, h, w = x.shape
        if self.kind == "zeros":
            missing = torch.zeros(b, 4, h, w, device=x.device, dtype=x.dtype)
        elif self.kind == "new_zeros":
            missing = x.new_zeros((b, y.size(1) - c, h, w))
        else:
            missing = torch.zeros_like(x[:, :4])
        return self.linear(F.relu(torch.cat((x, missing), 1) + y).mean((2, 3)))


class Sequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mlp = nn.Embedding(5, 6), nn.Linear(6, 8)
        self.norm, self.lstm, self.linear = nn.BatchNorm1d(8), nn.LSTM(8, 4, batch_first=True), nn.Linear(4, 2)
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(F.relu(self.mlp(self.embedding(x))))
        out, (hidden, _) = self.lstm(self.norm(y.transpose(1, 2)).transpose(1, 2))
        return self.linear(out[:, -1] + hidden[-1])


class ChannelCounts(nn.Module):
    """Numbers of channels that enter the arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 5)
        self.out = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        one = F.relu(self.one(x))
        two = F.relu(self.two(one)) / one.shape[-1]
        return self.out(F.relu(self.three(two)))


class Slices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.left, self.right = nn.Conv2d(3, 12, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 1)
        self.parts = nn.ModuleList([nn.Conv2d(2, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(7, 4, 1)])
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        y = self.left(x[:, :8]) + self.right(x[:, 8:, ...])
        one, two, three = torch.split(x, [2, 3, 7], dim=1)
        y = y + self.parts[0](one) + self.parts[1](two) + self.parts[2](three)
        return self.linear(y.mean((2, 3)))


class Stacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.stack([self.a(x), self.b(x)], dim=1).sum(1)).mean((2, 3))


class JoinedPositions(nn.Module):
    """Two levels laid one behind the other along the positions, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 2, 2), nn.Conv1d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.a(x).flatten(2), self.b(x).flatten(2)], dim=2))


class Folded(nn.Module):
    """Positions folded into the batch before a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc1, self.fc2 = nn.Conv2d(3, 6, 1), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).permute(0, 2, 3, 1)
        return self.fc2(F.relu(self.fc1(y.reshape(-1, y.size(-1))))).view(x.size(0), -1, 2).mean(1)


class PoolOfTokens(nn.Module):
    """A pool that, given `[batch, channels, length]`, works on the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.out = nn.Conv1d(3, 8, 1), nn.MaxPool2d(3, 1, 1), nn.Conv1d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.pool(self.conv(x)))


class SharedSlope(nn.Module):
    """A PReLU with one slope, called on activations of several widths."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out, self.act = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1), nn.Conv2d(5, 2, 1), nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.b(self.act(self.a(x)))))


class ModuleInsideWhole(nn.Module):
    """A convolution that is also called within a module that is left whole."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out, self.other_out = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)
        self.stem, self.other, self.whole = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), Branching()
        self.whole.inner = self.conv

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.whole(self.stem(x)).relu()) + self.other_out(self.conv(self.other(x)))


class IndexedChannel(nn.Module):
    """One channel taken by its number gates the others."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.free, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.out(self.free(y) * y[:, 0].unsqueeze(1).sigmoid())


class SetItem(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, :4] = x[:, 4:]
        return y


class ParameterOnly(nn.Module):
    """Frozen weights, parameters in containers, modules that are never called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.never = nn.Conv2d(3, 8, 1), nn.Linear(8, 2), nn.Conv2d(8, 8, 1)
        self.scales = nn.ParameterList([torch.rand(8, 1, 1), torch.rand(1)])
        self.conv.requires_grad_(False)
        self.unused = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear((self.conv(x) * self.scales[0] + self.scales[1]).flatten(2).sum(2))


def _head(operation: Callable[[Tensor], Tensor], ins: int, *, pruned: bool, shape: int = 6) -> Case:
    groups = {"conv": 8} if pruned else {}
    return Case(lambda: Head(operation, ins), (3, shape, shape), {**groups, "after": 6})


def _with_module(module: Callable[[], nn.Module], ins: int, *, pruned: bool = True, width: int = 8) -> Case:
    groups = {"conv": width} if pruned else {}
    return Case(lambda: Head(F.relu, ins, module()), (3, 6, 6), {**groups, "after": 6})


def _indices(x: Tensor) -> Tensor:
    pooled, _ = F.max_pool2d(x, 2, return_indices=True)
    return pooled


def _in_place(x: Tensor) -> Tensor:
    x += x.mean((2, 3), keepdim=True)
    x.mul_(2).clamp_(min=-1)
    return torch.relu_(x)


def _einops(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 2, 4, 3, 5)
    return x.reshape(b, c, -1, 4).mean(-1).view(b, c, h // 2, w // 2)


def _space_to_depth(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, 4 * c, h // 2, w // 2)


def _transformer(attention: str) -> Mapping[str, int]:
    """The stream, and in each block the heads and the hidden units."""
    blocks = ({f"blocks.{i}.{attention}": 2, f"blocks.{i}.mlp.0": 16} for i in range(2))
    return {"patch": 8} | {name: width for block in blocks for name, width in block.items()}


UNUSUAL: Mapping[str, Case] = {
    "vit_fused": Case(lambda: VisionTransformer(True), (3, 8, 8), _transformer("attention.qkv")),
    "vit_module": Case(lambda: VisionTransformer(False), (3, 8, 8), _transformer("attention")),
    "convnext": Case(ConvNext, (3, 8, 8), {"stem": 8, "wide": 16}),
    "layer_scale": Case(LayerScale, (3, 8, 8), {"stem": 8}),
    "audio": Case(Audio, (2, 32), {"conv1": 4, "conv2": 6}),
    "shared_modules": Case(SharedModules, (3, 6, 6), {"stem": 8, "middle": 8, "one": 5}),
    "partly_followed": Case(PartlyFollowed, (4, 6, 6), {}),
    "module_inside_whole": Case(ModuleInsideWhole, (3, 6, 6), {}),
    "data_dependent": Case(lambda: DataDependent(Branching()), (3, 6, 6), {"conv2": 6}),
    "branching_convolution": Case(
        lambda: DataDependent(BranchingConvolution(8, 8, 1)), (3, 6, 6), {"inner": 8, "conv2": 6}
    ),
    "standardised": Case(lambda: DataDependent(StandardisedConvolution(8, 8, 1)), (3, 6, 6), {"conv2": 6}),
    "parametrized": Case(lambda: DataDependent(spectral_norm(nn.Conv2d(8, 8, 1))), (3, 6, 6), {"conv2": 6}),
    "weight_norm": Case(
        lambda: DataDependent(weight_norm(nn.Conv2d(8, 8, 1))), (3, 6, 6), {"conv1": 8, "inner": 8, "conv2": 6}
    ),
    "functional": Case(Functional, (3, 6, 6), {"weight": 8}),
    "functional_norm": Case(FunctionalNorm, (3, 4, 4), {"conv": 8}),
    "many_outputs": Case(ManyOutputs, (3, 6, 6), {"conv": 8}),
    "zeros": Case(lambda: ZeroShortcut("zeros"), (3, 6, 6), {"stem.0": 6, "conv.0": 4}),
    "new_zeros": Case(lambda: ZeroShortcut("new_zeros"), (3, 6, 6), {"stem.0": 6, "conv.0": 4}),
    "sequences": Case(Sequences, (6,), {"embedding": 6, "mlp": 8, "inner": 8, "lstm": 4}, integers=True),
    "channel_counts": Case(ChannelCounts, (4,), {"three": 5}),
    "slices": Case(Slices, (3, 6, 6), {"conv": 2, "conv:2": 3, "conv:3": 3, "conv:4": 4, "left": 4}),
    "stacked": Case(Stacked, (3, 6, 6), {"a": 6}),
    "joined_positions": Case(JoinedPositions, (3, 6, 6), {"a": 6}),
    "folded": Case(Folded, (3, 6, 6), {"conv": 6, "fc1": 8}),
    "pool_of_tokens": Case(PoolOfTokens, (3, 9), {}),
    "shared_slope": Case(SharedSlope, (3, 6, 6), {"a": 8, "b": 5}),
    "indexed_channel": Case(IndexedChannel, (3, 6, 6), {"conv": 7, "free": 6}),
    "parameter_only": Case(ParameterOnly, (3, 6, 6), {"conv": 8}),
    "bfloat16": Case(lambda: Head(F.relu), (3, 6, 6), {"conv": 8, "after": 6}, dtype=torch.bfloat16),
    "float32": Case(lambda: Head(F.relu), (3, 6, 6), {"conv": 8, "after": 6}, dtype=torch.float32),
    "instance_norm": _with_module(lambda: nn.InstanceNorm2d(8, affine=True), 8, pruned=True),
    "instance_norm_plain": _with_module(lambda: nn.InstanceNorm2d(8), 8, pruned=True),
    "instance_norm_statistics": _with_module(lambda: nn.InstanceNorm2d(8, track_running_stats=True), 8, pruned=True),
    "batch_norm_plain": _with_module(lambda: nn.BatchNorm2d(8, affine=False), 8, pruned=True),
    "batch_norm_of_batch": _with_module(lambda: nn.BatchNorm2d(8, track_running_stats=False), 8, pruned=True),
    "batch_norm_bare": _with_module(
        lambda: nn.BatchNorm2d(8, affine=False, track_running_stats=False), 8, pruned=True
    ),
    "prelu": _with_module(lambda: nn.PReLU(8), 8, pruned=True),
    "dropout2d": _with_module(lambda: nn.Dropout2d(), 8, pruned=True),
    "group_norm": _with_module(lambda: nn.GroupNorm(2, 8), 8, width=4),
    "softmax": _with_module(lambda: nn.Softmax(1), 8, pruned=False),
    "local_response": _with_module(lambda: nn.LocalResponseNorm(3), 8, pruned=False),
    "pixel_shuffle": _with_module(lambda: nn.PixelShuffle(2), 2, width=2),
    "multiplier": _with_module(lambda: nn.Conv2d(8, 16, 3, groups=8), 16, pruned=True),
    "multiplier_transposed": _with_module(lambda: nn.ConvTranspose2d(8, 16, 3, groups=8), 16, pruned=True),
    "bordered": _with_module(lambda: nn.ConstantPad2d(1, 2.5), 8, pruned=True),
    "circular": _with_module(lambda: nn.CircularPad2d(1), 8, pruned=True),
    "unflatten": _with_module(lambda: nn.Sequential(nn.Flatten(1), nn.Unflatten(1, (8, 6, 6))), 8, pruned=True),
    "exp": _head(torch.exp, 8, pruned=True),
    "maximum": _head(lambda x: torch.maximum(x, x.flip(3)), 8, pruned=True),
    "clamp_tensor": _head(lambda x: x.clamp(min=x.mean((2, 3), keepdim=True)), 8, pruned=True),
    "where": _head(lambda x: torch.where(x > 0, x, x * 0.5), 8, pruned=True),
    "addcmul": _head(lambda x: torch.addcmul(x, x, x, value=0.5), 8, pruned=True),
    "mean_of_channels": _head(lambda x: x * x.mean(1, keepdim=True), 8, pruned=False),
    "std_of_channels": _head(lambda x: x / (x.std(-3, keepdim=True, correction=0) + 1), 8, pruned=True),
    "variance": _head(lambda x: x / (x.var((-2, -1), keepdim=True) + 0.1), 8, pruned=True),
    "sum_of_channels": _head(lambda x: x.sum(-3, keepdim=True), 1, pruned=False),
    "mean_of_all": _head(lambda x: x - x.mean(), 8, pruned=False),
    "in_place": _head(_in_place, 8, pruned=True),
    "indices": _head(_indices, 8, pruned=False),
    "einops": _head(_einops, 8, pruned=True),
    "space_to_depth": _head(_space_to_depth, 32, pruned=True),
    "set_item": _with_module(SetItem, 8, width=4),
    "cumsum": _head(lambda x: x.cumsum(1), 8, pruned=False),
    "flip": _head(lambda x: x.flip(1), 8, pruned=True),
    "repeat": _head(lambda x: x.repeat(1, 2, 1, 1), 16, pruned=True),
    "pad_both": _head(lambda x: F.pad(x, (1, 1, 0, 2, 2, 3)), 13, pruned=True),
    "pad_value": _head(lambda x: F.pad(x, (0, 0, 0, 0, 1, 1), value=1.5), 10, pruned=False),
    "pad_negative": _head(lambda x: F.pad(x, (-1, 0, 0, 0, 0, 0)), 8, pruned=True),
    "pad_negative_channels": _head(lambda x: F.pad(x, (0, 0, 0, 0, -1, -1)), 6, pruned=False),
    "pad_computed": _head(lambda x: F.pad(x, [0, x.shape[3] % 4, 0, x.shape[2] % 4]), 8, pruned=True),
    "reflect": _head(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 8, pruned=True),
    "cat_of_chunk": _head(lambda x: torch.cat(x.chunk(2, 1)[::-1], dim=1), 8, pruned=True),
    "cat_with_itself": _head(lambda x: torch.cat([x, x * 2], -3), 16, pruned=True),
    "interpolate_by_name": _head(lambda x: F.interpolate(size=x.shape[-2:], input=x), 8, pruned=True),
    "to_kind": _head(lambda x: x.to(torch.float64).type_as(x).contiguous(), 8, pruned=True),
    "identity_of_size": _head(lambda x: x.view(x.size()), 8, pruned=True),
    "ones_like": _head(lambda x: x + torch.ones_like(x), 8, pruned=True),
    "transposed_matrix": _head(lambda x: x.transpose(1, 3).transpose(1, 3), 8, pruned=True),
}  # fmt: skip

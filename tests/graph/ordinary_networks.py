"""Networks with ordinary Python in their forward, hooks, kept activations, frozen norms and heads of training alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.graph.networks import Case


class WithPlane(nn.Module):
    """Two convolutions, between which a plane of ones is joined to the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(9, 6, 3, padding=1), nn.Linear(6, 4)
        self.plane: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        joined = torch.cat([x, self.ones(x).expand(x.shape[0], -1, -1, -1)], 1)
        return self.out(F.relu(self.b(joined)).mean((2, 3)))

    def ones(self, x: Tensor) -> Tensor:
        return torch.ones_like(x[:1, :1])


class Asserting(WithPlane):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1:2] == (3,), x.shape
        return super().forward(x)


class OfOneSize(WithPlane):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.shape[-1] == 8 else F.interpolate(x, size=8))


class Doubled(WithPlane):
    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return super().forward(F.interpolate(x, size=(int(height * 2), int(width * 2))))


class KeepsPlane(WithPlane):
    """Its plane is that of the first call."""

    def ones(self, x: Tensor) -> Tensor:
        if self.plane is None:
            self.plane = super().ones(x)
        return self.plane


def hooked(where: str, hook: Callable[..., Any], before: bool = False) -> nn.Module:
    """Returns a network with a padded shortcut, and a hook on one of its modules."""
    network = PaddedShortcut()
    module = network.get_submodule(where)
    module.register_forward_pre_hook(hook) if before else module.register_forward_hook(hook)
    return network


class PaddedShortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.out = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 12, 3, padding=1), nn.Linear(12, 4)
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(F.relu(self.stem(x)))
        return self.out(F.relu(self.wide(x) + F.pad(x, (0, 0, 0, 0, 3, 3))).mean((2, 3)))


class TakenByHook(nn.Module):
    """What a hook stores of a layer is joined to, or added to, what comes later."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1)
        self.out = nn.Conv2d(11 if joined else 5, 4, 1)
        self.joined, self.kept = joined, {}
        self.c1.register_forward_hook(self.store)

    def store(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.kept["x"] = output.detach()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.c2(F.relu(self.c1(x))))
        return self.out(torch.cat([y, self.kept["x"]], 1) if self.joined else y + self.kept["x"].mean((1, 2, 3), True))


def run_once(network: nn.Module, *shape: int) -> nn.Module:
    """Returns a network that has been used, as any trained one has."""
    network(torch.randn(2, *shape))
    return network


class FrozenNorm(nn.Module):
    """A batch norm whose scale, shift and statistics are buffers, as in the backbones of detectors."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, var = (
            each.reshape(1, -1, 1, 1) for each in (self.weight, self.bias, self.running_mean, self.running_var)
        )
        scale = weight * (var + 1e-5).rsqrt()
        return x * scale + (bias - mean * scale)


def _with_norms() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), FrozenNorm(6), nn.ReLU(), nn.Conv2d(6, 5, 3), FrozenNorm(5), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4),
    )  # fmt: skip


class Auxiliary(nn.Module):
    """Its second head, with layers of its own, runs only in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())
        self.head, self.aux = nn.Linear(8, 5), nn.Sequential(nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 5))

    def forward(self, x: Tensor) -> Any:
        x = self.body(x).mean((2, 3))
        return (self.head(x), self.aux(x)) if self.training else self.head(x)


class JoinedInLoop(nn.Module):
    """Activations are joined to a tensor without entries, made anew or of no shape at all."""

    def __init__(self, empty: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.parts, self.head = nn.ModuleList(nn.Linear(5, 6) for _ in range(3)), nn.Linear(18, 4)
        self.empty = empty

    def forward(self, x: Tensor) -> Tensor:
        joined = self.empty(x)
        for part in self.parts:
            joined = torch.cat([joined, torch.relu(part(x))], 1)
        return self.head(joined)


class EmptyCache(nn.Module):
    """Positions are joined to a cache that holds none yet."""

    def __init__(self) -> None:
        super().__init__()
        self.k, self.f = nn.Linear(5, 6), nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 4))
        self.register_buffer("cache", torch.tensor([]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(torch.cat([self.cache, self.k(x)], dim=-2).mean(1))


_PLANE = {"a": 7, "b": 6}  # the channel of which the plane is made stays
_SHORTCUT = {"stem": 6, "block.0": 6, "wide": 6}
_PARTS = {f"parts.{i}": 6 for i in range(3)}

ORDINARY: Mapping[str, Case] = {
    "with_plane": Case(WithPlane, (3, 8, 8), _PLANE),
    "asserting": Case(Asserting, (3, 8, 8), _PLANE),
    "of_one_size": Case(OfOneSize, (3, 6, 6), _PLANE),
    "doubled": Case(Doubled, (3, 4, 4), _PLANE),
    "keeps_plane": Case(KeepsPlane, (3, 8, 8), _PLANE),
    "hook_gain": Case(lambda: hooked("block", lambda m, i, o: o * 3), (3, 8, 8), _SHORTCUT),
    "hook_watching": Case(lambda: hooked("block", lambda m, i, o: print(end=str(o.mean())[:0])), (3, 8, 8), _SHORTCUT),
    "hook_on_inputs": Case(lambda: hooked("", lambda m, i: ((i[0] - 0.5) * 4,), before=True), (3, 8, 8), _SHORTCUT),
    "hook_per_channel": Case(
        lambda: hooked("block.0", lambda m, i, o: o * torch.linspace(1, 2, 6).view(1, -1, 1, 1)), (3, 8, 8), {"stem": 6}
    ),
    "hook_taken": Case(lambda: TakenByHook(True), (3, 8, 8), {"c1": 6, "c2": 5}),
    "hook_taken_used": Case(lambda: run_once(TakenByHook(True), 3, 8, 8), (3, 8, 8), {"c1": 6, "c2": 5}),
    "hook_mean_taken": Case(lambda: run_once(TakenByHook(False), 3, 8, 8), (3, 8, 8), {"c2": 5}),
    "frozen_norms": Case(_with_norms, (3, 8, 8), {"0": 6, "3": 5}),
    "auxiliary": Case(Auxiliary, (3, 8, 8), {"body.0": 6, "body.2": 8, "aux.0": 7}),
    "joined_in_loop": Case(lambda: JoinedInLoop(lambda x: x.new_zeros(x.shape[0], 0)), (5,), _PARTS),
    "joined_to_nothing": Case(lambda: JoinedInLoop(lambda x: torch.tensor([], dtype=x.dtype)), (5,), _PARTS),
    "empty_cache": Case(EmptyCache, (4, 5), {"k": 6, "f.0": 7}),
}

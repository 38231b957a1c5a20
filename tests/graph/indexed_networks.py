"""Networks whose channels go through indices that the data decides, packed sequences, parts of heads and of weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.graph.networks import Case


class Packed(nn.Module):
    """Sequences that are as long as the data says, packed; the states of what is padded are not used."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.lstm, self.out = nn.Linear(5, 6), nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        lengths = 1 + (x[:, :, 0] > 0).sum(1)
        packed = pack_padded_sequence(self.enter(x), lengths, batch_first=True, enforce_sorted=False)
        return self.out(pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])[0])


class PartlyRotated(nn.Module):
    """Attention whose queries and keys are rotated in some of a head's channels (none are left in the second form)."""

    def __init__(self, rotated: int) -> None:
        super().__init__()
        self.rotated, self.head_dim = rotated, 6
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (each(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2) for each in (self.q, self.k, self.v))
        angles = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * torch.ones(self.rotated, dtype=x.dtype)
        q, k = self._rotate(q, angles), self._rotate(k, angles)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def _rotate(self, x: Tensor, angles: Tensor) -> Tensor:
        turned, rest = x[..., : self.rotated], x[..., self.rotated :]
        one, other = turned.chunk(2, -1)
        return torch.cat((turned * angles.cos() + torch.cat((-other, one), -1) * angles.sin(), rest), -1)


class HeadsInBatch(nn.Module):
    """Attention whose heads lie along the axis of the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        samples, length = x.shape[:2]
        q, k, v = (each(x).view(samples, length, -1, 4).transpose(1, 2) for each in (self.q, self.k, self.v))
        q, k, v = (each.reshape(-1, length, 4) for each in (q, k, v))
        mixed = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
        return self.out(mixed.view(samples, -1, length, 4).transpose(1, 2).flatten(2))


class Experts(nn.Module):
    """Every token goes to the expert that it chooses, whose weights are a part of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(5, 6), nn.Linear(6, 3)
        self.router = nn.Parameter(torch.randn(6, 3))
        self.up, self.down = nn.Parameter(torch.randn(3, 8, 6) / 3), nn.Parameter(torch.randn(3, 6, 8) / 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.enter(x).flatten(0, 1)
        chosen, result = (tokens @ self.router).argmax(-1), torch.zeros_like(tokens)
        for expert in range(3):
            where = (chosen == expert).nonzero().flatten()
            expert_index = torch.full((), expert, dtype=torch.long) + 0 * chosen.max()
            hidden = F.linear(tokens[where], self.up[expert_index]).relu()
            result.index_add_(0, where, F.linear(hidden, self.down[expert_index]))
        return self.out(result.view(*x.shape[:2], -1) + tokens.view(*x.shape[:2], -1))


class ChosenChannels(nn.Module):
    """The data decides which channels are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.free, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        best = self.conv(x).mean((0, 2, 3)).topk(3).indices
        return self.out(torch.cat([self.conv(x)[:, best], self.free(x)], 1))


class NumberedChannels(nn.Module):
    """Takes all channels by their numbers, and at each the positions that the data decides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 6, 1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        row = x.mean((1, 3)).argmax(1)
        x = self.conv(x)
        samples, channels = torch.arange(len(x)), torch.arange(x.size(1))
        return self.out(x[samples[:, None], channels[None], row[:, None], 0])


class Standardised(nn.Conv2d):
    """A convolution whose filters are standardised (Qiao et al. 2019, arXiv:1903.10520)."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.flatten(1).std(1)[:, None, None, None] + 1e-5)
        return self._conv_forward(input, weight, self.bias)


class NormedWeight(nn.Conv2d):
    """As `Standardised`, by a batch norm of the weight."""

    def forward(self, input: Tensor) -> Tensor:
        weight = F.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True, eps=1e-6)
        return self._conv_forward(input, weight.reshape_as(self.weight), self.bias)


class OneSampleApart(nn.Module):
    """Does something else with one sample than with several."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.relu(self.one(x)).squeeze(0) if len(x) == 1 else F.relu(self.one(x)))


class Holding:
    """An object that holds itself, with a tensor."""

    def __init__(self, held: Tensor) -> None:
        self.held, self.itself = held, self


class TakesObject(nn.Module):
    """Its parts hand each other an object that holds itself."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.inner = nn.Linear(5, 6), TakesHeld()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(Holding(self.one(x)))


class TakesHeld(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.two = nn.Linear(6, 3)

    def forward(self, holding: Holding) -> Tensor:
        return self.two(holding.held)


INDEXED: Mapping[str, Case] = {
    "packed": Case(Packed, (4, 5), {"enter": 6, "lstm": 8}),
    "partly_rotated": Case(lambda: PartlyRotated(4), (7, 12), {"q": 2}),
    "wholly_rotated": Case(lambda: PartlyRotated(6), (7, 12), {"q": 2}),
    "heads_in_batch": Case(HeadsInBatch, (7, 12), {"q": 3}),
    "experts": Case(Experts, (4, 5), {"enter": 6, "up": 8}),
    "chosen_channels": Case(ChosenChannels, (3, 4, 4), {"free": 5}),
    "numbered_channels": Case(NumberedChannels, (3, 4, 4), {"conv": 6}),
    "standardised": Case(
        lambda: nn.Sequential(Standardised(3, 6, 3), nn.ReLU(), Standardised(6, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 1)),
        (3, 8, 8),
        {"0": 6, "2": 5},
    ),
    "normed_weight": Case(
        lambda: nn.Sequential(NormedWeight(3, 6, 3), nn.ReLU(), NormedWeight(6, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 1)),
        (3, 8, 8),
        {"0": 6, "2": 5},
    ),
    "one_sample_apart": Case(OneSampleApart, (5,), {"one": 6}),
    "takes_object": Case(TakesObject, (5,), {"one": 6}),
}

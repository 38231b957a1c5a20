"""Networks as people write them: recurrent, with several inputs, with layers of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.zoo.networks.entry import Draw, Inputs, ZooNetwork, integers, pictures

TOKENS = 60


class RecurrentLanguageModel(nn.Module):
    """Embedding, two layers of LSTM, tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 32)
        self.lstm = nn.LSTM(32, 48, num_layers=2, batch_first=True, dropout=0.1)
        self.decode = nn.Linear(48, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.embed(tokens))
        return self.decode(hidden)


class GatedClassifier(nn.Module):
    """Both directions of a GRU, of which the last hidden states are used."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(20, 32, num_layers=2, bidirectional=True, batch_first=True)
        self.classify = nn.Sequential(nn.Linear(64, 40), nn.Tanh(), nn.Linear(40, 5))

    def forward(self, frames: Tensor) -> Tensor:
        _, last = self.gru(frames)
        return self.classify(torch.cat([last[-2], last[-1]], dim=1))


class PackedTagger(nn.Module):
    """Sequences of several lengths, packed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 24, padding_idx=0)
        self.lstm = nn.LSTM(24, 32, batch_first=True, bidirectional=True)
        self.tag = nn.Linear(64, 9)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=tokens.shape[1])
        return self.tag(hidden)


class CellLoop(nn.Module):
    """An LSTM cell and a GRU cell in a loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.LSTMCell(12, 24), nn.GRUCell(24, 20), nn.Linear(20, 3)

    def forward(self, frames: Tensor) -> Tensor:
        samples = frames.shape[0]
        hidden, cell = frames.new_zeros(samples, 24), frames.new_zeros(samples, 24)
        state = frames.new_zeros(samples, 20)
        for frame in frames.unbind(1):
            hidden, cell = self.first(frame, (hidden, cell))
            state = self.second(hidden, state)
        return self.out(state)


def conv_norm(ins: int, outs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(ins, outs, 3, stride, 1, bias=False), nn.BatchNorm2d(outs), nn.ReLU())


class Siamese(nn.Module):
    """One body for two images; what they differ in is scored."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_norm(3, 16), conv_norm(16, 32, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.embed, self.compare = nn.Linear(32, 24), nn.Linear(48, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        one, other = self.embed(self.body(left)), self.embed(self.body(right))
        return self.compare(torch.cat([(one - other).abs(), one * other], dim=1))


class ImageAndTable(nn.Module):
    """A dictionary with an image and a row of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(conv_norm(3, 16), conv_norm(16, 24, 2))
        self.table = nn.Sequential(nn.Linear(7, 20), nn.ReLU(), nn.Linear(20, 24))
        self.head = nn.Linear(24, 4)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        gate = self.table(batch["table"]).sigmoid()[:, :, None, None]
        return {"logits": self.head((self.image(batch["image"]) * gate).mean((2, 3)))}


class StandardisedConv(nn.Conv2d):
    """A convolution whose filters are standardised (Qiao et al. 2019, arXiv:1903.10520)."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.flatten(1).std(1)[:, None, None, None] + 1e-5)
        return self._conv_forward(x, weight, self.bias)


class StandardisedResidual(nn.Module):
    """Weight-standardised convolutions with group norms, and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = StandardisedConv(3, 24, 3, padding=1)
        self.norm1, self.conv1 = nn.GroupNorm(4, 24), StandardisedConv(24, 32, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, 32), StandardisedConv(32, 24, 3, padding=1)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return self.head(F.relu(x).mean((2, 3)))


class TiedDecoder(nn.Module):
    """A small decoder with rotated queries and keys whose output layer is its embedding."""

    def __init__(self, width: int = 48, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, width)
        self.blocks = nn.ModuleList(DecoderBlock(width, heads) for _ in range(2))
        self.norm, self.decode = nn.RMSNorm(width), nn.Linear(width, TOKENS, bias=False)
        self.decode.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.decode(self.norm(x))


class DecoderBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.qkv, self.out = nn.RMSNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2 = nn.RMSNorm(width)
        self.gate, self.up = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        samples, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(samples, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(samples, length, width))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def rotate(x: Tensor) -> Tensor:
    """Rotates the halves of each head by its position (Su et al. 2021, arXiv:2104.09864); `[…, length, dim]`."""
    half = x.shape[-1] // 2
    speeds = 100.0 ** (-torch.arange(half, dtype=x.dtype, device=x.device) / half)
    angles = torch.arange(x.shape[-2], dtype=x.dtype, device=x.device)[:, None] * speeds
    one, other = x.chunk(2, dim=-1)
    return torch.cat([one * angles.cos() - other * angles.sin(), one * angles.sin() + other * angles.cos()], dim=-1)


class EncoderClassifier(nn.Module):
    """torch's own encoder, with padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(TOKENS, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(32, 4)

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        hidden = self.encoder(self.embed(tokens), src_key_padding_mask=padding)
        return self.head(hidden.masked_fill(padding[..., None], 0).mean(1))


class Translator(nn.Module):
    """torch's own encoder and decoder, sequence first, with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(TOKENS, 32), nn.Embedding(TOKENS, 32)
        self.transformer, self.decode = nn.Transformer(32, 4, 1, 2, 64, norm_first=True), nn.Linear(32, TOKENS)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=self.decode.weight.dtype)
        x, y = self.source(source).transpose(0, 1), self.target(target).transpose(0, 1)
        return self.decode(self.transformer(x, y, tgt_mask=causal)).transpose(0, 1)


class HandMixer(nn.Module):
    """An MLP-mixer (Tolstikhin et al. 2021, arXiv:2105.01601): tokens are mixed as channels are."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(4))
        self.tokens = nn.ModuleList(nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16)) for _ in range(2))
        self.mixers = nn.ModuleList(nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(2))
        self.head = nn.Linear(32, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for i, (tokens, mixer) in enumerate(zip(self.tokens, self.mixers, strict=True)):
            x = x + tokens(self.norms[2 * i](x).transpose(1, 2)).transpose(1, 2)
            x = x + mixer(self.norms[2 * i + 1](x))
        return self.head(x.mean(dim=1))


class UNet(nn.Module):
    """Down and up with skips, as Ronneberger et al. 2015 (arXiv:1505.04597)."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = conv_norm(3, 16), conv_norm(16, 32), conv_norm(32, 48)
        self.up2, self.up1 = nn.ConvTranspose2d(48, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.join2, self.join1, self.head = conv_norm(64, 32), conv_norm(32, 16), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.up2(self.middle(F.max_pool2d(two, 2)))
        x = self.up1(self.join2(torch.cat([x, two], dim=1)))
        return self.head(self.join1(torch.cat([x, one], dim=1)))


class AuxiliaryHead(nn.Module):
    """A second head that only runs in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = conv_norm(3, 24), conv_norm(24, 32, 2)
        self.aux = nn.Sequential(nn.Conv2d(24, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.aux_head, self.head = nn.Linear(16, 5), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        early = self.stem(x)
        scores: Tensor = self.head(self.body(early).mean((2, 3)))
        return (scores, self.aux_head(self.aux(early))) if self.training else scores


class OwnParameters(nn.Module):
    """Convolution, linear and addmm on parameters of its own; no layer of torch at all."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(16, 3, 3, 3) / 5)
        self.hidden, self.shift = nn.Parameter(torch.randn(32, 16) / 4), nn.Parameter(torch.randn(32))
        self.mixing, self.offset = nn.Parameter(torch.randn(32, 20) / 5), nn.Parameter(torch.randn(20))
        self.last = nn.Parameter(torch.randn(20, 4) / 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.kernel, padding=1).relu().mean((2, 3))
        x = F.linear(x, self.hidden, self.shift).tanh()
        return torch.addmm(self.offset, x, self.mixing).relu() @ self.last


class DiffusionUNet(nn.Module):
    """Group norms, attention over positions, and the time embedded and added, as in denoising networks."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, 64), nn.SiLU(), nn.Linear(64, 64))
        self.first, self.shrink = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, 2, 1)
        self.down, self.middle, self.up = TimedBlock(width, 64), TimedBlock(width, 64), TimedBlock(2 * width, 64, width)
        self.norm, self.qkv, self.out = (
            nn.GroupNorm(8, width),
            nn.Conv1d(width, 3 * width, 1),
            nn.Conv1d(width, width, 1),
        )
        self.last = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: Tensor, steps: Tensor) -> Tensor:
        speeds = torch.exp(-math.log(100.0) * torch.arange(self.width // 2, device=x.device) / (self.width // 2))
        angles = steps[:, None] * speeds
        time = self.time(torch.cat([angles.sin(), angles.cos()], dim=1).to(x.dtype))
        wide = self.down(self.first(x), time)
        x = self.attend(self.middle(self.shrink(wide), time))
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.last(self.up(torch.cat([x, wide], dim=1), time))

    def attend(self, x: Tensor) -> Tensor:
        samples, channels, height, width = x.shape
        q, k, v = self.qkv(self.norm(x).flatten(2)).view(samples, 3, 4, channels // 4, -1).unbind(1)
        weights = torch.einsum("bhcq,bhck->bhqk", q, k).div(math.sqrt(channels // 4)).softmax(dim=-1)
        mixed = torch.einsum("bhqk,bhck->bhcq", weights, v).reshape(samples, channels, -1)
        return x + self.out(mixed).view(samples, channels, height, width)


class TimedBlock(nn.Module):
    def __init__(self, ins: int, time: int, outs: int | None = None) -> None:
        super().__init__()
        outs = outs or ins
        self.norm1, self.conv1 = nn.GroupNorm(8, ins), nn.Conv2d(ins, outs, 3, padding=1)
        self.time, self.norm2 = nn.Linear(time, outs), nn.GroupNorm(8, outs)
        self.conv2 = nn.Conv2d(outs, outs, 3, padding=1)
        self.shortcut = nn.Conv2d(ins, outs, 1) if ins != outs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[:, :, None, None]
        return self.conv2(F.silu(self.norm2(y))) + self.shortcut(x)


def _several(*draws: Draw) -> Draw:
    """Draws positional arguments, one after the other."""
    return lambda samples, rng: tuple(draw(samples, rng) for draw in draws)


def _frames(length: int, width: int) -> Draw:
    return lambda samples, rng: torch.randn(samples, length, width, generator=rng)


def _tagged(samples: int, rng: torch.Generator) -> Inputs:
    """Draws tokens `[samples, 10]` and how many of them count, `[samples]`."""
    tokens = torch.randint(1, TOKENS, (samples, 10), generator=rng)
    return tokens, torch.randint(4, 11, (samples,), generator=rng)


def _padded(samples: int, rng: torch.Generator) -> Inputs:
    """Draws tokens `[samples, 10]` and which of them are padding."""
    tokens, lengths = _tagged(samples, rng)
    return tokens, torch.arange(10) >= lengths[:, None]


def _image_and_table(samples: int, rng: torch.Generator) -> Inputs:
    table = torch.randn(samples, 7, generator=rng)
    return ({"image": pictures(16)(samples, rng), "table": table},)


def networks() -> Iterator[ZooNetwork]:
    """Yields them."""
    made: dict[str, tuple[Callable[[], nn.Module], Draw]] = {
        "LSTM language model": (RecurrentLanguageModel, integers((10,), TOKENS)),
        "GRU in both directions": (GatedClassifier, _frames(9, 20)),
        "packed LSTM": (PackedTagger, _tagged),
        "cells in a loop": (CellLoop, _frames(5, 12)),
        "siamese": (Siamese, _several(pictures(16), pictures(16))),
        "dictionary": (ImageAndTable, _image_and_table),
        "weight-standardised": (StandardisedResidual, pictures(16)),
        "tied decoder": (TiedDecoder, integers((12,), TOKENS)),
        "nn.TransformerEncoder": (EncoderClassifier, _padded),
        "nn.Transformer": (Translator, _several(integers((9,), TOKENS), integers((7,), TOKENS))),
        "mixer": (HandMixer, pictures(16)),
        "U-Net": (UNet, pictures(16)),
        "auxiliary head": (AuxiliaryHead, pictures(16)),
        "own parameters": (OwnParameters, pictures(16)),
        "diffusion U-Net": (DiffusionUNet, _several(pictures(16), integers((), 100))),
    }  # fmt: skip
    for name, (build, draw) in made.items():
        yield ZooNetwork(f"own/{name}", build, draw)

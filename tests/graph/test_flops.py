"""Counts are those worked out by hand, whatever kernel computes, wherever and in whatever mode."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from autoprune.graph.costs import count_flops
from autoprune.graph.flops import counting

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

B, T, S, D, H = 2, 12, 7, 16, 4  # batch, lengths of two sequences, width, heads


class Call(nn.Module):
    """A function on tensors as a network."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def linear(positions: int, ins: int, outs: int) -> int:
    return 2 * positions * ins * outs


def attention(queries: int, keys: int, width: int) -> int:
    return 2 * 2 * queries * keys * width


def lstm(length: int, ins: int, hidden: int, out: int | None = None) -> int:
    """One layer in one direction; with a projection its output is `out` wide."""
    recurrent = hidden if out is None else out
    return 2 * length * 4 * hidden * (ins + recurrent) + (0 if out is None else 2 * length * hidden * out)


def gru(length: int, ins: int, hidden: int) -> int:
    return 2 * length * 3 * hidden * (ins + hidden)


SEQUENCE, MEMORY = (B, T, D), (B, S, D)
ENCODER = 4 * linear(T, D, D) + attention(T, T, D) + 2 * linear(T, D, 32)
DECODER = ENCODER + 2 * linear(T, D, D) + 2 * linear(S, D, D) + attention(T, S, D)
HEADS, FEW_HEADS = (B, H, T, 8), (B, 2, T, 8)

CASES: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...], int]] = {
    "linear": (lambda: nn.Linear(D, 5), (SEQUENCE,), linear(T, D, 5)),
    "conv1d": (lambda: nn.Conv1d(D, 6, 3, padding=1), ((B, D, 9),), 2 * 9 * D * 6 * 3),
    "conv2d": (lambda: nn.Conv2d(D, 6, (3, 5), stride=2), ((B, D, 9, 9),), 2 * (4 * 3) * D * 6 * 15),
    "conv3d": (lambda: nn.Conv3d(D, 6, 2), ((B, D, 4, 4, 4),), 2 * 27 * D * 6 * 8),
    "grouped": (lambda: nn.Conv2d(D, 8, 3, groups=4), ((B, D, 6, 6),), 2 * 16 * (D // 4) * 8 * 9),
    "transposed1d": (lambda: nn.ConvTranspose1d(D, 6, 3, stride=2), ((B, D, 9),), 2 * 9 * D * 6 * 3),
    "transposed2d": (lambda: nn.ConvTranspose2d(D, 6, 3, stride=2), ((B, D, 5, 5),), 2 * 25 * D * 6 * 9),
    "transposed3d": (lambda: nn.ConvTranspose3d(D, 6, 2), ((B, D, 3, 3, 3),), 2 * 27 * D * 6 * 8),
    "bmm": (lambda: Call(torch.bmm), ((B, 3, 5), (B, 5, 7)), 2 * 3 * 5 * 7),
    "matmul": (lambda: Call(torch.matmul), ((B, H, 3, 5), (B, H, 5, 7)), 2 * H * 3 * 5 * 7),
    "baddbmm": (lambda: Call(torch.baddbmm), ((B, 3, 7), (B, 3, 5), (B, 5, 7)), 2 * 3 * 5 * 7),
    "addbmm": (lambda: Call(lambda x, y: torch.addbmm(x[0, :, :1], x, y)), ((B, 3, 5), (B, 5, 7)), 2 * 3 * 5 * 7),
    "einsum": (lambda: Call(lambda q, k: torch.einsum("bhqd,bhkd->bhqk", q, k)), (HEADS, HEADS), 2 * H * T * T * 8),
    "mv": (lambda: Call(lambda x: x @ x[0, 0]), ((B, 3, 5),), 2 * 3 * 5),
    "sdpa": (lambda: Call(F.scaled_dot_product_attention), (HEADS, HEADS, HEADS), attention(T, T, H * 8)),
    "sdpa causal": (
        lambda: Call(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
        (HEADS, HEADS, HEADS),
        attention(T, T, H * 8),
    ),
    "sdpa masked": (
        lambda: Call(lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m)),
        (HEADS, HEADS, HEADS, (B, 1, T, T)),
        attention(T, T, H * 8),
    ),
    "sdpa grouped queries": (
        lambda: Call(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)),
        (HEADS, FEW_HEADS, FEW_HEADS),
        attention(T, T, H * 8),
    ),
    "sdpa other values": (
        lambda: Call(F.scaled_dot_product_attention),
        (HEADS, (B, H, S, 8), (B, H, S, 24)),
        2 * H * T * S * (8 + 24),
    ),
    "multihead": (
        lambda: Call(MultiHead(need_weights=False)),
        (SEQUENCE, MEMORY),
        2 * linear(T, D, D) + 2 * linear(S, D, D) + attention(T, S, D),
    ),
    "multihead weights": (
        lambda: Call(MultiHead(need_weights=True)),
        (SEQUENCE, SEQUENCE),
        4 * linear(T, D, D) + attention(T, T, D),
    ),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(D, H, 32, batch_first=True), (SEQUENCE,), ENCODER),
    "encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(D, H, 32, batch_first=True), 3),
        (SEQUENCE,),
        3 * ENCODER,
    ),
    "encoder padded": (
        lambda: Padded(
            nn.TransformerEncoder(nn.TransformerEncoderLayer(D, H, 32, batch_first=True), 3, mask_check=False)
        ),
        (SEQUENCE,),
        3 * ENCODER,
    ),
    "decoder layer": (lambda: nn.TransformerDecoderLayer(D, H, 32, batch_first=True), (SEQUENCE, MEMORY), DECODER),
    "lstm": (lambda: nn.LSTM(D, 24, batch_first=True), (SEQUENCE,), lstm(T, D, 24)),
    "lstm deep": (
        lambda: nn.LSTM(D, 24, 2, batch_first=True, bidirectional=True),
        (SEQUENCE,),
        2 * lstm(T, D, 24) + 2 * lstm(T, 48, 24),
    ),
    "lstm projected": (lambda: nn.LSTM(D, 24, proj_size=5, batch_first=True), (SEQUENCE,), lstm(T, D, 24, 5)),
    "lstm biasless": (lambda: nn.LSTM(D, 24, batch_first=True, bias=False), (SEQUENCE,), lstm(T, D, 24)),
    "gru": (
        lambda: nn.GRU(D, 24, 2, batch_first=True, bidirectional=True),
        (SEQUENCE,),
        2 * gru(T, D, 24) + 2 * gru(T, 48, 24),
    ),
    "rnn": (lambda: nn.RNN(D, 24, batch_first=True), (SEQUENCE,), 2 * T * 24 * (D + 24)),
    "lstm cell": (lambda: nn.LSTMCell(D, 24), ((B, D),), lstm(1, D, 24)),
    "gru cell": (lambda: nn.GRUCell(D, 24), ((B, D),), gru(1, D, 24)),
    "nothing": (lambda: nn.Sequential(nn.BatchNorm1d(D), nn.ReLU(), nn.MaxPool1d(3)), ((B, D, 9),), 0),
}


class MultiHead(nn.Module):
    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.layer, self.need_weights = nn.MultiheadAttention(D, H, batch_first=True), need_weights

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        return self.layer(query, memory, memory, need_weights=self.need_weights)[0]


class Padded(nn.Module):
    """Some of what it is given is padding, which torch's own fast path would drop."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, sequence: Tensor) -> Tensor:
        padding = torch.zeros(sequence.shape[:2], dtype=torch.bool, device=sequence.device)
        if sequence.device.type != "meta":
            padding[:, T // 2 :] = True
        return self.encoder(sequence, src_key_padding_mask=padding)


SETTINGS: dict[str, tuple[str, Callable[[], AbstractContextManager[Any]]]] = {
    "no_grad": ("cpu", torch.no_grad),
    "gradients": ("cpu", nullcontext),
    "inference": ("cpu", torch.inference_mode),
    "meta": ("meta", torch.no_grad),
}


def counted(network: nn.Module, tensors: list[Tensor], mode: AbstractContextManager[Any]) -> int:
    with mode, counting() as counter:
        network(*tensors)
    return counter.flops


@pytest.mark.parametrize("where", SETTINGS)
@pytest.mark.parametrize("name", CASES)
def test_counts_are_those_of_the_mathematics(name: str, where: str) -> None:
    build, shapes, expected = CASES[name]
    device, mode = SETTINGS[where]
    tensors = [torch.rand(1, *shape[1:], device=device) for shape in shapes]
    network = build().to(device).eval()
    assert counted(network, tensors, mode()) == expected


@pytest.mark.parametrize("name", CASES)
def test_training_mode_costs_the_same(name: str) -> None:
    build, shapes, expected = CASES[name]
    tensors = [torch.rand(shape) for shape in shapes]
    assert counted(build().train(), tensors, nullcontext()) == B * expected


@pytest.mark.gpu
@pytest.mark.parametrize("mode", [torch.no_grad, nullcontext])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_counts_on_an_accelerator_are_the_same(
    name: str, dtype: torch.dtype, mode: Callable[[], AbstractContextManager[Any]]
) -> None:
    build, shapes, expected = CASES[name]
    tensors = [torch.rand(1, *shape[1:], device="cuda", dtype=dtype) for shape in shapes]
    assert counted(build().to("cuda", dtype).eval(), tensors, mode()) == expected


def test_one_sample_is_counted_in_evaluation_mode() -> None:
    for name in ("encoder layer", "lstm", "conv2d"):
        build, shapes, expected = CASES[name]
        network = build().train()
        assert count_flops(network, tuple(torch.rand(5, *shape[1:]) for shape in shapes)) == expected
        assert network.training


def test_packed_sequences_cost_their_own_lengths() -> None:
    packed = pack_padded_sequence(torch.rand(3, 9, D), torch.tensor([9, 5, 2]), batch_first=True)
    for layer, formula in ((nn.LSTM(D, 24), lstm), (nn.GRU(D, 24), gru)):
        for mode in (torch.no_grad(), nullcontext()):
            assert counted(Call(layer), [packed], mode) == formula(9 + 5 + 2, D, 24)


def test_views_of_parameters_are_counted_without_gradients() -> None:
    layer = nn.Linear(6, 4)
    assert counted(Call(lambda x: x @ layer.weight[:2].T), [torch.rand(3, 6)], torch.no_grad()) == linear(3, 6, 2)


def test_other_threads_are_not_counted() -> None:
    layer, x = nn.Linear(6, 4), torch.rand(3, 6)
    with torch.no_grad(), counting() as counter:
        other = threading.Thread(target=layer, args=(x,))
        other.start()
        other.join()
        assert counter.flops == 0
        layer(x)
    assert counter.flops == linear(3, 6, 4)

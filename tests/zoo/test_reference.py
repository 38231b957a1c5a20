"""The masked reference against networks that are built narrower, by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.networks.own import StandardisedConv
from tests.zoo.reference import in_double, masked, relative_difference

WIDTH, GONE = 12, [1, 2, 7, 9, 10]


class HandRMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32)
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class HandLayerNorm2d(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(width)), nn.Parameter(torch.rand(width))

    def forward(self, x: Tensor) -> Tensor:
        centre = x.mean(1, keepdim=True)
        spread = (x - centre).pow(2).mean(1, keepdim=True)
        return self.weight[:, None, None] * (x - centre) / (spread + 1e-6).sqrt() + self.bias[:, None, None]


class HandGRN(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(1, width, 1, 1)), nn.Parameter(torch.rand(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        size = x.norm(p=2, dim=(2, 3), keepdim=True)
        return x + self.weight * x * size / (size.mean(dim=1, keepdim=True) + 1e-6) + self.bias


class FunctionalNorm(nn.Module):
    """A norm without parameters; `width` only says that it has channels."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:])


class InTheMiddle(nn.Module):
    """Linear or convolution, a norm, and another; the channels between them may go."""

    def __init__(self, norm: Callable[[int], nn.Module], width: int, conv: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3) if conv else nn.Linear(3, width)
        self.norm, self.last = norm(width), nn.Conv2d(width, 4, 1) if conv else nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x))))


def narrow(thin: nn.Module, dense: nn.Module, gone: Sequence[tuple[str, int, Tensor]]) -> None:
    """Fills a narrower network with the entries of a wide one that stay."""
    tensors = dict(dense.state_dict())
    for name, dim, entries in gone:
        stays = [i for i in range(dense.state_dict()[name].shape[dim]) if i not in entries.tolist()]
        tensors[name] = tensors[name].index_select(dim, torch.tensor(stays))
    thin.load_state_dict(tensors)


NORMS: dict[str, tuple[Callable[[int], nn.Module], bool]] = {
    "nn.LayerNorm": (nn.LayerNorm, False),
    "nn.LayerNorm without weights": (lambda width: nn.LayerNorm(width, elementwise_affine=False), False),
    "F.layer_norm": (FunctionalNorm, False),
    "nn.RMSNorm": (nn.RMSNorm, False),
    "an RMS norm by hand": (HandRMSNorm, False),
    "nn.GroupNorm of one group": (lambda width: nn.GroupNorm(1, width), True),
    "a layer norm by hand": (HandLayerNorm2d, True),
    "a global response norm by hand": (HandGRN, True),
    "nn.BatchNorm2d": (nn.BatchNorm2d, True),
}


@pytest.mark.parametrize("name", NORMS)
def test_masked_is_what_a_narrower_network_computes_through_every_norm(name: str) -> None:
    norm, conv = NORMS[name]
    torch.manual_seed(0)
    dense, thin = (InTheMiddle(norm, width, conv).double().eval() for width in (WIDTH, WIDTH - len(GONE)))
    for tensor in (*dense.norm.parameters(), *(b for b in dense.norm.buffers() if b.is_floating_point())):
        nn.init.uniform_(tensor, 0.5, 1.5)
    entries = torch.tensor(GONE)
    gone = [("first.weight", 0, entries), ("first.bias", 0, entries), ("last.weight", 1, entries)]
    gone += [(f"norm.{key}", t.shape.index(WIDTH), entries) for key, t in dense.norm.state_dict().items() if t.ndim]
    narrow(thin, dense, gone)
    x = torch.randn(2, 3, 5, 5).double() if conv else torch.randn(2, 5, 3).double()
    with in_double(), torch.no_grad():
        assert relative_difference(thin(x), masked(dense, gone, x)) < 1e-12
        assert relative_difference(masked(dense, gone, x), dense(x)) > 1e-2


@pytest.mark.parametrize("gone", [[0, 1, 2, 3, 4, 5], [0, 7], [1, 2, 8, 10]])
def test_a_group_norm_loses_whole_groups_or_equally_many_of_each(gone: list[int]) -> None:
    torch.manual_seed(0)
    groups = 1 if len(gone) == 6 else 2
    dense = InTheMiddle(lambda width: nn.GroupNorm(2, width), WIDTH, True).double()
    thin = InTheMiddle(lambda width: nn.GroupNorm(groups, width), WIDTH - len(gone), True).double()
    entries = torch.tensor(gone)
    names = [("first.weight", 0), ("first.bias", 0), ("norm.weight", 0), ("norm.bias", 0), ("last.weight", 1)]
    rows = [(name, dim, entries) for name, dim in names]
    narrow(thin, dense, rows)
    x = torch.randn(2, 3, 5, 5).double()
    with torch.no_grad():
        assert relative_difference(thin(x), masked(dense, rows, x)) < 1e-12


def test_standardised_filters_are_standardised_over_the_inputs_that_stay() -> None:
    torch.manual_seed(0)

    def network(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, width, 3), StandardisedConv(width, 6, 3)).double()

    dense, thin, entries = network(WIDTH), network(WIDTH - len(GONE)), torch.tensor(GONE)
    rows = [("0.weight", 0, entries), ("0.bias", 0, entries), ("1.weight", 1, entries)]
    narrow(thin, dense, rows)
    x = torch.randn(2, 3, 9, 9).double()
    with torch.no_grad():
        assert relative_difference(thin(x), masked(dense, rows, x)) < 1e-12


def test_the_hidden_units_of_an_lstm_go_from_all_of_its_gates() -> None:
    torch.manual_seed(0)
    dense, thin = (nn.LSTM(3, hidden, batch_first=True).double() for hidden in (WIDTH, WIDTH - len(GONE)))
    gates = torch.cat([torch.tensor(GONE) + gate * WIDTH for gate in range(4)])
    rows = [(f"{kind}_{side}_l0", 0, gates) for kind in ("weight", "bias") for side in ("ih", "hh")]
    rows.append(("weight_hh_l0", 1, torch.tensor(GONE)))
    narrow(thin, dense, rows)
    x, stays = torch.randn(2, 5, 3).double(), [i for i in range(WIDTH) if i not in GONE]
    with torch.no_grad():
        assert relative_difference(thin(x)[0], masked(dense, rows, x)[0][..., stays]) < 1e-12


def test_the_dense_network_is_left_as_it_is() -> None:
    dense = InTheMiddle(nn.LayerNorm, WIDTH, False).double()
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    masked(dense, [("first.weight", 0, torch.tensor(GONE))], torch.randn(2, 3).double())
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())
    assert not any(module._forward_pre_hooks for module in dense.modules())


def test_outputs_that_are_empty_or_of_another_shape_are_no_agreement() -> None:
    for one, other in ((torch.empty(0, 4), torch.empty(0, 4)), (torch.ones(2, 3), torch.ones(3, 2))):
        with pytest.raises(AssertionError):
            relative_difference(one, other)
    assert relative_difference((torch.tensor([1.0, 2.0]), 3), (torch.tensor([1.0, 4.0]), 4)) == 0.5

from __future__ import annotations

import pytest
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

from autoprune.graph.layers import elementwise, followed_forward, layer_kind
from tests.graph.unusual_networks import BranchingConvolution, StandardisedConvolution


class Renamed(nn.Conv2d):
    """A subclass that changes nothing of what is computed."""


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.Conv1d(2, 2, 1), "convolution"), (Renamed(2, 2, 1), "convolution"),
        (nn.ConvTranspose2d(2, 2, 1), "transposed"), (nn.Linear(2, 2), "linear"),
        (nn.BatchNorm2d(2, affine=False), "per_channel"), (nn.PReLU(2), "per_channel"), (nn.PReLU(), None),
        (BranchingConvolution(2, 2, 1), None), (StandardisedConvolution(2, 2, 1), None),
        (weight_norm(nn.Linear(2, 2)), None), (nn.LazyLinear(2), None), (nn.GroupNorm(1, 2), None),
        (prune.l1_unstructured(nn.Linear(2, 2), "weight", 1), None),
    ],
)  # fmt: skip
def test_layers_are_followed_by_what_they_compute(module: nn.Module, kind: str | None) -> None:
    assert layer_kind(module) == kind


def test_a_subclass_with_a_forward_of_its_own_is_no_known_layer() -> None:
    class Normalising(nn.ReLU):
        def forward(self, input):  # type: ignore[no-untyped-def]
            return super().forward(input - input.mean(1))

    assert elementwise(nn.ReLU())
    assert elementwise(nn.PReLU())
    assert not elementwise(Normalising())
    assert not followed_forward(BranchingConvolution(2, 2, 1))

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune.errors import UserError
from autoprune.graph.layers import Layer
from autoprune.pruning.patterns import ELEMENT, block, filters, parse_pattern


def test_filters_of_a_transposed_convolution_are_its_output_channels() -> None:
    conv = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
    layer = Layer("x", "transposed", "ConvTranspose2d", torch.arange(4), torch.arange(6), groups=2)
    rows = filters(layer, conv.weight.detach())
    assert rows.shape == (6, 2, 3, 3)
    for out in range(6):
        changed = nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False)
        with torch.no_grad():
            changed.weight.zero_()
            group, within = divmod(out, 3)
            changed.weight[2 * group : 2 * group + 2, within] = rows[out]
        x = torch.randn(1, 4, 5, 5)
        torch.testing.assert_close(changed(x)[:, out], conv(x)[:, out])
        assert not changed(x)[:, [i for i in range(6) if i != out]].any()


def test_a_pattern_is_found_by_its_name() -> None:
    assert parse_pattern("element") is ELEMENT
    assert parse_pattern("block_1x1x8").name == "block_1x1x8"
    assert parse_pattern("block_3x3x2x4").name == "block_3x3x2x4"
    assert parse_pattern("block_3x3x2x1").name == "block_3x3x2"
    assert (parse_pattern("3:7").least, parse_pattern("3:7").grain) == (3, 1)
    assert (parse_pattern("2:8").least, parse_pattern("2:8").grain) == (2, 2)


@pytest.mark.parametrize("name", ["elements", "block_0x1x8", "block_1x1", "0:4", "2:4:8", "2: 4"])
def test_a_name_that_is_no_pattern_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="pattern"):
        parse_pattern(name)


@pytest.mark.parametrize("name", ["4:4", "5:4"])
def test_all_of_a_run_cannot_be_asked_to_stay(name: str) -> None:
    with pytest.raises(UserError, match=f"unknown pattern '{name}'.*N:M such as 1:4"):
        parse_pattern(name)


def test_blocks_refuse_kernels_of_three_dimensions() -> None:
    layer = Layer("deep", "convolution", "Conv3d", torch.arange(8), torch.arange(2))
    with pytest.raises(
        UserError, match="layer 'deep' has a weight of 5 axes; blocks are of convolutions of one or two"
    ):
        block(1, 1, 8).arrange(layer, torch.zeros(2, 8, 1, 1, 1))


def test_the_worked_example_of_a_block() -> None:
    layer = Layer("x", "convolution", "Conv2d", torch.arange(5), torch.arange(2))
    weight = torch.arange(2 * 5 * 1 * 2).view(2, 5, 1, 2)
    assert block(1, 1, 2).arrange(layer, weight)[0].tolist() == [
        [0, 2], [1, 3], [4, 6], [5, 7], [10, 12], [11, 13], [14, 16], [15, 17],
    ]  # fmt: skip

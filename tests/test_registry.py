from __future__ import annotations

import pytest

from autoprune.registry import block_shape, n_and_m


def test_a_block_states_height_width_depth_and_perhaps_filters() -> None:
    assert block_shape("block_1x1x8") == (1, 1, 8, 1)
    assert block_shape("block_3x3x16x4") == (3, 3, 16, 4)


@pytest.mark.parametrize(
    "text", ["block_1x1", "block_0x1x8", "block_1x1x8x", "1x1x8", "block_1x1x8x2x2", "block_-1x1x8"]
)
def test_other_text_is_no_block(text: str) -> None:
    assert block_shape(text) is None


def test_n_of_m_keeps_fewer_than_all() -> None:
    assert n_and_m("2:4") == (2, 4)
    assert n_and_m("3:16") == (3, 16)
    assert all(n_and_m(text) is None for text in ("4:4", "5:4", "0:4", "2:", ":4", "2-4", "element"))

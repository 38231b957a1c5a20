"""Which rule each function and method has, by its plain name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from autoprune.graph.rules import channel_layers, contractions, elementwise, recurrent, shapes
from autoprune.graph.rules.base import Rule

_POOLS = ("adaptive_avg", "adaptive_max", "avg", "lp", "max")
_CONVOLUTIONS = [f"conv{kind}{axes}d" for kind in ("", "_transpose") for axes in (1, 2, 3)]
_MATRIX_PRODUCTS = ("addmm", "baddbmm", "bmm", "matmul", "mm", "mv")
PRODUCTS = frozenset(("linear", "einsum", "scaled_dot_product_attention", *_MATRIX_PRODUCTS, *_CONVOLUTIONS))
_NORMS = "batch_norm group_norm instance_norm layer_norm normalize prelu rms_norm".split()

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(elementwise.ELEMENTWISE, elementwise.elementwise),
    **dict.fromkeys(elementwise.REDUCTIONS, elementwise.reduction),
    **dict.fromkeys(elementwise.ALONG_AXIS, elementwise.along_axis),
    **dict.fromkeys(shapes.STRUCTURAL, shapes.structural),
    **dict.fromkeys(shapes.CONCATENATIONS, shapes.cat),
    **dict.fromkeys(shapes.STACKS, shapes.stack),
    **dict.fromkeys(shapes.FILLED, shapes.filled),
    **dict.fromkeys(("channel_shuffle", "pixel_shuffle", "pixel_unshuffle"), shapes.structural),
    "pad": shapes.pad,
    "set_item": shapes.set_item,
    **dict.fromkeys(("index_add", "index_copy"), shapes.index_add),
    "linear": contractions.linear,
    **dict.fromkeys(_MATRIX_PRODUCTS, contractions.matmul),
    "mv": contractions.matrix_vector,
    "einsum": contractions.einsum,
    "scaled_dot_product_attention": contractions.attention,
    **dict.fromkeys(_CONVOLUTIONS, channel_layers.convolution),
    **dict.fromkeys(_NORMS, channel_layers.functional_norm),
    **dict.fromkeys(("gru_cell", "lstm_cell", "rnn_relu_cell", "rnn_tanh_cell"), recurrent.cell),
    "pack_padded_sequence": recurrent.pack,
    "pad_packed_sequence": recurrent.pad_packed,
    "embedding": channel_layers.functional_embedding,
    # What weight norm computes has the rows and columns of its direction; its norms are adapted when these go.
    "weight_norm": elementwise.elementwise,
    **{f"{name}_pool{axes}d": partial(channel_layers.spatial, positions=axes) for name in _POOLS for axes in (1, 2, 3)},
    **dict.fromkeys(("interpolate", "upsample"), channel_layers.spatial),
    **dict.fromkeys(("grid_sample", "ps_roi_align", "roi_align", "roi_pool"), channel_layers.read_at_positions),
}

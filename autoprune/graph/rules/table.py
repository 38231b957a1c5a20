"""Which rule each function and method has, by its plain name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import fx

from autoprune.graph.rules import channel_layers, contractions, elementwise, recurrent, shapes
from autoprune.graph.rules.base import Rule

# Packages whose functions are known by their names; another's own `pad` may do anything.
_LIBRARIES = frozenset("_operator aten builtins operator prims torch torchvision autoprune".split())
_POOLS = ("adaptive_avg", "adaptive_max", "avg", "lp", "max")
_CONVOLUTIONS = [f"conv{kind}{axes}d" for kind in ("", "_transpose") for axes in (1, 2, 3)]
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
    "linear": contractions.linear,
    **dict.fromkeys(("addmm", "baddbmm", "bmm", "matmul", "mm", "mv"), contractions.matmul),
    "einsum": contractions.einsum,
    "scaled_dot_product_attention": contractions.attention,
    **dict.fromkeys(_CONVOLUTIONS, channel_layers.convolution),
    **dict.fromkeys(_NORMS, channel_layers.functional_norm),
    **dict.fromkeys(("gru_cell", "lstm_cell", "rnn_relu_cell", "rnn_tanh_cell"), recurrent.cell),
    "embedding": channel_layers.functional_embedding,
    **{f"{name}_pool{axes}d": partial(channel_layers.spatial, positions=axes) for name in _POOLS for axes in (1, 2, 3)},
    **dict.fromkeys(("interpolate", "upsample"), channel_layers.spatial),
    **dict.fromkeys(("grid_sample", "ps_roi_align", "roi_align", "roi_pool"), channel_layers.read_at_positions),
}


def name_of(node: fx.Node) -> str:
    """Returns the plain name of the function or method that a node calls, without marks of places and order.

    That of a function that is not torch's has its module in front.
    """
    if node.op == "call_method":
        return str(node.target).strip("_")
    if node.target is getattr:
        return str(node.args[1])
    function = node.target
    name = str(getattr(function, "_opname", getattr(function, "__name__", function)))
    packet = getattr(function, "overloadpacket", None)
    if packet is not None:
        name = str(packet.__name__)
    module = getattr(function, "__module__", None) or "torch"
    known = module.replace("torch._ops.", "").partition(".")[0] in _LIBRARIES
    return name.strip("_") if known else f"{module}.{name}"

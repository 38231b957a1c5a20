"""Which operations on activations are understood, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

# Work on each value alone, or on values of the same place in several tensors.
ELEMENTWISE = frozenset(
    """
    abs add add_ celu celu_ clamp clamp_ clamp_max clamp_min clip clip_ clone contiguous cos detach div div_ dropout
    dropout1d dropout2d dropout3d dropout_ elu elu_ empty_like exp float floordiv full_like gelu half hardshrink
    hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ iadd imul isub itruediv leaky_relu leaky_relu_ log
    log1p logsigmoid maximum minimum mish mish_ mul mul_ multiply neg ones_like pow rand_like randn_like relu relu6
    relu6_ relu_ requires_grad_ rsqrt selu selu_ sigmoid sigmoid_ silu silu_ sin softplus softshrink softsign sqrt
    square stochastic_depth sub sub_ subtract tanh tanh_ tanhshrink to truediv type type_as zeros_like
    """.split()
)
# What makes a network nonlinear.
ACTIVATIONS = frozenset(
    """
    celu celu_ elu elu_ gelu hardshrink hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ leaky_relu
    leaky_relu_ logsigmoid mish mish_ prelu relu relu6 relu6_ relu_ selu selu_ sigmoid sigmoid_ silu silu_ softplus
    softshrink softsign tanh tanh_ tanhshrink
    """.split()
)
# Of these only the first argument passes its channels on.
OF_FIRST = frozenset("to type type_as".split())
# Work on positions within a channel, with the number of axes they work on (None: all behind the channels).
SPATIAL: Mapping[str, int | None] = {
    **{f"{name}_pool{n}d": n for name in ("adaptive_avg", "adaptive_max", "avg", "lp", "max") for n in (1, 2, 3)},
    "interpolate": None,
    "upsample": None,
}
# Reduce whole axes to one value.
REDUCTIONS = frozenset("amax amin mean sum std var".split())
# Move values without changing them; run on the ids themselves.
STRUCTURAL = frozenset(
    """
    chunk expand flatten flip getitem movedim permute reshape split squeeze stack swapaxes swapdims t transpose
    tensor_split unbind unflatten unsqueeze view
    """.split()
)
ADDITIONS = frozenset("add add_ iadd".split())
CONCATENATIONS = frozenset("cat concat concatenate".split())
# Make zeros of a given shape.
ZEROS = frozenset("new_zeros zeros".split())
# Per channel: an activation and vectors of one value per channel.
PER_CHANNEL = frozenset("batch_norm instance_norm prelu".split())
# Ask for the shape or the kind; the answer is no activation.
QUESTIONS = frozenset("dim getattr is_complex is_floating_point ndimension numel size".split())
# Where functions known by name come from; a user's own `pad` may do anything.
_LIBRARIES = frozenset("_operator builtins operator torch torchvision".split())
# Of what `getattr` reads from a tensor, that which tells its shape.
SHAPES = frozenset("ndim shape".split())


def name_of(node: fx.Node) -> str:
    """The plain name of the function or method that a node calls; a user's own function has its module before it."""
    if isinstance(node.target, str):
        return node.target
    name = str(getattr(node.target, "__name__", node.target))
    module = getattr(node.target, "__module__", None) or "torch"
    return name if module.partition(".")[0] in _LIBRARIES else f"{module}.{name}"


def arguments(node: fx.Node, names: tuple[str, ...]) -> dict[str, Any]:
    """A node's arguments by name, positional ones in the order of `names`."""
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def with_values(value: Any, values: Mapping[fx.Node, Any]) -> Any:
    """An argument with every node in it replaced by its value."""
    return fx.node.map_arg(value, lambda node: values[node])

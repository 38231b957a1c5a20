"""Simulates what a thinned network does between its layers, and rewrites arguments that name a channel count.

`simulate` runs the traced network on the channel ids that stay: every structural operation, its arguments rewritten,
must give exactly the ids that should stay behind it. No weight is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from autoprune.graph import layers
from autoprune.graph.channel_ids import compress, thin_ids
from autoprune.graph.channels import ChannelFlow
from autoprune.graph.rules import (
    CONCATENATIONS,
    ELEMENTWISE,
    FIRST_ARGUMENT_ONLY,
    SHAPE_ATTRIBUTES,
    STRUCTURAL,
    ZEROS,
    arguments,
    map_tensors,
    name_of,
    run_operation,
    with_values,
)

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]
"""Target, positional and keyword arguments of an operation."""


@dataclass
class Simulation:
    """What a thinned network would do.

    Attributes:
        calls: nodes whose target or arguments change, with the new ones.
        faults: nodes that cannot be made to fit, with the reason.
    """

    calls: dict[fx.Node, Call] = field(default_factory=dict)
    faults: dict[fx.Node, str] = field(default_factory=dict)


def simulate(flow: ChannelFlow, keep: Tensor) -> Simulation:
    """Follows the channels that stay through the network.

    Args:
        flow: the channels of the dense network.
        keep: `[ids]` whether each id stays; the same for tied ids.
    """
    result = Simulation()
    env: dict[fx.Node, Any] = {}
    for node in flow.traced.graph.nodes:
        if node not in flow.ids:
            env[node] = _recompute(node, env, flow)
            if node.op == "output" and (changed := _changed_numbers(node, env, flow)):
                result.faults[node] = f"the network returns {changed.name}, a channel count"
            continue
        env[node] = map_tensors(flow.ids[node], lambda ids: thin_ids(ids, keep))
        if any(ids is None for ids in tree_leaves(env[node])):
            result.faults[node] = f"what stays of {node.name} is no array"
        elif (fault := _check(node, env, flow, keep, result)) is not None:
            result.faults[node] = fault
        if node in result.faults:  # go on as if it were dense, so that one fault does not hide or cause others
            env[node] = flow.ids[node]
    return result


def _recompute(node: fx.Node, env: Mapping[fx.Node, Any], flow: ChannelFlow) -> Any:
    """Computes a shape, number or constant as the thinned network would."""
    known = node.op in ("call_function", "call_method") and bool(node.all_input_nodes)
    if not known or (name_of(node) == "getattr" and node.args[1] not in SHAPE_ATTRIBUTES):
        return flow.values[node]
    try:
        return run_operation(node.op, node.target, with_values(node.args, env), with_values(node.kwargs, env))
    except (RuntimeError, TypeError, IndexError, AttributeError, AssertionError, ValueError):
        return flow.values[node]


def _check(node: fx.Node, env: dict[fx.Node, Any], flow: ChannelFlow, keep: Tensor, result: Simulation) -> str | None:
    """Returns why a node does not fit the channels that stay, or None; records its call if it changes."""
    expected, name = env[node], name_of(node)
    if node.op == "call_module" and node not in flow.opaque:
        module = flow.traced.get_submodule(str(node.target))
        if layers.is_one_of(module, layers.STRUCTURAL):
            return _compare(lambda: module(*with_values(node.args, env)), expected)
    calls = node.op in ("call_function", "call_method") and node not in flow.opaque
    if calls and name in (STRUCTURAL | CONCATENATIONS):
        return _check_structural(node, env, flow, keep, result)
    if calls and name in ZEROS:
        return _check_zeros(node, env, result)
    if (changed := _changed_numbers(node, env, flow)) is not None:
        return f"{node.name} uses {changed.name}, a channel count"
    if calls and name in ELEMENTWISE - FIRST_ARGUMENT_ONLY:
        return _check_shapes(node, env, expected)
    return _check_pad(node, flow, keep, result) if calls and name == "pad" else None


def _changed_numbers(node: fx.Node, env: Mapping[fx.Node, Any], flow: ChannelFlow) -> fx.Node | None:
    """Finds an argument that is no activation and has another value in the thinned network, or None."""
    for source in node.all_input_nodes:
        plain = source not in flow.ids and isinstance(flow.values[source], (int, float, tuple, list, slice))
        if plain and env[source] != flow.values[source]:
            return source
    return None


def _check_structural(
    node: fx.Node, env: dict[fx.Node, Any], flow: ChannelFlow, keep: Tensor, result: Simulation
) -> str | None:
    name = name_of(node)
    plain: Call = (node.target, node.args, dict(node.kwargs))
    for call in (plain, _rewrite_call(node, name, env, flow, keep)):
        if call is None:
            continue
        target, args, kwargs = call
        op = node.op if target is node.target else "call_function"
        run = (op, target, with_values(args, env), with_values(kwargs, env))
        # Where positions are concatenated, the ids of the first part stand for all: tied, but other numbers.
        same = flow.channels.to_roots if name in CONCATENATIONS else None
        if _compare(partial(run_operation, *run), env[node], same) is None:
            if call is not plain:
                result.calls[node] = call
            return None
    return f"{node.name} ({name}) cannot be rewritten for fewer channels"


def _check_zeros(node: fx.Node, env: Mapping[fx.Node, Any], result: Simulation) -> str | None:
    """Checks that zeros have as many channels as stay: computed from shapes, or with the number rewritten."""
    first = 1 if node.op == "call_method" else 0
    nested = len(node.args) == first + 1 and isinstance(node.args[first], (tuple, list))
    sizes = list(node.args[first]) if nested else list(node.args[first:])  # type: ignore[arg-type]
    wanted = list(env[node].shape)
    if list(with_values(sizes, env)) == wanted:
        return None
    if len(sizes) == len(wanted) and not isinstance(sizes[1], fx.Node):
        sizes[1] = wanted[1]
        result.calls[node] = (node.target, (*node.args[:first], tuple(sizes)), dict(node.kwargs))
        if list(with_values(sizes, env)) == wanted:
            return None
    return f"{node.name} makes another number of channels"


def _check_shapes(node: fx.Node, env: Mapping[fx.Node, Any], expected: Tensor) -> str | None:
    shapes = [env[source].shape for source in node.all_input_nodes if isinstance(env.get(source), Tensor)]
    try:
        fits = bool(torch.broadcast_shapes(*shapes) == expected.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        fits = False
    return None if fits else f"{node.name} meets channels that do not match"


def _compare(run: Callable[[], Any], expected: Any, same: Callable[[Tensor], Tensor] | None = None) -> str | None:
    try:
        found, wanted = tree_leaves(run()), tree_leaves(expected)
    except (RuntimeError, TypeError, IndexError, AttributeError, ValueError) as fault:
        return str(fault)
    equal = len(found) == len(wanted) and all(
        a.shape == b.shape and (torch.equal(a, b) or (same is not None and torch.equal(same(a), same(b))))
        for a, b in zip(found, wanted, strict=True)
    )
    return None if equal else "other channels would stay"


def _check_pad(node: fx.Node, flow: ChannelFlow, keep: Tensor, result: Simulation) -> str | None:
    """Rewrites the padding of channels to those of the padded ones in front and behind that stay."""
    given = arguments(node, ("input", "pad", "mode", "value"))
    ids, source = flow.ids[node], flow.ids[given["input"]]
    pads = list(given["pad"])
    for dim in range(ids.dim()):
        at = 2 * (ids.dim() - 1 - dim)  # pads are pairs, from the last axis forwards
        if at + 1 >= len(pads) or compress(ids).size(dim) == 1:
            continue
        flat = compress(ids).flatten()
        front, size = pads[at], source.size(dim)
        pads[at] = int(keep[flat[:front]].sum())
        pads[at + 1] = int(keep[flat[front + size :]].sum())
    if tuple(pads) != tuple(given["pad"]):
        rest = {key: value for key, value in given.items() if key not in ("input", "pad")}
        result.calls[node] = (node.target, (given["input"], tuple(pads)), rest)
    return None


def _rewrite_call(node: fx.Node, name: str, env: Mapping[fx.Node, Any], flow: ChannelFlow, keep: Tensor) -> Call | None:
    """Returns the call with its channel counts replaced, or None where there are none to replace."""
    if name in ("view", "reshape", "expand"):
        return _rewrite_sizes(node, env[node])
    if name == "unflatten":
        given = arguments(node, ("input", "dim", "sizes"))
        dim = given["dim"] % flow.ids[given["input"]].dim()
        sizes = tuple(env[node].shape[dim : dim + len(given["sizes"])])
        return (node.target, (given["input"], given["dim"], sizes), {})
    if name in ("chunk", "split"):
        given = arguments(node, ("input", "sizes", "dim"))
        dim = given.get("dim", 0)
        return (torch.split, (given["input"], [part.size(dim) for part in env[node]], dim), {})
    return _rewrite_slices(node, flow, keep) if name == "getitem" else None


def _rewrite_sizes(node: fx.Node, expected: Tensor) -> Call | None:
    """Replaces numbers by the sizes that stay; -1 and what is computed from shapes remain."""
    first, *rest = node.args
    nested = len(rest) == 1 and isinstance(rest[0], (tuple, list))
    sizes = list(rest[0]) if nested else rest  # type: ignore[arg-type]
    if len(sizes) != expected.dim() or node.kwargs:
        return None
    new = tuple(
        size if isinstance(size, fx.Node) or size == -1 else expected.size(dim) for dim, size in enumerate(sizes)
    )
    return (node.target, (first, new) if nested else (first, *new), {})


def _rewrite_slices(node: fx.Node, flow: ChannelFlow, keep: Tensor) -> Call | None:
    """Replaces bounds of slices along channels by the number of channels that stay before them."""
    source, index = node.args
    ids = flow.ids.get(source)  # type: ignore[arg-type]
    items = list(index) if isinstance(index, tuple) else [index]
    if not isinstance(ids, Tensor) or any(item is None for item in items):
        return None
    if ... in items:
        at = items.index(...)
        items[at : at + 1] = [slice(None)] * (ids.dim() - len(items) + 1)
    small = compress(ids)
    new = []
    for dim, item in enumerate(items):
        if not isinstance(item, slice) or small.size(dim) == 1:
            new.append(item)
            continue
        bounds = (item.start, item.stop, item.step)
        if item.step not in (None, 1) or not all(bound is None or isinstance(bound, int) for bound in bounds):
            return None
        stays = keep[small].movedim(dim, 0).flatten(1).any(1) if small.dim() > 1 else keep[small]
        start, stop, _ = item.indices(ids.size(dim))
        new.append(slice(int(stays[:start].sum()), int(stays[:stop].sum())))
    return (node.target, (source, tuple(new)), {})

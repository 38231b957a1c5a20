"""Simulates what a thinned network does between its layers, and finds what has to change so that it does.

`simulate` follows the channel ids that stay through what was recorded: every structural operation must give exactly the
ids that should stay behind it. Where a number does not fit any more, the attribute of a module that it came from gets
another value (`num_heads`); where none states it, the call's arguments are rewritten. No weight is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from autoprune.graph.channel_ids import ChannelIds, axes_of, thin_ids
from autoprune.graph.channels import ChannelFlow, FollowedRun
from autoprune.graph.recording.module_graphs import Call, ModuleGraph, NotSeparable, extract_module
from autoprune.graph.rules import shapes
from autoprune.graph.rules.base import Activation, activations_in, map_activations, name_of
from autoprune.graph.rules.channel_layers import order_of, whole_groups

_PADDED = -1
"""No channel's id."""
_MOVING = shapes.STRUCTURAL | {"channel_shuffle", "pixel_shuffle", "pixel_unshuffle"}
_FAULTS = (RuntimeError, TypeError, IndexError, AttributeError, ValueError, NotImplementedError, ZeroDivisionError)


@dataclass
class Simulation:
    """What a thinned network would do.

    Attributes:
        calls: operations whose target or arguments change, with the new ones.
        attributes: qualified names of modules' integer attributes that change, with their values.
        faults: operations that cannot be made to fit, with the reason.
        activations: operation to what stays of its activation.
        changed: operations that compute a plain number or a truth value, which is another one.
        written: qualified names of modules whose forward has to be written anew, with what they do in each mode.
    """

    calls: dict[fx.Node, Call] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    faults: dict[fx.Node, str] = field(default_factory=dict)
    activations: dict[fx.Node, Any] = field(default_factory=dict)
    changed: list[fx.Node] = field(default_factory=list)
    written: dict[str, dict[bool, ModuleGraph]] = field(default_factory=dict)


def simulate(flow: ChannelFlow, keep: Tensor) -> Simulation:
    """Follows the channels that stay through the network.

    Args:
        flow: the channels of the dense network.
        keep: `[ids]` whether each id stays; the same for tied ids.
    """
    attributes: dict[str, Any] = {}
    while True:
        before, result = dict(attributes), Simulation(attributes=attributes)
        for run in flow.runs:
            simulator = _Simulator(run, flow.channels, keep, attributes)
            simulator.run()
            attributes |= simulator.attributes
            result.calls |= simulator.calls
            result.faults |= simulator.faults
            result.activations |= simulator.env
            result.changed += simulator.changed
        if attributes == before:
            _write_modules(flow, result)
            return result


def _write_modules(flow: ChannelFlow, result: Simulation) -> None:
    """Extracts the smallest modules around calls that change and around numbers that the user's code goes on with."""
    for run in flow.runs:
        recording = run.recording
        blame: dict[str, fx.Node] = {}
        for node in (*result.calls, *result.changed):
            if node in recording.sites:
                blame.setdefault(recording.sites[node].scope, node)
        for scope, node in blame.items():
            try:
                _write_module(scope, flow, result)
            except NotSeparable as reason:
                line = recording.sites[node].line
                result.faults[node] = f"{reason}; {line} counts channels"


def _write_module(scope: str, flow: ChannelFlow, result: Simulation) -> None:
    """Extracts what a module does in each mode.

    Raises:
        NotSeparable: it cannot be told apart, or does not do the same in all runs in a mode.
    """
    written: dict[bool, ModuleGraph] = {}
    for run in flow.runs:
        if scope in run.recording.varying:
            line = run.recording.varying[scope] or "what it is given"
            raise NotSeparable(f"{line} has a plain number that is another one in other runs, as that of samples is")
    for recording in (run.recording for run in flow.runs):
        if not any(call.name == scope for call in recording.calls):
            continue
        part = extract_module(recording, scope, result.calls)
        if str(written.setdefault(recording.training, part).graph) != str(part.graph):
            raise NotSeparable(f"{scope or 'the network'} does different things with other values")
    result.written[scope] = written


class _Simulator:
    """One pass over the operations of a run with some values of attributes."""

    def __init__(self, run: FollowedRun, channels: ChannelIds, keep: Tensor, attributes: Mapping[str, Any]) -> None:
        self._flow, self._channels, self._keep, self._given = run, channels, keep, attributes
        self.attributes: dict[str, Any] = dict(attributes)
        self.calls: dict[fx.Node, Call] = {}
        self.faults: dict[fx.Node, str] = {}
        self.changed: list[fx.Node] = []
        self.env: dict[fx.Node, Any] = {}

    def run(self) -> None:
        flow = self._flow
        for node in flow.recording.graph.nodes:
            dense = flow.activations.get(node)
            if dense is None:
                self.env[node] = self._recompute(node)
                if node.op == "output" and (changed := self._changed_number(node)):
                    self.faults[node] = f"the network returns {changed.name}, a channel count"
                continue
            self.env[node] = map_activations(dense, self._thin)
            if isinstance(dense, Activation) and not dense.ids and self._is_computed(node, dense):
                self.env[node] = self._computed(node, dense)
                continue
            if any(each is None for each in _flat(self.env[node])):
                self.faults[node] = f"what stays of {node.name} is no array"
            elif (fault := self._check(node)) is not None:
                self.faults[node] = fault
            if node in self.faults:  # go on as if it were dense, so that one fault does not hide or cause others
                self.env[node] = dense

        values = flow.recording.values
        self.changed = [node for node in flow.recording.observed if self.env[node] != values[node]]

    def _thin(self, dense: Activation) -> Activation | None:
        shape, arrays = list(dense.shape), thin_ids(dense.ids, self._keep)
        if arrays is None:
            return None
        for ids, small in zip(dense.ids, arrays, strict=True):
            for axis in axes_of(ids):
                shape[axis] = small.size(axis)
        return Activation(torch.Size(shape), tuple(arrays))

    def _is_computed(self, node: fx.Node, dense: Activation) -> bool:
        """Tells whether a tensor of no channels is empty, or computed from shapes, as the numbers of all channels."""
        recording = self._flow.recording
        numbers = node in recording.kept and node not in recording.reached
        return bool(node.all_input_nodes) and node.op != "call_module" and (numbers or not dense.shape.numel())

    def _computed(self, node: fx.Node, dense: Activation) -> Activation:
        """Returns what an operation makes of what it is given in the thinned network."""
        try:
            found = self._evaluate(node.op, node.target, node.args, node.kwargs)
        except _FAULTS:
            return dense
        return Activation(found.shape) if isinstance(found, Tensor) else dense

    def _recompute(self, node: fx.Node) -> Any:
        """Computes a number or a shape as the thinned network would."""
        dense = self._flow.recording.values.get(node)
        if node.op == "get_attr":
            return self._given.get(str(node.target), dense) if isinstance(dense, int) else dense
        if node.op not in ("call_function", "call_method") or not node.all_input_nodes:
            return dense
        try:
            return self._evaluate(node.op, node.target, node.args, node.kwargs)
        except _FAULTS:
            return dense

    def _evaluate(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        """Runs a call on numbers, and on empty tensors in place of activations."""
        args, kwargs = fx.node.map_arg((args, dict(kwargs)), self._blank)
        if kind == "call_method":
            method = "reshape" if target == "view" else target
            return getattr(args[0], method)(*args[1:], **kwargs)
        return target(*args, **kwargs)

    def _blank(self, node: fx.Node) -> Any:
        value = self.env[node]
        kept = self._flow.recording.kept
        if node in kept and isinstance(value, Activation) and not value.ids:
            if self._is_computed(node, value):
                with suppress(*_FAULTS):
                    return self._evaluate(node.op, node.target, node.args, node.kwargs)
            return kept[node]
        return map_activations(value, lambda each: torch.zeros(1).expand(each.shape))

    def _check(self, node: fx.Node) -> str | None:
        """Returns why an operation does not fit the channels that stay, or None; records what has to change for it."""
        if all(self._is_dense(each) for each in (node, *node.all_input_nodes)):
            return None
        if node.op not in ("call_function", "call_method") or node in self._flow.opaque:
            changed = self._changed_number(node)
            return None if changed is None else f"{node.name} uses {changed.name}, a channel count"
        name = name_of(node)
        plain: Call = (node.target, node.args, dict(node.kwargs))
        fits = self._checker(node, name)
        if fits is None:
            changed = self._changed_number(node)
            if changed is not None:
                return f"{node.name} uses {changed.name}, a channel count"
            return self._check_shapes(node)
        if fits(plain):
            return None
        if self._solve_attribute(node, plain, fits):
            return None
        call = self._rewritten(node, name)
        if call is not None and fits(call):
            self.calls[node] = call
            return None
        return f"{node.name} ({name}) cannot be rewritten for fewer channels"

    def _is_dense(self, node: fx.Node) -> bool:
        """Tells whether nothing of a node's value goes."""
        dense = self._flow.activations.get(node)
        if dense is None:
            return bool(self.env[node] == self._flow.recording.values.get(node)) if node in self.env else True
        pairs = zip(activations_in(self.env[node]), activations_in(dense), strict=True)
        return all(small.shape == whole.shape for small, whole in pairs)

    def _checker(self, node: fx.Node, name: str) -> Callable[[Call], bool] | None:
        """Returns what tells whether a call of an operation gives what should stay; None where numbers have no say."""
        if name in _MOVING:
            return lambda call: self._moves(node, call)
        if name == "set_item":
            return lambda call: self._writes(node, call)
        if name in shapes.CONCATENATIONS | shapes.STACKS:
            return lambda call: self._has_shape(node, call)
        if name in shapes.FILLED:
            return lambda call: self._has_shape(node, call)
        if name == "pad":
            return lambda call: self._has_shape(node, call) and self._pads(node, call)
        if name in ("layer_norm", "rms_norm", "group_norm") or name.startswith("conv"):
            wanted = self._wanted_number(node, name)
            return None if wanted is None else lambda call: self._number_fits(call, name, wanted)
        return None

    def _changed_number(self, node: fx.Node) -> fx.Node | None:
        """Finds an argument that is no activation and has another value in the thinned network, or None."""
        values = self._flow.recording.values
        for source in node.all_input_nodes:
            plain = source not in self._flow.activations and isinstance(values[source], (int, float, tuple, list))
            if plain and self.env[source] != values[source]:
                return source
        return None

    def _check_shapes(self, node: fx.Node) -> str | None:
        name, expected = name_of(node), self.env[node]
        if not isinstance(expected, Activation) or name not in _BROADCASTING:
            return None
        sizes = [each.shape for source in node.all_input_nodes for each in activations_in(self.env[source])]
        try:
            fits = bool(torch.broadcast_shapes(*sizes) == expected.shape)  # type: ignore[no-untyped-call]
        except RuntimeError:
            fits = False
        return None if fits else f"{node.name} meets channels that do not match"

    # What a call gives

    def _has_shape(self, node: fx.Node, call: Call) -> bool:
        try:
            with torch.device("meta"):
                target, args, kwargs = call
                kwargs = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory")}
                found = self._evaluate(_kind(node, target), target, args, kwargs)
        except _FAULTS:
            return False
        return isinstance(found, Tensor) and found.shape == self.env[node].shape

    def _moves(self, node: fx.Node, call: Call) -> bool:
        """Tells whether a structural call on the ids that stay gives those that should stay behind it."""
        source = next((each for each in node.all_input_nodes if isinstance(self.env[each], Activation)), None)
        if source is None:
            return True
        before, expected = self.env[source], self.env[node]
        target, args, kwargs = call
        try:
            found = self._evaluate(_kind(node, target), target, args, kwargs)
        except _FAULTS:
            return False
        if not _same(found, expected, lambda tensor, wanted: tensor.shape == wanted.shape):
            return False
        dense: Activation = self._flow.activations[source]
        for ids, small in zip(dense.ids, before.ids, strict=True):
            at = next(i for i, each in enumerate(dense.ids) if each is ids)
            if not self._moves_ids(node, call, source, small.expand(before.shape), expected, at):
                return False
        return True

    def _moves_ids(self, node: fx.Node, call: Call, source: fx.Node, ids: Tensor, expected: Any, at: int) -> bool:
        target, args, kwargs = call
        args, kwargs = fx.node.map_arg((args, kwargs), lambda each: ids if each is source else self._blank(each))
        try:
            if _kind(node, target) == "call_method":
                found = getattr(args[0], "reshape" if target == "view" else target)(*args[1:], **kwargs)
            else:
                found = target(*args, **kwargs)
        except _FAULTS:
            return False
        roots = self._channels

        def holds(tensor: Tensor, wanted: Activation) -> bool:
            own = roots.rooted(tensor)
            if not axes_of(own):
                return True
            return any(
                torch.equal(own.expand(wanted.shape), roots.rooted(each).expand(wanted.shape)) for each in wanted.ids
            )

        return _same(found, expected, holds)

    def _pads(self, node: fx.Node, call: Call) -> bool:
        """Tells whether the channels that stay of what is padded lie where they should: as many stay before them."""
        _, args, kwargs = call
        given = {**dict(zip(("input", "pad"), args, strict=False)), **kwargs}
        before, expected = self.env[given["input"]], self.env[node]
        wanted = [self._channels.rooted(ids).expand(expected.shape) for ids in expected.ids]
        for ids in before.ids:
            own = F.pad(self._channels.rooted(ids).expand(before.shape), self._number(given["pad"]), value=_PADDED)
            if not any(torch.equal(own, torch.where(own == _PADDED, _PADDED, each)) for each in wanted):
                return False
        return True

    def _writes(self, node: fx.Node, call: Call) -> bool:
        """Tells whether what is written fits into the part of a tensor that it is written into."""
        target, index, value = call[1]
        dense: Activation = self._flow.activations[node]
        values = self._flow.recording.values
        written = (
            self.env[value].shape if isinstance(value, fx.Node) and value in self._flow.activations else torch.Size()
        )
        try:
            before = self.env[target]
            part = torch.zeros(1).expand(before.shape)[self._number(index)].shape
            if torch.broadcast_shapes(part, written) != part:  # type: ignore[no-untyped-call]
                return False
            plain = fx.node.map_arg(node.args[1], values.get)
            parts = [ids.expand(dense.shape)[plain] for ids in self._flow.activations[target].ids]
            expected = thin_ids(parts, self._keep)
            found = [ids.expand(before.shape)[self._number(index)] for ids in before.ids]
            if expected is None or not all(map(torch.equal, found, expected)):
                return False
        except _FAULTS:
            return False
        return True

    def _wanted_number(self, node: fx.Node, name: str) -> Any:
        """Returns what the number of channels or groups in a call has to be; None where it has no say."""
        source = next(self.env[each] for each in node.all_input_nodes if isinstance(self.env[each], Activation))
        given = _arguments(node, _ORDERS.get(name, order_of(name)))
        if name in ("layer_norm", "rms_norm"):
            dense = fx.node.map_arg(given["normalized_shape"], self._flow.recording.values.get)
            rank = len(dense) if isinstance(dense, (tuple, list)) else 1
            return tuple(source.shape[-rank:])
        before: Activation = self._flow.activations[node.args[0]] if isinstance(node.args[0], fx.Node) else source
        dense = fx.node.map_arg(given.get("num_groups", given.get("groups", 1)), self._flow.recording.values.get)
        if dense == 1:
            return None
        if name == "group_norm":
            channels = before.shape[1]
            return dense * source.shape[1] // channels if whole_groups(dense, channels) else dense
        axis = len(before.shape) - 1 - int(name[-2])
        return source.shape[axis] if dense == before.shape[axis] else dense

    def _number_fits(self, call: Call, name: str, wanted: Any) -> bool:
        _, args, kwargs = call
        order = _ORDERS.get(name, order_of(name))
        given = {**dict(zip(order, args, strict=False)), **kwargs}
        found = fx.node.map_arg(given[_NUMBERS.get(name, "groups")], lambda node: self.env[node])
        return bool((tuple(found) if isinstance(found, (tuple, list)) else found) == wanted)

    # What may change

    def _solve_attribute(self, node: fx.Node, call: Call, fits: Callable[[Call], bool]) -> bool:
        """Finds another value for an attribute among a call's numbers with which the call fits."""
        leaves = dict.fromkeys(leaf for source in node.all_input_nodes for leaf in self._attributes_in(source))
        dense_shapes = [each.shape for each in activations_in(self._flow.activations[node])]
        thin_shapes = [each.shape for each in activations_in(self.env[node])]
        for leaf in leaves:
            before = self._flow.recording.values[leaf]
            name = str(leaf.target)
            candidates = dict.fromkeys(
                before * small // size
                for dense, thin in zip(dense_shapes, thin_shapes, strict=True)
                for size, small in zip(dense, thin, strict=False)
                if small < size and before * small % size == 0
            )
            for value in candidates:
                if self.attributes.get(name, value) != value:
                    continue
                if self._fits_with(name, value, call, fits):
                    self.attributes[name] = value
                    return True
        return False

    def _attributes_in(self, node: fx.Node) -> Iterator[fx.Node]:
        if node in self._flow.activations:
            return
        if node.op == "get_attr" and isinstance(self._flow.recording.values.get(node), int):
            yield node
        for source in node.all_input_nodes:
            yield from self._attributes_in(source)

    def _fits_with(self, name: str, value: int, call: Call, fits: Callable[[Call], bool]) -> bool:
        given, env = self._given, dict(self.env)
        self._given = {**given, name: value}
        try:
            for node in self._flow.recording.graph.nodes:
                if node in env and node not in self._flow.activations and node.op != "output":
                    self.env[node] = self._recompute(node)
            return fits(call)
        finally:
            self._given, self.env = given, env

    def _rewritten(self, node: fx.Node, name: str) -> Call | None:
        """Returns the call with its channel counts replaced, or None where there are none to replace."""
        expected = self.env[node]
        if name in ("view", "reshape", "expand"):
            return _rewrite_sizes(node, expected, self._number)
        if name == "unflatten":
            given = _arguments(node, ["input", "dim", "sizes"])
            dim = self._number(given["dim"]) % len(self.env[given["input"]].shape)
            sizes = tuple(expected.shape[dim : dim + len(given["sizes"])])
            return (node.target, (given["input"], given["dim"], sizes), {})
        if name in ("chunk", "split", "split_with_sizes"):
            given = _arguments(node, ["input", "sizes", "dim"])
            dim = self._number(given.get("dim", 0))
            return (torch.split, (given["input"], [part.shape[dim] for part in expected], dim), {})
        if name in ("getitem", "set_item"):
            return self._rewrite_slices(node)
        if name == "pad":
            return self._rewrite_pad(node)
        if name in shapes.FILLED:
            return _rewrite_filled(node, expected, self._number)
        if name in _NUMBERS or name.startswith("conv"):
            order = _ORDERS.get(name, order_of(name))
            given = _arguments(node, order)
            key = _NUMBERS.get(name, "groups")
            return (
                node.target,
                (),
                {**{_KEYWORDS.get(k, k): v for k, v in given.items()}, key: self._wanted_number(node, name)},
            )
        return None

    def _number(self, argument: Any) -> Any:
        return fx.node.map_arg(argument, lambda node: self.env[node])

    def _rewrite_slices(self, node: fx.Node) -> Call | None:
        """Replaces bounds of slices along channels by the number of channels that stay before them."""
        source, index, *value = node.args
        dense = self._flow.activations.get(source)  # type: ignore[arg-type]
        items = list(index) if isinstance(index, tuple) else [index]
        if not isinstance(dense, Activation) or any(item is None for item in items):
            return None
        rank = len(dense.shape)
        if ... in items:
            at = items.index(...)
            items[at : at + 1] = [slice(None)] * (rank - len(items) + 1)
        new = []
        for dim, item in enumerate(items):
            along = dense.along(dim)
            if not isinstance(item, slice) or not along:
                new.append(item)
                continue
            bounds = [fx.node.map_arg(each, self._flow.recording.values.get) for each in (item.start, item.stop)]
            if item.step not in (None, 1) or not all(each is None or isinstance(each, int) for each in bounds):
                return None
            stays = torch.stack(
                [
                    self._keep[ids].movedim(dim, 0).flatten(1).any(1) if ids.dim() > 1 else self._keep[ids]
                    for ids in along
                ]
            ).all(0)
            start, stop, _ = slice(*bounds).indices(dense.shape[dim])
            new.append(slice(int(stays[:start].sum()), int(stays[:stop].sum())))
        return (node.target, (source, tuple(new), *value), {})

    def _rewrite_pad(self, node: fx.Node) -> Call | None:
        """Rewrites the padding of channels to those of the padded ones in front and behind that stay."""
        given = _arguments(node, ["input", "pad", "mode", "value"])
        dense, source = self._flow.activations[node], self._flow.activations[given["input"]]
        pads = list(given["pad"])
        rank = len(dense.shape)
        for ids in dense.ids:
            for dim in axes_of(ids):
                at = 2 * (rank - 1 - dim)  # pads are pairs, from the last axis forwards
                if at + 1 >= len(pads):
                    continue
                flat, size = ids.flatten(), source.shape[dim]
                front = fx.node.map_arg(pads[at], self._flow.recording.values.get)
                pads[at] = int(self._keep[flat[:front]].sum())
                pads[at + 1] = int(self._keep[flat[front + size :]].sum())
        rest = {key: value for key, value in given.items() if key not in ("input", "pad")}
        return (node.target, (given["input"], tuple(pads)), rest)


def _rewrite_sizes(node: fx.Node, expected: Activation, number: Callable[[Any], Any]) -> Call | None:
    """Replaces numbers by the sizes that stay; -1 and what is computed from shapes remain where they fit."""
    first, *rest = node.args
    nested = len(rest) == 1 and isinstance(rest[0], (tuple, list))
    sizes = list(rest[0]) if nested else rest  # type: ignore[arg-type]
    if len(sizes) != len(expected.shape) or node.kwargs:
        return None
    new = tuple(
        size if number(size) in (-1, expected.shape[dim]) else expected.shape[dim] for dim, size in enumerate(sizes)
    )
    return (node.target, (first, new) if nested else (first, *new), {})


def _rewrite_filled(node: fx.Node, expected: Activation, number: Callable[[Any], Any]) -> Call | None:
    first = 1 if node.op == "call_method" else 0
    nested = len(node.args) > first and isinstance(node.args[first], (tuple, list))
    sizes = list(node.args[first]) if nested else list(node.args[first:])  # type: ignore[arg-type]
    if len(sizes) != len(expected.shape):
        return None
    new = tuple(size if number(size) == expected.shape[dim] else expected.shape[dim] for dim, size in enumerate(sizes))
    return (node.target, (*node.args[:first], new, *(node.args[first + 1 :] if nested else ())), dict(node.kwargs))


def _arguments(node: fx.Node, names: list[str]) -> dict[str, Any]:
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _kind(node: fx.Node, target: Any) -> str:
    return node.op if target is node.target else "call_function"


def _flat(value: Any) -> list[Any]:
    return [each for item in value for each in _flat(item)] if isinstance(value, list) else [value]


def _same(found: Any, expected: Any, alike: Callable[[Tensor, Activation], bool]) -> bool:
    if isinstance(expected, Activation):
        return isinstance(found, Tensor) and alike(found, expected)
    if isinstance(expected, list):
        many = isinstance(found, (tuple, list)) and len(found) == len(expected)
        return many and all(_same(one, other, alike) for one, other in zip(found, expected, strict=True))
    return True


_ORDERS = {
    "layer_norm": "input normalized_shape weight bias eps".split(),
    "rms_norm": "input normalized_shape weight eps".split(),
    "group_norm": "input num_groups weight bias eps".split(),
}
_NUMBERS = {"layer_norm": "normalized_shape", "rms_norm": "normalized_shape", "group_norm": "num_groups"}
_KEYWORDS: dict[str, str] = {}
_BROADCASTING = frozenset("add div maximum minimum mul sub true_divide where addcmul addcdiv lerp".split())

"""Captures what a network does by running it once: a graph of the operations that were really called.

A copy of the network runs on example inputs under a recorder of torch's functions. Layers that are understood as a
whole (convolutions, norms, recurrent layers …) are one operation each; everything else is what was called, down to
`linear(x, self.weight)`. Whatever runs can be recorded: questions about shapes, loops, branches, decorators, hooks.
Sizes and modules' integer attributes are recorded with where they came from (see `tracked_ints`).
"""

from __future__ import annotations

import contextlib
import copy
import operator
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from autoprune.errors import TaskError
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.layers import is_understood, qualified_name
from autoprune.graph.modules.attention import make_prunable
from autoprune.graph.recording.randomness import same_numbers, seeded
from autoprune.graph.recording.recordings import CallSite, ModuleCall, Recording
from autoprune.graph.recording.running import copy_of, held_tensors, run, users_line
from autoprune.graph.recording.tracked_ints import Attribute, Computed, Origin, Size, TrackedInt
from autoprune.graph.recording.values import is_nest, is_of_shapes, leaves_of, shapes_of

_KEPT_ENTRIES = 2**20
"""Integer and boolean results of at most so many entries are kept, as indices among them decide where channels go."""
_LEAVING = frozenset("__bool__ __float__ __index__ __int__ allclose equal item numpy tolist".split())
"""Calls by which an activation's values leave torch."""


def record(
    network: nn.Module, inputs: ModelInputs, training: bool = False, seed: int = 0, runs_before: int = 0
) -> Recording:
    """Records what a network does with some inputs.

    Args:
        network: is not changed; a copy of it runs.
        inputs: whatever it takes; a few samples.
        training: whether it runs in training mode.
        seed: of its random numbers, see `same_numbers`.
        runs_before: how often it runs on them before it is recorded.

    Raises:
        TaskError: the network cannot be copied, or its forward fails on these inputs.
    """
    with copy_of(network) as copied, torch.no_grad(), same_numbers(seed):
        for module in copied.modules():
            module.training = training
        for _ in range(runs_before):
            run(copied, inputs.clone())
        recorder = _Recorder(network, copied)
        recorder.recording.training = training
        with recorder.hooked():
            given = inputs.clone()
            recorder.add_inputs(given)
            with _StrayOperators(recorder), recorder:
                output = run(copied, given, lambda: recorder.failed)
        return recorder.finish(output)


def run_repeatedly(network: nn.Module, inputs: ModelInputs) -> list[list[Tensor]]:
    """Returns the tensors of a network's output when it runs twice, with other random numbers; less where it fails.

    Args:
        network: is not changed; a copy of it runs, in evaluation mode.
        inputs: whatever it takes.
    """
    found: list[list[Tensor]] = []
    with copy_of(network) as copied, torch.no_grad(), contextlib.suppress(TaskError):
        copied.eval()
        for seed in (1, 2):
            with seeded(seed):
                output = run(copied, inputs.clone())
            found.append([leaf for leaf in leaves_of(output, objects=False) if isinstance(leaf, Tensor)])
    return found


class _Recorder(TorchFunctionMode):
    """Records calls of torch's functions and of understood modules as an `fx.Graph`.

    Attributes:
        failed: name of the innermost module that raised.
    """

    def __init__(self, network: nn.Module, copied: nn.Module) -> None:
        super().__init__()
        self._network, self._copied = network, copied
        self.recording = Recording(fx.Graph(), fx.GraphModule(nn.Module(), fx.Graph()))
        self.graph = self.recording.graph
        self.failed = ""
        self._thread = threading.get_ident()
        self._depth = 0
        self._scopes = [""]
        self._nodes = WeakTensorKeyDictionary()
        self._read: dict[str, fx.Node] = {}
        self._constants: list[Any] = []
        self._names: dict[int, str] = {}
        for name, tensor in held_tensors(copied):
            self._names.setdefault(id(tensor), name)
        self._parts: dict[fx.Node, dict[int, fx.Node]] = {}
        self._observed: dict[Any, fx.Node] = {}
        self._attributes: dict[str, Any] = {}

    # What runs

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Gives every module of the copy a `forward` that says when it runs, and tracks its integer attributes."""
        for name, module in self._copied.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            if type(module) is nn.MultiheadAttention:
                make_prunable(module)  # it does the same by operations that can be followed
            understood = is_understood(module) and name != ""
            module.__dict__["forward"] = partial(self._forward, name, module.forward, understood)
            if module._forward_hooks or module._forward_pre_hooks:
                module.__dict__["_call_impl"] = partial(self._hooked_call, name, module._call_impl)
            if not understood:
                self._track_attributes(name, module)
        yield

    def _track_attributes(self, name: str, module: nn.Module) -> None:
        for key, value in list(module.__dict__.items()):
            if key.startswith("_") or key == "training":
                continue
            attribute = qualified_name(name, key)
            self._attributes[attribute] = value
            if type(value) is int:
                module.__dict__[key] = TrackedInt(value, Attribute(attribute), self)
            elif type(value) in (list, tuple) and value and all(type(each) is int for each in value):
                tracked = (TrackedInt(v, Attribute(attribute, i), self) for i, v in enumerate(value))
                module.__dict__[key] = type(value)(tracked)

    def _forward(self, name: str, forward: Callable[..., Any], whole: bool, *args: Any, **kwargs: Any) -> Any:
        if self._paused():
            return forward(*args, **kwargs)
        self.recording.modules.add(name)
        self._scopes.append(name)
        try:
            if not whole:
                return self._inside(name, forward, args, kwargs)
            return self._call(lambda: forward(*args, **kwargs), args, kwargs, partial(self.graph.call_module, name))
        except BaseException:
            self.failed = self.failed or name
            raise
        finally:
            self._scopes.pop()

    def _hooked_call(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Runs a module with its hooks, which belong to the call and not to what calls it."""
        if self._paused():
            return call(*args, **kwargs)
        return self._inside(name, call, args, kwargs, with_hooks=True)

    def _inside(self, name: str, forward: Callable[..., Any], args: Any, kwargs: Any, with_hooks: bool = False) -> Any:
        """Runs a module whose operations are recorded one by one, and remembers what it was called with."""
        with self.paused():
            given = self.argument(tuple(args)), self.argument(dict(kwargs))
            start = len(self.graph.nodes)
        result = forward(*args, **kwargs)
        with self.paused():
            returned = self.argument(result)
            stop = len(self.graph.nodes)
        self.recording.calls.append(ModuleCall(name, *given, returned, start, stop, with_hooks))
        return result

    def observe(self, origin: Computed) -> None:
        """Notes a plain number or truth value that was computed from tracked ones, once for each place."""
        if self._paused():
            return
        with self.paused():
            place = (self._scopes[-1], origin)
            if place not in self._observed:
                self._observed[place] = self._number(origin)
                self.recording.observed.append(self._observed[place])

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._paused():
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__", "__delete__"):
            attribute = getattr(func.__self__, "__name__", "")
            if name != "__get__":
                return self._call(lambda: func(*args, **kwargs), args[:1], {}, self._function(_written))
            return self._call(lambda: func(*args), (args[0], attribute), {}, self._function(getattr))
        if name == "__setitem__":
            return self._call(lambda: _set_item(*args, **kwargs), args, kwargs, self._function(_set_item))
        if name == "__getitem__":
            return self._call(lambda: func(*args, **kwargs), args, kwargs, self._function(operator.getitem))
        method = isinstance(getattr(Tensor, name, None), type(func)) and getattr(Tensor, name, None) is func
        create = partial(self.graph.call_method, name) if method else self._function(func)
        return self._call(lambda: func(*args, **kwargs), args, kwargs, create)

    def stray(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Records an operator that no function of torch's led to: called by a script, or an extension."""
        if self._paused():
            return func(*args, **kwargs)
        return self._call(lambda: func(*args, **kwargs), args, kwargs, self._function(func))

    def _function(self, function: Any) -> Callable[..., fx.Node]:
        return partial(self.graph.call_function, function)

    def _paused(self) -> bool:
        return self._depth > 0 or threading.get_ident() != self._thread

    def _call(self, run: Callable[[], Any], args: Any, kwargs: Any, create: Callable[..., fx.Node]) -> Any:
        """Runs a call and records it, unless it only asks for something that is no tensor and no size."""
        with self.paused():
            tensors = [leaf for leaf in leaves_of((args, kwargs)) if isinstance(leaf, Tensor)]
            versions = [_version(tensor) for tensor in tensors]
            result = run()
            written = [tensor for tensor, version in zip(tensors, versions, strict=True) if _version(tensor) != version]
            if isinstance(result, Tensor) and not written and any(result is tensor for tensor in tensors):
                result = torch.ops.aten.alias(result)  # so that what came in and what came out are told apart
            target = create.args[0]  # type: ignore[attr-defined]
            asked = target.__name__ if callable(target) else str(target)
            is_size = asked in ("size", "numel") or (asked == "getattr" and args[1] == "shape")
            if not written and not is_size and not any(isinstance(leaf, Tensor) for leaf in leaves_of(result)):
                if asked == "getattr" and args[1] == "dtype":
                    self.recording.asking_types.add(self._scopes[-1])
                if asked in _LEAVING:
                    for tensor in tensors:
                        if tensor in self._nodes:
                            self.recording.leaving.setdefault(self._node_of(tensor), asked)
                            site = CallSite(self._scopes[-1], users_line())
                            self.recording.left.setdefault(self._node_of(tensor), site)
                return result
            node = create(self.argument(tuple(args)), self.argument(dict(kwargs)))
            self._describe(node, result)
            for tensor in written:
                self._nodes[tensor] = (node, ())
            return self._bind(node, (), result)

    # What is recorded

    def add_inputs(self, inputs: ModelInputs) -> None:
        """Adds a placeholder for each tensor of the inputs."""
        for number, tensor in enumerate(inputs.tensors()):
            node = self.graph.placeholder(f"input_{number}")
            self._describe(node, tensor)
            self._nodes[tensor] = (node, ())

    def finish(self, output: Any) -> Recording:
        """Ends the graph with the network's output and makes it runnable."""
        with self.paused():
            whole = is_nest(output)
            found = [leaf for leaf in leaves_of(output, objects=False) if isinstance(leaf, Tensor)]
            self.graph.output(self.argument(output if whole else found))
        recording = self.recording
        held = {str(node.target): self._held(str(node.target)) for node in self.graph.nodes if node.op in _HELD}
        recording.replayable = whole
        recording.outputs = tuple(leaf.detach() for leaf in found)
        for node in self.graph.nodes:
            recording.values.setdefault(node, None)
        recording.traced = fx.GraphModule(held, self.graph, class_name=type(self._network).__name__)
        moved = dict(zip(self.graph.nodes, recording.traced.graph.nodes, strict=True))
        recording.graph = recording.traced.graph
        for name in ("values", "kept", "sites", "leaving", "left", "parameters"):
            setattr(recording, name, {moved[node]: value for node, value in getattr(recording, name).items()})
        recording.observed = [moved[node] for node in recording.observed]
        recording.calls = [
            replace(call, **{key: fx.node.map_arg(getattr(call, key), moved.__getitem__) for key in _HOLDING})
            for call in recording.calls
        ]
        for node in recording.graph.nodes:
            given = (each for each in node.all_input_nodes if not is_of_shapes(recording.values[each]))
            if node.op == "placeholder" or any(each in recording.reached for each in given):
                recording.reached.add(node)
        return recording

    def _held(self, name: str) -> Any:
        """Returns what the network holds under a name; of a module with hooks, which are recorded, a twin without."""
        if name.startswith(_CONSTANT):
            return self._constants[int(name.removeprefix(_CONSTANT))]
        path, _, key = name.rpartition(".")
        found = getattr(self._network.get_submodule(path), key)
        if isinstance(found, nn.Module) and (found._forward_hooks or found._forward_pre_hooks):
            found = copy.copy(found)
            found._forward_hooks, found._forward_pre_hooks = OrderedDict(), OrderedDict()
        return found

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Records nothing for a while."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def argument(self, value: Any) -> Any:
        """Returns an argument with operations in place of tensors and of numbers that came from somewhere."""
        if isinstance(value, Tensor):
            return self._node_of(value)
        if isinstance(value, TrackedInt):
            return self._number(value.origin) if value.observer is self else int.__int__(value)
        if isinstance(value, PackedSequence):
            return self.graph.call_function(PackedSequence, tuple(self.argument(each) for each in tuple(value)))
        if isinstance(value, (torch.Generator, torch.ScriptObject)):  # what code cannot spell
            self._constants.append(value)
            return self._reader(f"{_CONSTANT}{len(self._constants) - 1}")
        if isinstance(value, slice):
            return slice(*(self.argument(each) for each in (value.start, value.stop, value.step)))
        if isinstance(value, (tuple, list)):
            items = [self.argument(each) for each in value]
            return items if isinstance(value, list) else tuple(items)
        if isinstance(value, Mapping):
            named = {key: self.argument(each) for key, each in value.items()}
            if type(value) is dict:
                return named
            by_name = all(isinstance(key, str) and key.isidentifier() for key in named)
            return self.graph.call_function(type(value), () if by_name else (named,), named if by_name else {})
        return value

    def _number(self, origin: Origin) -> fx.Node:
        if isinstance(origin, Size):
            return origin.node if origin.dim is None else self._part(origin.node, (origin.dim,))
        if isinstance(origin, Attribute):
            node = self._reader(origin.name)
            held = self._attributes[origin.name]
            self.recording.values[node] = tuple(held) if isinstance(held, list) else held
            return node if origin.index is None else self._part(node, (origin.index,))
        operands = self.argument(origin.operands)
        node = self.graph.call_function(origin.function, operands)
        self.recording.values[node] = origin.function(*(_untracked(each) for each in origin.operands))
        self.recording.sites[node] = CallSite(self._scopes[-1], users_line())
        return node

    def _node_of(self, tensor: Tensor) -> fx.Node:
        if tensor in self._nodes:
            node = self._part(*self._nodes[tensor])
            if node not in self.recording.kept:  # one of several results
                self._keep(node, tensor)
            return node
        name = self._names.get(id(tensor))
        if name is None:
            name = f"{_CONSTANT}{len(self._constants)}"
            self._constants.append(tensor.detach().clone())
            node = self._reader(name)
        else:
            node = self._reader(name)
            self.recording.parameters[node] = name
        self._describe(node, tensor)
        self._nodes[tensor] = (node, ())
        return node

    def _reader(self, name: str) -> fx.Node:
        if name not in self._read:
            node = self._read[name] = self.graph.create_node("get_attr", name)
            self.recording.sites[node] = CallSite(self._scopes[-1], "")
        return self._read[name]

    def _part(self, node: fx.Node, path: tuple[int, ...]) -> fx.Node:
        """Returns the operation that takes an entry of another one's result."""
        for index in path:
            parts = self._parts.setdefault(node, {})
            if index not in parts:
                parts[index] = self.graph.call_function(operator.getitem, (node, index))
                self.recording.sites[parts[index]] = self.recording.sites.get(node, CallSite("", ""))
                value = self.recording.values.get(node)
                whole = value[index] if isinstance(value, (tuple, list)) and len(value) > index else None
                self.recording.values[parts[index]] = whole
            node = parts[index]
        return node

    def _bind(self, node: fx.Node, path: tuple[int, ...], result: Any) -> Any:
        """Remembers which operation made each tensor of a result; returns sizes as tracked numbers."""
        if isinstance(result, Tensor):
            self._nodes[result] = (node, path)
            return result
        if isinstance(result, torch.Size):
            if path:
                return result
            return torch.Size([TrackedInt(size, Size(node, dim), self) for dim, size in enumerate(result)])
        if type(result) is int and not path:
            return TrackedInt(result, Size(node, None), self)
        if isinstance(result, (tuple, list)):
            for index, each in enumerate(result):
                self._bind(node, (*path, index), each)
        return result

    def _describe(self, node: fx.Node, result: Any) -> None:
        recording = self.recording
        recording.values[node] = shapes_of(result)
        recording.sites[node] = CallSite(self._scopes[-1], users_line())
        if isinstance(result, Tensor):
            self._keep(node, result)

    def _keep(self, node: fx.Node, tensor: Tensor) -> None:
        if not tensor.is_floating_point() and not tensor.is_complex() and tensor.numel() <= _KEPT_ENTRIES:
            self.recording.kept[node] = tensor.detach().clone()


_CONSTANT = "_constant_"
_HELD = ("call_module", "get_attr")
_HOLDING = ("args", "kwargs", "result")


class _StrayOperators(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Shows the recorder operators that no function of torch's led to."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._recorder.stray(func, args, kwargs or {})


def _set_item(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """Writes into `[…]` a tensor and returns it, so that what follows is known to come after."""
    tensor[index] = value
    return tensor


def _written(tensor: Tensor) -> Tensor:
    """Stands for a tensor, `[…]`, one of whose attributes was written."""
    return tensor


def _untracked(number: Any) -> Any:
    return int.__int__(number) if isinstance(number, TrackedInt) else number


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else int(tensor._version)

"""What a network is called with: any arguments, nested as they may be, and which parts of them are samples.

The number of samples is the size of the first axis that the tensors among the arguments share; axes of size 1, which
broadcast, have no say where others are longer. A list counts by its length, as detectors take a list of images, unless
that disagrees with the rest while the tensors in it do not. Where tensors differ, most of them decide; where that is a
tie it is refused, never guessed, and `samples` or `axis` say it.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

from autoprune.errors import TaskError
from autoprune.graph.drawing import draw_like


@dataclass(frozen=True)
class ModelInputs:
    """The arguments of one call of a network; make them by `of`.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        samples: how many samples they hold.
        axis: the axis of the samples in every tensor that has them: 0, or 1 where time comes first.
        lists: whether a list in them has one entry for each sample.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 1
    axis: int = 0
    lists: bool = True

    @classmethod
    def of(
        cls,
        value: Any,
        kwargs: Mapping[str, Any] | None = None,
        *,
        samples: int | None = None,
        axis: int | None = None,
    ) -> ModelInputs:
        """Returns what a network is called with for a value.

        A tuple is positional arguments, a mapping with names for keys is keyword arguments; anything else (a tensor, a
        list, a named tuple, a dataclass) is one argument, and `ModelInputs` are themselves.

        Args:
            value: what the network takes; a single tuple or mapping is given as a tuple of one.
            kwargs: further keyword arguments.
            samples: how many samples it holds; None: as the tensors say.
            axis: of the samples in tensors; None is the first, or the second where only that has `samples`.

        Raises:
            TaskError: the number of samples cannot be told.
        """
        if isinstance(value, ModelInputs):
            return value
        args, named = arguments_for(value)
        named |= kwargs or {}
        if isinstance(value, Tensor) and not named and samples is None and axis is None and value.dim():
            return cls((value,), {}, len(value))
        return cls(args, named, *_find_samples((args, named), samples, axis))

    def __len__(self) -> int:
        return self.samples

    def __str__(self) -> str:
        tensor = self.tensor
        if tensor is not None:
            return f"a batch of shape {list(tensor.shape)}"
        named = (f"{name}={_describe(value)}" for name, value in self.kwargs.items())
        return f"({', '.join((*map(_describe, self.args), *named))})"

    @property
    def tensor(self) -> Tensor | None:
        """The only argument, where that is one tensor given by position."""
        only = self.args[0] if len(self.args) == 1 and not self.kwargs else None
        return only if isinstance(only, Tensor) else None

    def tensors(self) -> Iterator[Tensor]:
        """Yields all tensors in the arguments, in their order."""
        for leaf in _leaves((self.args, self.kwargs)):
            if isinstance(leaf, PackedSequence):
                yield leaf.data
            elif isinstance(leaf, Tensor):
                yield leaf

    @property
    def lists_samples(self) -> bool:
        """Whether a list in them has an entry for each sample: of other samples there are more or fewer tensors."""
        leaves = _leaves((self.args, self.kwargs), self._holds)
        return any(isinstance(leaf, list) and self._holds(leaf) for leaf in leaves)

    @property
    def device(self) -> torch.device:
        """Where the first tensor is; the CPU if there is none."""
        return next((tensor.device for tensor in self.tensors()), torch.device("cpu"))

    def call(self, network: nn.Module) -> Any:
        """Returns the network's outputs for these arguments."""
        return network(*self.args, **self.kwargs)

    def to(self, target: torch.device | torch.dtype | str) -> ModelInputs:
        """Returns them on a device, or with their floating-point tensors in another type."""

        def move(leaf: Any) -> Any:
            held = leaf.data if isinstance(leaf, PackedSequence) else leaf
            fixed = isinstance(target, torch.dtype) and not (isinstance(held, Tensor) and held.is_floating_point())
            return leaf if fixed or not hasattr(leaf, "to") else leaf.to(target)

        return self._map(move)

    def map_tensors(self, function: Callable[[Tensor], Any]) -> ModelInputs:
        """Returns them with a function's result in the place of each tensor, and None in that of anything else."""
        return self._map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else None)

    def clone(self) -> ModelInputs:
        """Returns them with every tensor copied, so that operations in place do not reach these."""
        return self._map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf)

    def take(self, samples: int) -> ModelInputs:
        """Returns the first samples; where there are fewer they begin again. What holds no samples stays as it is.

        Raises:
            TaskError: there are none.
        """
        if not self.samples:
            raise TaskError(f"the network's inputs hold no samples: {self}")
        return self if samples == self.samples else self.select([i % self.samples for i in range(samples)])

    def select(self, numbers: Sequence[int]) -> ModelInputs:
        """Returns samples by their numbers from 0, in that order. What holds no samples stays as it is."""
        return self._by_sample(len(numbers), lambda leaf: self._pick(leaf, list(numbers)))

    def join(self, others: Sequence[ModelInputs]) -> ModelInputs:
        """Returns these samples and then those of others.

        Raises:
            ValueError: they are of another form, or have other shapes, or what holds no samples differs.
        """
        parts = [self, *others]
        columns = [_leaves((part.args, part.kwargs), part._holds) for part in parts]
        named = f"the samples of {' and '.join(map(str, parts[:2]))} cannot be joined"
        if len({len(column) for column in columns}) > 1 or len({part.axis for part in parts}) > 1:
            raise ValueError(f"{named}: their forms differ")
        rows = zip(*columns, strict=True)

        def together(_: Any) -> Any:
            leaves = next(rows)
            if all(part._holds(leaf) for part, leaf in zip(parts, leaves, strict=True)):
                try:
                    return _concatenate(leaves, self.axis)
                except (RuntimeError, TypeError) as fault:  # of other shapes or kinds
                    raise ValueError(f"{named}: their shapes differ") from fault
            if not all(_same(leaf, leaves[0]) for leaf in leaves[1:]):
                raise ValueError(f"{named}: what holds no samples differs")
            return leaves[0]

        return replace(self._map(together, self._holds), samples=sum(part.samples for part in parts))

    def random_like(
        self, samples: int, generator: torch.Generator, part: tuple[float, float] = (0.0, 1.0)
    ) -> ModelInputs:
        """Draws inputs of the same shapes and types, within the range observed in each tensor.

        Floating-point numbers are uniform in their range (normal around it where it is a point), integers too. Masks
        (booleans, integers of at most two different values, numbers with infinities) and what holds no samples are
        those observed, as drawn ones may leave nothing.

        Args:
            samples: how many.
            generator: on the CPU; all is drawn from it.
            part: of the range to draw from, its ends as shares of the range: (0.5, 1.0) is the upper half.
        """
        numbers = [i % self.samples for i in range(samples)]

        def draw(leaf: Any) -> Any:
            picked = self._pick(leaf, numbers)
            if isinstance(picked, list):
                return [_map(entry, lambda each: draw_like(each, each, generator, part)) for entry in picked]
            if isinstance(picked, PackedSequence):
                return picked._replace(data=draw_like(picked.data, picked.data, generator, part))
            return draw_like(picked, leaf, generator, part)

        return self._by_sample(samples, draw)

    def _map(self, function: Callable[[Any], Any], whole: Callable[[Any], bool] = lambda _: False) -> ModelInputs:
        args, kwargs = _map((self.args, dict(self.kwargs)), function, whole)
        return replace(self, args=args, kwargs=kwargs)

    def _by_sample(self, samples: int, function: Callable[[Any], Any]) -> ModelInputs:
        """Applies a function to whatever holds samples: tensors, packed sequences and lists."""
        changed = self._map(lambda leaf: function(leaf) if self._holds(leaf) else leaf, self._holds)
        return replace(changed, samples=samples)

    def _holds(self, value: Any) -> bool:
        return _size(value, self.axis) == self.samples and (self.lists or not isinstance(value, list))

    def _pick(self, leaf: Any, numbers: list[int]) -> Any:
        if isinstance(leaf, list):
            return [leaf[i] for i in numbers]
        if isinstance(leaf, PackedSequence):
            padded, lengths = pad_packed_sequence(leaf, batch_first=True)
            return pack_padded_sequence(padded[numbers], lengths[numbers], batch_first=True, enforce_sorted=False)
        if numbers == list(range(len(numbers))):
            return leaf.narrow(self.axis, 0, len(numbers))
        return leaf.index_select(self.axis, torch.tensor(numbers, device=leaf.device))


def call_network(network: nn.Module, inputs: Any) -> Any:
    """Returns the network's outputs for the inputs of a batch, which are called as `ModelInputs.of` says."""
    args, kwargs = arguments_for(inputs)
    return network(*args, **kwargs)


def network_inputs(inputs: Any, targets: Any) -> Tensor | ModelInputs:
    """Returns a batch's inputs with as many samples as there are targets.

    Args:
        inputs: as a task gives them; the number of samples in `ModelInputs` is what the task says.
        targets: of the same batch, nested as they may be: a list has one entry for each sample, tensors have samples
            along their first axis. Where there are none, or they hold no samples, the inputs decide alone.

    Returns:
        the inputs themselves where they are a tensor with samples first, else `ModelInputs`.

    Raises:
        TaskError: the number of samples cannot be told, or is another in the inputs than in the targets.
    """
    if isinstance(inputs, ModelInputs):
        return inputs
    counts = _target_counts(targets)
    if isinstance(inputs, Tensor) and inputs.dim():
        if not counts or len(inputs) in counts:
            return inputs
        if inputs.dim() > 1 and inputs.size(1) in counts:
            return ModelInputs.of(inputs, axis=1)
    for count in counts:
        with contextlib.suppress(TaskError):
            return ModelInputs.of(inputs, samples=count)
    given = ModelInputs.of(inputs)
    if counts:
        raise TaskError(
            f"the inputs hold {len(given)} samples, {given}, but the targets {' or '.join(map(str, counts))}; "
            "if that is right, say where the samples are: SimpleTask(..., axis=…) or samples=…, "
            "or ModelInputs.of(inputs, samples=…) in a task of your own"
        )
    return given


def _target_counts(targets: Any) -> list[int]:
    """Returns the numbers of samples that targets may be understood to hold; none where they say nothing."""
    sizes = {len(leaf) for leaf in _leaves(targets) if isinstance(leaf, Tensor) and leaf.dim()}
    listed = [len(targets)] if isinstance(targets, list) and targets else []
    return [*listed, *(sizes if len(sizes) == 1 else ())]


def arrays_as_tensors(value: Any) -> Any:
    """Returns a value of any nesting with tensors in the place of NumPy's arrays of numbers."""

    def convert(leaf: Any) -> Any:
        return torch.as_tensor(leaf) if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc" else leaf

    return _map(value, convert)


def to_device(value: Any, device: torch.device | str) -> Any:
    """Returns a value of any nesting with its tensors on a device."""
    return _map(value, lambda leaf: leaf.to(device) if hasattr(leaf, "to") else leaf)


def arguments_for(value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the positional and keyword arguments that a value stands for; see `ModelInputs.of`."""
    if isinstance(value, ModelInputs):
        return value.args, dict(value.kwargs)
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(value), {}
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return (), dict(value)
    return (value,), {}


def _map(value: Any, function: Callable[[Any], Any], whole: Callable[[Any], bool] = lambda _: False) -> Any:
    """Applies a function to what tuples, lists, mappings and dataclasses hold, and to containers that are `whole`."""
    if isinstance(value, (Tensor, PackedSequence)) or whole(value):
        return function(value)
    if isinstance(value, (tuple, list)):
        items = [_map(item, function, whole) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, Mapping):
        twin = copy.copy(value) if isinstance(value, MutableMapping) else dict(value)
        for key, item in value.items():
            twin[key] = _map(item, function, whole)
        return twin
    if is_dataclass(value) and not isinstance(value, type):
        changed = copy.copy(value)
        for each in fields(value):
            object.__setattr__(changed, each.name, _map(getattr(value, each.name), function, whole))
        return changed
    return function(value)


def _leaves(value: Any, whole: Callable[[Any], bool] = lambda _: False) -> list[Any]:
    found: list[Any] = []

    def add(leaf: Any) -> Any:
        found.append(leaf)
        return leaf

    _map(value, add, whole)
    return found


def _size(value: Any, axis: int) -> int | None:
    """Returns how many samples a part of the arguments holds if it holds any; None where it cannot."""
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes[0])
    if isinstance(value, Tensor):
        return value.size(axis) if value.dim() > axis else None
    return len(value) if isinstance(value, list) and any(isinstance(leaf, Tensor) for leaf in _leaves(value)) else None


def _concatenate(leaves: Sequence[Any], axis: int) -> Any:
    """Returns what holds samples in several batches as one; raises a RuntimeError where shapes differ."""
    if isinstance(leaves[0], list):
        return [entry for leaf in leaves for entry in leaf]
    if isinstance(leaves[0], PackedSequence):
        padded = [pad_packed_sequence(leaf, batch_first=True) for leaf in leaves]
        entries = [entry[:n] for each, lengths in padded for entry, n in zip(each, lengths.tolist(), strict=True)]
        return pack_sequence(entries, enforce_sorted=False)
    return torch.cat(list(leaves), axis)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    return bool(one == other)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _find_samples(value: Any, samples: int | None, axis: int | None) -> tuple[int, int, bool]:
    """Returns the number of samples in arguments, their axis, and whether lists have an entry for each.

    Raises:
        TaskError: it cannot be told.
    """
    axes = (axis,) if axis is not None else (0,) if samples is None else (0, 1)
    found: set[int] = set()
    for at in axes:
        for lists in (True, False):
            parts = _leaves(value, _is_list) if lists else _leaves(value)
            sizes = Counter(size for part in parts if (size := _size(part, at)) is not None)
            voting = [size for size in sizes.elements() if size != 1] or [*sizes]
            found |= sizes.keys()
            if samples in sizes or (samples is None and len(set(voting)) == 1):
                return (voting[0] if samples is None else samples), at, lists
    if not found and all(part is None or isinstance(part, (Tensor, int, float, str)) for part in parts):
        return samples or 1, axes[0], True  # nothing in them could hold samples
    (most, votes), *others = Counter(voting).most_common() or [(0, 0)]
    if samples is None and votes > max((votes for _, votes in others), default=0):
        return most, axes[0], False
    if not found and all(not isinstance(part, Tensor) for part in parts):
        kinds = ", ".join(sorted({type(part).__name__ for part in parts}))
        raise TaskError(
            f"the number of samples in the network's inputs cannot be told: no tensor is among them ({kinds}); give "
            "them as the network takes them, or say it by autoprune.ModelInputs.of(inputs, samples=…)"
        )
    raise TaskError(
        f"the number of samples in the network's inputs cannot be told: the sizes of axis "
        f"{' or '.join(map(str, axes))} of their tensors are {sorted(found)}"
        f"{'' if samples is None else f', and none is {samples}'}; "
        "say it by autoprune.ModelInputs.of(inputs, samples=…) or axis=…"
    )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_describe, value))}]"
    return repr(value) if value is None or isinstance(value, (bool, int, float, str)) else type(value).__name__

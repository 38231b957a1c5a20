"""The samples of a batch: counted, chosen, joined with those of another, and the classes they are of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autoprune.errors import TaskError
from autoprune.graph.inputs import ModelInputs, network_inputs
from autoprune.tasks.base import Batch


def count_samples(batches: Iterable[Batch]) -> int:
    """Returns how many samples some batches hold; they are gone through once."""
    return sum(len(network_inputs(inputs, targets)) for inputs, targets in batches)


def select(batch: Batch, numbers: Sequence[int]) -> Batch:
    """Returns some samples of a batch, by their numbers from 0, in that order.

    Raises:
        TaskError: the targets do not say where their samples are.
    """
    inputs, targets = _parts(batch)
    return _batch(inputs.select(numbers), targets and targets.select(numbers), batch)


def join(batches: Sequence[Batch]) -> Batch:
    """Returns several batches as one.

    Raises:
        ValueError: they are of other forms or shapes.
        TaskError: the targets do not say where their samples are.
    """
    first, *others = [_parts(batch) for batch in batches]
    inputs = first[0].join([each for each, _ in others])
    targets = first[1] and first[1].join([each for _, each in others if each is not None])
    return _batch(inputs, targets, batches[0])


@dataclass(frozen=True)
class JoinedSingles:
    """Batches of which one of a single sample is joined to that before it (the first to that after it).

    One sample has no spread over which to take the statistics of a batch. It stays alone where it has another shape.
    """

    batches: Iterable[Batch]

    def __iter__(self) -> Iterator[Batch]:
        held: Batch | None = None
        for batch in self.batches:
            joined = None if held is None or 1 not in (_count(held), _count(batch)) else _joined([held, batch])
            if held is not None and joined is None:
                yield held
            held = batch if joined is None else joined
        if held is not None:
            yield held


def _joined(batches: Sequence[Batch]) -> Batch | None:
    try:
        return join(batches)
    except (ValueError, TaskError):
        return None


def class_labels(targets: object) -> Tensor | None:
    """Returns targets if they are `[batch]` whole numbers, as classes are, on the CPU; else None."""
    if not isinstance(targets, Tensor) or targets.dim() != 1:
        return None
    return None if targets.is_floating_point() or targets.is_complex() else targets.cpu()


def _count(batch: Batch) -> int:
    return len(network_inputs(*batch))


def _parts(batch: Batch) -> tuple[ModelInputs, ModelInputs | None]:
    """Returns inputs and targets, each as something whose samples can be chosen; None for targets without samples."""
    inputs, targets = ModelInputs.of(network_inputs(*batch)), batch[1]
    tensors = list(ModelInputs((targets,)).tensors())
    if all(not tensor.dim() for tensor in tensors) and not isinstance(targets, list):
        return inputs, None
    found = [axis for axis in (0, 1) if all(t.dim() > axis and t.size(axis) == len(inputs) for t in tensors if t.dim())]
    if inputs.axis == 1 and len(found) > 1:
        raise TaskError(f"the targets have {len(inputs)} entries along two axes; which of them are samples?")
    if isinstance(targets, list) and len(targets) == len(inputs) and not found:
        found = [0]  # an entry for each sample
    elif not found:
        raise TaskError(f"the samples of the targets cannot be told apart: there are {len(inputs)} in the inputs")
    return inputs, ModelInputs((targets,), {}, len(inputs), found[0])


def _batch(inputs: ModelInputs, targets: ModelInputs | None, like: Batch) -> Batch:
    tensor = inputs.tensor
    plain = tensor is not None and isinstance(like[0], Tensor) and inputs.axis == 0
    return tensor if plain else inputs, like[1] if targets is None else targets.args[0]


def same_class(targets: Iterable[object]) -> int | None:
    """Returns the class that all of some targets are of; None where there are several, or no classes."""
    found: set[int] = set()
    for each in targets:
        labels = class_labels(each)
        if labels is None:
            return None
        found.update(torch.unique(labels).tolist())
        if len(found) > 1:
            return None
    return next(iter(found), None)

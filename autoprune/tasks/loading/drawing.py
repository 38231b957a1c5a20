"""Subsets of a split: one seeded draw over the whole of it, of which a smaller subset is the beginning.

What can be indexed (a Dataset, a loader of one, a list of batches) is drawn from as a whole; of what only passes by,
the first `WINDOW` samples are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from autoprune.errors import TaskError
from autoprune.graph.inputs import network_inputs
from autoprune.tasks.base import Batch
from autoprune.tasks.loading.samples import class_labels, join, select

WINDOW = 2**15
"""So many samples are read for a draw from what cannot be indexed."""


@runtime_checkable
class DrawableBatches(Protocol):
    """Batches of a split that know how to draw samples from the whole of it without reading the rest."""

    def draw(self, samples: int) -> Iterable[Batch]:
        """Returns the first `samples` of the split in an order that is drawn once for a seed, or all."""


def draw(batches: Iterable[Batch], samples: int, batch_size: int, seed: int) -> Iterable[Batch]:
    """Returns batches of so many samples, one seeded draw over all of them; a smaller one is a part of it.

    Args:
        batches: of a whole split, as `Task.batches` returns them.
        samples: how many; all where there are fewer.
        batch_size: of ready batches whose samples are put together anew.
        seed: of the draw, where the batches have none of their own.
    """
    if isinstance(batches, DrawableBatches):
        return batches.draw(samples)
    return draw_from_batches(batches, samples, batch_size, seed)


def stratified_order(classes: NDArray[Any], seed: int) -> NDArray[np.int64]:
    """Returns a shuffled order in which the k-th of a class's m samples stands about k/m of the way.

    Every beginning of it holds each class as often as the whole does, or nearly so.

    Args:
        classes: `[n]` classes.
        seed: of the order.

    Returns:
        `[n]` indices.
    """
    generator = np.random.default_rng(seed)
    place = np.empty(len(classes))
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        place[members] = (generator.permutation(len(members)) + generator.random()) / len(members)
    return place.argsort(kind="stable")


def drawn_order(count: int, classes: NDArray[Any] | None, seed: int) -> list[int]:
    """Returns all indices below `count` in a drawn order, stratified where classes are known."""
    order = np.random.default_rng(seed).permutation(count) if classes is None else stratified_order(classes, seed)
    return [int(index) for index in order]


def draw_from_batches(batches: Iterable[Batch], samples: int, batch_size: int, seed: int) -> Iterator[Batch]:
    """Yields so many samples of ready batches, put together anew; see `draw`.

    A list is drawn from as a whole, by classes where its targets are such; of anything else the first `WINDOW` samples
    are read. Batches whose samples cannot be told apart are taken whole.
    """
    keys = _stratified_keys(batches, seed) if isinstance(batches, Sequence) else None
    generator = np.random.default_rng(seed)
    pool = _Pool(samples)
    read = 0
    for batch in batches:
        count = len(network_inputs(*batch))
        of_batch = generator.random(count) if keys is None else keys[read : read + count]
        pool.add(batch, of_batch)
        read += count
        if read >= WINDOW and not isinstance(batches, Sequence):
            break
    yield from _batched(pool.chosen(), batch_size)


def _stratified_keys(batches: Sequence[Batch], seed: int) -> NDArray[np.float64] | None:
    """Returns a number for each sample, those of the draw the smallest; None where its classes are not known."""
    labels = [class_labels(targets) for _, targets in batches]
    if not labels or any(each is None for each in labels):
        return None
    order = stratified_order(torch.cat([each for each in labels if each is not None]).numpy(), seed)
    keys = np.empty(len(order))
    keys[order] = np.arange(len(order))
    return keys


class _Pool:
    """The samples with the smallest keys among those seen."""

    def __init__(self, size: int) -> None:
        self._size, self._held = size, 0
        self._pieces: list[tuple[NDArray[np.float64], Batch]] = []
        self._limit = np.inf

    def add(self, batch: Batch, keys: NDArray[np.float64]) -> None:
        """Takes what a batch has of them."""
        self._take(batch, keys)
        if self._held > 2 * self._size:
            self._shrink()

    def chosen(self) -> list[Batch]:
        """Returns them by batch, those that hold the smallest keys first."""
        self._shrink()
        return [piece for _, piece in sorted(self._pieces, key=lambda entry: float(entry[0].min()))]

    def _take(self, batch: Batch, keys: NDArray[np.float64]) -> None:
        numbers = np.flatnonzero(keys < self._limit)
        if not len(numbers):
            return
        try:
            kept = batch if len(numbers) == len(keys) else select(batch, numbers.tolist())
        except TaskError:
            kept, numbers = batch, np.arange(len(keys))
            keys = np.full(len(keys), keys.min())  # all or nothing of it
        self._pieces.append((keys[numbers], kept))
        self._held += len(numbers)

    def _shrink(self) -> None:
        keys = np.concatenate([keys for keys, _ in self._pieces]) if self._pieces else np.empty(0)
        if len(keys) > self._size:
            self._limit = float(np.partition(keys, self._size)[self._size])
            if self._limit == keys.min():  # a batch that is taken whole and has more
                self._limit = float(np.nextafter(self._limit, np.inf))
        pieces, self._pieces, self._held = self._pieces, [], 0
        for keys, batch in pieces:
            self._take(batch, keys)


def _batched(pieces: Sequence[Batch], batch_size: int) -> Iterator[Batch]:
    """Yields pieces joined, in their order, to batches of at most so many samples, where their shapes allow it."""
    held: list[Batch] = []
    size = 0
    for piece in pieces:
        count = len(network_inputs(*piece))
        if held and (size + count > batch_size or not _alike(held[0], piece)):
            yield join(held) if len(held) > 1 else held[0]
            held, size = [], 0
        held.append(piece)
        size += count
    if held:
        yield join(held) if len(held) > 1 else held[0]


def _alike(one: Batch, other: Batch) -> bool:
    try:
        join([one, other])
    except (ValueError, TaskError):
        return False
    return True

"""The user's data as batches of a split: in their order or drawn, anew at each iteration, the same for a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeGuard, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    default_collate,
)
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from autoprune.errors import DataError, TaskError, UserError
from autoprune.graph.inputs import network_inputs
from autoprune.tasks.base import Batch
from autoprune.tasks.loading.drawing import draw_from_batches, drawn_order
from autoprune.tasks.loading.randomness import OwnRandomness
from autoprune.tasks.loading.reading import Collate, NumberedSamples, Unreadable, collate, form, one_line
from autoprune.tasks.loading.samples import class_labels, same_class
from autoprune.tasks.loading.splitting import Splitter

Data = Dataset[Any] | Iterable[Any]
_MOST_INDICES = 2**24
"""So many indices are asked of a sampler, which may have no end."""
_FEW = 8
"""Fewer samples of one class say nothing of the order."""


@dataclass(frozen=True)
class UserBatches:
    """The user's batches of a split, anew from the start at each iteration, the same for the same seed.

    A loader is not run itself but rebuilt from its parts, with a generator of its own and without persistent workers.

    Attributes:
        data: a Dataset, a DataLoader, or batches.
        field: names them in messages.
        batch_size: samples in a batch of a Dataset; other data keep their own.
        seed: of order, random transforms and draws.
        shuffle: whether a Dataset is read in a drawn order.
        splitter: tells inputs from targets.
    """

    data: Data
    field: str
    batch_size: int
    seed: int
    shuffle: bool
    splitter: Splitter

    def __iter__(self) -> Iterator[Batch]:
        randomness = self._randomness()
        with randomness.active():
            source = self._source()
        return self._read(source, randomness, whole=True)

    def draw(self, samples: int) -> Iterable[Batch]:
        """Returns so many samples drawn from the whole split; see `autoprune.tasks.loading.drawing`.

        A loader of a map-style Dataset is drawn from by the indices that its sampler gives. Where it has a batch
        sampler of its own, whose batches may only be right as they are, whole batches are drawn.
        """
        return _Drawn(self, samples)

    def drawn(self, samples: int) -> Iterator[Batch]:
        """Yields the batches of `draw`."""
        randomness = self._randomness()
        with randomness.active():
            source = self._drawn_source(samples)
        if source is not None:
            return self._read(source, randomness, whole=False)
        ready = self.data if isinstance(self.data, Sequence) else None
        batches: Iterable[Batch] = self if ready is None else list(self)
        return draw_from_batches(batches, samples, self.batch_size, self.seed)

    def _randomness(self) -> OwnRandomness:
        return OwnRandomness(self.seed, self.data)

    def _source(self) -> Iterable[Any]:
        data = self.data
        if isinstance(data, DataLoader):
            if not _is_plain(data):
                return data
            if _is_map_style(data.dataset):
                return _rebuilt(data, self.seed, batch_sampler=data.batch_sampler)
            return _rebuilt(data, self.seed, batch_size=data.batch_size, drop_last=data.drop_last)
        if not is_dataset(data):
            return cast("Iterable[Any]", data)
        if not isinstance(data, IterableDataset):
            _length(data, self.field)
        if not _is_map_style(data):
            return DataLoader(data, self.batch_size, generator=_generator(self.seed), collate_fn=collate)
        count = _length(data, self.field)
        generator = _generator(self.seed)
        order = torch.randperm(count, generator=generator).tolist() if self.shuffle else range(count)
        return _loader(data, self.batch_size, order, self.seed)

    def _drawn_source(self, samples: int) -> Iterable[Any] | None:
        """Returns the user's batches of a draw, or None where the data cannot be indexed."""
        data = self.data
        if isinstance(data, DataLoader):
            if not _is_plain(data) or not _is_map_style(data.dataset) or data.batch_sampler is None:
                return None
            grouping = data.batch_sampler  # has the size and the sampler, which a loader that was given it has not
            if type(grouping) is not BatchSampler:
                return _rebuilt(data, self.seed, batch_sampler=_drawn_groups(grouping, samples, self.seed))
            given = np.fromiter(islice(grouping.sampler, _MOST_INDICES), dtype=object)
            order = given[_drawn_indices(data.dataset, given, self.seed)[:samples]].tolist()
            return _rebuilt(data, self.seed, batch_size=grouping.batch_size, sampler=order)
        if not is_dataset(data) or not _is_map_style(data):
            return None
        given = np.arange(_length(data, self.field))
        return _loader(data, self.batch_size, _drawn_indices(data, given, self.seed)[:samples], self.seed)

    def _read(self, source: Iterable[Any], randomness: OwnRandomness, *, whole: bool) -> Iterator[Batch]:
        """Yields the batches of a source split into inputs and targets.

        Raises:
            DataError: a batch cannot be read, or is of another form than the first.
        """
        first: Batch | None = None
        with closing(self._items(source, randomness)) as items:
            for number, found in enumerate(items):
                if isinstance(found, Unreadable):
                    raise DataError(f"{self.field}: {found.reason}")
                where = f"{self.field}: batch {number}"
                with randomness.active():
                    batch = self.splitter.split(found, where)
                if not self._holds_samples(batch, where):
                    continue
                if first is None:
                    first = batch
                    self._look_at_first(batch, whole)
                elif _kind(batch) != _kind(first):
                    raise DataError(
                        f"{self.field}: batch {number} is {form(batch)}, but batch 0 is {form(first)}; "
                        "all need one form"
                    )
                yield batch

    def _holds_samples(self, batch: Batch, where: str) -> bool:
        """Tells whether a batch has any samples; one that has none is passed over, which is said once.

        Raises:
            TaskError: how many there are cannot be told.
        """
        try:
            count = len(network_inputs(*batch))
        except TaskError as fault:
            raise TaskError(f"{where}: {fault}") from fault
        if not count:
            self.splitter.say(f"{self.field} has batches without samples, which are passed over")
        return count > 0

    def _items(self, source: Iterable[Any], randomness: OwnRandomness) -> Generator[Any]:
        """Yields what a source yields, while its own random numbers are drawn."""
        iterator: Iterator[Any] | None = None
        number = 0
        try:
            while True:
                with randomness.active():
                    try:
                        iterator = iter(source) if iterator is None else iterator
                        found = next(iterator)
                    except StopIteration:
                        return
                    except UserError:
                        raise
                    except Exception as fault:  # whatever the user's data raise
                        raise DataError(f"{self.field}: batch {number} cannot be read ({one_line(fault)})") from fault
                yield found
                number += 1
        finally:
            if source is not self.data and isinstance(iterator, _MultiProcessingDataLoaderIter):
                iterator._shutdown_workers()  # now, not when the last traceback goes

    def _look_at_first(self, batch: Batch, whole: bool) -> None:
        labels = class_labels(batch[1])
        if not whole or not self.shuffle or is_dataset(self.data) or labels is None or len(labels) < _FEW:
            return
        if (label := same_class([labels])) is not None:
            self.splitter.say(
                f"{self.field} begins with a batch of one class only ({label}); to train they should be in random "
                "order: DataLoader(..., shuffle=True)"
            )


class SizedUserBatches(UserBatches):
    """User's batches whose number is known before they are read."""

    def __len__(self) -> int:
        if is_dataset(self.data):
            return math.ceil(_length(self.data, self.field) / self.batch_size)
        return len(self.data)  # type: ignore[arg-type]  # only such are made; see `user_batches`

    @property
    def ends_with_one(self) -> bool | None:
        """Whether the last batch is a rest of one sample; None where only going through them tells."""
        data, size, drop_last = self.data, self.batch_size, False
        if isinstance(data, DataLoader):
            grouping = data.batch_sampler
            if type(grouping) is not BatchSampler or not isinstance(grouping.sampler, Sized):
                return None
            count, size, drop_last = len(grouping.sampler), grouping.batch_size, grouping.drop_last
        elif is_dataset(data):
            count = _length(data, self.field)
        else:
            return None
        return not drop_last and count > size > 1 == count % size


@dataclass(frozen=True)
class _Drawn:
    """A draw from a split, anew at each iteration."""

    batches: UserBatches
    samples: int

    def __iter__(self) -> Iterator[Batch]:
        return self.batches.drawn(self.samples)


def user_batches(data: Data, field: str, batch_size: int, seed: int, shuffle: bool, splitter: Splitter) -> UserBatches:
    """Returns the batches of a split, with a length where it is known; the arguments are those of `UserBatches`."""
    indexed = _is_map_style(data.dataset if isinstance(data, DataLoader) else data)
    sized = indexed if is_dataset(data) or isinstance(data, DataLoader) else isinstance(data, Sized)
    kind = SizedUserBatches if sized else UserBatches
    return kind(data, field, batch_size, seed, shuffle, splitter)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def is_dataset(data: object) -> TypeGuard[Dataset[Any]]:
    """Tells whether data yield samples and no batches.

    So do Datasets of torch and of Hugging Face's `datasets`, tensors and arrays, and what has a length and entries by
    number as a Dataset must, if it is no sequence and cannot be gone through by itself.
    """
    if isinstance(data, (Dataset, Tensor, np.ndarray)) or type(data).__module__.partition(".")[0] == "datasets":
        return True
    known = isinstance(data, (DataLoader, Sequence, Mapping)) or hasattr(data, "__iter__")
    return not known and hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _is_map_style(data: object) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, IterableDataset)


def _is_plain(loader: DataLoader[Any]) -> bool:
    """Tells whether a loader does what torch's does, so that it can be rebuilt from its parts."""
    kind = type(loader)
    return kind.__iter__ is DataLoader.__iter__ and kind._get_iterator is DataLoader._get_iterator


def _length(data: Any, field: str) -> int:
    try:
        return len(data)
    except (TypeError, NotImplementedError) as fault:
        raise DataError(f"{field}: a Dataset that is read by index needs a length ({one_line(fault)})") from fault


def _loader(data: Any, batch_size: int, order: Iterable[int], seed: int) -> DataLoader[Any]:
    numbered, collating = NumberedSamples(data), Collate(collate)
    return DataLoader(
        numbered, batch_size, sampler=_Order(list(order)), generator=_generator(seed), collate_fn=collating
    )


@dataclass(frozen=True)
class _Order:
    """A sampler of given indices."""

    indices: list[Any]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


def _rebuilt(loader: DataLoader[Any], seed: int, **order: Any) -> DataLoader[Any]:
    """Returns a loader of the parts of another, with its workers, in an order of its own."""
    batched = loader.batch_sampler is not None
    function: Callable[[Any], Any] = loader.collate_fn
    dataset: Any = loader.dataset
    if batched and _is_map_style(dataset):
        function = Collate(collate if function is default_collate else function)
        dataset = NumberedSamples(dataset)
    elif not batched and _is_map_style(dataset):
        order = {"batch_size": None, "sampler": loader.sampler}
    workers: dict[str, Any] = {}
    if loader.num_workers:
        workers = {
            "multiprocessing_context": loader.multiprocessing_context,
            "prefetch_factor": loader.prefetch_factor,
            "timeout": loader.timeout,
        }
    return DataLoader(
        dataset,
        **order,
        num_workers=loader.num_workers,
        collate_fn=function,
        pin_memory=loader.pin_memory and torch.cuda.is_available(),
        worker_init_fn=loader.worker_init_fn,
        generator=_generator(seed),
        **workers,
    )


def _drawn_groups(batch_sampler: Iterable[Sequence[Any]], samples: int, seed: int) -> list[list[Any]]:
    """Returns batches of indices in a drawn order, with so many samples in all."""
    groups = [list(group) for group in islice(batch_sampler, _MOST_INDICES)]
    chosen: list[list[Any]] = []
    for number in drawn_order(len(groups), None, seed):
        if samples <= 0:
            break
        chosen.append(groups[number][:samples])
        samples -= len(groups[number])
    return chosen


def _drawn_indices(dataset: Any, given: NDArray[Any], seed: int) -> list[int]:
    """Returns the places in `given`, indices into a dataset, in a drawn order."""
    classes = dataset_classes(dataset)
    known = classes is not None and all(isinstance(index, (int, np.integer)) for index in given)
    return drawn_order(len(given), classes[given.astype(np.int64)] if classes is not None and known else None, seed)


def dataset_classes(dataset: Any) -> NDArray[np.int64] | None:
    """Returns `[samples]` classes where a dataset knows them without reading its samples; else None.

    They are those of a `targets` or `labels` attribute, as torchvision's have, the whole numbers of a TensorDataset, or
    those of the parts of a Subset or ConcatDataset.
    """
    if isinstance(dataset, Subset):
        classes = dataset_classes(dataset.dataset)
        return None if classes is None else classes[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [dataset_classes(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return np.concatenate(known) if len(known) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        found = [tensor for tensor in dataset.tensors[1:] if class_labels(tensor) is not None]
        return found[0].numpy().astype(np.int64) if found else None
    for name in ("targets", "labels"):
        values = getattr(dataset, name, None)
        if isinstance(values, (list, tuple, np.ndarray, Tensor)) and len(values) == len(dataset):
            array = np.asarray(values)
            if array.ndim == 1 and array.dtype.kind in "iub":
                return array.astype(np.int64)
    return None


def _kind(value: Any) -> Any:
    """Returns what must be the same in every batch: nesting, names, and the number of a tensor's axes."""
    if isinstance(value, Tensor):
        return value.dim()
    if hasattr(value, "args") and hasattr(value, "kwargs"):
        return _kind((value.args, dict(value.kwargs)))
    if isinstance(value, dict):
        return {key: _kind(each) for key, each in value.items()}
    return tuple(map(_kind, value)) if isinstance(value, tuple) else type(value)

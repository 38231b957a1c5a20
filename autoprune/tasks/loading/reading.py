"""Reads samples of a Dataset so that what goes wrong in one of them is named by its number, in workers too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, default_collate

from autoprune.errors import describe


@dataclass(frozen=True)
class Unreadable:
    """What comes in the place of a sample or a batch that cannot be read: the reason."""

    reason: str


class NumberedSamples(Dataset[Any]):
    """A Dataset whose samples come with their index; its attributes are those of the user's."""

    def __init__(self, dataset: Any) -> None:
        self.__dict__["dataset"] = dataset

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.dataset, name, value)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        try:
            return index, self.dataset[index]
        except Exception as fault:  # whatever the user's data raise
            return index, Unreadable(f"item {index} cannot be read ({one_line(fault)})")

    def __getitems__(self, indices: list[Any]) -> list[tuple[Any, Any]]:
        several = getattr(self.dataset, "__getitems__", None)
        if several is not None:
            try:
                return list(zip(indices, several(indices), strict=True))
            except Exception:  # whichever of them it is
                pass
        return [self[index] for index in indices]


@dataclass(frozen=True)
class Collate:
    """Batches numbered samples by a collate function; None takes a sample as it is."""

    function: Callable[[Any], Any]

    def __call__(self, numbered: list[tuple[Any, Any]]) -> Any:
        for _, sample in numbered:
            if isinstance(sample, Unreadable):
                return sample
        samples = [sample for _, sample in numbered]
        try:
            return self.function(samples)
        except Exception as fault:  # samples that do not fit together, or a function of the user's
            return Unreadable(_odd_one(numbered) or f"items {_range(numbered)} give no batch ({one_line(fault)})")


def collate(samples: list[Any]) -> Any:
    """Batches samples as torch does, but a tuple within them does not become a list, which is one argument."""
    batch = default_collate(samples)
    if isinstance(samples[0], tuple) and isinstance(batch, list):
        return tuple(
            tuple(part) if isinstance(first, tuple) and isinstance(part, list) else part
            for first, part in zip(samples[0], batch, strict=True)
        )
    return batch


def one_line(fault: BaseException) -> str:
    """Returns the kind of an error and its message in one line."""
    return " ".join(describe(fault).split())


def form(value: Any) -> str:
    """Describes a value's form: kinds and shapes, a list by the first of its entries."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {form(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(form, value))})"
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} {list(shape)}"


def _odd_one(numbered: Sequence[tuple[Any, Any]]) -> str:
    """Names the first sample that has another form than most; empty where there is none."""
    forms = [form(sample) for _, sample in numbered]
    usual = max(forms, key=forms.count)
    for (index, _), own in zip(numbered, forms, strict=True):
        if own != usual:
            other = numbered[forms.index(usual)][0]
            return f"item {index} is {own}, but item {other} is {usual}; a batch needs them alike, or a collate_fn"
    return ""


def _range(numbered: Sequence[tuple[Any, Any]]) -> str:
    indices = [index for index, _ in numbered]
    return f"{indices[0]} to {indices[-1]}" if len(indices) > 1 else str(indices[0])

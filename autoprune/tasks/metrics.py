"""Metrics of a task: what is measured of outputs and targets, a value for each sample or accumulated over all."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from autoprune.core.metrics import SHARE, Direction, MetricInfo
from autoprune.errors import AutopruneError, TaskError, describe
from autoprune.tasks.outputs import logits_of, named_logits

_NAME = re.compile(r"[A-Za-z_][\w.@+-]*")
_RESERVED = frozenset({
    "loss", "kl", "samples", "seconds", "flops", "params", "size", "latency_ms", "trials", "failed_trials", "rungs",
    "flops_kept", "params_kept", "step", "epoch", "epochs", "round", "rate", "zeros", "training_loss", "time", "event",
})  # fmt: skip
"""Names under which something else is recorded."""


@runtime_checkable
class Accumulator(Protocol):
    """An object that sees one batch after the other, as those of torchmetrics do."""

    def update(self, outputs: Any, targets: Any, /) -> None:
        """Takes the outputs and targets of a batch."""

    def compute(self) -> Any:
        """Returns the value over all batches since the last reset: one number, or several by name."""

    def reset(self) -> None:
        """Forgets all batches."""


_TOP_5_FROM = 10

Measure = Callable[[Any, Any], "Tensor | float"] | Accumulator


@dataclass(frozen=True)
class Metric:
    """What is measured of a network, and which values are better.

    Attributes:
        name: under which it is recorded.
        measure: a function of outputs and targets to `[batch]` values, one for each sample, or to one number for the
            batch, of which the mean over the samples is taken; or an object with `update`, `compute` and `reset`, such
            as one of torchmetrics, which is copied for every evaluation. Where `compute` returns several numbers by
            name, that of the metric's name is taken.
        direction: `maximize` or `minimize`; None takes an object's `higher_is_better`. Without either it is reported
            and cannot be an objective.
        unit: `%` for shares in [0, 1], written as per cent; any other text stands behind the numbers.
        range: least and greatest value that it can have; None where there is none. Of shares it is 0 and 1.
    """

    name: str
    measure: Measure
    direction: Direction | None = None
    unit: str = ""
    range: tuple[float | None, float | None] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or self.name in _RESERVED:
            why = "something else is recorded under it" if self.name in _RESERVED else "letters, digits and _ . @ + -"
            raise TaskError(f"a metric cannot be called {self.name!r} ({why}); give it another name")
        if not self.accumulates and not callable(self.measure):
            raise TaskError(
                f"metric {self.name!r} should be a function of outputs and targets, or have update, compute and reset, "
                f"but is a {type(self.measure).__name__}"
            )
        if self.direction is None:
            higher = getattr(self.measure, "higher_is_better", None)
            found = None if higher is None else "maximize" if higher else "minimize"
            object.__setattr__(self, "direction", found)
        if self.direction not in ("maximize", "minimize", None):
            raise TaskError(f"metric {self.name!r}: direction should be maximize or minimize but is {self.direction!r}")
        if self.range is None and self.unit == SHARE:
            object.__setattr__(self, "range", (0.0, 1.0))

    @property
    def accumulates(self) -> bool:
        """Whether it is an object that sees all batches before it has a value."""
        return isinstance(self.measure, Accumulator) and not isinstance(self.measure, type)

    @property
    def info(self) -> MetricInfo:
        """What records and tables know of it."""
        return MetricInfo(self.name, self.direction, self.unit)

    def accumulator(self) -> Accumulator:
        """Returns an accumulator of its own, which has seen nothing."""
        found = copy.deepcopy(self.measure)
        assert isinstance(found, Accumulator), "the caller looked"
        found.reset()
        return found

    def batch_mean(self, outputs: Any, targets: Any, count: int) -> float:
        """Returns the mean over the samples of a batch.

        Args:
            outputs: whatever the network gives.
            targets: whatever the task has for them.
            count: samples in the batch.

        Raises:
            TaskError: the function failed, or returned neither one value for each sample nor one number.
        """
        values = self.values(outputs, targets)
        if values.numel() not in (count, 1):
            raise TaskError(
                f"metric {self.name!r} should return [{count}] values, one for each sample, or one number, but "
                f"returned {list(values.shape)}"
            )
        return float(values.double().mean())

    def values(self, outputs: Any, targets: Any) -> Tensor:
        """Returns what the function gives for a batch: `[batch]` values, or whatever shape it has them in.

        Args:
            outputs: whatever the network gives.
            targets: whatever the task has for them.

        Raises:
            TaskError: the function failed, or returned no numbers.
        """
        assert callable(self.measure), "the caller looked"
        with self.named():
            given = self.measure(outputs, targets)
        try:
            return torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError) as fault:
            raise TaskError(
                f"metric {self.name!r} should return one number for each sample, or one for the batch, but returned "
                f"{_described(given)}"
            ) from fault

    @contextmanager
    def named(self) -> Iterator[None]:
        """Lets what fails within say which metric it is.

        Raises:
            TaskError: something failed.
        """
        try:
            yield
        except (AutopruneError, MemoryError, torch.OutOfMemoryError, OSError):
            raise
        except Exception as fault:  # the user's function may raise anything
            raise TaskError(f"metric {self.name!r} failed: {describe(fault)}") from fault

    def result(self, computed: Any) -> float:
        """Returns the value in what an accumulator computed.

        Raises:
            TaskError: there is no number under the metric's name.
        """
        found = computed.get(self.name) if isinstance(computed, Mapping) else computed
        if isinstance(found, (int, float)) or (isinstance(found, Tensor) and found.numel() == 1):
            return float(found)
        said = f"numbers for {', '.join(map(str, computed))}" if isinstance(computed, Mapping) else _described(found)
        raise TaskError(f"metric {self.name!r} should compute one number, but computed {said}; name it after one")


def _described(value: Any) -> str:
    return f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def as_metrics(given: Any) -> tuple[Metric, ...]:
    """Returns metrics as people give them: one or several, functions or objects, by name or not.

    Args:
        given: a `Metric`, a function, an object with `update` and `compute`, several of these, or a mapping of names to
            them, as torchmetrics' `MetricCollection` is too. A function or object without a name of its own is called
            after its function or class.

    Raises:
        TaskError: it is nothing of the kind, or two have one name.
    """
    if callable(getattr(given, "items", None)):
        found = [_as_metric(each, str(name)) for name, each in given.items()]
    elif isinstance(given, Iterable) and not callable(given):
        found = [_as_metric(each) for each in given]
    else:
        found = [_as_metric(given)]
    names = [each.name for each in found]
    if len(set(names)) < len(names):
        raise TaskError(f"two metrics have one name: {', '.join(names)}; give them as a mapping of names to metrics")
    return tuple(found)


def _as_metric(given: Any, name: str | None = None) -> Metric:
    if isinstance(given, Metric):
        return replace(given, name=name or given.name)
    for known in (ACCURACY, TOP_5):
        if given is known.measure:
            return replace(known, name=name or known.name)
    function = getattr(given, "func", given)  # of a partial one
    own = getattr(function, "__name__", None) or type(given).__name__
    return Metric(name or ("metric" if own == "<lambda>" else re.sub(r"\W", "_", own)), given)


def top_1(outputs: Any, targets: Tensor) -> Tensor:
    """Returns `[batch]`: 1 where the largest of `[batch, classes]` logits is the target, else 0.

    Args:
        outputs: the logits, or what `logits_of` finds them in.
        targets: `[batch]` class numbers.

    Raises:
        TaskError: they are not outputs of at least two classes and whole numbers, one for each sample.
    """
    logits = logits_of(outputs)
    if not _classifies(logits, targets):
        raise TaskError(
            f"top-1 accuracy needs [batch, classes] outputs of at least two classes and [batch] class numbers, but has "
            f"{_kind(logits)} and {_kind(targets)}; give the metric that this task has, metrics=…, or metrics=[] to "
            "go by the loss alone"
        )
    return (logits.argmax(dim=1) == targets).float()


def _classifies(outputs: object, targets: object) -> bool:
    return (
        isinstance(outputs, Tensor)
        and isinstance(targets, Tensor)
        and outputs.dim() == 2
        and outputs.shape[1] > 1
        and targets.shape == outputs.shape[:1]
        and not targets.is_floating_point()
    )


def _kind(value: object) -> str:
    return (
        f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        if isinstance(value, Tensor)
        else (f"a {type(value).__name__}")
    )


def top_k(outputs: Tensor, targets: Tensor, k: int) -> Tensor:
    """Returns `[batch]`: 1 where the target is among the k largest of `[batch, classes]` outputs, else 0.

    Of equal outputs those of the lower classes count as larger; a target whose output is NaN is not among the largest.

    Args:
        outputs: `[batch, classes]` scores.
        targets: `[batch]` class indices.
        k: from 1 up to the number of classes.
    """
    targets = targets.long()
    own = outputs.gather(1, targets[:, None])
    lower = torch.arange(outputs.shape[1], device=outputs.device) < targets[:, None]
    larger = ~(outputs <= own)  # rather than >, for NaN
    before = larger | ((outputs == own) & lower)
    return (before.sum(dim=1) < k).float()


def top_5(outputs: Any, targets: Tensor) -> Tensor:
    """Returns `[batch]`: 1 where the target is among the five largest of `[batch, classes]` logits, else 0."""
    return top_k(logits_of(outputs), targets, 5)


ACCURACY = Metric("accuracy", top_1, "maximize", SHARE)
TOP_5 = Metric("top_5", top_5, "maximize", SHARE)


def predictions(outputs: Any) -> Any:
    """Returns what metrics see of a network's outputs: logits that have a name, see `named_logits`, or all of them."""
    found = named_logits(outputs)
    return outputs if found is None else found


def classification_metrics(outputs: Any, targets: Any) -> tuple[Metric, ...]:
    """Returns top-1 accuracy, and top-5 from ten classes on.

    Args:
        outputs: of a network, `[batch, classes]` or what holds such logits.
        targets: `[batch]` class numbers.

    Raises:
        TaskError: they are no classification's; it says what to give instead.
    """
    logits = logits_of(outputs)
    top_1(logits, targets)
    return (ACCURACY, TOP_5) if logits.shape[1] >= _TOP_5_FROM else (ACCURACY,)

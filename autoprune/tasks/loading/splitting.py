"""What the user's data yield, split into the inputs of a network and targets.

`(x, y)` are inputs and targets. Of a longer tuple the network's forward takes as many as it must, the next are the
targets, and the rest is passed over. Of a mapping (or a dataclass, or a named tuple by its fields) the keys that the
forward names are keyword arguments, and the targets are one of `TARGET_NAMES` or the only key that it does not take.
What is not clear is refused, never guessed.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.graph.inputs import ModelInputs, arrays_as_tensors
from autoprune.graph.networks import unwrap
from autoprune.graph.recording.randomness import seeded
from autoprune.tasks.base import Batch
from autoprune.tasks.loading.axes import is_time_first, may_be_time_first
from autoprune.tasks.loading.reading import form, one_line

log = logging.getLogger(__name__)

TARGET_NAMES = ("labels", "label", "targets", "target", "y")
_CURE = "say which is which: SimpleTask(..., inputs=lambda batch: …, targets=lambda batch: …)"


@dataclass(frozen=True)
class Parameters:
    """What a network's forward takes.

    Attributes:
        names: of the parameters that may be given by name.
        required: the positional ones without a default.
        most: how many inputs may be given by position, settings with a default of their own (`features=False`) not
            counted; None is any number.
        keywords: whether it takes keywords of any name too.
    """

    names: tuple[str, ...]
    required: tuple[str, ...]
    most: int | None
    keywords: bool

    @classmethod
    def of(cls, network: nn.Module) -> Parameters:
        """Reads them from the signature of the forward."""
        parameters = inspect.signature(unwrap(network).forward).parameters.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        inputs = [p for p in positional if p.default is p.empty or p.default is None or isinstance(p.default, Tensor)]
        named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        kinds = {p.kind for p in parameters}
        return cls(
            tuple(named),
            tuple(p.name for p in positional if p.default is p.empty),
            None if inspect.Parameter.VAR_POSITIONAL in kinds else len(inputs),
            inspect.Parameter.VAR_KEYWORD in kinds,
        )

    def __str__(self) -> str:
        optional = [f"{name}=…" for name in self.names if name not in self.required]
        more = ["*args"] * (self.most is None) + ["**kwargs"] * self.keywords
        return f"forward({', '.join([*self.required, *optional, *more])})"


@dataclass
class Splitter:
    """Splits batches for one network.

    Attributes:
        build: builds the network; called only where its forward must be asked.
        inputs: replaces the default: a function of the batch.
        targets: likewise.
        samples: a function of the batch to its number of samples; None: as its tensors say.
        axis: of the samples in the inputs' tensors; None: as they and the targets say.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[Any], Any] | None = None
    targets: Callable[[Any], Any] | None = None
    samples: Callable[[Any], int] | None = None
    axis: int | None = None
    _parameters: Parameters | None = field(default=None, init=False, repr=False)
    _time_first: bool | None = field(default=None, init=False, repr=False)
    _said: set[str] = field(default_factory=set, init=False, repr=False)

    def split(self, batch: Any, where: str) -> Batch:
        """Returns inputs and targets of a batch.

        Args:
            batch: as the user's data yield it.
            where: names it in messages.

        Raises:
            TaskError: it is not clear which is which.
        """
        inputs, targets = None, None
        if self.inputs is None or self.targets is None:
            inputs, targets = arrays_as_tensors(self._by_default(batch, where))
        if self.inputs is not None:
            inputs = _call("inputs", self.inputs, batch, where)
        if self.targets is not None:
            targets = _call("targets", self.targets, batch, where)
        if isinstance(targets, (bool, int, float, str)):
            raise TaskError(
                f"{where} has one {type(targets).__name__} as targets, as single samples have and batches do not; "
                "give a Dataset or a DataLoader"
            )
        targets = _each_its_own(inputs, targets)
        samples = None if self.samples is None else _call("samples", self.samples, batch, where)
        axis = 1 if self.axis is None and samples is None and self._is_time_first(inputs, targets) else self.axis
        if samples is None and axis is None:
            return inputs, targets
        return ModelInputs.of(inputs, samples=samples, axis=axis), targets

    def _is_time_first(self, inputs: Any, targets: Any) -> bool:
        """Tells, once and by the network, whether samples lie along the second axis where shapes allow both."""
        if not may_be_time_first(inputs, targets):
            return False
        if self._time_first is None:
            with seeded(0):
                self._time_first = is_time_first(self.build(), inputs)
        return self._time_first

    def _by_default(self, batch: Any, where: str) -> Batch:
        if isinstance(batch, Tensor):
            return batch, None
        if isinstance(batch, Mapping):
            return self._of_mapping(batch, where)
        if isinstance(batch, (tuple, list)):
            names = getattr(batch, "_fields", None)
            if names is not None and (len(batch) > 2 or {*names} & {*self.parameters.names}):
                return self._of_mapping(dict(zip(names, batch, strict=True)), where)
            return self._of_tuple(batch, where)
        if is_dataclass(batch) and not isinstance(batch, type):
            return self._of_mapping({each.name: getattr(batch, each.name) for each in fields(batch)}, where)
        raise TaskError(f"{where} is a {type(batch).__name__}, of which inputs and targets are not known; {_CURE}")

    @property
    def parameters(self) -> Parameters:
        """What the network's forward takes."""
        if self._parameters is None:
            with seeded(0):
                self._parameters = Parameters.of(self.build())
        return self._parameters

    def _of_tuple(self, batch: Sequence[Any], where: str) -> Batch:
        if not batch:
            raise TaskError(f"{where} is empty")
        if len(batch) == 1:
            return self._as_inputs(batch[0], None), None
        if len(batch) == 2:
            return self._as_inputs(batch[0], batch[1]), batch[1]
        wanted = self.parameters
        count = len(wanted.required)
        if count == len(batch):
            return tuple(batch), None
        if not count or count > len(batch) or wanted.most is None or count < min(wanted.most, len(batch) - 1):
            raise TaskError(f"{where} holds {_kinds(batch)}, and the network is called as {wanted}; {_CURE}")
        left = batch[count + 1 :]
        if left:
            self.say(f"{where.partition(':')[0]}: of {_kinds(batch)} the last {len(left)} are passed over")
        return (batch[0] if count == 1 else tuple(batch[:count])), batch[count]

    def _as_inputs(self, inputs: Any, targets: Any) -> Any:
        """Returns inputs of which a tuple is positional arguments and a list one argument.

        A collate function may leave several arguments as a list, and one argument for each sample as a tuple.
        """
        if not isinstance(inputs, (tuple, list)) or hasattr(inputs, "_fields") or len(inputs) == 0:
            return inputs
        listed = isinstance(targets, (tuple, list)) and len(targets) == len(inputs)
        if listed and isinstance(targets[0], Mapping):
            return list(inputs)  # as for detection
        wanted = self.parameters
        if isinstance(inputs, tuple):
            return list(inputs) if wanted.most is not None and len(inputs) > wanted.most else inputs
        every = all(isinstance(each, Tensor) and each.dim() for each in inputs)
        return tuple(inputs) if every and len(inputs) == len(wanted.required) > 1 else inputs

    def _of_mapping(self, batch: Mapping[Any, Any], where: str) -> Batch:
        if not batch:
            raise TaskError(f"{where} is empty")
        wanted = self.parameters
        given = {name: value for name, value in batch.items() if name in wanted.names}
        others = [name for name in batch if name not in wanted.names]
        target = next((name for name in TARGET_NAMES if name in others), None)
        if target is None:  # also an input where the network computes its loss from it
            target = next((name for name in TARGET_NAMES[:-1] if name in given), None)
        if target is None and len(others) == 1 and given:
            target = others[0]
        rest = [name for name in others if name != target]
        only = batch[rest[0]] if not given and len(rest) == 1 else None
        if only is not None and (len(wanted.required) <= 1 or isinstance(only, (tuple, Mapping))):
            return only, None if target is None else batch[target]  # the only argument by another name, or all of them
        missing = [name for name in wanted.required if name not in given]
        if not given or missing or (target is None and rest):
            lacking = f", which lack {', '.join(missing)}" if given and missing else ""
            raise TaskError(
                f"{where} holds {', '.join(map(str, batch))}{lacking}, and the network is called as {wanted}; {_CURE}"
            )
        if rest:
            self.say(f"{where.partition(':')[0]}: {', '.join(map(str, rest))} are passed over")
        return given, None if target is None else batch[target]

    def say(self, text: str) -> None:
        """Logs a warning, once."""
        if text not in self._said:
            self._said.add(text)
            log.warning("%s", text)


def _call(name: str, function: Callable[[Any], Any], batch: Any, where: str) -> Any:
    try:
        return function(batch)
    except Exception as fault:  # whatever the user's function raises
        raise TaskError(f"{where}: the task's `{name}` failed on {form(batch)} ({one_line(fault)})") from fault


def _each_its_own(inputs: Any, targets: Any) -> Any:
    """Returns targets; a tuple with an entry for each sample, as `tuple(zip(*samples))` leaves it, becomes a list."""
    if not isinstance(targets, tuple) or hasattr(targets, "_fields") or not targets:
        return targets
    listed = isinstance(inputs, list) and len(inputs) == len(targets)
    return list(targets) if listed or all(isinstance(each, Mapping) for each in targets) else targets


def _kinds(batch: Sequence[Any]) -> str:
    return f"({', '.join(type(part).__name__ for part in batch)})"

"""Metrics that networks are judged by: names, which direction is better, and how values are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from autoprune.errors import UserError, did_you_mean

Direction = Literal["minimize", "maximize"]
SHARE = "%"
"""The unit of metrics that are shares in [0, 1] and are written as per cent."""


@dataclass(frozen=True)
class MetricInfo:
    """A metric as records and tables know it.

    Attributes:
        name: under which it is recorded.
        direction: which values are better; None where nobody said, and then it is only reported.
        unit: `%` for shares in [0, 1]; any other text stands behind the numbers.
    """

    name: str
    direction: Direction | None = "minimize"
    unit: str = ""

    def cost(self, value: float) -> float:
        """Returns what a search minimises: a value that should be small itself, the error rate of a share, or minus it.

        Raises:
            ValueError: nobody said which direction is better.
        """
        if self.direction is None:
            raise ValueError(f"metric {self.name!r} has no direction")
        if self.direction == "minimize":
            return value
        return 1.0 - value if self.unit == SHARE else -value

    def text(self, value: float | None) -> str:
        """Returns a value as it stands in tables: 91.25 %, 30.38 dB, 0.0458; nothing where it is not known."""
        if value is None:
            return ""
        if self.unit == SHARE:
            return f"{100 * value:.2f} %"
        size = abs(value)
        number = f"{value:,.2f}" if 100 <= size < 1e9 else f"{value:.4g}" if size >= 1e9 else f"{value:.4f}"
        return f"{number} {self.unit}".rstrip()

    @property
    def label(self) -> str:
        """The metric with its unit, for the axis of a figure."""
        name = self.name.replace("_", " ")
        return f"{name} ({self.unit})" if self.unit else name

    def drawn(self, value: float) -> float:
        """Returns a value as it is drawn: shares as per cent."""
        return 100 * value if self.unit == SHARE else value


LOSS = MetricInfo("loss")
KL = MetricInfo("kl", unit="nats")
"""Mean divergence of the outputs from the dense network's, KL(dense ‖ pruned)."""

Objective = MetricInfo
"""Objective of a search: the loss, the divergence from the dense network, or a metric of the task."""


def choose_objective(name: str, metrics: Sequence[MetricInfo]) -> Objective:
    """Returns what a search is to judge by.

    Args:
        name: `loss`, `kl` or a metric's.
        metrics: the task's.

    Raises:
        UserError: there is no such metric, or nobody said which direction is better.
    """
    known = {each.name: each for each in (LOSS, KL, *metrics)}
    if name not in known:
        raise UserError(
            f"evaluation.objective: the task has no metric {name!r}{did_you_mean(name, known)}; it has "
            f"{', '.join(known)}"
        )
    if known[name].direction is None:
        raise UserError(
            f"evaluation.objective: nobody said whether {name!r} should be high or low; "
            f"make it autoprune.Metric({name!r}, …, direction='maximize') or 'minimize'"
        )
    return known[name]


def primary(objective: Objective, metrics: Sequence[MetricInfo]) -> MetricInfo:
    """Returns what a network is described by in few words: the objective if it is a metric, else the first metric.

    Args:
        objective: of the search.
        metrics: the task's; without any it is the loss.
    """
    return objective if objective in metrics else next(iter(metrics), LOSS)


def infos_to_json(metrics: Iterable[MetricInfo]) -> list[dict[str, Any]]:
    """Returns plain values, for JSON."""
    return [asdict(each) for each in metrics]


def infos_from_json(data: Iterable[Mapping[str, Any]]) -> tuple[MetricInfo, ...]:
    """Returns what `infos_to_json` wrote."""
    return tuple(MetricInfo(**each) for each in data)

"""Per group: loss and metrics against kept width, everything else dense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from autoprune.core.costs import Floats, Ints
from autoprune.core.metrics import LOSS, Objective
from autoprune.core.space import Bounds, SearchSpace
from autoprune.core.trial import Score, value
from autoprune.errors import UserError
from autoprune.files import csv_text


@dataclass(frozen=True)
class Curve:
    """How much worse the network is for each kept width of one group.

    Attributes:
        widths: `[level]` measured ones, ascending; the last is the dense one.
        worse: `[level]` degradations ≥ 0, from the narrowest width above 0 never rising with it.
    """

    widths: Ints
    worse: Floats

    def at(self, widths: ArrayLike) -> Floats:
        """Returns the degradations at any widths: linear between levels; below the narrowest the curve goes on.

        It does so with the slope of its last segment, or where that is less with its mean slope: noise can flatten a
        segment, and narrower is never free.

        Args:
            widths: `[…]` numbers of any shape, or a single one; need not be whole.

        Returns:
            `[…]` degradations ≥ 0 in double precision, of the shape of `widths`.
        """
        wanted = np.asarray(widths, dtype=np.float64)
        inside = np.interp(wanted, self.widths, self.worse)
        below = np.maximum(self.widths[0] - wanted, 0.0)
        return np.asarray(inside + self._slope() * below, dtype=np.float64)

    def _slope(self) -> float:
        """Returns how much worse one structure less than the narrowest width is."""
        if len(self.widths) < 2:
            return 0.0
        rises = self.worse[0] - self.worse[[1, -1]]
        return float((rises / (self.widths[[1, -1]] - self.widths[0])).max())


@dataclass(frozen=True)
class SensitivityCurves:
    """What a sweep measured.

    Attributes:
        dense: the dense network evaluated on the same samples after the same recipe.
        levels: group to kept width to score; the full width is not listed, it is `dense`.
        widths: dense width of each group.
        fingerprint: what the curves depend on (checkpoint, task, samples, pruner, recipe); others are not comparable.
        work: what the sweep cost, in samples times multiply-adds; None where it was not counted.
        naive_work: what evaluating every level of its grid by itself would have cost.
    """

    dense: Score
    levels: Mapping[str, Mapping[int, Score]]
    widths: Mapping[str, int]
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    work: int | None = None
    naive_work: int | None = None

    def curve(self, group: str, objective: Objective = LOSS) -> Curve:
        """Returns how much worse than dense the network is at the widths of one group, made monotone.

        A degradation is the greatest found at that width or any wider one: noise can show a narrower group as better
        than a wider one, but no network loses by keeping more. Except at 0, where the whole branch is gone: that may
        be better than what little of it could stay.
        """
        points = {self.widths[group]: self.dense, **self.levels.get(group, {})}
        widths = np.array(sorted(points))
        worse = np.array([value(points[w], objective) - value(self.dense, objective) for w in widths.tolist()])
        worse, there = np.maximum(worse, 0.0), widths > 0
        worse[there] = np.maximum.accumulate(worse[there][::-1])[::-1]
        return Curve(widths, worse)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, for JSON."""
        work = {"work": self.work, "naive_work": self.naive_work}
        return {
            "fingerprint": dict(self.fingerprint),
            "widths": dict(self.widths),
            "dense": self.dense.to_json(),
            "levels": {
                group: {str(width): score.to_json() for width, score in sorted(levels.items())}
                for group, levels in self.levels.items()
            },
            **{name: amount for name, amount in work.items() if amount is not None},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SensitivityCurves:
        """Returns the curves that `to_json` wrote.

        Raises:
            KeyError, TypeError, AttributeError, ValueError: `data` is nothing of the kind.
        """
        levels = {
            group: {int(width): Score.from_json(score) for width, score in scores.items()}
            for group, scores in data["levels"].items()
        }
        work, naive = data.get("work"), data.get("naive_work")
        return cls(Score.from_json(data["dense"]), levels, data["widths"], data["fingerprint"], work, naive)

    def to_csv(self) -> str:
        """Returns one line a level: group, width, kept, loss, each metric, samples."""
        metrics = list(self.dense.metrics)
        rows = [
            [group, self.widths[group], kept, score.loss, *(score.get(name) for name in metrics), score.samples]
            for group, levels in self.levels.items()
            for kept, score in sorted({**levels, self.widths[group]: self.dense}.items())
        ]
        return csv_text(["group", "width", "kept", "loss", *metrics, "samples"], rows)


def sweep_grid(space: SearchSpace, levels: int) -> dict[str, list[int]]:
    """Returns per group at most `levels` kept widths below the dense one, evenly spaced from the floor upwards.

    Where a branch may be removed, 0 is the first of them.
    """
    return {group.name: _grid(space.bounds[group.name], group.width, levels) for group in space.groups}


def _grid(bounds: Bounds, width: int, levels: int) -> list[int]:
    removed = [0] if bounds.removable else []
    allowed = [level for level in bounds.levels() if level < width and level not in removed]
    levels -= len(removed)
    # The dense width, which is known, is the last of the evenly spaced ones and left out.
    spaced = np.linspace(0, len(allowed), min(levels, len(allowed)), endpoint=False).round().astype(int)
    return removed + [allowed[i] for i in sorted(set(spaced.tolist()))]


FORMAT = 1
# Of a fingerprint, what curves were measured with but do not have to be.
_FREE = ("samples", "seed")
# Of a fingerprint, what does not depend on how candidates are scored and evaluated.
NETWORK = ("task", "model", "checkpoint", "data")

Fingerprint = Mapping[str, Any]


def curves_to_json(curves: Sequence[SensitivityCurves]) -> dict[str, Any]:
    """Returns the plain content of a file of curves, with its format."""
    return {"format": FORMAT, "curves": [each.to_json() for each in curves]}


def curves_from_json(data: Mapping[str, Any], source: str) -> tuple[SensitivityCurves, ...]:
    """Returns the curves that `curves_to_json` wrote.

    Raises:
        UserError: `data` is not what this release writes.
    """
    try:
        number = data["format"]
        if number == FORMAT:
            return tuple(map(SensitivityCurves.from_json, data["curves"]))
    except (KeyError, TypeError, AttributeError, ValueError) as fault:
        raise UserError(
            f"{source} holds no sensitivity curves ({fault!r}); make it with `autoprune sensitivity`"
        ) from fault
    raise UserError(f"{source} has sensitivity format {number}; this release reads {FORMAT}")


def choose_curves(
    found: Sequence[SensitivityCurves], wanted: Fingerprint, space: SearchSpace, source: str
) -> SensitivityCurves:
    """Returns the curves that were measured on this network and task, by this pruner and after this recipe.

    Of several those on the most samples; of equals the last.

    Args:
        found: the curves in a file.
        wanted: the fingerprint of what would be measured; samples and seed may be others.
        space: the groups that they have to have curves of, to width 0 where a branch may be removed.
        source: the file, for messages.

    Raises:
        UserError: none were, or they lack a group.
    """
    if not found:
        raise UserError(f"{source} holds no sensitivity curves; make it with `autoprune sensitivity`")
    fitting = [curves for curves in found if not differing(curves.fingerprint, wanted)]
    if not fitting:
        nearest = min((differing(curves.fingerprint, wanted) for curves in found), key=len)
        others = f" (the nearest of {len(found)} measurements)" if len(found) > 1 else ""
        raise UserError(
            f"{source} was measured with another {' and '.join(nearest)}{others}; leave it out to measure anew"
        )
    missing = {id(curves): _lacking(curves, space) for curves in fitting}
    best = max(reversed(fitting), key=lambda curves: (-len(missing[id(curves)]), curves.dense.samples))
    if missing[id(best)]:
        raise UserError(
            f"{source} has no curve for group {', '.join(missing[id(best)])}; measure anew with this search space"
        )
    return best


def _lacking(curves: SensitivityCurves, space: SearchSpace) -> list[str]:
    """Returns the groups of a space of which curves say nothing, or nothing of their branch's removal."""
    removable = {name for name in space.names if space.bounds[name].removable}
    levels = curves.levels
    return [name for name in space.names if name not in levels or (name in removable and 0 not in levels[name])]


def differing(found: Fingerprint, wanted: Fingerprint) -> list[str]:
    """Returns the parts of a fingerprint that are not as wanted."""
    return [key for key in wanted if key not in _FREE and found.get(key) != wanted[key]]


def curves_of_network(found: Sequence[SensitivityCurves], wanted: Fingerprint) -> tuple[SensitivityCurves, ...]:
    """Returns the curves that were measured on the same network and data."""
    return tuple(curves for curves in found if all(curves.fingerprint.get(key) == wanted.get(key) for key in NETWORK))


def add_curves(found: Sequence[SensitivityCurves], new: SensitivityCurves) -> tuple[SensitivityCurves, ...]:
    """Returns the curves with new ones at the end, which take the place of any measured in the same way."""
    return (*(curves for curves in found if curves.fingerprint != new.fingerprint), new)

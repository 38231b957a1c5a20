"""Per group: loss and accuracy against kept width, everything else dense."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoprune.core.space import Bounds, SearchSpace
from autoprune.core.trial import Objective, Score, value
from autoprune.errors import UserError

FORMAT = 1


@dataclass(frozen=True)
class SensitivityCurves:
    """What a sweep measured.

    Attributes:
        dense: the dense network judged on the same images after the same recipe.
        levels: group to kept width to score; the full width is not listed, it is `dense`.
        widths: dense width of each group.
        fingerprint: what the curves depend on (checkpoint, task, images, pruner, recipe); others are not comparable.
    """

    dense: Score
    levels: Mapping[str, Mapping[int, Score]]
    widths: Mapping[str, int]
    fingerprint: Mapping[str, Any] = field(default_factory=dict)

    def degradation(self, group: str, objective: Objective = "loss") -> tuple[np.ndarray, np.ndarray]:
        """Kept widths, ascending, and how much worse each is than dense, made monotone.

        Returns:
            `[level]` widths and `[level]` degradations ≥ 0 that never rise with the width: each is the greatest found
            at that width or any wider one (noise can show a narrower group as better than a wider one; no network
            loses by keeping more).
        """
        points = {self.widths[group]: self.dense, **self.levels.get(group, {})}
        widths = np.array(sorted(points))
        worse = np.array([value(points[w], objective) - value(self.dense, objective) for w in widths.tolist()])
        worse = np.maximum(worse, 0.0)
        return widths, np.maximum.accumulate(worse[::-1])[::-1]

    def at(self, group: str, width: int, objective: Objective = "loss") -> float:
        """The degradation at any width, linear between levels and constant below the narrowest."""
        widths, worse = self.degradation(group, objective)
        return float(np.interp(width, widths, worse))

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "fingerprint": dict(self.fingerprint),
            "widths": dict(self.widths),
            "dense": self.dense.to_json(),
            "levels": {
                group: {str(width): score.to_json() for width, score in sorted(levels.items())}
                for group, levels in self.levels.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], source: str = "the file") -> SensitivityCurves:
        """The curves that `to_json` wrote.

        Raises:
            UserError: `data` is not what this release writes.
        """
        try:
            if data["format"] != FORMAT:
                raise UserError(f"{source} has sensitivity format {data['format']}; this release reads {FORMAT}")
            levels = {
                group: {int(width): Score.from_json(score) for width, score in scores.items()}
                for group, scores in data["levels"].items()
            }
            return cls(Score.from_json(data["dense"]), levels, data["widths"], data["fingerprint"])
        except UserError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as fault:
            raise UserError(
                f"{source} holds no sensitivity curves ({fault!r}); make it with `autoprune sensitivity`"
            ) from fault

    def to_csv(self) -> str:
        """One line a level: group, width, kept, loss, accuracy."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["group", "width", "kept", "loss", "accuracy", "images"])
        for group, levels in self.levels.items():
            for kept, score in sorted({**levels, self.widths[group]: self.dense}.items()):
                writer.writerow([group, self.widths[group], kept, score.loss, score.accuracy, score.images])
        return text.getvalue()


def sweep_grid(space: SearchSpace, levels: int) -> dict[str, list[int]]:
    """Per group, at most `levels` kept widths below the dense one, evenly spaced from the floor upwards."""
    return {group.name: _grid(space.bounds[group.name], group.width, levels) for group in space.groups}


def _grid(bounds: Bounds, width: int, levels: int) -> list[int]:
    allowed = [level for level in bounds.levels() if level < width]
    # The dense width, which is known, is the last of the evenly spaced ones and left out.
    spaced = np.linspace(0, len(allowed), min(levels, len(allowed)), endpoint=False).round().astype(int)
    return [allowed[i] for i in sorted(set(spaced.tolist()))]

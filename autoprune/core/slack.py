"""What limits leave beside an allocation, step by step, in plain numbers: for a few at a time faster than arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoprune.core.costs import CostsAt, CostTable, Ints


@dataclass(frozen=True)
class CostCurvature:
    """How the limited costs grow with the widths of groups, beyond their slopes.

    Attributes:
        kinds: indices of the costs that are limited.
        halves: `[kind][group]` half of the second derivative.
        mixed: `[kind][group]` the groups whose slope changes with this one's width, and by how much for each structure.
    """

    kinds: Sequence[int]
    halves: Sequence[Sequence[int]]
    mixed: Sequence[Sequence[Sequence[tuple[int, int]]]]

    @classmethod
    def of(cls, costs: CostTable, limits: Ints, columns: Ints) -> CostCurvature:
        """Those of the groups at these columns of a cost table; `[cost]` limits, the largest integer where none is."""
        curvature = costs.at(costs.vector({})).curvature
        kinds = np.flatnonzero(limits < np.iinfo(np.int64).max).tolist()
        between = [curvature[kind][np.ix_(columns, columns)] for kind in kinds]
        halves = [(each.diagonal() // 2).tolist() for each in between]
        mixed = [[_nonzero(row) for row in each] for each in between]
        return cls(kinds, halves, mixed)


def _nonzero(values: Ints) -> list[tuple[int, int]]:
    places = np.flatnonzero(values)
    return list(zip(places.tolist(), values[places].tolist(), strict=True))


class Slack:
    """What the limits leave at some widths of the groups.

    Args:
        left: `[kind]` of each limited cost.
        slopes: `[kind][group]` what one more structure costs.
    """

    __slots__ = ("_curvature", "_left", "_slopes")

    def __init__(self, curvature: CostCurvature, left: Sequence[int], slopes: Sequence[Sequence[int]]) -> None:
        self._curvature, self._left, self._slopes = curvature, list(left), [list(each) for each in slopes]

    @classmethod
    def beside(cls, costs: CostsAt, curvature: CostCurvature, limits: Ints, columns: Ints) -> Slack:
        """What `[cost]` limits leave beside these costs, for the groups at these columns of it."""
        left = [int(limits[kind] - costs.spent[kind]) for kind in curvature.kinds]
        return cls(curvature, left, [costs.slopes[kind, columns].tolist() for kind in curvature.kinds])

    def copy(self) -> Slack:
        """The same, to be changed by itself."""
        return Slack(self._curvature, self._left, self._slopes)

    def holds(self, group: int, by: int) -> bool:
        """Whether the group at this index may become so much wider within the limits."""
        for left, slopes, halves in zip(self._left, self._slopes, self._curvature.halves, strict=True):
            if by * (slopes[group] + by * halves[group]) > left:
                return False
        return True

    def widen(self, group: int, by: int) -> None:
        """Makes the group at this index `by` wider; narrower, if that is below 0."""
        curvature = self._curvature
        for kind, slopes in enumerate(self._slopes):
            self._left[kind] -= by * (slopes[group] + by * curvature.halves[kind][group])
            for other, change in curvature.mixed[kind][group]:
                slopes[other] += by * change

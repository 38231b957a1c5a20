"""Slack of limits: what they leave beside the costs of an allocation, while single groups become wider or narrower."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.core.costs import CostsAt, Ints

UNLIMITED = np.iinfo(np.int64).max


class CostCurvature:
    """Growth of the limited costs with the widths of the groups at some columns of a cost table, beyond their slopes.

    Args:
        curvature: `[cost, group of the table, group of the table]` second derivatives.
        limits: `[cost]`, the largest integer where a cost is not limited.
        columns: `[group]` indices of the groups in the cost table.

    Attributes:
        kinds: indices of the costs that are limited.
        halves: `[kind][group]` half of the second derivative.
        mixed: `[kind][group]` the groups whose slope changes with this one's width, and by how much for each structure.
    """

    def __init__(self, curvature: Ints, limits: Ints, columns: Ints) -> None:
        self.kinds: list[int] = np.flatnonzero(limits < UNLIMITED).tolist()
        between = [curvature[kind][np.ix_(columns, columns)] for kind in self.kinds]
        self.halves: list[list[int]] = [(each.diagonal() // 2).tolist() for each in between]
        self.mixed = [[_nonzero(row) for row in each] for each in between]


def _nonzero(values: Ints) -> list[tuple[int, int]]:
    places = np.flatnonzero(values)
    return list(zip(places.tolist(), values[places].tolist(), strict=True))


class Slack:
    """Slack of the limits at some widths of the groups.

    Args:
        left: `[kind]` of each limited cost.
        slopes: `[kind][group]` what one more structure costs.
    """

    __slots__ = ("_curvature", "_left", "_slopes")

    def __init__(self, curvature: CostCurvature, left: Sequence[int], slopes: Sequence[Sequence[int]]) -> None:
        self._curvature, self._left, self._slopes = curvature, list(left), [list(each) for each in slopes]

    @classmethod
    def beside(cls, costs: CostsAt, curvature: CostCurvature, limits: Ints, columns: Ints) -> Slack:
        """Returns what limits leave beside the costs of one allocation.

        Args:
            costs: at its widths.
            curvature: of the same groups.
            limits: `[cost]`.
            columns: `[group]` indices of the groups in the cost table.
        """
        left = [int(limits[kind] - costs.spent[kind]) for kind in curvature.kinds]
        return cls(curvature, left, [costs.slopes[kind, columns].tolist() for kind in curvature.kinds])

    def copy(self) -> Slack:
        """Returns a copy, which changes by itself."""
        return Slack(self._curvature, self._left, self._slopes)

    def holds(self, group: int, by: int) -> bool:
        """Returns whether the group at this index may become so much wider within the limits."""
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

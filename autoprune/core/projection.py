"""The projection of any allocation onto the limits of a budget: repaired if above, and filled unless told otherwise."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autoprune.core.allocation import Allocation
from autoprune.core.budget import Limits, check_feasible
from autoprune.core.costs import COST_KINDS, CostTable, Ints, Tally
from autoprune.core.space import SearchSpace

Room = Sequence[tuple[int, Sequence[int], Sequence[int]]]
"""Of each limited cost: what is left of it, and how it grows with each group's width: linearly, and with its square.

Plain numbers, which for a few at a time are faster than arrays.
"""


def project(allocation: Mapping[str, int], space: SearchSpace, costs: CostTable, limits: Limits) -> Allocation:
    """The allocation moved inside the space and onto the limits; see `Projection.project`.

    Raises:
        BudgetInfeasible: even the narrowest allocation is above a limit.
    """
    return Projection.onto(space, costs, limits).project(allocation)


def repair(allocation: Mapping[str, int], space: SearchSpace, costs: CostTable, limits: Limits) -> Allocation:
    """The allocation moved inside the space and under the limits; see `Projection.repair`.

    Raises:
        BudgetInfeasible: even the narrowest allocation is above a limit.
    """
    return Projection.onto(space, costs, limits).repair(allocation)


@dataclass(frozen=True)
class Projection:
    """A search space as `[group]` arrays, with the cost table and limits that hold on it.

    Attributes:
        columns: where each group stands in the cost table's vectors.
        dense: `[group of the table]` widths, of which those at `columns` change.
        limits: `[cost]`; the largest integer where a cost is not limited.
    """

    names: tuple[str, ...]
    lowest: Ints
    ceiling: Ints
    step: Ints
    columns: Ints
    dense: Ints
    limits: Ints
    costs: CostTable

    @classmethod
    def onto(cls, space: SearchSpace, costs: CostTable, limits: Limits) -> Projection:
        """That onto these limits.

        Raises:
            BudgetInfeasible: even the narrowest allocation is above a limit.
        """
        check_feasible(space, costs, limits)
        bounds = [space.bounds[name] for name in space.names]
        place = {group: column for column, group in enumerate(costs.widths)}
        unlimited = np.iinfo(np.int64).max
        return cls(
            names=space.names,
            lowest=np.array([b.lowest for b in bounds], dtype=np.int64),
            ceiling=np.array([b.ceiling for b in bounds], dtype=np.int64),
            step=np.array([b.step for b in bounds], dtype=np.int64),
            columns=np.array([place[name] for name in space.names], dtype=np.int64),
            dense=costs.vector({}),
            limits=np.array([limits.get(kind, unlimited) for kind in COST_KINDS], dtype=np.int64),
            costs=costs,
        )

    def project(self, allocation: Mapping[str, int]) -> Allocation:
        """The allocation moved inside the space and onto the limits.

        Repair moves every width the same fraction of the way to its narrowest, so that the proportions of a proposal
        survive. Fill moves every width the same fraction of the way to its ceiling. Then single steps are added, the
        group furthest (relatively) below its proposed width first, until no further step of any group keeps the limits.
        Costs never fall as widths grow, so the result is maximal: a projection of it returns it unchanged.

        Groups equally far below take their steps in an order drawn from the proposal itself: with the first group
        first, coarse steps would give what is left to the early layers of the network in every proposal.
        """
        return self.projected(self.vector(allocation))

    def projected(self, widths: Ints) -> Allocation:
        """The projection of `[group]` widths."""
        wanted = self._clip(widths)
        start = self.below(wanted)
        tally = self.tally(start)
        if not self.keeps(tally.spent):
            start = _furthest(self.lowest, wanted, self)
            tally = self.tally(start)
        elif not self._is_stuck(wanted, start, tally):
            start = _furthest(wanted, self.ceiling, self)
            tally = self.tally(start)
        return Allocation(dict(zip(self.names, _fill_steps(start, wanted, tally, self), strict=True)))

    def repair(self, allocation: Mapping[str, int]) -> Allocation:
        """The allocation moved inside the space and, if it is above a limit, under the limits; nothing is filled.

        As in `project`, every width moves the same fraction of the way to its narrowest. What keeps the limits stays as
        it is, so a repair of the result returns it unchanged.
        """
        wanted = self._clip(self.vector(allocation))
        return Allocation(dict(zip(self.names, _furthest(self.lowest, wanted, self).tolist(), strict=True)))

    def vector(self, allocation: Mapping[str, int]) -> Ints:
        """`[group]` widths of an allocation."""
        return np.array([allocation[name] for name in self.names], dtype=np.int64)

    def _clip(self, widths: Ints) -> Ints:
        """The nearest widths between the narrowest and the ceilings; not yet in steps."""
        return np.asarray(np.minimum(np.maximum(widths, self.lowest), self.ceiling))

    def below(self, widths: NDArray[np.float64] | Ints) -> Ints:
        """The widest allowed widths at or below these, as `Bounds.below`."""
        whole = widths if widths.dtype == np.int64 else np.floor(widths + 1e-9).astype(np.int64)
        snapped = np.maximum(whole if self._single else whole // self.step * self.step, self.lowest)
        return np.where(whole >= self.ceiling, self.ceiling, snapped)

    @cached_property
    def _single(self) -> bool:
        """Whether every width between the narrowest and the ceilings is allowed."""
        return bool((self.step == 1).all())

    def steps(self, widths: Ints) -> Ints:
        """By how much wider the next allowed widths are; 0 at a ceiling."""
        return np.asarray(np.minimum((widths // self.step + 1) * self.step, self.ceiling) - widths)

    def tally(self, widths: Ints) -> Tally:
        vector = self.dense.copy()
        vector[self.columns] = widths
        return self.costs.tally(vector)

    def fits(self, widths: Ints) -> bool:
        return self.keeps(self.tally(widths).spent)

    def keeps(self, spent: Ints) -> bool:
        """Whether `[cost]` keeps every limit."""
        return bool((spent <= self.limits).all())

    def may_step(self, steps: Ints, tally: Tally) -> NDArray[np.bool_]:
        """`[group]`: whether the step of this group alone keeps every limit; not where it is 0."""
        spent = tally.spent[:, None] + tally.rises(self.columns, steps)
        return np.asarray((spent <= self.limits[:, None]).all(axis=0) & (steps > 0))

    def room(self, tally: Tally) -> Room:
        """What the limits leave beside a tally."""
        columns = self.columns
        return [
            (int(self.limits[kind] - tally.spent[kind]), tally.slopes[kind, columns].tolist(), bends)
            for kind, bends in self._limited
        ]

    @cached_property
    def _limited(self) -> list[tuple[int, list[int]]]:
        """The costs that are limited, by index; how each grows with the square of a group's width."""
        kinds = np.flatnonzero(self.limits < np.iinfo(np.int64).max).tolist()
        curvature = self.costs.tally(self.dense).curvature
        return [(kind, (curvature[kind, self.columns, self.columns] // 2).tolist()) for kind in kinds]

    def _is_stuck(self, wanted: Ints, below: Ints, tally: Tally) -> bool:
        """Whether no way at all leads from `wanted` towards the ceilings, so that it need not be halved to be known.

        On the straight line the group whose next step is nearest takes it first. Where that alone is above a limit, so
        is everything that comes later. Groups that are nearly as near count with it, as their order may be rounded.
        """
        steps = self.steps(below)
        free = self.may_step(steps, tally)
        if not free.any():
            return True
        far = np.where(steps > 0, (below + steps - wanted) / np.maximum(self.ceiling - wanted, 1), np.inf)
        return not free[far <= far.min() + 1e-6].any()


def _furthest(begin: Ints, end: Ints, grid: Projection) -> Ints:
    """The widest widths that fit on the straight line from `begin`, which fits, up to `end`; to half a structure."""
    if grid.fits(grid.below(end)):
        return grid.below(end)
    way = (end - begin).astype(np.float64)
    inside, outside, enough = 0.0, 1.0, 0.5 / way.max()
    while outside - inside > enough:
        middle = (inside + outside) / 2
        if grid.fits(grid.below(begin + middle * way)):
            inside = middle
        else:
            outside = middle
    return grid.below(begin + inside * way)


def _keys(names: Sequence[str], wanted: Ints) -> list[bytes]:
    """Keys of these groups that break ties, the same for the same proposal on any machine."""
    seed = hashlib.blake2b(wanted.astype("<i8").tobytes(), digest_size=16).digest()
    return [hashlib.blake2b(name.encode(), key=seed, digest_size=8).digest() for name in names]


def _fill_steps(start: Ints, wanted: Ints, tally: Tally, grid: Projection) -> list[int]:
    """`start` with single steps added, the group furthest below `wanted` first, until none fits.

    A group whose step does not fit is done: steps of others only make it dearer.

    Args:
        tally: at `start`; it goes along.
    """
    widths: list[int] = start.tolist()
    target, step, ceiling = wanted.tolist(), grid.step.tolist(), grid.ceiling.tolist()
    left = np.flatnonzero(grid.may_step(grid.steps(start), tally)).tolist()
    if not left:
        return widths
    keys = _keys([grid.names[i] for i in left], wanted)
    waiting = [(_fullness(widths[i], target[i]), key, i) for i, key in zip(left, keys, strict=True)]
    heapq.heapify(waiting)
    room = grid.room(tally)
    while waiting:
        _, key, i = heapq.heappop(waiting)
        by = _step_up(widths[i], step[i], ceiling[i]) - widths[i]
        if by and has_room(room, i, by):
            widths[i] += by
            tally.widen(grid.columns[i], by)
            room = grid.room(tally)
            heapq.heappush(waiting, (_fullness(widths[i], target[i]), key, i))
    return widths


def has_room(room: Room, group: int, by: int) -> bool:
    """Whether the group at this index may become so much wider within the limits."""
    for left, slopes, bends in room:  # noqa: SIM110 - a generator takes twice as long, and there are many calls
        if by * (slopes[group] + by * bends[group]) > left:
            return False
    return True


def _fullness(width: int, target: int) -> float:
    """How far a group is on the way to what was proposed; one that was to go whole is there already."""
    return width / target if target else 1.0 + width


def _step_up(width: int, step: int, ceiling: int) -> int:
    return min((width // step + 1) * step, ceiling)

"""The projection of any allocation onto the limits of a budget: repaired if above, and filled unless told otherwise."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoprune.core.allocation import Allocation
from autoprune.core.budget import Limits, check_feasible
from autoprune.core.costs import COST_KINDS, CostTable, Ints, Tally
from autoprune.core.space import SearchSpace


def project(allocation: Mapping[str, int], space: SearchSpace, costs: CostTable, limits: Limits) -> Allocation:
    """The allocation moved inside the space and onto the limits.

    Repair moves every width the same fraction of the way to its narrowest, so that the proportions of a proposal
    survive. Fill moves every width the same fraction of the way to its ceiling. Then single steps are added, the group
    furthest (relatively) below its proposed width first, until no further step of any group keeps the limits. Costs
    never fall as widths grow, so the result is maximal: a projection of it returns it unchanged.

    Groups equally far below take their steps in an order drawn from the proposal itself: with the first group first,
    coarse steps would give what is left to the early layers of the network in every proposal.

    Raises:
        BudgetInfeasible: even the narrowest allocation is above a limit.
    """
    check_feasible(space, costs, limits)
    grid = _Grid.of(space, costs, limits)
    wanted = grid.clip([allocation[name] for name in space.names])
    if grid.fits(grid.below(wanted)):
        start = _furthest(wanted, grid.ceiling, grid)
    else:
        start = _furthest(grid.lowest, wanted, grid)
    widths = _fill_steps(start, wanted, grid, _order(space.names, wanted))
    return Allocation(dict(zip(space.names, widths, strict=True)))


def repair(allocation: Mapping[str, int], space: SearchSpace, costs: CostTable, limits: Limits) -> Allocation:
    """The allocation moved inside the space and, if it is above a limit, under the limits; nothing is filled.

    As in `project`, every width moves the same fraction of the way to its narrowest. What keeps the limits stays as it
    is, so a repair of the result returns it unchanged.

    Raises:
        BudgetInfeasible: even the narrowest allocation is above a limit.
    """
    check_feasible(space, costs, limits)
    grid = _Grid.of(space, costs, limits)
    wanted = grid.clip([allocation[name] for name in space.names])
    return Allocation(dict(zip(space.names, _furthest(grid.lowest, wanted, grid).tolist(), strict=True)))


@dataclass(frozen=True)
class _Grid:
    """A search space as `[group]` arrays, with the cost table and limits that hold on it.

    Attributes:
        columns: where each group stands in the cost table's vectors.
        dense: `[group of the table]` widths, of which those at `columns` change.
        limits: `[cost]`; the largest integer where a cost is not limited.
    """

    lowest: Ints
    ceiling: Ints
    step: Ints
    columns: Ints
    dense: Ints
    limits: Ints
    costs: CostTable

    @classmethod
    def of(cls, space: SearchSpace, costs: CostTable, limits: Limits) -> _Grid:
        bounds = [space.bounds[name] for name in space.names]
        place = {group: column for column, group in enumerate(costs.widths)}
        unlimited = np.iinfo(np.int64).max
        return cls(
            lowest=np.array([b.lowest for b in bounds], dtype=np.int64),
            ceiling=np.array([b.ceiling for b in bounds], dtype=np.int64),
            step=np.array([b.step for b in bounds], dtype=np.int64),
            columns=np.array([place[name] for name in space.names], dtype=np.int64),
            dense=costs.vector({}),
            limits=np.array([limits.get(kind, unlimited) for kind in COST_KINDS], dtype=np.int64),
            costs=costs,
        )

    def clip(self, widths: Sequence[int]) -> Ints:
        """The nearest widths between the narrowest and the ceilings; not yet in steps."""
        return np.clip(np.array(widths, dtype=np.int64), self.lowest, self.ceiling)

    def below(self, widths: NDArray[np.float64] | Ints) -> Ints:
        """The widest allowed widths at or below these, as `Bounds.below`."""
        whole = np.floor(widths + 1e-9).astype(np.int64)
        snapped = np.maximum(whole // self.step * self.step, self.lowest)
        return np.where(whole >= self.ceiling, self.ceiling, snapped)

    def tally(self, widths: Ints) -> Tally:
        vector = self.dense.copy()
        vector[self.columns] = widths
        return self.costs.tally(vector)

    def fits(self, widths: Ints) -> bool:
        return self.keeps(self.tally(widths).spent())

    def keeps(self, spent: Ints) -> bool:
        """Whether `[cost]` keeps every limit."""
        return bool((spent <= self.limits).all())


def _furthest(begin: Ints, end: Ints, grid: _Grid) -> Ints:
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


def _order(names: tuple[str, ...], wanted: Ints) -> list[bytes]:
    """`[group]` keys that break ties, the same for the same proposal on any machine."""
    seed = hashlib.blake2b(wanted.astype("<i8").tobytes(), digest_size=16).digest()
    return [hashlib.blake2b(name.encode(), key=seed, digest_size=8).digest() for name in names]


def _fill_steps(start: Ints, wanted: Ints, grid: _Grid, order: list[bytes]) -> list[int]:
    """`start` with single steps added, the group furthest below `wanted` first, until none fits.

    A group whose step does not fit is done: steps of others only make it dearer.
    """
    widths: list[int] = start.tolist()
    target: list[int] = wanted.tolist()
    tally = grid.tally(start)
    spent = tally.spent()
    waiting = [(_fullness(width, target[i]), order[i], i) for i, width in enumerate(widths)]
    heapq.heapify(waiting)
    while waiting:
        _, key, i = heapq.heappop(waiting)
        column, by = grid.columns[i], _step_up(widths[i], i, grid) - widths[i]
        rise = tally.rise(column, by)
        if by and grid.keeps(spent + rise):
            widths[i], spent = widths[i] + by, spent + rise
            tally.widen(column, by)
            heapq.heappush(waiting, (_fullness(widths[i], target[i]), key, i))
    return widths


def _fullness(width: int, target: int) -> float:
    """How far a group is on the way to what was proposed; one that was to go whole is there already."""
    return width / target if target else 1.0 + width


def _step_up(width: int, i: int, grid: _Grid) -> int:
    step = int(grid.step[i])
    return min((width // step + 1) * step, int(grid.ceiling[i]))

"""The projection of any allocation onto the limits of a budget: repaired if above, and filled unless told otherwise."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.budget import COST_KINDS, Limits
from autoprune.core.costs import Bools, CostsAt, CostTable, Floats, Ints
from autoprune.core.space import SearchSpace
from autoprune.errors import BudgetInfeasible

UNLIMITED = np.iinfo(np.int64).max


def check_feasible(space: SearchSpace, costs: CostTable, limits: Limits) -> None:
    """Checks that the narrowest allocation of the space keeps every limit.

    Args:
        space: names all groups that may be pruned.
        costs: of the network.
        limits: the most that is allowed of some costs.

    Raises:
        BudgetInfeasible: it does not; the message holds the least reachable values.
    """
    dense, least = costs.dense(), costs.costs(space.narrowest())
    missed = [
        f"{kind} at most {limit:,} ({limit / dense[kind]:.3f} of the dense network) cannot be met: with every group at "
        f"its narrowest {least[kind]:,} remain ({least[kind] / dense[kind]:.3f})"
        for kind, limit in limits.items()
        if least[kind] > limit
    ]
    if missed:
        raise BudgetInfeasible("; ".join(missed) + f"; raise the budget or allow narrower groups in {space.source}")


class Projection:
    """A search space as `[group]` arrays, with the cost table and limits that hold on it.

    Attributes:
        columns: where each group stands in the cost table's vectors.
        dense: `[group of the table]` widths, of which those at `columns` change.
        limits: `[cost]`; the largest integer where a cost is not limited.

    Raises:
        BudgetInfeasible: even the narrowest allocation is above a limit.
    """

    def __init__(self, space: SearchSpace, costs: CostTable, limits: Limits) -> None:
        check_feasible(space, costs, limits)
        self.names, self.costs = space.names, costs
        self.bounds = [space.bounds[name] for name in space.names]
        self.lowest = np.array([bounds.lowest for bounds in self.bounds], dtype=np.int64)
        self.ceiling = np.array([bounds.ceiling for bounds in self.bounds], dtype=np.int64)
        self.step = np.array([bounds.step for bounds in self.bounds], dtype=np.int64)
        columns = {group: column for column, group in enumerate(costs.widths)}
        self.columns = np.array([columns[name] for name in space.names], dtype=np.int64)
        self.dense = costs.vector({})
        self.limits = np.array([limits.get(kind, UNLIMITED) for kind in COST_KINDS], dtype=np.int64)

    def project(self, allocation: Mapping[str, int]) -> Allocation:
        """Returns the allocation moved inside the space and onto the limits.

        Repair moves every width the same fraction of the way to its narrowest, so that the proportions of a proposal
        survive. Fill moves every width the same fraction of the way to its ceiling. Then single steps are added, the
        group furthest (relatively) below its proposed width first, until no further step of any group keeps the limits.
        Costs never fall as widths grow, so the result is maximal: a projection of it returns it unchanged.

        Groups equally far below take their steps in an order drawn from the proposal itself: with the first group
        first, coarse steps would give what is left to the early layers of the network in every proposal.
        """
        return self.projected(self.vector(allocation)[None])[0]

    def projected(self, widths: Ints) -> list[Allocation]:
        """Returns the projections of `[n, group]` widths, each by itself; many at once take less time each."""
        wanted = self._clip(widths)
        start = self.below(wanted)
        costs = self.costs_at(start)
        above = ~self.keeps(costs.spent)
        moved = above | ~self._is_stuck(wanted, start, costs)
        if moved.any():
            above = above[:, None]
            begin, end = np.where(above, self.lowest, wanted), np.where(above, wanted, self.ceiling)
            start[moved] = _furthest(begin[moved], end[moved], self)
            costs = self.costs_at(start)
        free = self.may_step(self.steps(start), costs)
        filled = [
            _fill_steps(row, wish, may, costs[i], self)
            for i, (row, wish, may) in enumerate(zip(start, wanted, free, strict=True))
        ]
        return [Allocation(dict(zip(self.names, each, strict=True))) for each in filled]

    def repair(self, allocation: Mapping[str, int]) -> Allocation:
        """Returns the allocation moved inside the space and, if above a limit, under the limits; nothing is filled.

        As in `project`, every width moves the same fraction of the way to its narrowest. What keeps the limits stays as
        it is, so a repair of the result returns it unchanged.
        """
        wanted = self._clip(self.vector(allocation))
        repaired = _furthest(self.lowest[None], wanted[None], self)[0]
        return Allocation(dict(zip(self.names, repaired.tolist(), strict=True)))

    def vector(self, allocation: Mapping[str, int]) -> Ints:
        """Returns `[group]` widths of an allocation."""
        return np.array([allocation[name] for name in self.names], dtype=np.int64)

    def _clip(self, widths: Ints) -> Ints:
        """Returns the nearest widths between the narrowest and the ceilings; not yet in steps."""
        return np.asarray(np.minimum(np.maximum(widths, self.lowest), self.ceiling))

    def below(self, widths: Floats | Ints) -> Ints:
        """Returns the widest allowed widths at or below `[…, group]` ones, as `Bounds.below`."""
        whole = widths if widths.dtype == np.int64 else np.floor(widths + 1e-9).astype(np.int64)
        snapped = np.maximum(whole if self._single else whole // self.step * self.step, self.lowest)
        return np.where(whole >= self.ceiling, self.ceiling, snapped)

    @cached_property
    def _single(self) -> bool:
        """Whether every width between the narrowest and the ceilings is allowed."""
        return bool((self.step == 1).all())

    def steps(self, widths: Ints) -> Ints:
        """Returns `[…, group]`: by how much the next allowed widths are wider; 0 at a ceiling."""
        return np.asarray(np.minimum((widths // self.step + 1) * self.step, self.ceiling) - widths)

    def costs_at(self, widths: Ints) -> CostsAt:
        """Returns what `[…, group]` widths cost."""
        vector = np.broadcast_to(self.dense, (*widths.shape[:-1], len(self.dense))).copy()
        vector[..., self.columns] = widths
        return self.costs.at(vector)

    def fits(self, widths: Ints) -> Bools:
        """Returns `[…]`: whether `[…, group]` widths keep every limit."""
        return self.keeps(self.costs_at(widths).spent)

    def keeps(self, spent: Ints) -> Bools:
        """Returns `[…]`: whether `[…, cost]` keeps every limit."""
        return np.asarray((spent <= self.limits).all(axis=-1))

    def may_step(self, steps: Ints, costs: CostsAt) -> Bools:
        """Returns `[…, group]`: whether the step of this group alone keeps every limit; not where it is 0."""
        spent = costs.spent[..., None] + costs.rises(self.columns, steps)
        return np.asarray((spent <= self.limits[:, None]).all(axis=-2) & (steps > 0))

    def slack(self, costs: CostsAt) -> Slack:
        """Returns what the limits leave beside the costs of one allocation, its groups in the order of `names`."""
        return Slack.beside(costs, self._curvature, self.limits, self.columns)

    @cached_property
    def _curvature(self) -> CostCurvature:
        return CostCurvature(self.costs, self.limits, self.columns)

    def _is_stuck(self, wanted: Ints, below: Ints, costs: CostsAt) -> Bools:
        """Returns `[n]`: whether no step from `wanted` towards the ceilings fits, so that no halving is needed.

        On the straight line the group whose next step is nearest takes it first. Where that alone is above a limit, so
        is everything that comes later. Groups that are nearly as near count with it, as their order may be rounded.
        """
        steps = self.steps(below)
        free = self.may_step(steps, costs)
        far = np.where(steps > 0, (below + steps - wanted) / np.maximum(self.ceiling - wanted, 1), np.inf)
        first = far <= far.min(axis=-1, keepdims=True) + 1e-6
        return np.asarray(~(free & first).any(axis=-1))


def _furthest(begin: Ints, end: Ints, grid: Projection) -> Ints:
    """Returns `[n, group]`: the widest that fit on the lines from `begin`, which fit, to `end`, to half a structure."""
    way = (end - begin).astype(np.float64)
    inside = np.where(grid.fits(grid.below(end)), 1.0, 0.0)
    outside, enough = np.ones(len(way)), 0.5 / np.maximum(way.max(axis=1), 0.5)
    found = grid.below(np.where(inside[:, None] > 0, end, begin).astype(np.float64))
    while True:
        left = np.flatnonzero(outside - inside > enough)
        if not len(left):
            return found
        middle = (inside[left] + outside[left]) / 2
        widths = grid.below(begin[left] + middle[:, None] * way[left])
        fits = grid.fits(widths)
        inside[left[fits]], outside[left[~fits]] = middle[fits], middle[~fits]
        found[left[fits]] = widths[fits]


def _keys(names: Sequence[str], wanted: Ints) -> list[bytes]:
    """Returns keys of these groups that break ties, the same for the same proposal on any machine."""
    seed = hashlib.blake2b(wanted.astype("<i8").tobytes(), digest_size=16).digest()
    return [hashlib.blake2b(name.encode(), key=seed, digest_size=8).digest() for name in names]


def _fill_steps(start: Ints, wanted: Ints, free: Bools, costs: CostsAt, grid: Projection) -> list[int]:
    """Returns `start` with single steps added, the group furthest below `wanted` first, until none fits.

    A group whose step does not fit is done: steps of others only make it dearer.

    Args:
        free: `[group]` whether its step fits at `start`.
        costs: at `start`.
    """
    widths: list[int] = start.tolist()
    target, step, ceiling = wanted.tolist(), grid.step.tolist(), grid.ceiling.tolist()
    left = np.flatnonzero(free).tolist()
    if not left:
        return widths
    keys = _keys([grid.names[i] for i in left], wanted)
    waiting = [(_fullness(widths[i], target[i]), key, i) for i, key in zip(left, keys, strict=True)]
    heapq.heapify(waiting)
    slack = grid.slack(costs)
    while waiting:
        _, key, i = heapq.heappop(waiting)
        by = min((widths[i] // step[i] + 1) * step[i], ceiling[i]) - widths[i]
        if by and slack.holds(i, by):
            widths[i] += by
            slack.widen(i, by)
            heapq.heappush(waiting, (_fullness(widths[i], target[i]), key, i))
    return widths


def _fullness(width: int, target: int) -> float:
    """Returns how far a group is on the way to what was proposed; one that was to go whole is there already."""
    return width / target if target else 1.0 + width


class CostCurvature:
    """How the limited costs grow with the widths of the groups at some columns of a cost table, beyond their slopes.

    Args:
        limits: `[cost]`, the largest integer where a cost is not limited.

    Attributes:
        kinds: indices of the costs that are limited.
        halves: `[kind][group]` half of the second derivative.
        mixed: `[kind][group]` the groups whose slope changes with this one's width, and by how much for each structure.
    """

    def __init__(self, costs: CostTable, limits: Ints, columns: Ints) -> None:
        curvature = costs.at(costs.vector({})).curvature
        self.kinds: list[int] = np.flatnonzero(limits < UNLIMITED).tolist()
        between = [curvature[kind][np.ix_(columns, columns)] for kind in self.kinds]
        self.halves: list[list[int]] = [(each.diagonal() // 2).tolist() for each in between]
        self.mixed = [[_nonzero(row) for row in each] for each in between]


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

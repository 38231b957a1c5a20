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
from autoprune.core.projecting.branches import RemovableBranches
from autoprune.core.projecting.slack import UNLIMITED, CostCurvature, Slack
from autoprune.core.space import SearchSpace
from autoprune.errors import BudgetInfeasible


def check_feasible(
    space: SearchSpace, costs: CostTable, limits: Limits, first: Mapping[str, int] | None = None
) -> None:
    """Checks that the narrowest allocation of the space keeps every limit.

    Args:
        space: names all groups that may be pruned.
        costs: of the network.
        limits: the most that is allowed of some costs.
        first: cost to what the first network has, where fractions are of that; None: they are of the dense network.

    Raises:
        BudgetInfeasible: it does not; the message holds the least reachable values.
    """
    whole, least = first or costs.dense(), costs.costs(space.narrowest())
    of = "first" if first else "dense"
    missed = [
        f"{kind} at most {limit:,} ({limit / whole[kind]:.3f} of the {of} network) cannot be met: with every group at "
        f"its narrowest {least[kind]:,} remain ({least[kind] / whole[kind]:.3f})"
        for kind, limit in limits.items()
        if least[kind] > limit
    ]
    if missed:
        raise BudgetInfeasible("; ".join(missed) + f"; raise the budget or allow narrower groups in {space.source}")


class Projection:
    """A search space as `[group]` arrays, with the cost table and limits that hold on it.

    Attributes:
        lowest: `[group]` narrowest widths, of branches that stay.
        columns: where each group stands in the cost table's vectors.
        dense: `[group of the table]` widths, of which those at `columns` change.
        branches: those that may be removed; None where there is none.
        limits: `[cost]`; the largest integer where a cost is not limited.

    Raises:
        BudgetInfeasible: even the narrowest allocation is above a limit.
    """

    def __init__(self, space: SearchSpace, costs: CostTable, limits: Limits) -> None:
        check_feasible(space, costs, limits)
        self.names, self.costs = space.names, costs
        self.bounds = [space.bounds[name] for name in space.names]
        self.branches = RemovableBranches.of(space)
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

        Branches that are gone in the proposal stay so, and the others stay, as far as the limits allow: if these are
        not kept with every group at its narrowest, the branches of which the proposal keeps least go; if they leave
        enough for a branch at its narrowest after all steps of what stays, it comes back.
        """
        return self.projected(self.vector(allocation)[None])[0]

    def projected(self, widths: Ints) -> list[Allocation]:
        """Returns the projections of `[n, group]` widths, each by itself; many at once take less time each."""
        wanted = self._clip(widths)
        start = self.below(wanted)
        costs = self.costs_at(start)
        above = ~self.keeps(costs.spent)
        if self.branches is not None and above.any():
            wanted[above] = [self._with_fewer_branches(row) for row in wanted[above]]
            start = self.below(wanted)
            costs = self.costs_at(start)
            above = ~self.keeps(costs.spent)
        moved = above | ~self._is_stuck(wanted, start, costs)
        if moved.any():
            above = above[:, None]
            lowest, ceiling = self._where_present(wanted, self.lowest), self._where_present(wanted, self.ceiling)
            begin, end = np.where(above, lowest, wanted), np.where(above, wanted, ceiling)
            start[moved] = _furthest(begin[moved], end[moved], self)
            costs = self.costs_at(start)
        free = self.may_step(self.steps(start), costs)
        filled = [
            _fill_steps(row, wish, may, costs[i], self)
            for i, (row, wish, may) in enumerate(zip(start, wanted, free, strict=True))
        ]
        for i in self._reopenable(filled):
            filled[i] = self._reopened(filled[i], wanted[i])
        return [Allocation(dict(zip(self.names, each, strict=True))) for each in filled]

    def repair(self, allocation: Mapping[str, int]) -> Allocation:
        """Returns the allocation moved inside the space and, if above a limit, under the limits; nothing is filled.

        As in `project`, every width moves the same fraction of the way to its narrowest. What keeps the limits stays as
        it is, so a repair of the result returns it unchanged.
        """
        wanted = self._clip(self.vector(allocation))
        if self.branches is not None and not self.fits(self.below(wanted)):
            wanted = self._with_fewer_branches(wanted)
        repaired = _furthest(self._where_present(wanted, self.lowest)[None], wanted[None], self)[0]
        return Allocation(dict(zip(self.names, repaired.tolist(), strict=True)))

    def vector(self, allocation: Mapping[str, int]) -> Ints:
        """Returns `[group]` widths of an allocation."""
        return np.array([allocation[name] for name in self.names], dtype=np.int64)

    def _clip(self, widths: Ints) -> Ints:
        """Returns the nearest widths between the narrowest and the ceilings; not yet in steps."""
        found = np.asarray(np.minimum(np.maximum(widths, self.lowest), self.ceiling))
        return found if self.branches is None else self.branches.completed(found, widths, self.lowest, self.ceiling)

    def _where_present(self, widths: Ints, bounds: Ints) -> Ints:
        """Returns `[…, group]`: `[group]` bounds, but 0 where a branch is gone at these widths."""
        return np.where(widths == 0, 0, bounds) if self.branches is not None else np.broadcast_to(bounds, widths.shape)

    def _with_fewer_branches(self, wanted: Ints) -> Ints:
        """Returns `[group]` widths without the branches that cannot stay: those of which least is kept go first."""
        assert self.branches is not None
        if self.fits(self._where_present(wanted, self.lowest)):
            return wanted
        present = [lead for lead in self.branches.leads.tolist() if wanted[lead]]
        keys = dict(zip(present, _keys([self.names[lead] for lead in present], wanted), strict=True))
        order = sorted(present, key=lambda lead: (wanted[lead] / self.ceiling[lead], keys[lead]))
        fewer = np.tile(wanted, (len(order), 1))
        for count, lead in enumerate(order):
            fewer[count:, lead] = 0
        fewer = self.branches.emptied(fewer)
        # All of them gone is the narrowest of the space, which fits.
        return np.asarray(fewer[int(self.fits(self._where_present(fewer, self.lowest)).argmax())])

    def _reopenable(self, filled: Sequence[Sequence[int]]) -> list[int]:
        """Returns which of several widths leave enough for a branch that is gone."""
        if self.branches is None:
            return []
        widths, leads = np.array(filled, dtype=np.int64), self.branches.leads
        rows, places = np.nonzero((widths[:, leads] == 0) & (self.ceiling[leads] > 0))
        fits = self.fits(np.where(self.branches.membership[places], self.lowest, widths[rows]))
        return sorted(set(rows[fits].tolist()))

    def _reopened(self, widths: list[int], wanted: Ints) -> list[int]:
        """Returns widths with the branches back that still fit at their narrowest, and then filled again.

        Args:
            widths: that no step of any group fits beside.
            wanted: `[group]` what was proposed, which gives the order.
        """
        assert self.branches is not None
        found = np.array(widths, dtype=np.int64)
        gone = [lead for lead in self.branches.leads.tolist() if not widths[lead] and self.ceiling[lead]]
        if gone:
            gone = np.array(gone)[self.fits(np.array([self.with_branch(found, lead) for lead in gone]))].tolist()
        keys = dict(zip(gone, _keys([self.names[lead] for lead in gone], wanted), strict=True)) if gone else {}
        for lead in sorted(gone, key=keys.__getitem__):
            wider = self.with_branch(found, lead)
            costs = self.costs_at(wider)
            if self.keeps(costs.spent):
                free = self.may_step(self.steps(wider), costs) & (found == 0)
                found = np.array(_fill_steps(wider, wanted, free, costs, self), dtype=np.int64)
        return list(map(int, found))

    def with_branch(self, widths: Ints, lead: int) -> Ints:
        """Returns `[group]` widths with the branch of the lead at this index back at its narrowest."""
        assert self.branches is not None
        return np.where(self.branches.membership[self.branches.leads == lead][0], self.lowest, widths)

    def nearest(self, widths: Ints) -> Ints:
        """Returns `[…, group]` widths moved inside the space and down to its steps; not within the limits."""
        return self.below(self._clip(widths))

    def below(self, widths: Floats | Ints) -> Ints:
        """Returns the widest allowed widths at or below `[…, group]` ones, as `Bounds.below`."""
        whole: Ints = np.asarray(widths if widths.dtype == np.int64 else np.floor(widths + 1e-9), dtype=np.int64)
        snapped = np.maximum(whole if self._single else whole // self.step * self.step, self.lowest)
        found: Ints = np.where(whole >= self.ceiling, self.ceiling, snapped)
        return found if self.branches is None else self.branches.snapped(found, whole, self.lowest)

    @cached_property
    def _single(self) -> bool:
        """Whether every width between the narrowest and the ceilings is allowed."""
        return bool((self.step == 1).all())

    def steps(self, widths: Ints) -> Ints:
        """Returns `[…, group]`: by how much the next allowed widths are wider; 0 at a ceiling and in a branch gone."""
        steps = np.asarray(np.minimum((widths // self.step + 1) * self.step, self.ceiling) - widths)
        return steps if self.branches is None else np.where(self.branches.gone(widths), 0, steps)

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
        """Returns what the limits leave beside the costs of one allocation, its groups in the order of `names`.

        It holds as long as no branch goes or comes back.
        """
        same = costs.curvature is self._dense_costs.curvature
        curvature = self._curvature if same else CostCurvature(costs.curvature, self.limits, self.columns)
        return Slack.beside(costs, curvature, self.limits, self.columns)

    @cached_property
    def _dense_costs(self) -> CostsAt:
        return self.costs.at(self.dense)

    @cached_property
    def _curvature(self) -> CostCurvature:
        return CostCurvature(self._dense_costs.curvature, self.limits, self.columns)

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

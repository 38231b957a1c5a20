"""What an allocation costs, exactly and without building it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autoprune.core.allocation import Allocation
from autoprune.core.budget import COST_KINDS, CostKind, Limits
from autoprune.errors import UserError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_EXACT = 2.0**52
"""Sums of whole numbers below it are exact in floating point, in whatever order."""


@dataclass(frozen=True)
class Count:
    """A number of channels as a function of the widths: `fixed + Σ per_width[group] · width[group]`."""

    fixed: int = 0
    per_width: Mapping[str, int] = field(default_factory=dict)

    def at(self, widths: Mapping[str, int]) -> int:
        """Returns the number of channels at these widths."""
        return self.fixed + sum(times * widths[group] for group, times in self.per_width.items())


ONE = Count(1)


@dataclass(frozen=True)
class CostTerm:
    """One layer's part in one cost: `factor · left · right`, bilinear in the widths of neighbouring groups.

    Attributes:
        source: the tensor whose entries, or the operation whose work, it counts; empty for anything else.
        branch: the group at whose width 0 it is nothing, whatever the counts say, as its residual branch is removed.
    """

    kind: CostKind
    layer: str
    factor: int
    left: Count = ONE
    right: Count = ONE
    source: str = ""
    branch: str | None = None

    def at(self, widths: Mapping[str, int]) -> int:
        """Returns what it costs at these widths."""
        gone = self.branch is not None and widths[self.branch] == 0
        return 0 if gone else self.factor * self.left.at(widths) * self.right.at(widths)


class CostTable:
    """FLOPs, parameters and bytes of every allocation of one network, counted as on the pruned network.

    FLOPs are two per multiply-add of convolutions, linear layers and matrix products, for one sample, as
    `torch.utils.flop_counter` counts them; `params` are parameters; `size` is bytes of the parameters
    and buffers that a checkpoint holds.

    Costs are sums of products of two widths. Where residual branches may be removed, of the terms in a branch those
    that its own groups do not bring to zero (what its last layer adds for each channel of the stream) are taken off
    again wherever the branch is gone.

    Args:
        terms: what each layer adds.
        widths: dense width of every group that a term names.
        effective: whether weights are set to zero and stay where they are, so that parameters are those that are not
            zero, and FLOPs those of their multiply-adds, which only hardware or a library made for it would save.
        leads: group to the lead of its branch, with which it is removed.
    """

    def __init__(
        self,
        terms: Sequence[CostTerm],
        widths: Mapping[str, int],
        effective: bool = False,
        leads: Mapping[str, str] | None = None,
    ) -> None:
        self.leads = dict(leads or {})
        named = {g for t in terms for c in (t.left, t.right) for g in c.per_width}
        unknown = (named | {t.branch for t in terms if t.branch} | {*self.leads, *self.leads.values()}) - set(widths)
        if unknown:
            raise ValueError(f"cost terms name groups without a width: {sorted(unknown)}")
        self.terms = tuple(terms)
        self.widths = Allocation(widths)
        self.effective = effective
        self._index = {group: i for i, group in enumerate(self.widths)}
        self._dense = list(self.widths.values())
        self._products = _Products.of(self.terms, self._index)
        self._followers = [(self._index[group], self._index[lead]) for group, lead in self.leads.items()]

    def vector(self, allocation: Mapping[str, int]) -> Ints:
        """Returns `[group]` widths in the order of `widths`; groups that the allocation does not name are dense.

        Of a branch that is removed every group is at 0, whether or not it is named.

        Raises:
            UserError: the allocation names a group that the network does not have.
        """
        values = self._dense.copy()
        for group, width in allocation.items():
            if group not in self._index:
                raise UserError(f"the network has no group {group!r}; it has {', '.join(self._index)}")
            values[self._index[group]] = width
        for follower, lead in self._followers:
            if values[lead] == 0:
                values[follower] = 0
        return np.array(values, dtype=np.int64)

    @cached_property
    def _quadratic(self) -> tuple[Ints, Ints, Ints]:
        """All costs as polynomials of the widths, `fixed + linear · w + w · curvature · w / 2`.

        `[cost]`, `[cost, group]` and the symmetric `[cost, group, group]`.
        """
        return self._products.quadratic()

    @cached_property
    def _is_small(self) -> bool:
        """Whether all sums are exact in floating point, which is ten times faster."""
        fixed, linear, curvature = self._quadratic
        dense = np.array(self._dense, dtype=np.float64)
        most = np.abs(fixed).max() + (2.0 * np.abs(linear) @ dense + np.abs(curvature @ dense) @ dense).max()
        return bool(most < _EXACT)

    @cached_property
    def _curvature_rows(self) -> Floats | Ints:
        """`[cost · group, group]` second derivatives."""
        rows = np.concatenate(self._quadratic[2])
        return rows.astype(np.float64) if self._is_small else rows

    @cached_property
    def _removals(self) -> _Removals | None:
        """Costs that are taken off where branches are gone; None where no term stays behind in any."""
        kept = [term for term in self.terms if term.branch is not None and not self._vanishes(term)]
        return _Removals(kept, self._index, self._is_small) if kept else None

    def _vanishes(self, term: CostTerm) -> bool:
        """Returns whether a term is nothing by its own counts once its branch's groups are at 0."""
        inside = {term.branch, *(group for group, lead in self.leads.items() if lead == term.branch)}
        return any(count.fixed == 0 and set(count.per_width) <= inside for count in (term.left, term.right))

    def at(self, widths: Ints) -> CostsAt:
        """Returns what `[…, group]` widths, at most the dense ones, cost, and how the costs grow with them.

        Args:
            widths: of a branch that is removed, of all of its groups 0.
        """
        fixed, linear, curvature = self._quadratic
        slopes = linear + (widths @ self._curvature_rows.T).astype(np.int64).reshape(*widths.shape[:-1], *linear.shape)
        found = CostsAt(fixed + ((linear + slopes) @ widths[..., None])[..., 0] // 2, slopes, curvature)
        return found if self._removals is None else self._removals.taken_off(found, widths)

    def costs(self, allocation: Mapping[str, int]) -> dict[str, int]:
        """Returns every cost of an allocation; groups that it does not name are dense."""
        spent = self.at(self.vector(allocation)).spent
        return dict(zip(COST_KINDS, spent.tolist(), strict=True))

    def cost(self, allocation: Mapping[str, int], kind: str) -> int:
        """Returns one cost of an allocation; groups that it does not name are dense."""
        return self.costs(allocation)[kind]

    def dense(self) -> dict[str, int]:
        """Returns every cost of the dense network."""
        return self.costs({})

    def slopes(self, allocation: Mapping[str, int], kind: str) -> dict[str, int]:
        """Returns per group what one more structure costs at these widths: the partial derivative of a bilinear sum."""
        slopes = self.at(self.vector(allocation)).slopes[COST_KINDS.index(kind)]
        return dict(zip(self.widths, slopes.tolist(), strict=True))

    def macs(self, allocation: Mapping[str, int]) -> int:
        """Returns the multiply-adds of one sample's forward pass; the dense network's where weights are only zeroed."""
        return (self.dense() if self.effective else self.costs(allocation))["flops"] // 2

    def max_macs(self, limits: Limits) -> int:
        """Returns the most multiply-adds of one sample that an allocation within the limits can take."""
        dense = self.dense()["flops"] // 2
        return dense if self.effective else min(dense, limits.get("flops", 2 * dense) // 2)

    def joined(self, one: Mapping[str, str]) -> CostTable:
        """Returns the table of groups of which some are equally wide.

        Args:
            one: such groups to the one that stands for them in an allocation.
        """

        def count(found: Count) -> Count:
            per_width: dict[str, int] = {}
            for group, times in found.per_width.items():
                name = one.get(group, group)
                per_width[name] = per_width.get(name, 0) + times
            return Count(found.fixed, per_width)

        terms = [replace(term, left=count(term.left), right=count(term.right)) for term in self.terms]
        widths = {one.get(group, group): width for group, width in self.widths.items()}
        leads = {group: lead for group, lead in self.leads.items() if group not in one}
        return CostTable(terms, widths, self.effective, leads)

    def by_layer(self, kind: str, allocation: Mapping[str, int] | None = None) -> dict[str, int]:
        """Returns what each layer costs; groups that the allocation does not name are dense."""
        widths = dict(zip(self.widths, self.vector(allocation or {}).tolist(), strict=True))
        shares: dict[str, int] = {}
        for term in self.terms:
            if term.kind == kind:
                shares[term.layer] = shares.get(term.layer, 0) + term.at(widths)
        return shares


def within(allocation: Mapping[str, int], costs: CostTable, limits: Limits) -> bool:
    """Returns whether an allocation keeps every limit.

    Args:
        allocation: group to width; groups that it does not name are dense.
        costs: of the network.
        limits: the most that is allowed of some costs.
    """
    spent = costs.costs(allocation)
    return all(spent[kind] <= limit for kind, limit in limits.items())


@dataclass
class CostsAt:
    """The costs of a cost table at some widths, and how they grow with these.

    Attributes:
        spent: `[…, cost]` at these widths, in the order of `COST_KINDS`.
        slopes: `[…, cost, group]` their derivatives.
        curvature: `[cost, group, group]` second derivatives, the same at all widths; `[…, cost, group, group]` where
            they depend on which branches are gone.
    """

    spent: Ints
    slopes: Ints
    curvature: Ints

    def __getitem__(self, index: int) -> CostsAt:
        """Returns the costs at one of several widths."""
        return CostsAt(self.spent[index], self.slopes[index], self.curvature[index] if self._varies else self.curvature)

    @property
    def _varies(self) -> bool:
        return self.curvature.ndim > self.slopes.ndim

    def rises(self, groups: Ints, by: Ints) -> Ints:
        """Returns `[…, cost, group]` added if each of the groups at these indices alone were `[…, group]` wider.

        Not of a group whose branch would come back with it.
        """
        by = by[..., None, :]
        return by * self.slopes[..., groups] + by * by * self.curvature[..., groups, groups] // 2


@dataclass
class _Products:
    """Products of two counts, and how often each is in each cost.

    Terms of several costs share their counts (a layer's FLOPs and parameters), so each product is made once.

    Attributes:
        left, right: `[product, group]` structures of a count for each of a group's.
        left_fixed, right_fixed: `[product]`.
        factors: `[cost, product]`.
        branches: `[product]` index of the group at whose width 0 it is gone; -1 for none.
    """

    left: Ints
    left_fixed: Ints
    right: Ints
    right_fixed: Ints
    factors: Ints
    branches: Ints

    @classmethod
    def of(cls, terms: Sequence[CostTerm], index: Mapping[str, int], by_branch: bool = False) -> _Products:
        """Collects the products of some terms.

        Args:
            terms: of any costs.
            index: group to its place.
            by_branch: whether those of several branches are kept apart.
        """
        keys = [(term.branch if by_branch else None, *_sides(term)) for term in terms]
        found = dict(zip(keys, terms, strict=True))
        rows = {key: row for row, key in enumerate(found)}
        factors = np.zeros((len(COST_KINDS), len(rows)), dtype=np.int64)
        for key, term in zip(keys, terms, strict=True):
            factors[COST_KINDS.index(term.kind), rows[key]] += term.factor
        left, right = (_matrix([getattr(term, side) for term in found.values()], index) for side in ("left", "right"))
        branches = np.array([-1 if key[0] is None else index[str(key[0])] for key in found], dtype=np.int64)
        return cls(*left, *right, factors, branches)

    def quadratic(self) -> tuple[Ints, Ints, Ints]:
        """Returns the sums as polynomials; see `CostTable`."""
        fixed = self.factors @ (self.left_fixed * self.right_fixed)
        linear = (self.factors * self.right_fixed) @ self.left + (self.factors * self.left_fixed) @ self.right
        products = np.array([(factors[:, None] * self.left).T @ self.right for factors in self.factors])
        return fixed, linear, products + products.transpose(0, 2, 1)


def _sides(term: CostTerm) -> tuple[object, ...]:
    return tuple((side.fixed, frozenset(side.per_width.items())) for side in (term.left, term.right))


def _matrix(counts: Sequence[Count], index: Mapping[str, int]) -> tuple[Ints, Ints]:
    matrix = np.zeros((len(counts), len(index)), dtype=np.int64)
    for row, count in enumerate(counts):
        for group, times in count.per_width.items():
            matrix[row, index[group]] = times
    return matrix, np.array([count.fixed for count in counts], dtype=np.int64)


class _Removals:
    """Costs that the terms of removed branches would still have.

    Args:
        terms: those that the branch's own groups do not bring to zero.
        index: group to its place.
        small: whether floating point is exact.
    """

    def __init__(self, terms: Sequence[CostTerm], index: Mapping[str, int], small: bool) -> None:
        found = _Products.of(terms, index, by_branch=True)
        self._branches = found.branches
        kind = np.float64 if small else np.int64
        self._left, self._right, self._factors = (
            each.astype(kind) for each in (found.left, found.right, found.factors)
        )
        self._fixed = found.left_fixed.astype(kind), found.right_fixed.astype(kind)
        self._has_right = bool(found.right.any())
        # Most are of the stream's width alone: the curvature stays.
        self._bent = np.flatnonzero(found.left.any(axis=1) & found.right.any(axis=1))
        self._curvature = np.array([_second_derivatives(found, row) for row in self._bent.tolist()])

    def taken_off(self, costs: CostsAt, widths: Ints) -> CostsAt:
        """Returns the costs at `[…, group]` widths without what is gone there."""
        gone = widths[..., self._branches] == 0
        if not gone.any():
            return costs
        right = gone * self._fixed[1]
        left = gone * (widths @ self._left.T + self._fixed[0])
        slopes = (right[..., None, :] * self._factors) @ self._left
        if self._has_right:
            right = gone * (widths @ self._right.T + self._fixed[1])
            slopes = (right[..., None, :] * self._factors) @ self._left
            slopes = slopes + (left[..., None, :] * self._factors) @ self._right
        spent = (left * right) @ self._factors.T
        curvature = costs.curvature
        if gone[..., self._bent].any():
            curvature = curvature - np.tensordot(gone[..., self._bent].astype(np.int64), self._curvature, axes=1)
        return CostsAt(costs.spent - spent.astype(np.int64), costs.slopes - slopes.astype(np.int64), curvature)


def _second_derivatives(products: _Products, row: int) -> Ints:
    """Returns `[cost, group, group]` second derivatives of one product."""
    outer = np.outer(products.left[row], products.right[row])
    return np.asarray(products.factors[:, row, None, None] * (outer + outer.T))

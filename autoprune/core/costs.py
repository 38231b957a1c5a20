"""What an allocation costs, exactly and without building it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    """One layer's part in one cost: `factor · left · right`, bilinear in the widths of neighbouring groups."""

    kind: CostKind
    layer: str
    factor: int
    left: Count = ONE
    right: Count = ONE


class CostTable:
    """FLOPs, parameters and bytes of every allocation of one network, counted as on the pruned network.

    FLOPs are two per multiply-add of convolutions, linear layers and matrix products, for one sample, as
    `torch.utils.flop_counter` counts them; `params` are parameters; `size` is bytes of parameters and buffers.

    Args:
        terms: what each layer adds.
        widths: dense width of every group that a term names.
        effective: whether weights are set to zero and stay where they are, so that parameters are those that are not
            zero, and FLOPs those of their multiply-adds, which only hardware or a library made for it would save.
    """

    def __init__(self, terms: Sequence[CostTerm], widths: Mapping[str, int], effective: bool = False) -> None:
        unknown = {g for t in terms for c in (t.left, t.right) for g in c.per_width} - set(widths)
        if unknown:
            raise ValueError(f"cost terms name groups without a width: {sorted(unknown)}")
        self.terms = tuple(terms)
        self.widths = Allocation(widths)
        self.effective = effective
        self._index = {group: i for i, group in enumerate(self.widths)}
        self._dense = list(self.widths.values())
        # Terms of several costs share their counts (a layer's FLOPs and parameters), so each product is made once.
        products = {_product_key(term): term for term in self.terms}
        rows = {key: row for row, key in enumerate(products)}
        self._left, self._left_fixed = self._matrix([term.left for term in products.values()])
        self._right, self._right_fixed = self._matrix([term.right for term in products.values()])
        self._factors = np.zeros((len(COST_KINDS), len(rows)), dtype=np.int64)
        for term in self.terms:
            self._factors[COST_KINDS.index(term.kind), rows[_product_key(term)]] += term.factor

    def _matrix(self, counts: Sequence[Count]) -> tuple[Ints, Ints]:
        matrix = np.zeros((len(counts), len(self._index)), dtype=np.int64)
        for row, count in enumerate(counts):
            for group, times in count.per_width.items():
                matrix[row, self._index[group]] = times
        return matrix, np.array([count.fixed for count in counts], dtype=np.int64)

    def vector(self, allocation: Mapping[str, int]) -> Ints:
        """Returns `[group]` widths in the order of `widths`; groups that the allocation does not name are dense.

        Raises:
            UserError: the allocation names a group that the network does not have.
        """
        values = self._dense.copy()
        for group, width in allocation.items():
            if group not in self._index:
                raise UserError(f"the network has no group {group!r}; it has {', '.join(self._index)}")
            values[self._index[group]] = width
        return np.array(values, dtype=np.int64)

    @cached_property
    def _quadratic(self) -> tuple[Ints, Ints, Ints]:
        """All costs as polynomials of the widths, `fixed + linear · w + w · curvature · w / 2`.

        `[cost]`, `[cost, group]` and the symmetric `[cost, group, group]`.
        """
        fixed = self._factors @ (self._left_fixed * self._right_fixed)
        linear = (self._factors * self._right_fixed) @ self._left + (self._factors * self._left_fixed) @ self._right
        products = np.array([(factors[:, None] * self._left).T @ self._right for factors in self._factors])
        return fixed, linear, products + products.transpose(0, 2, 1)

    @cached_property
    def _curvature_rows(self) -> Floats | Ints:
        """`[cost · group, group]` second derivatives; as floats, which are ten times faster, where these are exact."""
        fixed, linear, curvature = self._quadratic
        dense = np.array(self._dense, dtype=np.float64)
        most = np.abs(fixed).max() + (2.0 * np.abs(linear) @ dense + np.abs(curvature @ dense) @ dense).max()
        rows = np.concatenate(curvature)
        return rows.astype(np.float64) if most < _EXACT else rows

    def at(self, widths: Ints) -> CostsAt:
        """Returns what `[…, group]` widths, at most the dense ones, cost, and how the costs grow with them."""
        fixed, linear, curvature = self._quadratic
        slopes = linear + (widths @ self._curvature_rows.T).astype(np.int64).reshape(*widths.shape[:-1], *linear.shape)
        return CostsAt(fixed + ((linear + slopes) @ widths[..., None])[..., 0] // 2, slopes, curvature)

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

    def by_layer(self, kind: str, allocation: Mapping[str, int] | None = None) -> dict[str, int]:
        """Returns what each layer costs; groups that the allocation does not name are dense."""
        widths = {**self.widths, **(allocation or {})}
        shares: dict[str, int] = {}
        for term in self.terms:
            if term.kind == kind:
                share = term.factor * term.left.at(widths) * term.right.at(widths)
                shares[term.layer] = shares.get(term.layer, 0) + share
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
        curvature: `[cost, group, group]` second derivatives, the same at all widths.
    """

    spent: Ints
    slopes: Ints
    curvature: Ints

    def __getitem__(self, index: int) -> CostsAt:
        """Returns the costs at one of several widths."""
        return CostsAt(self.spent[index], self.slopes[index], self.curvature)

    def rises(self, groups: Ints, by: Ints) -> Ints:
        """Returns `[…, cost, group]` added if each of the groups at these indices alone were `[…, group]` wider."""
        by = by[..., None, :]
        return by * self.slopes[..., groups] + by * by * self.curvature[:, groups, groups] // 2


def _product_key(term: CostTerm) -> tuple[object, ...]:
    sides = (term.left, term.right)
    return tuple((side.fixed, frozenset(side.per_width.items())) for side in sides)

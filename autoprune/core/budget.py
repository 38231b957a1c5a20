"""Limits on what the thinned network may cost."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from autoprune.errors import BudgetError, did_you_mean

CostKind = Literal["flops", "params", "size"]
COST_KINDS: tuple[CostKind, ...] = ("flops", "params", "size")
# Those that setting weights to zero lowers, though only what makes use of zeros computes less: *effective* costs.
EFFECTIVE_KINDS: tuple[CostKind, ...] = ("flops", "params")

Limits = Mapping[str, int]
"""Cost to the most that is allowed of it, as whole numbers."""

_UNITS: Mapping[CostKind, Mapping[str, float]] = {
    "flops": {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12},
    "params": {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9},
    "size": {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9},
}
_NUMBER = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)")
_EXAMPLE = "for example flops=0.5 (a fraction of the dense network) or flops=20M,params=0.6"


@dataclass(frozen=True)
class Limit:
    """At most `value` of one cost: a fraction in (0, 1] of the dense network, or an absolute number if `absolute`."""

    kind: CostKind
    value: float
    absolute: bool = False
    text: str = ""

    def resolve(self, dense: int) -> int:
        """Returns the limit as a whole number of FLOPs, parameters or bytes."""
        return math.floor((self.value if self.absolute else self.value * dense) + 1e-6)


@dataclass(frozen=True)
class Budget:
    """One or more limits, all of which hold."""

    limits: tuple[Limit, ...]

    @classmethod
    def of(cls, value: str | float | Budget | Mapping[str, float | str]) -> Budget:
        """Returns the budget written as `flops=0.5`, `flops=20M` or `flops=0.5,params=0.6`, or as `{"flops": 0.5}`.

        A number alone is a fraction of the FLOPs; a budget is returned as it is.

        Raises:
            BudgetError: what is written is no budget; the message says which part and what was expected.
        """
        if isinstance(value, Budget):
            return value
        parts = _parts(value)
        if not parts:
            raise BudgetError(f"the budget is empty; expected {_EXAMPLE}")
        limits = [_parse_limit(part) for part in parts]
        kinds = [limit.kind for limit in limits]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if twice:
            raise BudgetError(f"budget {value!r} limits {', '.join(twice)} twice; give each cost once")
        return cls(tuple(limits))

    def __str__(self) -> str:
        return ",".join(limit.text for limit in self.limits)

    def resolve(self, dense: Mapping[str, int], effective: bool = False) -> dict[str, int]:
        """Returns the limits as whole numbers for one network.

        Args:
            dense: what the dense network costs.
            effective: whether weights are only set to zero (see `CostTable`).

        Raises:
            BudgetError: a cost is limited that does not fall where weights are only set to zero.
        """
        unmoved = [limit.text for limit in self.limits if effective and limit.kind not in EFFECTIVE_KINDS]
        if unmoved:
            raise BudgetError(
                f"{', '.join(unmoved)} cannot be met by setting weights to zero: zeros are stored and computed with "
                f"like other numbers; limit {' or '.join(EFFECTIVE_KINDS)}, or prune whole channels, by --pruner "
                "l1_filter say"
            )
        return {limit.kind: limit.resolve(dense[limit.kind]) for limit in self.limits}


def _parts(value: Any) -> list[str]:
    """Returns each limit of a budget as it is typed."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, Mapping):
        return [f"{kind}={limit}" for kind, limit in value.items()]
    if isinstance(value, Real) and not isinstance(value, bool):
        return [str(value)]
    given = textwrap.shorten(repr(value), 60)
    raise BudgetError(
        f"{given} is no budget; expected {_EXAMPLE}, as a text or a mapping, or a number alone, which is a fraction of "
        "the FLOPs; several budgets are several searches"
    )


def _parse_limit(part: str) -> Limit:
    if (alone := _NUMBER.fullmatch(part)) and not alone[2]:
        part = f"flops={part}"
    kind, equals, value = (piece.strip() for piece in part.partition("="))
    if not equals:
        raise BudgetError(f"budget {part!r} should read COST=LIMIT; expected {_EXAMPLE}")
    if kind not in COST_KINDS:
        raise BudgetError(
            f"unknown cost {kind!r} in budget {part!r}{did_you_mean(kind, COST_KINDS)}; known: {', '.join(COST_KINDS)}"
        )
    match = _NUMBER.fullmatch(value)
    if match is None:
        raise BudgetError(f"budget {part!r}: {value!r} is not a number; expected {_EXAMPLE}")
    number, unit, units = float(match[1]), match[2], _UNITS[kind]
    if unit and unit not in units:
        raise BudgetError(f"budget {part!r}: unknown unit {unit!r}; {kind} takes {', '.join(units)}")
    if unit and not 0 < number * units[unit] < math.inf:
        raise BudgetError(f"budget {part!r} should be above 0 and finite")
    if not unit and not 0 < number <= 1:
        raise BudgetError(
            f"budget {part!r}: without a unit a limit is a fraction of the dense network, above 0 and at most 1; "
            f"for an absolute limit add a unit ({', '.join(units)})"
        )
    return Limit(kind, number * units.get(unit, 1.0), absolute=bool(unit), text=f"{kind}={value}")

"""The costs that a budget can limit; apart from the rest so that naming one imports nothing."""

from __future__ import annotations

from typing import Literal

CostKind = Literal["flops", "params", "size"]
COST_KINDS: tuple[CostKind, ...] = ("flops", "params", "size")
# Those that setting weights to zero lowers, though only what makes use of zeros computes less: *effective* costs.
EFFECTIVE_KINDS: tuple[CostKind, ...] = ("flops", "params")

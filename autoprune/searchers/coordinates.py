"""Allocations as points of the unit cube, in which samplers of continuous spaces propose."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoprune.core.allocation import Allocation
from autoprune.searchers.base import SearchProblem


class Coordinates:
    """Every group's width as a number in [0, 1]: how far it lies from the narrowest to the widest allowed."""

    def __init__(self, problem: SearchProblem) -> None:
        self.names = problem.space.names
        narrowest, widest = problem.space.narrowest(), problem.space.widest()
        self._low = np.array([narrowest[name] for name in self.names], dtype=np.float64)
        self._range = np.array([widest[name] for name in self.names], dtype=np.float64) - self._low

    def of(self, allocation: Allocation) -> NDArray[np.float64]:
        widths = np.array([allocation[name] for name in self.names], dtype=np.float64)
        return (widths - self._low) / np.maximum(self._range, 1.0)

    def widths(self, point: NDArray[np.float64]) -> dict[str, int]:
        """The nearest whole widths; not yet in steps, nor within the limits."""
        return dict(zip(self.names, np.rint(self._low + point * self._range).astype(int).tolist(), strict=True))

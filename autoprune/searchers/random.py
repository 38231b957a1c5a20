"""Random search: every width drawn by itself, then projected onto the limits.

Source: Bergstra and Bengio 2012, "Random Search for Hyper-Parameter Optimization", JMLR 13. Draws above the budget are
projected, not rejected: at half of the FLOPs of a deep network nearly all of them would be.
"""

from __future__ import annotations

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.searchers.base import SearchProblem
from autoprune.searchers.history import History, OneByOne

DRAWS = 200
"""How many draws in a row must all have been proposed before until the space counts as exhausted."""


def draw(problem: SearchProblem, rng: np.random.Generator) -> Allocation:
    """An allocation with every width uniform among those allowed, projected."""
    levels = (problem.space.bounds[name].levels() for name in problem.space.names)
    return problem.project(dict(zip(problem.space.names, (int(rng.choice(each)) for each in levels), strict=True)))


def draw_new(history: History, rng: np.random.Generator) -> Allocation | None:
    """A draw that was not proposed before, or None if `DRAWS` in a row were."""
    draws = (draw(history.problem, rng) for _ in range(DRAWS))
    return history.first_new(draws)


class Random(OneByOne):
    """Proposes independent draws, never the same twice; ends when it finds no new one."""

    uses_curves = False

    def _next(self) -> Allocation | None:
        return draw_new(self._history, self._history.problem.generator(self._history.number))

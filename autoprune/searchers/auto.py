"""The best of several starts, then evolution whose offspring are chosen by what the trials so far say.

Uniform, threshold and the knapsacks of several exponents are judged, because none is the best on every network. Then,
as in `evolution`, the best is mutated; but of each brood of `BROOD` mutants only one is judged: in two of three cases
the one that a linear model of the losses expects most of (see `surrogate`), else any. Without that choice the search is
`evolution`.
"""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.core.allocation import Allocation
from autoprune.core.trial import Candidate, Trial
from autoprune.searchers.base import SearchProblem
from autoprune.searchers.evolution import Evolution
from autoprune.searchers.surrogate import Preselection

BROOD = 16


class Auto:
    """Proposes the starts, then the most promising of a brood of mutants of the best; never the same twice.

    Args:
        starts: allocations to begin with; None takes the standard ones (uniform, threshold, knapsacks).
    """

    uses_curves = True

    def __init__(self, problem: SearchProblem, starts: Sequence[Allocation] | None = None) -> None:
        self._evolution = Evolution(problem, starts, BROOD, Preselection(problem))

    def ask(self, limit: int) -> Sequence[Candidate]:
        return self._evolution.ask(limit)

    def tell(self, trial: Trial) -> None:
        self._evolution.tell(trial)

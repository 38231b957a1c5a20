"""A search within the model of what trials say, where a look costs next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.searchers.base.gaussian_process import Floats
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.evolution import REACH, mutants

ROUNDS = 8
BROOD = 24
"""How many mutants a round looks at."""
DARING = 1.0
"""How many standard deviations below its expectation an allocation is taken to be."""

Bound = Callable[[Sequence[Allocation], float], Floats]
"""`[n]` values that allocations are expected to be above, so many standard deviations below the expectation."""


def climb(
    problem: SearchProblem, parent: Allocation, bound: Bound | None, rng: np.random.Generator
) -> list[Allocation]:
    """Mutants of a parent, round by round those of the least bound so far, the least bound first.

    Each round draws how far its trades may reach. Without a bound the order is that of their making.
    """
    found: dict[Allocation, float] = {}
    for _ in range(ROUNDS):
        reach = float(np.exp(rng.uniform(*np.log(REACH[::2]))))
        brood = list(dict.fromkeys(mutants(problem, parent, rng, reach, BROOD)))
        bounds = np.zeros(len(brood)) if bound is None else bound(brood, DARING)
        # Rounded, so that a resumed run on another machine finds the same.
        found.update(zip(brood, np.round(bounds, 9).tolist(), strict=True))
        parent = min(found, key=found.__getitem__)
    return sorted(found, key=found.__getitem__)

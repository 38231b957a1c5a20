"""NSGA-II: what the objective costs in each of the limited costs, as one frontier.

Source: Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE Transactions on
Evolutionary Computation 6; Optuna's sampler. It minimises the objective and every cost that the budget
names. We differ:

- Every candidate is repaired onto the limits, but what is left of them is never filled: cheaper ones are wanted too.
- It begins with uniform and knapsacks under several budgets between the least reachable and the limits, each evaluated,
  so that the frontier is spread from the first generation on; draws under random budgets complete it.
- There are no generations after the first: each offspring has parents from the best of all trials so far (the steady
  state of Durillo et al. 2009, "On the Effect of the Steady-State Selection Scheme in Multi-Objective Genetic
  Algorithms", EMO), so every slot stays busy, and any order of results is a run.
- Parents are blended (BLX-0.5); in the one comparison made that found more than the paper's simulated binary crossover.
- An offspring is not evaluated as it is: it is moved onto a budget, and in its place the allocation under this budget
  is evaluated that a model expects most of (see `surrogate`), sought as `auto` seeks it, from the offspring or from
  trials of about this cost. Evolution thus brings what the model would not look for (a memetic algorithm: Moscato 1989,
  "On Evolution, Search, Optimization, Genetic Algorithms and Martial Arts").
- Budgets are drawn so that the points of the frontier are spread evenly over the accuracies that it spans: many where
  it is steep, few where nothing is lost any more or nothing is left to lose; every tenth is the limits themselves. What
  is near the drawn budget in cost is bred and modelled, as slopes of the loss differ from one end of the frontier to
  the other. On a model of 5,120 trials of ResNet-20 (260 evaluations, two seeds) the frontier came to 41, 71 and 86 %
  at 35, 50 and 65 % of the FLOPs, with even budgets and a model of all trials to 32, 65 and 85 %, and `auto` in 62
  evaluations for each to 44, 72 and 86 %.
- One is dropped after some of the samples where it is clearly above the line between its neighbours on the frontier.
- No allocation is evaluated twice: in place of one that was, a neighbour of it is.

Without its seeds it need not beat random draws under random budgets on rippled, noisy landscapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.budget import Limits
from autoprune.core.costs import Floats
from autoprune.core.trial import Trial
from autoprune.searchers.auto import DRAWS, ELSEWHERE
from autoprune.searchers.base.coordinates import Coordinates, Point, StopThresholds
from autoprune.searchers.base.moves import drawn_widths, draws
from autoprune.searchers.base.optuna_studies import breed
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.base.sequential import SequentialSearcher
from autoprune.searchers.base.surrogate import DEVIATIONS, Surrogate, climb
from autoprune.searchers.controls import uniform_allocation
from autoprune.searchers.knapsack import knapsack_allocation

POPULATION = 20
"""A fifth of the hundred evaluations that a frontier is worth."""
BUDGETS = 6
"""How many budgets the first candidates are spread over."""
EXPONENTS = (1.0, 2.0)
"""Those of the knapsacks among the first candidates."""
_AT_LIMITS = 0.1
"""The share of candidates under the limits themselves, as these are what was asked for."""
_ANYWHERE = 0.1
"""The share of budgets that are drawn evenly between the least reachable and the limits."""
_PARENTS = 2 * POPULATION
_AROUND = 40
"""How many allocations of about a budget's cost are looked at for the most promising to search from."""
_NEIGHBOURS = 50
_DRAWS = 200


def tightened(problem: SearchProblem, share: float) -> SearchProblem:
    """Returns the problem under limits that lie a share of the way from the least reachable costs to its own."""
    least, most = problem.costs.costs(problem.space.narrowest()), problem.costs.costs(problem.space.widest())
    limits = {
        kind: least[kind] + int(share * (min(limit, most[kind]) - least[kind]))
        for kind, limit in problem.limits.items()
    }
    return replace(problem, limits=limits)


def spread_allocations(problem: SearchProblem) -> tuple[Allocation, ...]:
    """Returns uniform and knapsacks of each criterion under `BUDGETS` budgets, the loosest first; those that differ."""
    found = []
    for budget in range(BUDGETS, 0, -1):
        tighter = tightened(problem, budget / BUDGETS)
        found.append(uniform_allocation(tighter))
        for curves in problem.curves.values():
            found.extend(knapsack_allocation(tighter, curves, exponent, exchanges=0) for exponent in EXPONENTS)
    return tuple(dict.fromkeys(found))


class Nsga2(SequentialSearcher):
    """Proposes the spread allocations, a few random draws, then offspring of the best; never the same twice."""

    uses_curves = True
    handles_settings = False
    fills_budget = False

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem)
        self._starts = spread_allocations(problem)
        self._coordinates = Coordinates(problem)
        self._surrogate = Surrogate(self._history)
        self._shares_of = _cost_scale(problem)

    def _next(self) -> Point | None:
        found = self._find()
        return None if found is None else self._history.point(found, self._stop_thresholds(found))

    def _stop_thresholds(self, allocation: Allocation) -> StopThresholds:
        """Returns the frontier's values after some of the samples; the starts are evaluated on all."""
        history, scored = self._history, self._scored()
        if not scored or history.number < max(len(self._starts), POPULATION):
            return ()
        own = self._shares_of(allocation)
        shares = np.array([self._shares(trial) for trial in scored])
        values = np.array([self._history.value_of(trial) for trial in scored])
        cheaper = np.flatnonzero((shares <= own).all(axis=1))
        if not len(cheaper):
            return ()
        below = int(cheaper[np.argmin(values[cheaper])])
        better = np.flatnonzero((shares >= own).all(axis=1) & (values < values[below]))
        if not len(better):
            return history.stop_thresholds(scored[below])
        above = min(better.tolist(), key=lambda i: (shares[i].max(), values[i]))
        begin, end = shares[below].max(), shares[above].max()
        way = (own.max() - begin) / (end - begin) if end > begin else 0.0
        return history.stop_thresholds(scored[below], float(way * (values[above] - values[below])))

    def _find(self) -> Allocation | None:
        history = self._history
        start = history.first_new(self._starts)
        if start is not None:
            return start
        rng, scored = history.problem.generator(history.number), self._scored()
        bred = history.number >= POPULATION and len(scored) > 1
        return (history.first_new(self._offspring(scored, rng)) if bred else None) or history.first_new(
            draw(history.problem, rng) for _ in range(_DRAWS)
        )

    def _offspring(self, scored: Sequence[Trial], rng: np.random.Generator) -> Iterator[Allocation]:
        """Yields what the model finds from an offspring under a budget, then the offspring and neighbours of it."""
        history, problem = self._history, self._history.problem
        budget = self._budget(scored, rng)

        def distance(allocation: Allocation) -> float:
            return abs(float(self._shares_of(allocation).max()) - budget)

        tight = tightened(problem, budget)
        parents = sorted(scored, key=lambda trial: distance(trial.candidate.allocation))[:_PARENTS]
        child = tight.project(self._bred(parents, rng))
        as_cheap = [trial for trial in scored if self._shares(trial).max() <= budget]
        reference = min(as_cheap or scored, key=lambda trial: (self._history.value_of(trial), trial.number))
        bound = self._surrogate.fitted(reference, lambda estimate: distance(estimate.allocation))
        if bound is not None:
            if history.number % ELSEWHERE == 0:
                begins, deviations = draws(tight, rng, DRAWS), DEVIATIONS
            else:
                around = sorted((each.allocation for each in history.estimates()), key=distance)[:_AROUND]
                onto = tight.projection
                begins, deviations = [child, *onto.projected(np.array([onto.vector(each) for each in around]))], 0.0
            begin = begins[int(np.argmin(np.round(bound(begins, deviations), 9)))]
            yield from climb(tight, begin, bound, rng)
        yield child
        for _ in range(_NEIGHBOURS):
            yield neighbour(problem, child, rng)

    def _bred(self, parents: Sequence[Trial], rng: np.random.Generator) -> Mapping[str, int]:
        """Returns the widths of an offspring of the best of some trials."""
        points = np.array([self._coordinates.of(trial.candidate.allocation) for trial in parents])
        values = self._values(parents)
        shares = np.array([self._shares(trial) for trial in parents])
        return self._coordinates.widths(breed(points, np.column_stack((values, shares)), POPULATION, rng))

    def _budget(self, scored: Sequence[Trial], rng: np.random.Generator) -> float:
        """Draws a budget between the least reachable costs (0) and the limits (1).

        Mostly it is where the frontier has a value that is drawn evenly.
        """
        kind, where = rng.random(2).tolist()
        if kind < _AT_LIMITS:
            return 1.0
        points: list[tuple[float, float]] = []
        found = [float(self._shares(trial).max()) for trial in scored]
        for share, goodness in sorted(zip(found, (-self._values(scored)).tolist(), strict=True)):
            if not points or goodness > points[-1][1]:
                points.append((share, goodness))
        shares, values = np.array(points).T
        if kind < _AT_LIMITS + _ANYWHERE or len(points) < 2:
            return float(where)
        return float(np.interp(values[0] + where * (values[-1] - values[0]), values, shares))

    def _values(self, scored: Sequence[Trial]) -> Floats:
        """Returns `[trial]` what is minimised; its logarithm if it is positive, as losses spread over many sizes."""
        values = np.array([self._history.value_of(trial) for trial in scored])
        return np.log(values) if values.min() > 0 else values

    def _scored(self) -> list[Trial]:
        return [trial for trial in self._history.told.values() if trial.score]

    def _shares(self, trial: Trial) -> Floats:
        return self._shares_of(trial.candidate.allocation)


def _cost_scale(problem: SearchProblem) -> Callable[[Allocation], Floats]:
    """Returns where an allocation's `[cost]` limited costs lie between the least reachable (0) and the limits (1)."""

    def vector(costs: Limits) -> Floats:
        return np.array([costs[kind] for kind in problem.limits], dtype=np.float64)

    least = vector(problem.costs.costs(problem.space.narrowest()))
    span = np.maximum(vector(tightened(problem, 1.0).limits) - least, 1.0)

    @cache
    def shares(allocation: Allocation) -> Floats:
        return np.asarray((vector(problem.costs.costs(allocation)) - least) / span)

    return shares


def draw(problem: SearchProblem, rng: np.random.Generator) -> Allocation:
    """Draws an allocation with every width uniform among those allowed, repaired under a random budget."""
    widths = drawn_widths(problem, rng)
    return tightened(problem, rng.random()).repair(widths)


def neighbour(problem: SearchProblem, allocation: Allocation, rng: np.random.Generator) -> Allocation:
    """Returns the allocation with one group at another level, repaired.

    Args:
        problem: whose limits hold.
        allocation: within them.
        rng: of the group and its level.
    """
    name = problem.space.names[int(rng.integers(len(problem.space.names)))]
    return problem.repair({**allocation, name: int(rng.choice(problem.space.bounds[name].levels()))})

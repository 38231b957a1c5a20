"""Problems whose best allocation is known, shaped like pruning a ResNet, to compare searchers on.

Each is built backwards from its optimum. With widths written as exponentials, the costs of a network are sums of
exponentials with positive factors, so convex; so is `amplitude · (dense / width) ** power`. Amplitudes that fulfil the
Karush-Kuhn-Tucker conditions at a chosen allocation, with the limit set to its cost, hence make it the global optimum.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.budget import CostKind
from autoprune.core.trial import Candidate, Trial
from autoprune.searchers.base.searcher import Searcher, SearchProblem
from autoprune.searchers.knapsack import knapsack_allocation
from autoprune.testing.problems import (
    Loss,
    depth,
    make_problem,
    resnet_costs,
    score,
    sensitivity_curves,
    with_curves,
)

__all__ = ["make_problem", "resnet_costs", "score", "with_curves"]
POWER = 1.5


@dataclass(frozen=True)
class Landscape:
    """A problem, the loss that is told (noise and all), the true loss, and where that is least."""

    name: str
    problem: SearchProblem
    told: Loss
    true: Loss
    optimum: Allocation

    def regret(self, allocation: Mapping[str, int]) -> float:
        return self.true(allocation) - self.true(self.optimum)


def planted(
    name: str, blocks: int, streams: bool, pairs: float = 0.0, bumps: float = 0.0, noise: float = 0.0, seed: int = 0
) -> Landscape:
    """A landscape with its optimum at a chosen allocation.

    Args:
        pairs: share of the slope at the optimum that comes from products of neighbouring groups.
        bumps: height of ripples, as a share of the optimum's loss; they vanish at the optimum.
        noise: standard deviation of what is added to each told loss, as a share of the optimum's loss.
    """
    problem = make_problem(blocks, streams)
    rng = np.random.default_rng([seed, blocks])
    names, dense = problem.space.names, np.array([g.width for g in problem.space.groups], dtype=float)
    best = problem.project(
        dict(zip(names, (dense * rng.uniform(0.35, 0.95, len(dense))).astype(int).tolist(), strict=True))
    )
    limits: dict[CostKind, int] = {"flops": problem.costs.cost(best, "flops")}
    at_best = np.array([best[n] for n in names], dtype=float)
    slopes = problem.costs.slopes(best, "flops")
    needed = at_best * np.array([slopes[n] for n in names]) / limits["flops"]
    linear, product = _amplitudes(needed, (dense / at_best) ** POWER, pairs)

    def true(widths: Mapping[str, int]) -> float:
        now = np.array([widths[n] for n in names], dtype=float)
        terms = (dense / now) ** POWER
        ripple = np.sin(np.pi * 4 * (now - at_best) / dense) ** 2
        return float(linear @ terms + product @ (terms[1:] * terms[:-1]) + bumps * scale * ripple.mean())

    scale = 0.0
    scale = true(best)

    def told(widths: Mapping[str, int]) -> float:
        digest = zlib.crc32(repr(sorted(widths.items())).encode())
        return true(widths) + noise * scale * float(np.random.default_rng(digest).normal())

    problem = replace(problem, limits=limits, curves={"l1": sensitivity_curves(problem, told)})
    return Landscape(name, problem, told, true, best)


def _amplitudes(needed: np.ndarray, terms: np.ndarray, pairs: float) -> tuple[np.ndarray, np.ndarray]:
    """Amplitudes of the single terms and of the products, whose slopes at the optimum add up to `needed / POWER`."""
    needed = needed / POWER
    product = pairs / 2 * np.minimum(needed[1:], needed[:-1]) / (terms[1:] * terms[:-1])
    shares = product * terms[1:] * terms[:-1]
    from_products = np.append(shares, 0.0) + np.append(0.0, shares)
    return (needed - from_products) / terms, product


def all_landscapes() -> list[Landscape]:
    return [
        planted("separable_12", 3, True),
        planted("interactions_12", 3, True, pairs=0.9),
        planted("deceptive_12", 3, True, bumps=0.5, noise=0.03),
        planted("separable_27", 9, False),
        planted("interactions_27", 9, False, pairs=0.9),
        planted("deceptive_27", 9, False, bumps=0.5, noise=0.03),
    ]


def evaluate(landscape: Landscape, candidate: Candidate) -> Trial:
    return Trial(candidate, score(landscape.told(candidate.allocation)))


def run(landscape: Landscape, searcher: Searcher, slots: int = 1) -> list[Trial]:
    """Every trial until the searcher has finished, told in the order asked."""
    trials: list[Trial] = []
    while asked := searcher.ask(slots):
        for candidate in asked:
            trials.append(evaluate(landscape, candidate))
            searcher.tell(trials[-1])
    return trials


def best_regret(landscape: Landscape, trials: list[Trial]) -> float:
    """True regret of the trial that looked best."""
    best = {trial.score.loss: trial.candidate.allocation for trial in trials if trial.score is not None}
    return landscape.regret(best[min(best)])


def planted_depth(name: str, dispensable: Sequence[int], price: float = 2.0, seed: int = 0) -> Landscape:
    """A landscape of widths and branches, with the loss of widths where all others stay.

    Args:
        name: of the landscape.
        dispensable: the branches without which least is lost: `price` times what they add where they are whole.
        price: below 1 it is better without them whatever they cost.
        seed: of the amplitudes.
    """
    problem = depth(trials=50)
    rng, space = np.random.default_rng([seed, 7]), problem.space
    amplitude = dict(zip(space.names, rng.uniform(0.5, 2.0, len(space.names)).tolist(), strict=True))
    leads = [name for name in space.names if space.bounds[name].removable]
    members = {lead: [lead, *(name for name, other in space.leads.items() if other == lead)] for lead in leads}
    lost = {
        lead: sum(amplitude[each] for each in members[lead]) * (price if place in dispensable else 50.0)
        for place, lead in enumerate(leads)
    }
    dense = space.dense()

    def true(widths: Mapping[str, int]) -> float:
        gone = {lead for lead in leads if widths[lead] == 0}
        stays = [each for each in space.names if space.leads.get(each, each) not in gone]
        return sum(lost[lead] for lead in gone) + sum(
            amplitude[each] * (dense[each] / widths[each]) ** POWER for each in stays
        )

    problem = replace(problem, curves={"l1": sensitivity_curves(problem, true)})
    without = {each for place in dispensable for each in members[leads[place]]}
    # The best known: that of the additive model, which this loss is.
    optimum = knapsack_allocation(problem, problem.curves["l1"])
    assert {each for each in space.names if optimum[each] == 0} == without
    return Landscape(name, problem, true, true, optimum)

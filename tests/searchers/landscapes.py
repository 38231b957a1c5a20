"""Problems whose best allocation is known, shaped like pruning a ResNet, to compare searchers on.

Each is built backwards from its optimum. With widths written as exponentials, the costs of a network are sums of
exponentials with positive factors, so convex; so is `amplitude · (dense / width) ** power`. Amplitudes that fulfil the
Karush-Kuhn-Tucker conditions at a chosen allocation, with the limit set to its cost, hence make it the global optimum.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoprune.core.allocation import Allocation
from autoprune.core.budget import CostKind
from autoprune.core.costs import CostTable, CostTerm, Count
from autoprune.core.sensitivity import SensitivityCurves, sweep_grid
from autoprune.core.space import Bounds, Group, SearchSpace
from autoprune.core.trial import Candidate, Score, Trial
from autoprune.searchers.base.searcher import Searcher, SearchProblem

Loss = Callable[[Mapping[str, int]], float]
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


def resnet_costs(blocks: int, streams: bool) -> tuple[CostTable, list[Group]]:
    """Three stages of residual blocks; the groups are the inner channels and, if `streams`, the residual streams."""
    terms, groups = [], []
    for stage, (width, pixels) in enumerate([(16, 1024), (32, 256), (64, 64)]):
        stream = Count(0, {f"s{stage}": 1}) if streams else Count(width)
        if streams:
            groups.append(Group(f"s{stage}", width, (f"s{stage}", f"s{stage}b"), ("Conv2d",) * 2))
        for block in range(blocks):
            name = f"s{stage}.{block}"
            groups.append(Group(name, width, (name,), ("Conv2d",)))
            inner = Count(0, {name: 1})
            for layer, left, right in ((f"{name}.conv1", stream, inner), (f"{name}.conv2", inner, stream)):
                terms.append(CostTerm("flops", layer, 18 * pixels, left, right))
                terms.append(CostTerm("params", layer, 9, left, right))
    return CostTable(terms, {group.name: group.width for group in groups}), groups


def make_problem(
    blocks: int = 3, streams: bool = True, step: int = 1, keep: float = 0.5, trials: int = 50, seed: int = 0
) -> SearchProblem:
    """A ResNet's space under a limit on its FLOPs, with scores of its structures, without curves."""
    costs, groups = resnet_costs(blocks, streams)
    bounds = {group.name: Bounds(max(1, group.width // 8), group.width, step) for group in groups}
    limits: dict[CostKind, int] = {"flops": int(keep * costs.dense()["flops"])}
    space = SearchSpace(tuple(groups), bounds)
    return SearchProblem(space, costs, limits, trials, seed, importance=scores_of_structures(groups))


def scores_of_structures(groups: Sequence[Group]) -> dict[str, np.ndarray]:
    """Norms as of random filters; those of later groups spread further."""
    rng = np.random.default_rng(0)
    return {g.name: np.exp(rng.normal(0.0, 0.3 + 0.5 * i / len(groups), g.width)) for i, g in enumerate(groups)}


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

    problem = replace(problem, limits=limits, curves={"l1": _curves(problem, told)})
    return Landscape(name, problem, told, true, best)


def _amplitudes(needed: np.ndarray, terms: np.ndarray, pairs: float) -> tuple[np.ndarray, np.ndarray]:
    """Amplitudes of the single terms and of the products, whose slopes at the optimum add up to `needed / POWER`."""
    needed = needed / POWER
    product = pairs / 2 * np.minimum(needed[1:], needed[:-1]) / (terms[1:] * terms[:-1])
    shares = product * terms[1:] * terms[:-1]
    from_products = np.append(shares, 0.0) + np.append(0.0, shares)
    return (needed - from_products) / terms, product


def _curves(problem: SearchProblem, told: Loss) -> SensitivityCurves:
    dense = problem.space.dense()
    grid = sweep_grid(problem.space, 6)
    levels = {g: {w: score(told({**dense, g: w})) for w in widths} for g, widths in grid.items()}
    return SensitivityCurves(score(told(dense)), levels, dict(dense))


def score(loss: float) -> Score:
    return Score(loss, 1 / (1 + max(loss, 0.0)), 100)


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


def with_curves(problem: SearchProblem) -> SearchProblem:
    """The problem with curves of a separable loss whose groups are unequally sensitive."""

    def loss(widths: Mapping[str, int]) -> float:
        return sum(
            0.05 * (1 + i % 4) * (g.width / max(widths[g.name], 0.5)) for i, g in enumerate(problem.space.groups)
        )

    return replace(problem, curves={"l1": _curves(problem, loss)})

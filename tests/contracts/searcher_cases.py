"""Problems that every searcher of the registry is given, and a run of one without a network."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from autoprune.core.budget import CostKind
from autoprune.core.costs import CostTable, CostTerm, Count
from autoprune.core.settings import Choice, Range
from autoprune.core.space import Bounds, Group, SearchSpace
from autoprune.core.trial import Candidate, Failure, Score, Trial
from autoprune.registry import SEARCHERS, resolve
from autoprune.searchers.base.searcher import Searcher, SearchProblem
from tests.searchers.landscapes import make_problem, with_curves

NAMES = sorted(SEARCHERS)
DETERMINISTIC = {"uniform", "threshold", "knapsack", "ranked", "netadapt"}
"""Searchers that draw nothing, so that the seed changes nothing."""
IN_ROUNDS = {"netadapt", "autocompress"}
"""Searchers whose candidates on the way have limits, a parent and perhaps a recipe of their own."""
NEEDS_CURVES = {"threshold", "knapsack"}
UNFILLED = {"nsga2"}
"""Searchers that want cheaper candidates too, and so leave some of the limits unspent."""


def few_groups(problem: SearchProblem, count: int) -> SearchProblem:
    """The same network with only the first groups free, the others dense."""
    space = SearchSpace(
        problem.space.groups[:count], {g.name: problem.space.bounds[g.name] for g in problem.space.groups[:count]}
    )
    return with_curves(replace(problem, space=space, curves={}))


def narrow(problem: SearchProblem) -> SearchProblem:
    least = problem.costs.cost(problem.space.narrowest(), "flops")
    return replace(problem, limits={"flops": int(least * 1.02)})


def tiny() -> SearchProblem:
    """Two groups of three levels each: a handful of maximal allocations."""
    problem = few_groups(make_problem(1, streams=False, keep=0.8), 2)
    bounds = {g.name: Bounds(g.width // 2, g.width, g.width // 4) for g in problem.space.groups}
    return with_curves(replace(problem, space=replace(problem.space, bounds=bounds), curves={}))


def may_go_whole(problem: SearchProblem) -> SearchProblem:
    """The same groups, of which every other one may go whole, but no residual stream."""
    groups = tuple(replace(group, least=(i + 1) % 2) for i, group in enumerate(problem.space.groups))
    bounds = {g.name: replace(problem.space.bounds[g.name], floor=0 if g.removable else 2) for g in groups}
    return with_curves(replace(problem, space=SearchSpace(groups, bounds), curves={}))


def branches() -> SearchProblem:
    """Nine branches, of unequal costs, that are kept or go whole."""
    groups = tuple(Group(f"b{i}", 1, (f"b{i}",), ("Conv2d",), least=0) for i in range(9))
    terms = [CostTerm("flops", g.name, 10 + i % 4, Count(0, {g.name: 1})) for i, g in enumerate(groups)]
    costs = CostTable([CostTerm("flops", "stem", 7), *terms], {g.name: 1 for g in groups})
    space = SearchSpace(groups, {g.name: Bounds(0, 1) for g in groups})
    importance = {g.name: np.array([1.0 + i % 5]) for i, g in enumerate(groups)}
    return with_curves(SearchProblem(space, costs, {"flops": 60}, 24, 0, importance=importance))


def with_settings(problem: SearchProblem) -> SearchProblem:
    """The same with four settings searched along: a choice, one of two, a range and steps."""
    settings = {
        "criterion": Choice(("l1", "l2", "fpgm"), own="l2"),
        "normalise": Choice((True, False), own=True),
        "finetune.rate": Range(0.003, 0.3, log=True, own=0.02),
        "finetune.steps": Range(20, 200, step=20, integer=True, own=40),
    }
    return replace(problem, space=replace(problem.space, settings=settings))


def three_limits(problem: SearchProblem) -> SearchProblem:
    """FLOPs, parameters and bytes (of layers in one or four a parameter) limited, so that any may be broken first."""
    weights = [term for term in problem.costs.terms if term.kind == "params"]
    stored = [replace(term, kind="size", factor=(1, 4)[i % 2] * term.factor) for i, term in enumerate(weights)]
    costs = CostTable([*problem.costs.terms, *stored], problem.costs.widths)
    dense = costs.dense()
    limits = {"flops": dense["flops"] // 2, "params": int(0.4 * dense["params"]), "size": int(0.4 * dense["size"])}
    return replace(problem, costs=costs, limits=limits)


def case(name: str) -> SearchProblem:
    problem = with_curves(make_problem(trials=24))
    two: dict[CostKind, int] = {"flops": problem.limits["flops"], "params": int(0.4 * problem.costs.dense()["params"])}
    return {
        "plain": lambda: problem,
        "accuracy": lambda: replace(problem, objective="accuracy"),
        "no curves": lambda: replace(problem, curves={}),
        "two limits": lambda: replace(problem, limits=two),
        "three limits": lambda: three_limits(problem),
        "just above the least": lambda: narrow(problem),
        "steps of 8": lambda: with_curves(make_problem(step=8, trials=24)),
        "one group": lambda: few_groups(make_problem(keep=0.99, trials=24), 1),
        "tiny": tiny,
        "may go whole": lambda: may_go_whole(problem),
        "narrowest of what may go whole": lambda: narrow(may_go_whole(problem)),
        "branches": branches,
        "settings": lambda: with_settings(problem),
    }[name]()


CASES = [
    "plain", "accuracy", "no curves", "two limits", "three limits", "just above the least", "steps of 8", "one group",
    "tiny", "may go whole", "narrowest of what may go whole", "branches", "settings",
]  # fmt: skip


def make(name: str, problem: SearchProblem) -> Searcher:
    searcher: Searcher = resolve("searcher", name)(problem)
    return searcher


def outcome(candidate: Candidate, failing: bool = False) -> Trial:
    if failing:
        return Trial(candidate, Failure("nan", "the loss is not a number"))
    loss = sum(i % 3 / max(width, 0.5) for i, width in enumerate(candidate.allocation.values(), 1))
    loss *= 1 + sum(zlib.crc32(f"{name} {value}".encode()) % 7 for name, value in candidate.settings.items()) / 10
    return Trial(candidate, Score(loss, 1 / (1 + loss), 10))


def events(searcher: Searcher, slots: int = 1, seed: int = 0, failures: float = 0.0) -> Iterator[Candidate | Trial]:
    """Candidates as they are asked and trials as they are told, at most `slots` running, told in a random order."""
    rng = np.random.default_rng(seed)
    running: list[Candidate] = []
    while True:
        while len(running) < slots and (asked := searcher.ask(1)):
            assert asked[0].number < 100, "it goes on after as many trials as the problem allows"
            running.append(asked[0])
            yield asked[0]
        if not running:
            return
        trial = outcome(running.pop(int(rng.integers(len(running)))), bool(rng.random() < failures))
        searcher.tell(trial)
        yield trial


def candidates(searcher: Searcher, slots: int = 1, seed: int = 0, failures: float = 0.0) -> list[Candidate]:
    return [event for event in events(searcher, slots, seed, failures) if isinstance(event, Candidate)]

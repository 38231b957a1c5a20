"""Synthetic search problems, shaped like pruning a ResNet, and runs of a searcher without a network."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from autoprune.core.costs import ONE, CostTable, CostTerm, Count
from autoprune.core.metrics import MetricInfo
from autoprune.core.sensitivity import SensitivityCurves, sweep_grid
from autoprune.core.settings import Choice, Dimension, Range
from autoprune.core.space import Bounds, Group, SearchSpace, as_one
from autoprune.core.trial import Candidate, Failure, Score, Trial
from autoprune.searchers.base.searcher import Searcher, SearchProblem

Loss = Callable[[Mapping[str, int]], float]


def resnet_costs(blocks: int, streams: bool) -> tuple[CostTable, list[Group]]:
    """Returns the costs and groups of three stages of residual blocks.

    Args:
        blocks: of each stage.
        streams: whether the residual streams are groups, beside the inner channels.
    """
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
    """Returns a ResNet's space under a limit on its FLOPs, with scores of its structures, without curves.

    Args:
        blocks: of each of the three stages.
        streams: whether the residual streams are groups, beside the inner channels.
        step: kept widths are multiples of it.
        keep: the limit, as a share of the dense network's FLOPs.
        trials: how many candidates a search may evaluate.
        seed: of the search.
    """
    costs, groups = resnet_costs(blocks, streams)
    bounds = {group.name: Bounds(max(1, group.width // 8), group.width, step) for group in groups}
    limits: dict[str, int] = {"flops": int(keep * costs.dense()["flops"])}
    space = SearchSpace(tuple(groups), bounds)
    return SearchProblem(space, costs, limits, trials, seed, importance=scores_of_structures(groups))


def scores_of_structures(groups: Sequence[Group]) -> dict[str, NDArray[np.float64]]:
    """Draws `[width]` norms by group, as of random filters; those of later groups spread further."""
    rng = np.random.default_rng(0)
    return {g.name: np.exp(rng.normal(0.0, 0.3 + 0.5 * i / len(groups), g.width)) for i, g in enumerate(groups)}


def sensitivity_curves(problem: SearchProblem, told: Loss) -> SensitivityCurves:
    """Returns the curves of a loss: each group narrowed by itself."""
    dense = problem.space.dense()
    grid = sweep_grid(problem.space, 6)
    levels = {g: {w: score(told({**dense, g: w})) for w in widths} for g, widths in grid.items()}
    return SensitivityCurves(score(told(dense)), levels, dict(dense))


def score(loss: float) -> Score:
    """Returns a score of this loss."""
    return Score(loss, {"accuracy": 1 / (1 + max(loss, 0.0)), "psnr": -10 * math.log10(1 + max(loss, 0.0))}, 100)


def with_curves(problem: SearchProblem) -> SearchProblem:
    """Returns the problem with curves of a separable loss whose groups are unequally sensitive."""

    def loss(widths: Mapping[str, int]) -> float:
        return sum(
            0.05 * (1 + i % 4) * (g.width / max(widths[g.name], 0.5)) for i, g in enumerate(problem.space.groups)
        )

    return replace(problem, curves={"l1": sensitivity_curves(problem, loss)})


def depth_costs(blocks: int) -> tuple[CostTable, list[Group]]:
    """Returns the costs and groups of three stages of bottlenecks, each of which may be removed.

    Args:
        blocks: of each stage.
    """
    terms, groups = [CostTerm("flops", "stem", 27 * 1024, Count(0, {"s0": 1}))], []
    leads = {}
    for stage, (width, pixels) in enumerate([(16, 1024), (32, 256), (64, 64)]):
        stream = Count(0, {f"s{stage}": 1})
        groups.append(Group(f"s{stage}", width, (f"s{stage}", f"s{stage}b"), ("Conv2d",) * 2))
        for block in range(blocks):
            lead, inside = f"s{stage}.{block}.a", f"s{stage}.{block}.b"
            groups.append(Group(lead, width, (lead,), ("Conv2d",), least=0))
            groups.append(Group(inside, width // 2, (inside,), ("Conv2d",), least=0, lead=lead))
            leads[inside] = lead
            one, two = Count(0, {lead: 1}), Count(0, {inside: 1})
            layers = [("a", 1, stream, one), ("b", 9, one, two), ("c", 1, two, stream), ("bn", 1, stream, ONE)]
            for layer, kernel, left, right in layers:
                name = f"s{stage}.{block}.{layer}"
                if layer != "bn":
                    terms.append(CostTerm("flops", name, 2 * kernel * pixels, left, right, branch=lead))
                terms.append(CostTerm("params", name, kernel, left, right, branch=lead))
    return CostTable(terms, {group.name: group.width for group in groups}, leads=leads), groups


def depth(blocks: int = 3, keep: float = 0.5, trials: int = 24, step: int = 1) -> SearchProblem:
    """Returns a space of widths in which whole bottlenecks may be removed as well.

    Args:
        blocks: of each of the three stages.
        keep: the limit, as a share of the dense network's FLOPs.
        trials: how many candidates a search may evaluate.
        step: kept widths are multiples of it.
    """
    costs, groups = depth_costs(blocks)
    bounds = {g.name: Bounds(max(1, g.width // 8), g.width, step, removable=g.removable) for g in groups}
    limits: dict[str, int] = {"flops": int(keep * costs.dense()["flops"])}
    space = SearchSpace(tuple(groups), bounds)
    return with_curves(SearchProblem(space, costs, limits, trials, 0, importance=scores_of_structures(groups)))


def equal(step: int = 1, removable: bool = False) -> SearchProblem:
    """Returns a space in which the channels inside all blocks of a stage are equally wide.

    Args:
        step: kept widths are multiples of it.
        removable: whether blocks may be removed, each by a group of its own.
    """
    costs, groups = resnet_costs(3, streams=True)
    ones = [as_one([g for g in groups if g.name.startswith(f"s{stage}.")]) for stage in range(3)]
    name_of = {part.name: one.name for one in ones for part in one.parts}
    leads = [Group(f"{name}:branch", 1, (name,), ("Conv2d",), least=0) for name in name_of] if removable else []
    terms = [replace(t, branch=f"{t.layer.rpartition('.')[0]}:branch" if removable else None) for t in costs.terms]
    costs = CostTable(terms, {**costs.widths, **{lead.name: 1 for lead in leads}}).joined(name_of)
    groups = [*(group for group in groups if group.name not in name_of), *ones, *leads]
    bounds = {g.name: Bounds(max(1, g.width // 8), g.width, min(step, g.width), g.removable) for g in groups}
    limits: dict[str, int] = {"flops": costs.dense()["flops"] // 2}
    space = SearchSpace(tuple(groups), bounds)
    return with_curves(SearchProblem(space, costs, limits, 24, 0, importance=scores_of_structures(groups)))


def few_groups(problem: SearchProblem, count: int) -> SearchProblem:
    """Returns the same network with only the first groups free, the others dense."""
    space = SearchSpace(
        problem.space.groups[:count], {g.name: problem.space.bounds[g.name] for g in problem.space.groups[:count]}
    )
    return with_curves(replace(problem, space=space, curves={}))


def narrow(problem: SearchProblem) -> SearchProblem:
    """Returns the problem under a budget just above the least that can be reached."""
    least = problem.costs.cost(problem.space.narrowest(), "flops")
    return replace(problem, limits={"flops": int(least * 1.02)})


def tiny() -> SearchProblem:
    """Returns two groups of three levels each: a handful of maximal allocations."""
    problem = few_groups(make_problem(1, streams=False, keep=0.8), 2)
    bounds = {g.name: Bounds(g.width // 2, g.width, g.width // 4) for g in problem.space.groups}
    return with_curves(replace(problem, space=replace(problem.space, bounds=bounds), curves={}))


def may_go_whole(problem: SearchProblem) -> SearchProblem:
    """Returns the same groups, of which every other one may go whole, but no residual stream."""
    groups = tuple(replace(group, least=(i + 1) % 2) for i, group in enumerate(problem.space.groups))
    bounds = {g.name: replace(problem.space.bounds[g.name], floor=0 if g.removable else 2) for g in groups}
    return with_curves(replace(problem, space=SearchSpace(groups, bounds), curves={}))


def branches() -> SearchProblem:
    """Returns nine branches, of unequal costs, that are kept or go whole."""
    groups = tuple(Group(f"b{i}", 1, (f"b{i}",), ("Conv2d",), least=0) for i in range(9))
    terms = [CostTerm("flops", g.name, 10 + i % 4, Count(0, {g.name: 1})) for i, g in enumerate(groups)]
    costs = CostTable([CostTerm("flops", "stem", 7), *terms], {g.name: 1 for g in groups})
    space = SearchSpace(groups, {g.name: Bounds(0, 1) for g in groups})
    importance = {g.name: np.array([1.0 + i % 5]) for i, g in enumerate(groups)}
    return with_curves(SearchProblem(space, costs, {"flops": 60}, 24, 0, importance=importance))


def with_settings(problem: SearchProblem) -> SearchProblem:
    """Returns the same with four settings searched along: a choice, one of two, a range and steps."""
    settings: dict[str, Dimension] = {
        "criterion": Choice(("l1", "l2", "fpgm"), own="l2"),
        "normalise": Choice((True, False), own=True),
        "finetune.rate": Range(0.003, 0.3, log=True, own=0.02),
        "finetune.steps": Range(20, 200, step=20, integer=True, own=40),
    }
    return replace(problem, space=replace(problem.space, settings=settings))


def three_limits(problem: SearchProblem) -> SearchProblem:
    """Returns the same under limits on FLOPs, parameters and bytes (one or four a parameter), any of which may bind."""
    weights = [term for term in problem.costs.terms if term.kind == "params"]
    stored = [replace(term, kind="size", factor=(1, 4)[i % 2] * term.factor) for i, term in enumerate(weights)]
    costs = CostTable([*problem.costs.terms, *stored], problem.costs.widths)
    dense = costs.dense()
    limits = {"flops": dense["flops"] // 2, "params": int(0.4 * dense["params"]), "size": int(0.4 * dense["size"])}
    return replace(problem, costs=costs, limits=limits)


def case(name: str) -> SearchProblem:
    """Returns the problem of one of `CASES`."""
    problem = with_curves(make_problem(trials=24))
    two: dict[str, int] = {"flops": problem.limits["flops"], "params": int(0.4 * problem.costs.dense()["params"])}
    problems: dict[str, Callable[[], SearchProblem]] = {
        "plain": lambda: problem,
        "accuracy": lambda: replace(problem, objective=MetricInfo("accuracy", "maximize", "%")),
        "negative values": lambda: replace(problem, objective=MetricInfo("psnr", "maximize", "dB")),
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
        "depth": depth,
        "depth in steps of 8": lambda: depth(step=8),
        "depth without curves": lambda: replace(depth(), curves={}),
        "without most branches": lambda: narrow(depth()),
        "one branch": lambda: depth(blocks=1, keep=0.3),
        "equal": equal,
        "equal in steps of 8 with depth": lambda: equal(step=8, removable=True),
    }
    return problems[name]()


CASES = [
    "plain", "accuracy", "negative values", "no curves", "two limits", "three limits", "just above the least",
    "steps of 8", "one group", "tiny", "may go whole", "narrowest of what may go whole", "branches", "settings",
    "depth", "depth in steps of 8", "depth without curves", "without most branches", "one branch", "equal",
    "equal in steps of 8 with depth",
]  # fmt: skip


def outcome(candidate: Candidate, failing: bool = False) -> Trial:
    """Evaluates a candidate: a loss that depends on its widths and settings alone, or a failure."""
    if failing:
        return Trial(candidate, Failure("nan", "the loss is not a number"))
    loss = sum(i % 3 / max(width, 0.5) for i, width in enumerate(candidate.allocation.values(), 1))
    loss *= 1 + sum(zlib.crc32(f"{name} {value}".encode()) % 7 for name, value in candidate.settings.items()) / 10
    return Trial(candidate, replace(score(loss), samples=10))


def events(searcher: Searcher, slots: int = 1, seed: int = 0, failures: float = 0.0) -> Iterator[Candidate | Trial]:
    """Yields candidates as they are asked and trials as they are told in a random order.

    Args:
        searcher: that has not been asked yet.
        slots: how many candidates run at once at most.
        seed: draws the order, and which candidates fail.
        failures: the share of candidates that fail, in [0, 1].
    """
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
    """Returns the candidates of a whole run.

    Args:
        searcher: that has not been asked yet.
        slots: how many candidates run at once at most.
        seed: draws the order of the results, and which candidates fail.
        failures: the share of candidates that fail, in [0, 1].
    """
    return [event for event in events(searcher, slots, seed, failures) if isinstance(event, Candidate)]

from __future__ import annotations

from autoprune.core.trial import Candidate, Failure, Trial
from autoprune.searchers.base.warm_started import FIRST, starts
from autoprune.searchers.controls import Random
from autoprune.searchers.optuna_samplers import Tpe
from tests.searchers.landscapes import make_problem, with_curves


def test_failures_teach_nothing_but_are_passed_over() -> None:
    problem = with_curves(make_problem(trials=12))
    searcher = Tpe(problem, starts=())
    found: list[Candidate] = []
    while asked := searcher.ask(1):
        found.extend(asked)
        searcher.tell(Trial(asked[0], Failure("exception", "broken")))
    assert [c.allocation for c in found] == [c.allocation for c in Random(problem).ask(12)]


def test_the_starts_come_first_then_draws_then_proposals() -> None:
    problem = with_curves(make_problem())
    given = starts(problem)
    assert tuple(c.allocation for c in Tpe(problem).ask(len(given))) == given
    bare = Tpe(problem, starts=())
    first = [bare.ask(1)[0].allocation for _ in range(FIRST)]
    assert first == [c.allocation for c in Random(problem).ask(FIRST)]


def test_starts_outside_the_limits_are_projected() -> None:
    problem = make_problem()
    (first,) = Tpe(problem, starts=[problem.space.dense()]).ask(1)
    assert first.allocation == problem.project(problem.space.dense())

"""What every searcher's bookkeeping knows: ends, progress, bars at the rungs, estimates of what was dropped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.trial import Candidate, Failure, Outcome, Stopped, Trial
from autoprune.searchers.base.history import DOUBT, Estimate, History
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.controls import Random
from tests.scores import scored as score_of
from tests.searchers.landscapes import make_problem

PROBLEM = replace(make_problem(trials=8), price=1000, rungs=(10, 40))


def candidates(history: History, count: int) -> list[Candidate]:
    drawn = Random(replace(history.problem, trials=count, work=None)).ask(count)
    return [history.propose(each.allocation) for each in drawn]


def scored(candidate: Candidate, final: float, *rungs: float, work: int = 0) -> Trial:
    passed = tuple(score_of(loss, 0.5, samples) for loss, samples in zip(rungs, (10, 40), strict=False))
    return Trial(candidate, score_of(final, 0.5, 100, rungs=passed), work=work)


def with_work(problem: SearchProblem, candidates: float) -> SearchProblem:
    return replace(problem, trials=None, work=int(candidates * problem.price))


def test_a_search_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="needs an end"):
        replace(PROBLEM, trials=None)


def test_trials_end_a_search() -> None:
    history = History(PROBLEM)
    candidates(history, 7)
    assert not history.full
    assert history.elapsed == 7 / 8
    history.propose(Random(replace(PROBLEM, trials=9)).ask(9)[-1].allocation)
    assert history.full


def test_work_ends_a_search_before_it_is_exceeded() -> None:
    history = History(with_work(PROBLEM, 3.5))
    one, two, three = candidates(history, 3)
    assert history.full  # a fourth could cost more than what is left
    history.tell(scored(one, 1.0, work=PROBLEM.price // 2))
    assert not history.full  # the first cost only half
    assert history.elapsed == pytest.approx(2.5 / 3.5)
    for each in (two, three):
        history.tell(scored(each, 1.0, work=PROBLEM.price))
    assert history.elapsed == pytest.approx(2.5 / 3.5)
    assert not history.full


def test_progress_is_kept_as_it_was_when_a_candidate_was_asked_for() -> None:
    history = History(with_work(PROBLEM, 4))
    one, _ = candidates(history, 2)
    assert history.progress == pytest.approx([0.0, 0.25])
    history.tell(scored(one, 1.0, work=0))
    assert history.elapsed == pytest.approx(0.25)


def test_whichever_ends_first_counts() -> None:
    history = History(replace(with_work(PROBLEM, 100), trials=4))
    candidates(history, 2)
    assert history.elapsed == 0.5


def test_there_are_no_stop_thresholds_before_enough_is_known() -> None:
    history = History(PROBLEM)
    for number, candidate in enumerate(candidates(history, 5)):
        assert history.stop_thresholds(history.best()) == ()
        history.tell(scored(candidate, 1.0 + number, 0.9 + number, 0.95 + number))
    assert history.stop_thresholds(history.best()) != ()
    assert history.stop_thresholds(None) == ()


def test_a_stop_threshold_allows_for_how_far_the_first_samples_mislead() -> None:
    history = History(PROBLEM)
    # The reference rises by 0.1 and 0.05 from the rungs to the end; others by so much more.
    misses = [(0.02, 0.01), (-0.04, 0.01), (0.06, -0.03), (0.08, 0.05)]
    reference, *others = candidates(history, 5)
    history.tell(scored(reference, 1.0, 0.9, 0.95))
    for candidate, (first, second) in zip(others, misses, strict=True):
        history.tell(scored(candidate, 2.0, 1.9 - first, 1.95 - second))
    low, high = history.stop_thresholds(history.best())
    assert low == pytest.approx(0.9 + DOUBT * 1.4826 * 0.05)
    assert high == pytest.approx(0.95 + DOUBT * 1.4826 * 0.02)
    raised = history.stop_thresholds(history.best(), above=0.5)
    assert raised == (pytest.approx(low + 0.5), pytest.approx(high + 0.5))


def test_what_was_dropped_is_estimated_by_how_the_best_went_on() -> None:
    history = History(PROBLEM)
    best, early, late, failed, *others = candidates(history, 8)
    history.tell(scored(best, 1.0, 0.7, 0.9))
    history.tell(Trial(early, Stopped(score_of(1.5, 0.5, 10))))
    history.tell(Trial(late, Stopped(score_of(1.5, 0.5, 40, rungs=(score_of(0.8, 0.5, 10),)))))
    history.tell(Trial(failed, Failure("nan", "")))
    expected = [
        Estimate(best.allocation, 1.0),
        Estimate(early.allocation, pytest.approx(1.8)),
        Estimate(late.allocation, pytest.approx(1.6)),
    ]
    assert history.estimates() == expected  # how sure that is is not known yet
    for other in others:
        history.tell(scored(other, 2.0, 1.6, 1.85))
    unsure = [0.0, pytest.approx(1.4826 * 0.1), pytest.approx(1.4826 * 0.05)]
    assert [estimate.deviation for estimate in history.estimates()[:3]] == unsure
    assert history.best() is history.told[0]


def drawn_outcome(rng: np.random.Generator) -> Outcome:
    """One of few values, so that some are equal, whole or from one of two rungs; or a failure."""
    end, second, first = (rng.integers(1, 6, size=3) / 4).tolist()
    rungs = (score_of(first, 0.5, 10), score_of(second, 0.5, 40))
    return [
        score_of(end, 0.5, 100, rungs=rungs),
        score_of(end, 0.5, 100, rungs=rungs),
        Stopped(rungs[0]),
        Stopped(replace(rungs[1], rungs=rungs[:1])),
        Failure("nan", ""),
    ][int(rng.integers(5))]


@pytest.mark.parametrize("seed", range(3))
def test_what_is_kept_up_trial_by_trial_is_what_a_loop_over_all_trials_finds(seed: int) -> None:
    history, rng = History(replace(PROBLEM, trials=40)), np.random.default_rng(seed)
    waiting = candidates(history, 40)
    while waiting:
        candidate = waiting.pop(int(rng.integers(len(waiting))))
        history.tell(Trial(candidate, drawn_outcome(rng)))
        assert list(history.running) == [each.number for each in waiting]
        whole = [trial for trial in history.told.values() if trial.score]
        best = min(whole, key=lambda trial: (trial.score.loss, trial.number), default=None)
        assert history.best() is best
        if best is None:
            assert history.estimates() == []
            continue

        def rise(trial: Trial, rung: int) -> float:
            return trial.score.loss - trial.score.rungs[rung].loss

        others = [trial for trial in whole if trial is not best]
        misses = [1.4826 * np.median([abs(rise(t, r) - rise(best, r)) for t in others]) for r in (0, 1) if others]
        thresholds = [best.score.rungs[r].loss + DOUBT * misses[r] for r in (0, 1) if len(others) >= 4]
        assert history.stop_thresholds(best) == tuple(thresholds)
        estimates = history.estimates()
        assert estimates == [
            Estimate(trial.candidate.allocation, trial.score.loss)
            if trial.score
            else Estimate(
                trial.candidate.allocation,
                trial.outcome.score.loss + rise(best, len(trial.outcome.score.rungs)),
                misses[len(trial.outcome.score.rungs)] if thresholds else 0.0,
            )
            for trial in history.told.values()
            if not trial.failed
        ]
        assert history.estimates(5) == (
            estimates if len(estimates) <= 5 else sorted(estimates, key=lambda each: each.value)[:5]
        )

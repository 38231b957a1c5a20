from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from autoprune.core.allocation import Allocation
from autoprune.core.costs import Floats, within
from autoprune.core.trial import Stopped, Trial
from autoprune.searchers.base import gaussian_process
from autoprune.searchers.base.gaussian_process import CorrelationCache, Kernel, Points, Posterior, fit, matern52
from autoprune.searchers.base.history import History
from autoprune.searchers.base.moves import draw_new, draws
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.base.surrogate import MOST, MUTANTS, ROUNDS, Surrogate, climb, degradations, removed_over_kept
from autoprune.searchers.controls import uniform_allocation
from tests.scores import scored
from tests.searchers.landscapes import make_problem, planted, with_curves

RNG = np.random.default_rng(0)
KERNEL = Kernel(slope=0.5, rough=0.8, length=0.3)


def points(count: int, groups: int = 4, seed: int = 0) -> Points:
    rng = np.random.default_rng(seed)
    return Points(rng.normal(size=(count, groups)), np.log(rng.uniform(0.2, 1.0, size=(count, groups))))


def covariance(kernel: Kernel, one: tuple[Floats, Floats], other: tuple[Floats, Floats]) -> float:
    """Of two allocations, group by group (Rasmussen and Williams 2006, equation 4.17)."""
    total = kernel.slope * sum(a * b for a, b in zip(one[0], other[0], strict=True))
    for a, b in zip(one[1], other[1], strict=True):
        r = abs(a - b) / kernel.length
        total += kernel.rough / len(one[1]) * (1 + math.sqrt(5) * r + 5 * r * r / 3) * math.exp(-math.sqrt(5) * r)
    return float(total)


def rows(some: Points) -> list[tuple[Floats, Floats]]:
    return list(zip(some.slopes, some.widths, strict=True))


def test_the_posterior_is_the_conditional_of_the_joint_normal_distribution() -> None:
    known, tries = points(9), points(5, seed=1)
    common, values, noise = np.array([1.0, 0.5, 2.0, 1.0]), RNG.normal(size=9), RNG.uniform(0.01, 0.2, size=9)
    found = Posterior(KERNEL, common, known, values, noise)
    everything = rows(known) + rows(tries)
    joint = np.array([[covariance(KERNEL, one, other) for other in everything] for one in everything])
    joint[:9, :9] += np.diag(noise)
    gain = joint[9:, :9] @ np.linalg.inv(joint[:9, :9])
    means, deviations = found.moments(tries)
    assert np.allclose(means, tries.slopes @ common + gain @ (values - known.slopes @ common))
    assert np.allclose(deviations**2, np.diag(joint[9:, 9:] - gain @ joint[:9, 9:]))


def test_a_believed_point_changes_no_expectation_and_makes_it_surer_there() -> None:
    known, running, tries = points(9), points(1, seed=2), points(30, seed=3)
    before = Posterior(KERNEL, np.ones(4), known, RNG.normal(size=9), np.full(9, 0.01))
    after = before.believing(running)
    assert np.allclose(after.moments(tries)[0], before.moments(tries)[0])
    assert (after.moments(tries)[1] <= before.moments(tries)[1] + 1e-9).all()
    assert after.moments(running)[1][0] < 0.3 * before.moments(running)[1][0]


def test_what_is_known_of_trials_is_what_would_be_computed_anew() -> None:
    rough, everything = CorrelationCache(), points(12)
    for places in ([0, 1, 2], [0, 1, 2, 3], [3, 1, 7, 8], [9, 10], [2, 2, 9, 11]):
        some = Points(everything.slopes[places], everything.widths[places])
        for length, found in rough.of(some).items():
            np.testing.assert_allclose(found, matern52(some, some, length), rtol=1e-14)


def test_correlations_are_the_means_over_the_groups_where_widths_recur_in_some_of_them() -> None:
    rng = np.random.default_rng(0)
    some, others = (
        Points(np.zeros((count, 3)), np.log(rng.integers(1, [2, 4, 30], size=(count, 3)) / 30)) for count in (7, 11)
    )
    found = matern52(some, others, 0.3)
    each = Kernel(slope=0.0, rough=1.0, length=0.3)
    assert np.allclose(found, [[covariance(each, one, other) for other in rows(others)] for one in rows(some)])


def test_of_many_trials_all_choose_among_the_settings_that_half_of_them_find_likely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some, rng = points(80), np.random.default_rng(1)
    values = np.linalg.cholesky(matern52(some, some, 0.3) + 0.1 * np.eye(80)) @ rng.normal(size=80)
    values[::2] = some.slopes[::2].sum(axis=1)
    kernels = []
    for many, shortlist in ((81, 1), (80, 42), (80, 1)):
        monkeypatch.setattr(gaussian_process, "MANY", many)
        monkeypatch.setattr(gaussian_process, "SHORTLIST", shortlist)
        kernels.append(fit(some, values, np.zeros(80), np.ones(4)).kernel)
    by_all, among_all, by_half = kernels
    assert by_all == among_all
    assert by_all.rough > 0.0
    assert by_half.rough == 0.0


def test_trials_that_all_say_the_same_are_modelled() -> None:
    one = points(1)
    some = Points(np.repeat(one.slopes, 6, axis=0), np.repeat(one.widths, 6, axis=0))
    model = fit(some, np.zeros(6), np.zeros(6), np.ones(4))
    assert np.allclose(model.moments(some)[0], 0.0, atol=1e-6)
    assert np.isfinite(model.moments(points(5, seed=1))[1]).all()
    far = Posterior(Kernel(1e8, 1e8, 1.0), np.ones(4), some, np.zeros(6), np.full(6, 1e-12))
    assert np.isfinite(far.moments(points(5, seed=1))[1]).all()


def test_what_makes_losses_rise_is_told_from_them() -> None:
    some, ones, none = points(80), np.ones(4), np.zeros(80)
    lower = np.linalg.cholesky(matern52(some, some, 0.1) + 1e-9 * np.eye(80))
    rough = fit(some, some.slopes.sum(axis=1) + lower @ RNG.normal(size=80), none, ones)
    assert rough.kernel.rough > 0.2
    assert rough.kernel.length == 0.1
    slopes = some.slopes @ np.array([0.6, 1.4, 1.0, 1.0])
    plain = fit(some, slopes + 0.01 * RNG.normal(size=80), none, ones)
    assert plain.kernel.rough == 0.0
    assert np.allclose(plain.moments(some)[0], slopes, atol=0.05)


def test_the_slopes_of_more_groups_than_trials_are_the_common_one_where_nothing_was_tried() -> None:
    slopes = np.zeros((3, 50))
    slopes[1, 0], slopes[2, 0] = 1.0, 2.0
    model = fit(Points(slopes, np.zeros((3, 50))), np.array([0.0, 1.0, 2.0]), np.zeros(3), np.ones(50))
    each = Points(np.eye(50), np.zeros((50, 50)))
    assert model.moments(each)[0][7] == pytest.approx(1.0, rel=0.01)
    assert model.moments(each)[1][0] < 0.1 < model.moments(each)[1][7]


def test_what_is_known_less_well_says_less() -> None:
    some, values = points(6), np.array([0.0, 1.0, 0.5, 0.2, 0.7, 3.0])
    sure = fit(some, values, np.zeros(6), np.ones(4))
    unsure = fit(some, values, np.array([0.0, 0.0, 0.0, 0.0, 0.0, 4.0]), np.ones(4))
    assert abs(sure.moments(some)[0][5] - 3.0) < 1.0 < abs(unsure.moments(some)[0][5] - 3.0)


def test_features_fall_as_widths_grow() -> None:
    problem = with_curves(make_problem())
    onto, wide, narrow = problem.projection, problem.space.widest(), problem.space.narrowest()
    for features in (degradations(problem), removed_over_kept(problem)):
        assert np.allclose(features(onto.vector(wide)[None]), 0.0)
        assert (features(onto.vector(narrow)[None]) > features(onto.vector(wide)[None])).all()


def history_of(landscape_trials: int, curves: bool = True) -> History:
    landscape = planted("interactions", 3, True, pairs=0.9)
    problem = landscape.problem if curves else replace(landscape.problem, curves={})
    history, rng = History(problem), np.random.default_rng(1)
    while history.number < landscape_trials:
        drawn = draw_new(history, rng)
        assert drawn is not None
        history.tell(Trial(history.propose(drawn), scored(landscape.told(drawn.allocation), 0.5, 10)))
    return history


@pytest.mark.parametrize("curves", [True, False])
def test_it_knows_far_better_than_chance_which_allocation_is_best(curves: bool) -> None:
    landscape, history, rng = (
        planted("interactions", 3, True, pairs=0.9),
        history_of(30, curves),
        np.random.default_rng(2),
    )
    bound, ranks = Surrogate(history).fitted(), []
    assert bound is not None
    for _ in range(20):
        offspring = draws(landscape.problem, rng, 12)
        chosen = offspring[int(np.argmin(bound(offspring, 0.0)))]
        ranks.append(sum(landscape.true(each) < landscape.true(chosen) for each in offspring))
    assert np.mean(ranks) < 2.0  # by chance 5.5


def test_there_is_no_model_of_two_trials() -> None:
    assert Surrogate(history_of(2)).fitted() is None
    assert Surrogate(history_of(3)).fitted() is not None


def only(trials: Sequence[Trial], problem: SearchProblem) -> History:
    """A history in which nothing but these trials' allocations was judged."""
    history = History(problem)
    for trial in trials:
        history.tell(replace(trial, candidate=history.propose(trial.candidate.allocation)))
    return history


@pytest.mark.parametrize("worst", [False, True])
def test_of_too_many_trials_those_first_in_order_are_modelled(worst: bool) -> None:
    history = history_of(MOST + 60)
    trials = sorted(history.told.values(), key=lambda trial: history.value(trial.score), reverse=worst)
    alone = only(trials[:MOST], history.problem)
    reference = trials[3]
    order = (lambda estimate: -estimate.value) if worst else None
    bounds = Surrogate(history).fitted(reference, order), Surrogate(alone).fitted(alone.told[3])
    rng = np.random.default_rng(3)
    wanted = draws(history.problem, rng, 10)
    ours, theirs = (bound(wanted, 1.0) for bound in bounds if bound is not None)
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_bounds_are_differences_to_the_reference() -> None:
    history = history_of(30)
    best, other = sorted(history.told.values(), key=lambda trial: history.value(trial.score))[:30:20]
    to_best, to_other = Surrogate(history).fitted(), Surrogate(history).fitted(other)
    assert to_best is not None
    assert to_other is not None
    apart = math.log(history.value(other.score) / history.value(best.score))
    tried = [trial.candidate.allocation for trial in history.told.values()]
    assert np.mean(to_best(tried, 0.0) - to_other(tried, 0.0)) == pytest.approx(apart, rel=0.2)


def test_the_daring_expect_more_where_nothing_was_tried() -> None:
    history = history_of(30)
    bound = Surrogate(history).fitted()
    assert bound is not None
    tried = next(iter(history.told.values())).candidate.allocation
    far = history.problem.project(dict.fromkeys(history.problem.space.names[:6], 1) | dict(tried) | {"s2.2": 64})
    gains = [float((bound([each], 0.0) - bound([each], 1.0))[0]) for each in (tried, far)]
    assert 0 < gains[0] < gains[1]


def test_what_runs_is_taken_to_come_out_as_expected() -> None:
    history = history_of(30)
    surrogate, rng = Surrogate(history), np.random.default_rng(5)
    before = surrogate.fitted()
    running = draw_new(history, rng)
    assert running is not None
    history.propose(running)
    after = surrogate.fitted()
    assert before is not None
    assert after is not None
    there = [running.allocation]
    assert after(there, 0.0) == pytest.approx(before(there, 0.0))
    assert after(there, 1.0)[0] > before(there, 1.0)[0]


def test_trials_that_were_dropped_early_count() -> None:
    history = history_of(30)
    rng = np.random.default_rng(5)
    dropped: list[Allocation] = []
    surrogate = Surrogate(history)
    for _ in range(10):
        drawn = draw_new(history, rng)
        assert drawn is not None
        dropped.append(drawn.allocation)
        history.tell(Trial(history.propose(drawn), Stopped(scored(50.0, 0.1, 1))))
    before, after = Surrogate(history_of(30)).fitted(), surrogate.fitted()
    assert before is not None
    assert after is not None
    assert (after(dropped, 0.0) > before(dropped, 0.0) + 0.5).all()


def test_values_under_settings_that_multiply_all_of_them_are_modelled_together() -> None:
    plain, scaled = history_of(30), history_of(0)
    for trial in plain.told.values():
        settings, factor = ({"criterion": "l2"}, 5.0) if trial.number % 2 else ({"criterion": "l1"}, 1.0)
        candidate = replace(scaled.propose(trial.candidate.allocation), settings=settings)
        scaled.asked[-1] = candidate
        scaled.tell(Trial(candidate, scored(trial.score.loss * factor, 0.5, 10)))
    wanted = [trial.candidate.allocation for trial in history_of(40).told.values()][30:]
    bounds = [
        Surrogate(plain).fitted(),
        Surrogate(scaled, factor=lambda settings: 5.0 if settings["criterion"] == "l2" else 1.0).fitted(),
        Surrogate(scaled).fitted(),
    ]
    right, compared, mixed = (bound(wanted, 0.0) for bound in bounds if bound is not None)
    assert np.corrcoef(compared, right)[0, 1] > 0.99
    assert np.corrcoef(mixed, right)[0, 1] < 0.9


LANDSCAPE = planted("separable", 3, True)
PARENT = uniform_allocation(LANDSCAPE.problem)


def truth(allocations: Sequence[Allocation], _: float) -> Floats:
    return np.array([LANDSCAPE.true(each) for each in allocations])


def test_what_it_finds_keeps_the_limits_and_is_in_order() -> None:
    problem = LANDSCAPE.problem
    found = climb(problem, PARENT, truth, np.random.default_rng(0))
    values = truth(found, 0.0).tolist()
    assert values == sorted(values)
    assert MUTANTS < len(found) <= ROUNDS * MUTANTS
    assert len(set(found)) == len(found)
    assert all(each in problem.space and within(each, problem.costs, problem.limits) for each in found)


def test_rounds_go_on_from_what_the_last_one_found() -> None:
    """A long climb by the truth comes to the optimum, many trades away."""
    at = PARENT
    for number in range(60):
        at = min([at, climb(LANDSCAPE.problem, at, truth, np.random.default_rng(number))[0]], key=LANDSCAPE.true)
    assert LANDSCAPE.regret(at) < 0.1 * LANDSCAPE.regret(PARENT)


def test_without_a_bound_the_order_is_that_of_their_making() -> None:
    one, other = (climb(LANDSCAPE.problem, PARENT, None, np.random.default_rng(seed)) for seed in (0, 0))
    assert one == other
    assert one[0] != PARENT

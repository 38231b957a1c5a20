from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune import registry
from autoprune.errors import UserError
from autoprune.pruning.schedules import AGP, GROWING, ITERATIVE, LOTTERY_TICKET, ONE_SHOT, Schedule, Timing

RATES = st.floats(0, 0.99)


def test_agp_follows_its_equation_in_exact_fractions() -> None:
    """s_t = s_f + (s_i − s_f)(1 − (t − t_0)/(nΔt))³ with s_i = 1/10, s_f = 8/10, t_0 = 100, n = 4, Δt = 50."""
    timing = Timing(100, 300, 50, "step")
    first, last, found = Fraction(1, 10), Fraction(8, 10), []
    for t in (100, 150, 200, 250, 300):
        exact = last + (first - last) * (1 - Fraction(t - 100, 200)) ** 3
        progress = timing.progress(t)
        assert progress is not None
        found.append(AGP.curve(progress, 0.1, 0.8))
        assert found[-1] == pytest.approx(float(exact), abs=1e-12)
    assert found == pytest.approx([0.1, 0.5046875, 0.7125, 0.7890625, 0.8])


def test_agp_by_epoch_worked_by_hand() -> None:
    timing = Timing(2, 6, 2, "epoch")
    assert [timing.progress(epoch) for epoch in range(9)] == [None, None, 0, None, 0.5, None, 1, None, None]
    assert [AGP.curve(progress, 0, 0.8) for progress in (0, 0.5, 1)] == pytest.approx([0, 0.7, 0.8])


def test_the_last_number_is_reached_where_the_frequency_does_not_divide_the_span() -> None:
    timing = Timing(1, 12, 5, "step")
    updates = {step: progress for step in range(20) if (progress := timing.progress(step)) is not None}
    assert updates == {1: 0, 6: 0.5, 11: 1}
    assert [AGP.curve(progress, 0, 0.9) for progress in updates.values()][-1] == 0.9


def test_a_span_shorter_than_the_frequency_is_one_update_at_its_start() -> None:
    timing = Timing(3, 6, 5)
    assert [timing.progress(epoch) for epoch in range(10)] == [None] * 3 + [1.0] + [None] * 6


@pytest.mark.parametrize(
    "settings", [{"frequency": 0}, {"frequency": -1}, {"start": -1}, {"start": 5, "end": 4}], ids=str
)
def test_times_that_make_no_sense_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match="updates should start at 0 or later, end no earlier and come every 1 or more"):
        Timing(**settings)


@given(RATES, st.integers(1, 12))
def test_every_round_removes_the_same_share_of_what_survives(last: float, rounds: int) -> None:
    share = 1 - (1 - last) ** (1 / rounds)
    survivors = 1.0
    for done in range(1, rounds + 1):
        survivors *= 1 - share
        assert LOTTERY_TICKET.curve(done / rounds, 0, last) == pytest.approx(1 - survivors, abs=1e-9)


def test_half_of_what_survives_goes_in_each_of_three_rounds() -> None:
    assert [ITERATIVE.curve(k / 3, 0, 0.875) for k in range(4)] == pytest.approx([0, 0.5, 0.75, 0.875])
    assert [ITERATIVE.curve(k / 2, 0, 1) for k in range(3)] == [0, 1, 1]


@pytest.mark.parametrize(("first", "last"), [(0, 2.5), (1.5, 2), (-0.1, 0.5)])
def test_shares_of_what_survives_are_of_sparsities(first: float, last: float) -> None:
    with pytest.raises(UserError, match=r"goes from sparsity to sparsity, not from .* with thresholds use .*'growing'"):
        ITERATIVE.curve(0.0, first, last)


def test_a_threshold_grows_by_equal_steps() -> None:
    assert [GROWING.curve(k / 4, 1, 3) for k in range(5)] == [1, 1.5, 2, 2.5, 3]


def test_one_shot_has_all_at_once() -> None:
    assert ONE_SHOT.curve(0.0, 0.1, 0.7) == 0.7


@pytest.mark.parametrize("name", registry.SCHEDULES)
@given(first=RATES, last=RATES)
def test_every_schedule_ends_at_the_last_number_and_never_turns_back(name: str, first: float, last: float) -> None:
    schedule: Schedule = registry.resolve("schedule", name)
    assert schedule.name == name
    first, last = min(first, last), max(first, last)
    curve = [schedule.curve(k / 10, first, last) for k in range(11)]
    assert curve[-1] == pytest.approx(last, abs=1e-12)
    assert schedule.once or curve[0] == pytest.approx(first, abs=1e-12)
    assert all(b >= a - 1e-12 for a, b in pairwise(curve))

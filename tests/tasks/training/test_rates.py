from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from autoprune.core.recipe import TrainingPlan
from autoprune.tasks.training.optimizers import rate_at


def _rates(plan: TrainingPlan, steps: int) -> list[float]:
    return [rate_at(plan, step, steps) for step in range(1, steps + 1)]


def test_cosine_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=17)
    expected = []
    for _ in range(17):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert _rates(TrainingPlan(rate=0.3), 17) == pytest.approx(expected)


def test_cosine_without_warmup_is_bit_for_bit_the_formula() -> None:
    expected = [0.02 * (1 + math.cos(math.pi * step / 391)) / 2 for step in range(391)]
    assert _rates(TrainingPlan(rate=0.02), 391) == expected


def test_constant_never_falls() -> None:
    assert _rates(TrainingPlan(rate=0.3, schedule="constant"), 5) == [0.3] * 5


def test_milestones_multiply_the_rate_after_their_part_of_the_run() -> None:
    plan = TrainingPlan(rate=1.0, schedule="steps", milestones=(0.3, 0.55), factor=0.5)
    assert _rates(plan, 10) == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]


@pytest.mark.parametrize("tenths", [1, 3, 6, 7, 9])
@pytest.mark.parametrize("steps", [10, 30, 70, 490, 12810])
def test_rounding_of_a_milestone_or_warmup_costs_no_step(tenths: int, steps: int) -> None:
    whole = int(Fraction(tenths, 10) * steps)
    falling = TrainingPlan(rate=1.0, schedule="steps", milestones=(tenths / 10,))
    assert _rates(falling, steps).count(1.0) == whole
    rising = TrainingPlan(rate=1.0, schedule="constant", warmup=tenths / 10)
    assert sum(rate < 1 for rate in _rates(rising, steps)) == whole


def test_warmup_rises_linearly_and_the_schedule_follows_it() -> None:
    constant = TrainingPlan(rate=0.8, schedule="constant", warmup=0.3)
    assert _rates(constant, 10) == pytest.approx([0.2, 0.4, 0.6] + [0.8] * 7)
    cosine = _rates(TrainingPlan(rate=0.8, warmup=0.3), 10)
    assert cosine[:3] == pytest.approx([0.2, 0.4, 0.6])
    assert cosine[3:] == pytest.approx(_rates(TrainingPlan(rate=0.8), 7))
    steps = TrainingPlan(rate=0.8, schedule="steps", milestones=(0.5,), warmup=0.3)
    assert _rates(steps, 10) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8] + [0.08] * 5)


def test_even_the_longest_warmup_and_the_shortest_run_have_a_rate() -> None:
    for steps in (1, 2, 7):
        assert all(0 < rate <= 0.02 for rate in _rates(TrainingPlan(warmup=0.999999), steps))

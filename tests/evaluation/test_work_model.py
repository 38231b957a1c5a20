"""What evaluations cost, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autoprune.core.allocation import Allocation
from autoprune.core.recipe import FORWARDS_PER_STEP, AdmmTraining, Finetune, Recipe
from autoprune.core.trial import Candidate
from autoprune.evaluation.data import EvaluationConfig
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.prunable_model import analyze, example_inputs
from autoprune.pruning.pruner import L1_FILTER, LEVEL, Pruner
from tests.user_tasks import task

HALF = Allocation({"second": 8, "third": 5})
TUNED = Recipe(48, finetune=Finetune(4, rate=0.05, batch_size=32))
CONFIG = EvaluationConfig(batch_size=16, seed=2)
ADMM = AdmmTraining(24, batch_size=32, frequency=6)


def make_evaluator(config: EvaluationConfig = CONFIG, pruner: Pruner = L1_FILTER) -> Evaluator:
    return Evaluator(analyze(task.network(), example_inputs(task, torch.device("cpu")), pruner), task, config)


def macs(allocation: Allocation) -> int:
    """Multiply-adds by hand: convolutions on 8x8, 4x4 and 2x2 outputs, and the head."""
    second, third = allocation.get("second", 16), allocation.get("third", 16)
    return 9 * 8 * 64 + 9 * 8 * second * 16 + 9 * second * third * 4 + 4 * third


@pytest.mark.parametrize(
    ("recipe", "passes"),
    [
        (Recipe(0), 0),
        (Recipe(48), 48),
        (Recipe(10_000), 96),  # there are no more
        (TUNED, 48 + FORWARDS_PER_STEP * 4 * 32),
    ],
)
def test_work_is_samples_times_multiply_adds(recipe: Recipe, passes: int) -> None:
    assert make_evaluator().evaluate(Candidate(0, HALF, recipe)).work == (passes + 64) * macs(HALF)


def test_refitting_counts_the_dense_network_once_and_the_thinned_one_up_to_each_layer() -> None:
    evaluator = make_evaluator()
    layers = evaluator.prunable.costs.by_layer("flops", HALF)
    first, second, third, last = (flops // 2 for flops in layers.values())
    up_to_third, up_to_last = first + second + third, first + second + third + last
    trial = evaluator.evaluate(Candidate(0, HALF, Recipe(reconstruct=40)))
    assert trial.work == 40 * (macs(Allocation({})) + up_to_third + up_to_last) + 64 * macs(HALF)


def test_zeros_save_no_work() -> None:
    evaluator = make_evaluator(pruner=LEVEL)
    group = evaluator.prunable.structures.groups[0]
    trial = evaluator.evaluate(Candidate(0, Allocation({group.name: group.width // 2}), Recipe(0)))
    assert trial.work == 64 * macs(Allocation({}))


def test_work_counts_every_training_where_it_is_done() -> None:
    evaluator = make_evaluator()
    dense, half = evaluator.work.macs({}), evaluator.work.macs(HALF)
    recipe = Recipe(48, finetune=Finetune(4, batch_size=32), admm=ADMM)
    expected = 48 * half + FORWARDS_PER_STEP * (4 * 32 * half + 24 * 32 * dense)
    assert evaluator.work.recipe(HALF, recipe) == expected
    distilled = replace(recipe, finetune=Finetune(4, batch_size=32, distill=0.5))
    assert evaluator.work.recipe(HALF, distilled) == expected + 4 * 32 * dense
    assert Recipe(0, admm=ADMM).work(7, 100) == FORWARDS_PER_STEP * 24 * 32 * 100
    assert evaluator.evaluate(Candidate(0, HALF, recipe)).work == expected + 64 * half


def test_searched_steps_cost_what_they_take() -> None:
    few, many = (
        make_evaluator().evaluate(Candidate(0, HALF, Recipe(0), {"finetune.steps": steps})).work for steps in (1, 3)
    )
    assert many - few == 2 * 3 * 128 * macs(HALF)

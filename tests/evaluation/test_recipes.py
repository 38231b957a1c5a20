"""What is done to a candidate besides pruning, on what it is judged, and what that costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from autoprune.core.allocation import Allocation
from autoprune.core.recipe import FORWARDS_PER_STEP, Finetune, Recipe
from autoprune.core.trial import Candidate, Score, Stopped
from autoprune.errors import TaskError
from autoprune.evaluation.data import EvaluationConfig, EvaluationData
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.prunable_model import analyze, example_inputs
from autoprune.pruning.pruner import L1_FILTER, LEVEL, Pruner
from autoprune.tasks.training.plan import TrainingPlan
from tests.user_tasks import Tiny, task

HALF = Allocation({"second": 8, "third": 5})
TUNED = Recipe(48, finetune=Finetune(4, rate=0.05, batch_size=32))
CONFIG = EvaluationConfig(batch_size=16, seed=2)


def make_evaluator(config: EvaluationConfig = CONFIG, pruner: Pruner = L1_FILTER) -> Evaluator:
    return Evaluator(analyze(task.network(), example_inputs(task, torch.device("cpu")), pruner), task, config)


def macs(allocation: Allocation) -> int:
    """Multiply-adds by hand: convolutions on 8x8, 4x4 and 2x2 outputs, and the head."""
    second, third = allocation.get("second", 16), allocation.get("third", 16)
    return 9 * 8 * 64 + 9 * 8 * second * 16 + 9 * second * third * 4 + 4 * third


def test_a_candidate_is_trained_after_its_batch_norm_was_re_estimated() -> None:
    found = make_evaluator().build(HALF, TUNED)
    expected = make_evaluator().build(HALF, replace(TUNED, finetune=None))
    plan = TrainingPlan(steps=4, rate=0.05, batch_size=32, seed=2)
    task.train(expected, plan)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor)
    assert not found.training


def test_weights_that_were_set_to_zero_stay_zero_in_training() -> None:
    evaluator = make_evaluator(pruner=LEVEL)
    name, width = next((g.name, g.width) for g in evaluator.prunable.structures.groups if g.name.startswith("second"))
    network = evaluator.build(Allocation({name: width // 4}), TUNED)
    weights = network.get_submodule("second").weight
    assert int((weights == 0).sum()) == width - width // 4
    assert not torch.equal(weights, task.network().second.weight)


def test_the_divergence_is_that_of_the_outputs() -> None:
    evaluator = make_evaluator(replace(CONFIG, objective="kl"))
    score = evaluator.evaluate_network(network := evaluator.build(HALF, Recipe(48)))
    samples = torch.cat([inputs for inputs, _ in task.batches("validation", 64)])
    with torch.no_grad():
        dense, pruned = (F.softmax(net.eval()(samples), 1) for net in (task.network(), network))
    assert score.kl == pytest.approx(float((dense * (dense / pruned).log()).sum(1).mean()), rel=1e-4)
    assert evaluator.evaluate_network(evaluator.prunable.network).kl == pytest.approx(0.0, abs=1e-7)
    assert make_evaluator().evaluate_network(network).kl is None


def test_the_divergence_needs_logits() -> None:
    class Pair(Tiny):
        def forward(self, samples: torch.Tensor) -> torch.Tensor:
            return super().forward(samples)[:, :, None]

    data = EvaluationData(task, replace(CONFIG, objective="kl"), torch.device("cpu"))
    with pytest.raises(TaskError, match=r"objective kl needs \[batch, classes\] logits"):
        data.teacher_logits(Pair().eval(), "validation", None)


def test_a_candidate_behind_its_stop_threshold_is_dropped_and_its_network_not_kept(tmp_path: Path) -> None:
    config = replace(CONFIG, rungs=(0.2, 0.5), weights=tmp_path)
    trial = make_evaluator(config).evaluate(Candidate(0, HALF, Recipe(48), stop_thresholds=(None, 0.0)))
    assert isinstance(trial.outcome, Stopped)
    assert trial.outcome.score.samples == 32
    assert trial.score is None
    assert not trial.failed
    assert trial.work == (48 + 32) * macs(HALF)
    assert list(tmp_path.iterdir()) == []
    whole = make_evaluator(config).evaluate(Candidate(1, HALF, Recipe(48), stop_thresholds=(None, None)))
    assert isinstance(whole.outcome, Score)
    assert [rung.samples for rung in whole.outcome.rungs] == [16, 32]
    assert [path.name for path in tmp_path.iterdir()] == ["1.pt"]


def test_rungs_are_whole_batches_of_what_there_is() -> None:
    prunable = make_evaluator().prunable
    for shares, samples, batch, expected in [
        ((0.1, 0.3), None, 16, (16, 32)),
        ((0.1, 0.2), None, 16, (16,)),
        ((0.1, 0.9), None, 16, (16,)),
        ((0.5,), 33, 10, (20,)),
        ((0.5,), 1000, 64, ()),
        ((), None, 16, ()),
    ]:
        evaluator = Evaluator(prunable, task, EvaluationConfig(samples, batch, rungs=shares))
        assert evaluator.data.rungs() == expected


def test_a_finalist_is_evaluated_on_all_samples() -> None:
    evaluator = make_evaluator(replace(CONFIG, samples=20))
    scores = [evaluator.evaluate(Candidate(0, HALF, Recipe(48), role=role)).score for role in ("final", "finalist")]
    assert [score.samples for score in scores if score] == [20, 64]
    assert evaluator.data.available() == 64
    assert evaluator.data.sample_count() == 20


@pytest.mark.parametrize(
    ("recipe", "passes"),
    [
        (Recipe(0), 0),
        (Recipe(48), 48),
        (Recipe(10_000), 96),  # there are no more
        (TUNED, 48 + FORWARDS_PER_STEP * 4 * 32),
    ],
)
def test_work_is_images_times_multiply_adds(recipe: Recipe, passes: int) -> None:
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

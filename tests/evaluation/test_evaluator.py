from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from autoprune import SimpleTask
from autoprune.core.allocation import Allocation
from autoprune.core.metrics import KL
from autoprune.core.recipe import Finetune, Recipe, TrainingPlan
from autoprune.core.trial import Candidate, Failure, Score, Stopped
from autoprune.errors import TaskError
from autoprune.evaluation.data import EvaluationConfig, EvaluationData
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.metrics import evaluate
from autoprune.evaluation.prunable_model import analyze, example_inputs
from autoprune.evaluation.sensitivity.sweep import SweepSettings
from autoprune.graph.costs import measure_costs
from autoprune.pruning.pruner import L1_FILTER, LEVEL, Pruner
from autoprune.pruning.surgery.masks import choose_kept
from autoprune.pruning.surgery.reconstruction import refit
from autoprune.pruning.surgery.thinning import thin
from autoprune.tasks.base import Batch, Split
from autoprune.tasks.loading.drawing import draw
from tests.evaluation.evaluators import sweep
from tests.user_tasks import Tiny, task, tiny

RECIPE = Recipe(recalibrate=48)
HALF = Allocation({"second": 8, "third": 5})


def make_evaluator(weights: Path | None = None) -> Evaluator:
    prunable = analyze(tiny(), example_inputs(task, torch.device("cpu")), L1_FILTER)
    return Evaluator(prunable, task, EvaluationConfig(batch_size=32, weights=weights))


def test_a_trial_is_thinned_recalibrated_and_evaluated(tmp_path: Path) -> None:
    evaluator = make_evaluator(tmp_path)
    trial = evaluator.evaluate(Candidate(3, HALF, RECIPE))
    network = evaluator.restore(tmp_path / "3.pt")
    assert network.second.out_channels == 8
    assert network.third.in_channels == 8
    assert network.head.in_features == 5
    assert trial.score == evaluate(network, task, task.batches("validation", 32))
    assert trial.costs == measure_costs(network, evaluator.prunable.inputs) == evaluator.prunable.costs.costs(HALF)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.zeros(1, 1, 8, 8))
    assert counter.get_total_flops() == trial.costs["flops"]


@pytest.mark.parametrize("damage", [b"", b"PK", b"no checkpoint"])
def test_damaged_weights_are_replaced_by_the_same(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    evaluator, candidate = make_evaluator(tmp_path), Candidate(3, HALF, RECIPE)
    evaluator.evaluate(candidate)
    whole = evaluator.restore_or_build(candidate).state_dict()
    (tmp_path / "3.pt").write_bytes(damage)
    again = evaluator.restore_or_build(candidate).state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert "trial 3 is built anew" in caplog.text
    evaluator.restore(tmp_path / "3.pt")


def test_the_filters_with_the_largest_norms_stay() -> None:
    evaluator = make_evaluator()
    network = evaluator.prune(HALF, RECIPE)
    norms = tiny().second.weight.detach().abs().sum((1, 2, 3))
    stay = norms.argsort(descending=True)[:8].sort().values
    assert torch.equal(network.second.weight, tiny().second.weight[stay])


def test_reconstruction_takes_the_place_of_re_estimation() -> None:
    evaluator = make_evaluator()
    network = evaluator.prune(HALF, Recipe(recalibrate=48, reconstruct=40))
    kept = choose_kept(evaluator.prunable.importance, HALF)
    expected = thin(tiny().eval(), evaluator.prunable.graph, kept)
    refit(expected, tiny().eval(), evaluator.prunable.graph, kept, [_first(40)])
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    assert torch.equal(network.norm2.running_mean, tiny().norm2.running_mean[list(kept["second"])])
    assert not torch.allclose(network.third.weight, tiny().third.weight[list(kept["third"])][:, list(kept["second"])])


def _first(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Training samples of a task that has none without augmentation."""
    inputs, targets = next(iter(draw(task.batches("train", 128, 0), samples, 128, 0)))
    return inputs, targets


def test_reconstruction_brings_the_outputs_nearer_to_the_dense_networks() -> None:
    evaluator = make_evaluator()
    inputs, _ = next(iter(task.batches("validation", 64)))
    dense = evaluator.prunable.network(inputs)
    plain, recalibrated, reconstructed = (
        (evaluator.prune(HALF, recipe)(inputs) - dense).square().mean()
        for recipe in (Recipe(0), Recipe(96), Recipe(reconstruct=96))
    )
    assert reconstructed < 0.5 * min(plain, recalibrated)


def test_a_reconstructed_trial_is_restored_as_it_was_scored(tmp_path: Path) -> None:
    evaluator = make_evaluator(tmp_path)
    trial = evaluator.evaluate(Candidate(3, HALF, Recipe(reconstruct=48)))
    assert trial.score == evaluate(evaluator.restore(tmp_path / "3.pt"), task, task.batches("validation", 32))
    assert trial.score != make_evaluator().evaluate(Candidate(3, HALF, RECIPE)).score


def test_curves_with_and_without_reconstruction_are_not_confused() -> None:
    evaluator = make_evaluator()
    plain, refitted = (
        sweep(evaluator, {"second": [2]}, SweepSettings(recipe, 64), {}, lambda *_: None)
        for recipe in (RECIPE, Recipe(48, True, 40))
    )
    assert plain.fingerprint != refitted.fingerprint
    assert plain.levels != refitted.levels
    assert refitted.dense == evaluator.evaluate_network(evaluator.prunable.network, 64)
    assert plain.fingerprint["recipe"] == {"recalibrate": 48, "augment": True}


def test_the_dense_network_is_never_changed(tmp_path: Path) -> None:
    evaluator = make_evaluator(tmp_path)
    evaluator.evaluate(Candidate(0, HALF, RECIPE))
    sweep(evaluator, {"second": [2, 9]}, SweepSettings(RECIPE, 64), {}, lambda *_: None)
    for name, tensor in tiny().state_dict().items():
        assert torch.equal(evaluator.prunable.network.state_dict()[name], tensor)
    assert not evaluator.prunable.network.training


def test_the_same_candidate_gets_the_same_score_and_another_seed_other_samples() -> None:
    one, other = (make_evaluator().evaluate(Candidate(0, HALF, RECIPE)).score for _ in range(2))
    assert one == other
    evaluator = make_evaluator()
    reseeded = Evaluator(evaluator.prunable, task, EvaluationConfig(batch_size=32, seed=5))
    assert reseeded.evaluate(Candidate(0, HALF, RECIPE)).score != one


def test_costs_that_differ_from_the_prediction_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = make_evaluator()
    monkeypatch.setattr("autoprune.pruning.structures.measure_costs", lambda *_: {"flops": 1})
    outcome = evaluator.evaluate(Candidate(0, HALF, RECIPE)).outcome
    assert isinstance(outcome, Failure)
    assert "was predicted" in outcome.reason


def test_a_disk_that_is_full_is_not_the_candidates_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("autoprune.evaluation.evaluator.write_checkpoint", refuse)
    with pytest.raises(OSError, match="No space"):
        make_evaluator(tmp_path).evaluate(Candidate(0, HALF, RECIPE))


def test_whether_all_samples_are_used() -> None:
    prunable = make_evaluator().prunable
    for samples, all_of_them in ((None, True), (63, False), (64, True), (65, True)):
        assert (
            Evaluator(prunable, task, EvaluationConfig(samples, batch_size=16)).data.uses_all_samples() is all_of_them
        )


CONFIG = EvaluationConfig(batch_size=16, seed=2)
TUNED = Recipe(48, finetune=Finetune(4, rate=0.05, batch_size=32))


def evaluator_by(config: EvaluationConfig = CONFIG, pruner: Pruner = L1_FILTER) -> Evaluator:
    return Evaluator(analyze(task.network(), example_inputs(task, torch.device("cpu")), pruner), task, config)


def test_a_candidate_is_trained_after_its_batch_norm_was_re_estimated() -> None:
    found = evaluator_by().prune(HALF, TUNED)
    expected = evaluator_by().prune(HALF, replace(TUNED, finetune=None))
    plan = TrainingPlan(steps=4, rate=0.05, batch_size=32, seed=2)
    task.train(expected, plan)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor)
    assert not found.training


def test_weights_that_were_set_to_zero_stay_zero_in_training() -> None:
    evaluator = evaluator_by(pruner=LEVEL)
    name, width = next((g.name, g.width) for g in evaluator.prunable.structures.groups if g.name.startswith("second"))
    network = evaluator.prune(Allocation({name: width // 4}), TUNED)
    weights = network.get_submodule("second").weight
    assert int((weights == 0).sum()) == width - width // 4
    assert not torch.equal(weights, task.network().second.weight)


def test_the_divergence_is_that_of_the_outputs() -> None:
    evaluator = evaluator_by(replace(CONFIG, objective=KL))
    score = evaluator.evaluate_network(network := evaluator.prune(HALF, Recipe(48)))
    samples = torch.cat([inputs for inputs, _ in task.batches("validation", 64)])
    with torch.no_grad():
        dense, pruned = (F.softmax(net.eval()(samples), 1) for net in (task.network(), network))
    assert score.kl == pytest.approx(float((dense * (dense / pruned).log()).sum(1).mean()), rel=1e-4)
    assert evaluator.evaluate_network(evaluator.prunable.network).kl == pytest.approx(0.0, abs=1e-7)
    assert evaluator_by().evaluate_network(network).kl is None


def test_the_divergence_needs_logits() -> None:
    class Pair(Tiny):
        def forward(self, samples: torch.Tensor) -> torch.Tensor:
            return super().forward(samples)[:, :, None]

    data = EvaluationData(task, replace(CONFIG, objective=KL), torch.device("cpu"))
    with pytest.raises(TaskError, match=r"objective kl needs \[batch, classes\] logits"):
        data.teacher_logits(Pair().eval(), "validation", None)


def test_a_candidate_behind_its_stop_threshold_is_dropped_and_its_network_not_kept(tmp_path: Path) -> None:
    config = replace(CONFIG, rungs=(0.2, 0.5), weights=tmp_path)
    trial = evaluator_by(config).evaluate(Candidate(0, HALF, Recipe(48), stop_thresholds=(None, 0.0)))
    assert isinstance(trial.outcome, Stopped)
    assert trial.outcome.score.samples == 32
    assert trial.score is None
    assert not trial.failed
    assert trial.work == (48 + 32) * evaluator_by().work.macs(HALF)
    assert list(tmp_path.iterdir()) == []
    whole = evaluator_by(config).evaluate(Candidate(1, HALF, Recipe(48), stop_thresholds=(None, None)))
    assert isinstance(whole.outcome, Score)
    assert [rung.samples for rung in whole.outcome.rungs] == [16, 32]
    assert [path.name for path in tmp_path.iterdir()] == ["1.pt"]


def test_rungs_are_whole_batches_of_what_there_is() -> None:
    prunable = evaluator_by().prunable
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
    evaluator = evaluator_by(replace(CONFIG, samples=20))
    scores = [evaluator.evaluate(Candidate(0, HALF, Recipe(48), role=role)).score for role in ("final", "finalist")]
    assert [score.samples for score in scores if score] == [20, 64]
    assert evaluator.data.validation_samples() == 64
    assert evaluator.data.sample_count() == 20


class _ValidationAlone(SimpleTask):
    def batches(self, split: Split, batch_size: int, seed: int = 0) -> Iterable[Batch]:
        assert split == "validation", "there is nothing to re-estimate"
        return super().batches(split, batch_size, seed)


def test_without_batch_norm_no_samples_are_read_to_re_estimate_it(capfd: pytest.CaptureFixture[str]) -> None:
    def normed() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 3))

    data = TensorDataset(torch.randn(20, 6), torch.arange(20) % 3)
    own = _ValidationAlone(normed, data, data)
    evaluator = Evaluator(
        analyze(normed(), example_inputs(own, torch.device("cpu")), L1_FILTER), own, EvaluationConfig()
    )
    evaluator.warm_up(RECIPE)
    trial = evaluator.evaluate(Candidate(0, Allocation({"3": 4}), RECIPE))
    assert trial.score is not None
    assert trial.work == evaluator.work.evaluation({"3": 4}, Recipe(recalibrate=0), 20)
    sweep(evaluator, {"3": [4]}, SweepSettings(RECIPE, 20), {}, lambda *_: None)
    assert capfd.readouterr() == ("", "")

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from autoprune.core.allocation import Allocation
from autoprune.core.recipe import Recipe
from autoprune.core.trial import Candidate, Failure
from autoprune.evaluation.data import EvaluationConfig
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.metrics import evaluate
from autoprune.evaluation.prunable_model import analyze, example_inputs
from autoprune.evaluation.sensitivity.sweep import SweepSettings, sweep
from autoprune.graph.costs import measure_costs
from autoprune.pruning.pruner import L1_FILTER
from autoprune.pruning.surgery.masks import choose_kept
from autoprune.pruning.surgery.reconstruction import refit
from autoprune.pruning.surgery.thinning import thin
from tests.user_tasks import task, tiny

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


def test_the_filters_with_the_largest_norms_stay() -> None:
    evaluator = make_evaluator()
    network = evaluator.build(HALF, RECIPE)
    norms = tiny().second.weight.detach().abs().sum((1, 2, 3))
    stay = norms.argsort(descending=True)[:8].sort().values
    assert torch.equal(network.second.weight, tiny().second.weight[stay])


def test_reconstruction_takes_the_place_of_re_estimation() -> None:
    evaluator = make_evaluator()
    network = evaluator.build(HALF, Recipe(recalibrate=48, reconstruct=40))
    kept = choose_kept(evaluator.prunable.importance, HALF)
    expected = thin(tiny().eval(), evaluator.prunable.graph, kept)
    refit(expected, tiny().eval(), evaluator.prunable.graph, kept, [_first(40)])
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    assert torch.equal(network.norm2.running_mean, tiny().norm2.running_mean[list(kept["second"])])
    assert not torch.allclose(network.third.weight, tiny().third.weight[list(kept["third"])][:, list(kept["second"])])


def _first(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Training samples of a task that has none without augmentation."""
    inputs, targets = next(iter(task.batches("train", 128, 0)))
    return inputs[:samples], targets[:samples]


def test_reconstruction_brings_the_outputs_nearer_to_the_dense_networks() -> None:
    evaluator = make_evaluator()
    inputs, _ = next(iter(task.batches("validation", 64)))
    dense = evaluator.prunable.network(inputs)
    plain, recalibrated, reconstructed = (
        (evaluator.build(HALF, recipe)(inputs) - dense).square().mean()
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
    assert plain.fingerprint["recipe"] == {"recalibrate": 48, "augment": True}  # as in files of earlier releases


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
    monkeypatch.setattr("autoprune.pruning.structures.channels.measure_costs", lambda *_: {"flops": 1})
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

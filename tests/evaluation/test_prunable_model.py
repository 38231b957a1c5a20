"""Scores under settings: by any criterion, for all groups or some, computed once each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoprune import SimpleTask
from autoprune.core.allocation import Allocation
from autoprune.core.recipe import Finetune, Recipe
from autoprune.core.trial import Candidate, Score
from autoprune.errors import UserError
from autoprune.evaluation.checkpoints.checkpoint import read_checkpoint
from autoprune.evaluation.data import EvaluationConfig, ScoringSamples
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.prunable_model import PrunableModel, ScoredModels, analyze
from autoprune.pruning.criteria.magnitudes import L2
from autoprune.pruning.pruner import L1_FILTER, L2_FILTER, Pruner
from autoprune.pruning.surgery.provenance import kept_by_layer
from autoprune.tasks.training.loop import seeded

INPUTS = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = torch.utils.data.TensorDataset(INPUTS, torch.arange(40) % 4)


def _network() -> nn.Module:
    with seeded(3):
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        )  # fmt: skip


NETWORK = _network()
TASK = SimpleTask(_network, DATA, DATA, plain_data=DATA)
IMAGES = ScoringSamples(TASK, torch.device("cpu"), samples=40, batch_size=20)


@pytest.fixture
def prunable() -> PrunableModel:
    return analyze(NETWORK, INPUTS[:2], L1_FILTER, IMAGES)


def same(left: PrunableModel, right: PrunableModel) -> bool:
    return all(np.array_equal(left.importance[group], right.importance[group]) for group in left.importance)


def test_settings_choose_the_criterion_of_all_groups(prunable: PrunableModel) -> None:
    found = ScoredModels(prunable).under({"criterion": "l2", "finetune.rate": 0.1})
    assert same(found, analyze(NETWORK, INPUTS[:2], L2_FILTER))
    assert not same(found, prunable)
    assert found.scoring == {**analyze(NETWORK, INPUTS[:2], L2_FILTER).scoring, "pruner": "l1_filter"}


def test_settings_choose_how_scores_are_normalised_and_combined(prunable: PrunableModel) -> None:
    found = ScoredModels(prunable).under({"normalise": False, "combine": "max"})
    assert same(found, analyze(NETWORK, INPUTS[:2], replace(L1_FILTER, normalise=False, combine="max")))
    assert (found.scoring["normalise"], found.scoring["combine"]) == (False, "max")


def test_a_criterion_that_reads_data_is_given_the_samples(prunable: PrunableModel) -> None:
    found = ScoredModels(prunable).under({"criterion": "apoz"})
    assert found.scoring["samples"] == 40
    with pytest.raises(UserError, match="needs training samples"):
        ScoredModels(replace(prunable, samples=None)).under({"criterion": "apoz"})


def test_of_patterns_that_match_a_group_the_last_holds_and_all_go_before_the_general_one(
    prunable: PrunableModel,
) -> None:
    settings = {"criterion.[24]": "l2", "criterion": "fpgm", "criterion.4": "taylor"}
    found = ScoredModels(prunable).under(settings)
    by = {name: ScoredModels(prunable).under({"criterion": name}) for name in ("fpgm", "l2", "taylor")}
    for group, criterion in (("0", "fpgm"), ("2", "l2"), ("4", "taylor")):
        assert np.array_equal(found.importance[group], by[criterion].importance[group]), group
        assert not np.array_equal(found.importance[group], prunable.importance[group]), group
    assert found.scoring["criteria"] == {"2": "l2", "4": "taylor"}


def test_its_own_scoring_is_the_network_itself(prunable: PrunableModel) -> None:
    assert ScoredModels(prunable).under({}) is prunable
    own = {"criterion": "l1", "criterion.2": "l1", "normalise": True, "combine": "mean"}
    assert ScoredModels(prunable).under(own) is prunable


def test_each_scoring_is_computed_once(prunable: PrunableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    scores = Pruner.estimate_importance

    def counted(self: Pruner, *arguments: object) -> object:
        asked.append(self.criterion.name)
        return scores(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Pruner, "estimate_importance", counted)
    models = ScoredModels(prunable)
    for criterion in ("l2", "fpgm", "l2", "l1", "fpgm"):
        models.under({"criterion": criterion})
        models.under({"criterion.2": criterion})
    assert asked == ["l2", "fpgm"]


def test_a_candidate_is_pruned_by_its_criterion_and_trained_by_its_settings(prunable: PrunableModel) -> None:
    evaluator = Evaluator(prunable, TASK, EvaluationConfig(batch_size=20))
    recipe = Recipe(0, finetune=Finetune(steps=2, rate=0.01, batch_size=20))
    candidate = Candidate(0, Allocation({"0": 4, "2": 4, "4": 4}), recipe, {"criterion": "l2", "finetune.rate": 0.1})
    plain = replace(candidate, settings={})
    other = Evaluator(
        analyze(NETWORK, INPUTS[:2], replace(L1_FILTER, criterion=L2)), TASK, EvaluationConfig(batch_size=20)
    )
    wanted = other.evaluate(replace(plain, recipe=Recipe(0, finetune=Finetune(steps=2, rate=0.1, batch_size=20))))
    found = evaluator.evaluate(candidate)
    assert isinstance(found.outcome, Score)
    assert found.outcome == wanted.outcome != evaluator.evaluate(plain).outcome
    assert found.work == wanted.work
    assert found.candidate == candidate


def test_what_is_written_names_the_structures_that_its_criterion_kept(prunable: PrunableModel, tmp_path: Path) -> None:
    widths = {"0": 4, "2": 4, "4": 4}
    candidate = Candidate(0, Allocation(widths), Recipe(0), {"criterion": "apoz"})
    evaluator = Evaluator(prunable, TASK, EvaluationConfig(batch_size=20, weights=tmp_path))
    assert evaluator.evaluate(candidate).score
    written = read_checkpoint(tmp_path / "0.pt")
    by = ScoredModels(prunable).under({"criterion": "apoz"})
    assert written is not None
    kept = kept_by_layer(prunable.graph, by.structures.kept_channels(by.importance, widths))
    assert [shape.kept for shape in written.shapes] == [kept]
    own = prunable.structures.kept_channels(prunable.importance, widths)
    assert kept != kept_by_layer(prunable.graph, own)

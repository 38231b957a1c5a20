"""Whatever a network takes, it is scored, pruned, prepared, trained and evaluated alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune import SimpleTask
from autoprune.core.allocation import Allocation
from autoprune.core.metrics import KL
from autoprune.core.recipe import Finetune, Recipe
from autoprune.core.trial import Candidate, Score
from autoprune.evaluation.checkpoints.checkpoint import load
from autoprune.evaluation.data import EvaluationConfig, ScoringSamples
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.prunable_model import PrunableModel, analyze, example_inputs
from autoprune.evaluation.sensitivity.prefixes import Prefixes
from autoprune.graph.costs import measure_operations
from autoprune.pruning.pruner import Pruner
from autoprune.registry import resolve
from autoprune.tasks.training.loop import seeded

CPU = torch.device("cpu")


class Pair(NamedTuple):
    pixels: Tensor
    meta: Tensor


class Two(nn.Module):
    """Classifies images with the help of some numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 12, 3)
        self.head = nn.Linear(14, 4)

    def forward(self, pixels: Tensor, meta: Tensor) -> Tensor:
        found = F.relu(self.second(F.relu(self.norm(self.first(pixels)))))
        return self.head(torch.cat([found.mean((2, 3)), meta], 1))


class One(Two):
    """The same with both in one argument."""

    def forward(self, both: Any) -> Tensor:  # type: ignore[override]
        return super().forward(both[0], both[1])


def build(kind: type[Two]) -> Callable[[], Two]:
    def network() -> Two:
        with seeded(0):
            return kind()

    return network


FORMS: dict[str, tuple[type[Two], Callable[[Tensor, Tensor], Any]]] = {
    "positions": (Two, lambda pixels, meta: (pixels, meta)),
    "keywords": (Two, lambda pixels, meta: {"meta": meta, "pixels": pixels}),
    "list": (One, lambda pixels, meta: [pixels, meta]),
    "named": (One, lambda pixels, meta: Pair(pixels, meta)),
}


def make_task(form: str) -> SimpleTask:
    kind, arrange = FORMS[form]
    with seeded(1):
        batches = [(torch.rand(6, 1, 8, 8), torch.rand(6, 2), torch.randint(4, (6,))) for _ in range(3)]
    data = [(arrange(pixels, meta), targets) for pixels, meta, targets in batches]
    return SimpleTask(build(kind), data, data, plain_data=data)


def make_prunable(task: SimpleTask, criterion: str = "l1") -> PrunableModel:
    pruner = Pruner("own", resolve("criterion", criterion), resolve("pattern", "filter"))
    return analyze(task.network(), example_inputs(task, CPU), pruner, ScoringSamples(task, CPU, 18, 6))


@pytest.mark.parametrize("form", ["keywords", "list", "named"])
@pytest.mark.parametrize(
    "recipe",
    [Recipe(recalibrate=18), Recipe(reconstruct=18), Recipe(0, finetune=Finetune(2, rate=0.01, distill=1.0))],
    ids=["recalibrated", "reconstructed", "distilled"],
)
def test_a_candidate_is_the_same_however_its_inputs_are_given(form: str, recipe: Recipe) -> None:
    scores = []
    for each in ("positions", form):
        task = make_task(each)
        evaluator = Evaluator(make_prunable(task), task, EvaluationConfig(samples=10, objective=KL))
        trial = evaluator.evaluate(Candidate(0, Allocation({"first": 4}), recipe))
        assert isinstance(trial.outcome, Score), trial.outcome
        scores.append(trial.outcome)
    assert scores[0] == scores[1]
    assert scores[0].samples == 10


@pytest.mark.parametrize("form", ["keywords", "list", "named"])
@pytest.mark.parametrize("criterion", ["taylor_gate", "taylor", "apoz", "reconstruction"])
def test_statistics_are_the_same_however_inputs_are_given(form: str, criterion: str) -> None:
    one, other = (make_prunable(make_task(each), criterion).importance for each in ("positions", form))
    assert {name: scores.tolist() for name, scores in one.items()} == {
        name: scores.tolist() for name, scores in other.items()
    }


@pytest.mark.parametrize("form", ["positions", "keywords"])
def test_levels_go_on_from_prefixes_of_several_inputs(form: str) -> None:
    task = make_task(form)
    evaluator, recipe = Evaluator(make_prunable(task), task, EvaluationConfig()), Recipe(recalibrate=12)
    prefixes = Prefixes(evaluator, {"first": [4], "second": [6]}, recipe, 18)
    assert list(prefixes.cuts) == ["second"]
    whole = evaluator.evaluate_network(evaluator.prune({"second": 6}, recipe), 18)
    found = prefixes.evaluate("second", 6)
    assert found is not None
    assert found.loss == pytest.approx(whole.loss, abs=1e-5)


class Pictures(Two):
    """The same for a list of images of any sizes, as detectors take them."""

    def forward(self, samples: Any) -> Tensor:  # type: ignore[override]
        found = [F.relu(self.second(F.relu(self.norm(self.first(image[None]))))).mean((2, 3)) for image in samples]
        return self.head(F.pad(torch.cat(found), (0, 2)))


def test_levels_of_a_list_of_images_are_evaluated_whole_and_its_operations_are_those_of_one() -> None:
    data = [([torch.rand(1, 8, 8 + i) for i in range(count)], torch.arange(count) % 4) for count in (4, 3)]
    task = SimpleTask(build(Pictures), data, data, plain_data=data)
    prunable = analyze(task.network(), [torch.rand(1, 8, 8), torch.rand(1, 8, 8)], resolve("pruner", "l1_filter"))
    evaluator, recipe = Evaluator(prunable, task, EvaluationConfig()), Recipe(0)
    assert Prefixes(evaluator, {"second": [6]}, recipe, 7).evaluate("second", 6) is None
    assert evaluator.evaluate_network(evaluator.prune({"second": 6}, recipe), 7).samples == 7
    measured = measure_operations(prunable.graph.flow.traced, prunable.inputs)
    assert sum(measured.flops) == prunable.costs.dense()["flops"]


@pytest.mark.parametrize("form", ["positions", "keywords", "list"])
def test_a_trial_of_several_inputs_is_restored_from_its_file(form: str, tmp_path: Path) -> None:

    task = make_task(form)
    evaluator = Evaluator(make_prunable(task), task, EvaluationConfig(weights=tmp_path))
    evaluator.evaluate(Candidate(7, Allocation({"first": 4}), Recipe(recalibrate=6)))
    found = load(tmp_path / "7.pt", task.network)
    expected = evaluator.restore(tmp_path / "7.pt").state_dict()
    assert found.first.out_channels == 4
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())

"""A candidate's training that was killed goes on where its last snapshot was taken."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import nn

from autoprune import SimpleTask
from autoprune.core.allocation import Allocation
from autoprune.core.recipe import AdmmTraining, Finetune, Recipe, TrainingPlan
from autoprune.core.trial import Candidate, Trial
from autoprune.evaluation.data import EvaluationConfig
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.prunable_model import analyze, example_inputs
from autoprune.pruning.pruner import L1_FILTER, LEVEL, Pruner
from autoprune.tasks.base import Hook
from autoprune.tasks.training.snapshot import read_snapshot, write_snapshot
from tests.tiers import rest_slow
from tests.user_tasks import task

DRAWN, TUNED = AdmmTraining(10, rate=0.02, batch_size=32, rho=0.5, frequency=3), Finetune(7, batch_size=32, distill=0.5)
BOTH = Recipe(48, finetune=TUNED, admm=DRAWN)


class Killed(KeyboardInterrupt):
    """As if the process had ended."""


class Counting:
    """The steps that are taken, over all trainings; may kill after one of them, and look into hooks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = 0
        self.kill_after: int | None = None
        train = type(task).train

        def counted(own: SimpleTask, network: nn.Module, plan: TrainingPlan, hooks: Sequence[Hook]) -> None:
            train(own, network, plan, [*hooks, Hook(at_rest=self._count)])

        monkeypatch.setattr(type(task), "train", counted)

    def _count(self, *_: object) -> None:
        self.steps += 1
        if self.steps == self.kill_after:
            raise Killed


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    return Counting(monkeypatch)


def evaluator_of(folder: Path, seconds: float = 0.0, pruner: Pruner = L1_FILTER) -> Evaluator:
    prunable = analyze(task.network(), example_inputs(task, torch.device("cpu")), pruner)
    return Evaluator(prunable, task, EvaluationConfig(batch_size=32, weights=folder, snapshot_seconds=seconds))


def allocation_of(pruner: Pruner, share: float) -> Allocation:
    prunable = analyze(task.network(), example_inputs(task, torch.device("cpu")), pruner)
    return Allocation({group.name: int(group.width * share) for group in prunable.structures.groups[-2:]})


def state_of(folder: Path, number: int) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / f"{number}.pt", weights_only=True)["state_dict"]
    return state


def check_equal(found: Trial, expected: Trial, folder: Path, other: Path) -> None:
    """The same score, structures and weights, bit for bit."""
    assert found.score is not None
    assert found.score == expected.score
    kept = [torch.load(place / f"{found.number}.pt", weights_only=True)["shapes"] for place in (folder, other)]
    assert kept[0] == kept[1]
    states = [state_of(place, found.number) for place in (folder, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize("pruner", [L1_FILTER, LEVEL], ids=lambda each: each.name)
@pytest.mark.parametrize("parent", [None, 0])
@pytest.mark.parametrize("killed", rest_slow([3, 14, 1, 7, 10, 11, 17], kept=2))  # ADMM has 10 steps, fine-tuning 7
def test_a_killed_training_ends_as_an_unbroken_one(
    tmp_path: Path, counting: Counting, killed: int, parent: int | None, pruner: Pruner
) -> None:
    places = tmp_path / "whole", tmp_path / "broken"
    candidate = Candidate(1, allocation_of(pruner, 0.5), BOTH, parent=parent)
    for place in places:
        evaluator_of(place, pruner=pruner).evaluate(Candidate(0, allocation_of(pruner, 0.75), Recipe(0)))
    expected = evaluator_of(places[0], pruner=pruner).evaluate(candidate)
    counting.steps, counting.kill_after = 0, killed
    with pytest.raises(Killed):
        evaluator_of(places[1], pruner=pruner).evaluate(candidate)
    assert (places[1] / "1.training").is_file()
    counting.steps, counting.kill_after = 0, None
    found = evaluator_of(places[1], pruner=pruner).evaluate(candidate)
    assert counting.steps == 17 - killed
    check_equal(found, expected, *reversed(places))
    assert not (places[1] / "1.training").exists()


def test_a_training_may_be_killed_again_and_again(tmp_path: Path, counting: Counting) -> None:
    candidate = Candidate(1, allocation_of(L1_FILTER, 0.5), BOTH)
    expected = evaluator_of(tmp_path / "whole").evaluate(candidate)
    taken = 0
    for _ in range(4):
        counting.steps, counting.kill_after = 0, 4
        with pytest.raises(Killed):
            evaluator_of(tmp_path / "broken").evaluate(candidate)
        taken += counting.steps
    counting.steps, counting.kill_after = 0, None
    found = evaluator_of(tmp_path / "broken").evaluate(candidate)
    assert taken + counting.steps == 17
    check_equal(found, expected, tmp_path / "broken", tmp_path / "whole")


def test_a_training_shorter_than_the_time_between_snapshots_leaves_none(tmp_path: Path, counting: Counting) -> None:
    counting.kill_after = 12
    with pytest.raises(Killed):
        evaluator_of(tmp_path, seconds=30).evaluate(Candidate(1, allocation_of(L1_FILTER, 0.5), BOTH))
    assert not tmp_path.exists() or list(tmp_path.iterdir()) == []


def interrupted(folder: Path, counting: Counting, candidate: Candidate) -> Path:
    counting.steps, counting.kill_after = 0, 13
    with pytest.raises(Killed):
        evaluator_of(folder).evaluate(candidate)
    counting.steps, counting.kill_after = 0, None
    return folder / f"{candidate.number}.training"


@pytest.mark.parametrize("damage", ["cut", "text", "other", "shapes", "extra", "optimizer"])
def test_a_snapshot_that_is_of_no_use_is_ignored_in_words(
    tmp_path: Path, counting: Counting, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    candidate = Candidate(1, allocation_of(L1_FILTER, 0.5), BOTH)
    expected = evaluator_of(tmp_path / "whole").evaluate(candidate)
    path = interrupted(tmp_path / "broken", counting, candidate)
    spoil(path, damage)
    with caplog.at_level(logging.WARNING):
        found = evaluator_of(tmp_path / "broken").evaluate(candidate)
    assert "the training of candidate 1 starts anew" in caplog.text
    assert counting.steps == 17
    check_equal(found, expected, tmp_path / "broken", tmp_path / "whole")


def spoil(path: Path, damage: str) -> None:
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-500])
        return
    if damage == "text":
        path.write_text("nothing")
        return
    snapshot = read_snapshot(path)
    if damage == "other":
        snapshot.extra["candidate"] = "of another run"  # type: ignore[index]
    elif damage == "shapes":
        snapshot.state_dict["head.weight"] = torch.zeros(4, 2)  # type: ignore[index]
    elif damage == "extra":
        snapshot.extra["importance"] = {"second": "high"}  # type: ignore[index]
    else:
        snapshot.optimizer["param_groups"][0]["momentum"] = 0.5
    write_snapshot(path, snapshot)


def test_a_trial_that_is_not_kept_leaves_no_snapshot(tmp_path: Path, counting: Counting) -> None:
    counting.kill_after = 12
    with pytest.raises(Killed):
        evaluator_of(tmp_path).evaluate(Candidate(-1, allocation_of(L1_FILTER, 0.5), BOTH), keep=False)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_trial_leaves_no_snapshot(tmp_path: Path) -> None:
    recipe = Recipe(0, finetune=Finetune(40, rate=1e6, batch_size=32))
    trial = evaluator_of(tmp_path).evaluate(Candidate(1, allocation_of(L1_FILTER, 0.5), recipe))
    assert trial.failed
    assert list(tmp_path.iterdir()) == []


class OwnLoop(SimpleTask):
    """A loop of the user's own, without what snapshots need."""

    def train(self, network: nn.Module, plan: TrainingPlan, hooks: Sequence[Hook] = ()) -> None:
        super().train(network, plan, [Hook(hook.loss_term, hook.after_backward, hook.after_step) for hook in hooks])


def test_a_loop_of_the_users_own_trains_without_snapshots(tmp_path: Path, counting: Counting) -> None:
    own = OwnLoop(**{field.name: getattr(task, field.name) for field in fields(task)})
    prunable = analyze(own.network(), example_inputs(own, torch.device("cpu")), L1_FILTER)
    evaluator = Evaluator(prunable, own, EvaluationConfig(batch_size=32, weights=tmp_path, snapshot_seconds=0))
    found = evaluator.evaluate(Candidate(1, allocation_of(L1_FILTER, 0.5), BOTH))
    expected = evaluator_of(tmp_path / "other").evaluate(Candidate(1, allocation_of(L1_FILTER, 0.5), BOTH))
    check_equal(found, expected, tmp_path, tmp_path / "other")

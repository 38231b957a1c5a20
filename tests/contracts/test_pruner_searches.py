"""Every pruner serves a search; what was chosen is written in the run; an interrupted run ends as an unbroken one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune import registry
from autoprune.config import load_experiment
from autoprune.core.ledger import History, Ledger, read_history
from autoprune.core.recipe import TrainingPlan
from autoprune.core.trial import Trial
from autoprune.running.progress import Display
from autoprune.running.run_folder import existing_folder, new_folder
from autoprune.running.search.session import resume_session, start_session
from autoprune.running.setup import Setup, assemble
from autoprune.tasks.datasets.digits import DigitsTask
from autoprune.tasks.training.loop import seeded

# These stand for the others in the default tier: by weights, by gradients, and one that sets weights to zero.
DEFAULT = ("fpgm", "taylor", "two_four")
SETTINGS: Mapping[str, Any] = {
    "budget": "flops=0.5",
    "search.trials": 10,
    "search.searcher": "random",
    "sensitivity.levels": 1,
    "sensitivity.samples": 40,
    "evaluation.samples": 100,
    "evaluation.recalibrate.samples": 64,
    "scoring.samples": 256,
    "track.enabled": False,
}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """The digits' network after a few steps: good enough to lose something by pruning."""
    task = DigitsTask()
    with seeded(0):
        found = task.network()
    task.train(found, TrainingPlan(steps=60, rate=0.1, batch_size=64))
    return found


def _setup(network: nn.Module, **settings: Any) -> Setup:
    experiment = load_experiment(None, {**SETTINGS, **settings})
    return assemble(experiment, DigitsTask(), copy.deepcopy(network))


def _started(history: History) -> dict[str, Any]:
    [record] = history.of("started")
    return dict(record["scoring"])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in DEFAULT else pytest.mark.slow) for name in registry.PRUNERS]
)
def test_a_search_runs_with_every_pruner(name: str, network: nn.Module, tmp_path: Path) -> None:
    pruner = registry.resolve("pruner", name)
    # Two of four weights stay everywhere, and the first and the last layer are whole.
    setup = _setup(network, pruner=name, budget="flops=0.7" if pruner.pattern.least > 1 else "flops=0.5")
    folder = new_folder(tmp_path / "run", "digits")
    conclusion = start_session(setup, folder, None, Display(False))
    assert len(conclusion.trials) == 10
    assert all(trial.score for trial in conclusion.trials)
    assert all(result.effective != pruner.pattern.coupled for result in conclusion.results)
    assert _started(read_history(folder.path)).items() >= pruner.describe().items()
    assert _started(read_history(folder.path))["samples"] == (256 if pruner.criterion.reads_data else 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.CRITERIA)
def test_a_search_runs_with_every_criterion(name: str, network: nn.Module, tmp_path: Path) -> None:
    setup = _setup(network, **{"scoring.criterion": name})
    conclusion = start_session(setup, new_folder(tmp_path / "run", "digits"), None, Display(False))
    assert len(conclusion.trials) == 10
    assert all(trial.score for trial in conclusion.trials)
    assert _started(read_history(tmp_path / "run"))["criterion"] == name


def _told(folder: Path) -> list[tuple[int, dict[str, int], float, float]]:
    trials = read_history(folder).trials()
    assert all(trial.score for trial in trials)
    return [
        (trial.number, trial.candidate.allocation.to_json(), trial.score.loss, trial.score.metrics["accuracy"])
        for trial in trials
        if trial.score
    ]


@pytest.mark.parametrize("name", [pytest.param("taylor"), pytest.param("random", marks=pytest.mark.slow)])
def test_a_search_goes_on_as_if_it_had_not_been_interrupted(
    name: str, network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = Ledger.told

    def tell_and_interrupt(self: Ledger, trial: Trial) -> None:
        tell(self, trial)
        if trial.number == 1:
            raise KeyboardInterrupt

    chosen = {"pruner": name, "search.trials": 5, "search.seed": 7, "scoring.combine": "max"}
    whole, broken = new_folder(tmp_path / "whole", "digits"), new_folder(tmp_path / "broken", "digits")
    start_session(_setup(network, **chosen), whole, None, Display(False))
    monkeypatch.setattr(Ledger, "told", tell_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        start_session(_setup(network, **chosen), broken, None, Display(False))
    monkeypatch.undo()
    torch.manual_seed(5)  # another process draws from another place
    again = existing_folder(broken.path)
    setup = assemble(load_experiment(again.experiment), DigitsTask(), copy.deepcopy(network))
    resume_session(setup, again, None, Display(False))
    assert len(_told(whole.path)) == 5
    assert _told(broken.path) == _told(whole.path)
    assert _started(read_history(broken.path)) == _started(read_history(whole.path))
    assert _started(read_history(broken.path))["combine"] == "max"


def test_the_settings_of_scoring_win_over_the_pruners_own(network: nn.Module) -> None:
    plain = _setup(network)
    changed = _setup(network, **{"scoring.criterion": "apoz", "scoring.combine": "max", "scoring.normalise": False})
    assert plain.prunable.scoring == {**registry.resolve("pruner", "l1_filter").describe(), "samples": 0}
    said = {
        "criterion": "apoz",
        "combine": "max",
        "normalise": False,
        "samples": 256,
        "batch_size": 64,
        "split": "plain",
        "seed": 0,
    }
    assert changed.prunable.scoring == {**plain.prunable.scoring, **said}
    assert any(
        (plain.prunable.importance[g] != changed.prunable.importance[g]).any() for g in plain.prunable.importance
    )


def test_the_images_that_score_are_followed_on_the_display(
    network: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = load_experiment(None, {**SETTINGS, "pruner": "apoz"})
    assemble(experiment, DigitsTask(), copy.deepcopy(network), Display())
    assert "scoring by apoz 4/4" in capsys.readouterr().err

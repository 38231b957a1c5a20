"""What a `best.yaml` sets, and what it may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from autoprune.errors import UserError
from autoprune.running.apply.source import BestFile

LEAST = {"widths": {"a": 4}, "task": "digits", "model": "digits_resnet", "pruner": "l2_filter"}


def best(folder: Path, **more: Any) -> BestFile:
    path = folder / "best.yaml"
    path.write_text(yaml.safe_dump({**LEAST, **more}))
    return BestFile.read(path)


def test_options_win_over_the_file_and_sets_over_both(tmp_path: Path) -> None:
    found = best(tmp_path, recipe={"recalibrate": 64, "reconstruct": 16}, scoring={"criterion": "l2", "seed": 5})
    experiment = found.experiment({"pruner": "fpgm", "search.seed": 6}, ["search.seed=7"])
    assert experiment.pruner == "fpgm"
    assert experiment.search.seed == 7
    assert experiment.scoring.criterion == "l2"
    assert experiment.evaluation.reconstruct == 16
    assert experiment.evaluation.recalibrate.samples == 64


def test_a_file_names_no_code_to_import(tmp_path: Path) -> None:
    found = best(tmp_path, task="tests.user_tasks:task", model="tests.user_tasks:tiny")
    with pytest.raises(UserError, match="name it with --task to import it"):
        found.experiment({}, [])
    experiment = found.experiment({"task.name": "tests.user_tasks:task"}, [])
    assert experiment.task.model is None


def test_only_the_criteria_of_single_groups_are_taken_from_its_settings(tmp_path: Path) -> None:
    found = best(tmp_path, settings={"criterion": "l1", "criterion.a": "fpgm", "reconstruct": 64})
    assert found.criteria() == {"criterion.a": "fpgm"}


@pytest.mark.parametrize(
    ("more", "why"),
    [({"parent": 3}, "are those that trial 3 left"), ({"recipe": {"admm": {"steps": 2}}}, "were trained before")],
)
def test_widths_without_the_weights_that_go_with_them_are_refused(
    tmp_path: Path, more: dict[str, Any], why: str
) -> None:
    with pytest.raises(UserError, match=why):
        best(tmp_path, **more)

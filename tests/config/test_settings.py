from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.config import dump_experiment, load_experiment
from autoprune.core.settings import Choice, Range
from autoprune.errors import ConfigError

TRAINED = "evaluation.finetune.steps=50"


def faults(*sets: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_experiment(None, {}, sets)
    return caught.value.faults


def test_lists_are_choices_and_mappings_ranges_that_know_the_experiments_own_values() -> None:
    experiment = load_experiment(
        None,
        {},
        [
            TRAINED,
            "space.settings.criterion=[l1, l2]",
            "space.settings.criterion.layer1.*=[l1, taylor]",
            "space.settings.finetune.rate={low: 0.003, high: 0.1, log: true}",
            "space.settings.finetune.steps={low: 20, high: 200, step: 20}",
            "space.settings.normalise=[true, false]",
        ],
    )
    assert experiment.space_rules().settings == {
        "criterion": Choice(("l1", "l2")),
        "criterion.layer1.*": Choice(("l1", "taylor")),
        "finetune.rate": Range(0.003, 0.1, log=True, own=0.02),
        "finetune.steps": Range(20, 200, step=20, integer=True, own=50),
        "normalise": Choice((True, False)),
    }


def test_one_key_of_a_range_can_be_set_by_itself(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("settings:\n  finetune.rate: {low: 0.003, high: 0.1}\n")
    sets = [TRAINED, "space.settings.finetune.rate.high=0.5"]
    experiment = load_experiment(None, {"space": str(tmp_path / "space.yaml")}, sets)
    assert experiment.space_rules().settings["finetune.rate"] == Range(0.003, 0.5, own=0.02)


def test_an_experiment_with_settings_reads_back_as_it_was_written(tmp_path: Path) -> None:
    sets = [
        "space.settings.combine=[mean, max]",
        "space.settings.finetune.steps={low: 20, high: 200, step: 20}",
        "space.settings.finetune.rate={low: 0.003, high: 1e-1, log: true}",
    ]
    experiment = load_experiment(None, {}, sets)
    (tmp_path / "experiment.yaml").write_text(dump_experiment(experiment))
    assert load_experiment(tmp_path / "experiment.yaml") == experiment
    assert len(experiment.space_rules().settings) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("finetune.rat={low: 1, high: 2}", "unknown setting; did you mean 'finetune.rate'?"),
        ("colour=[red, blue]", "unknown setting; known: criterion, normalise, combine, criterion.GROUP_PATTERN"),
        ("criterion=[l1, l3]", "unknown criterion 'l3'; did you mean 'l2'?"),
        ("criterion.layer1.*=[l1, 7]", "should be the name of a criterion but is 7"),
        ("criterion={low: 1, high: 2}", "should be a list of values"),
        ("criterion=l1", "a single value is no search"),
        ("criterion=[l1]", "has 1 value: give two or more"),
        ("criterion=[]", "has 0 value"),
        ("criterion=[l1, l2, l1]", "has 'l1' twice"),
        ("normalise=[true, 1]", "should be true or false but is 1"),
        ("combine=[mean, summ]", "did you mean 'sum'?"),
        ("finetune.steps={low: 0, high: 10}", "low: should be at least 1"),
        ("finetune.steps=[0, 10]", "should be at least 1 but is 0"),
        ("finetune.steps={low: 1.5, high: 10}", "low: should be a whole number but is 1.5"),
        ("finetune.steps={low: 10, high: 50, step: 2.5}", "step: should be a whole number but is 2.5"),
        ("finetune.rate={low: 0.1, high: 0.1}", "low 0.1 should be below high 0.1"),
        ("finetune.rate={low: 0.2, high: 0.1}", "low 0.2 should be below high 0.1"),
        ("finetune.rate={low: 0, high: 0.1}", "low: should be above 0"),
        ("finetune.rate={low: 0.1, high: .inf}", "high: should be above 0 and finite"),
        ("finetune.rate={low: 0.1, high: .nan}", "high: should be above 0"),
        ("finetune.rate={low: 0.1}", "high: is needed but not given"),
        ("finetune.rate={low: 0.1, high: 0.2, steps: 2}", "steps: unknown key; did you mean 'step'?"),
        ("finetune.rate={low: 0.1, high: 0.2, log: 1}", "log: should be true or false but is 1"),
        ("finetune.rate={low: 0.1, high: 0.2, step: 0.5}", "step: should be at most 0.1"),
        ("finetune.rate={low: 0.1, high: 0.2, step: 0}", "step: should be above 0"),
        ("finetune.rate={low: 0.1, high: 0.9, step: 0.1, log: true}", "a logarithmic scale has no steps"),
        ("finetune.rate=0.1", "should be a list of values, or {low: …, high: …}"),
        ("finetune.momentum=[0.9, 1.0]", "should be at least 0 and below 1 but is 1.0"),
        ("finetune.distill={low: 0, high: 1, log: true}", "low: should be above 0 on a logarithmic scale but is 0"),
        ("recalibrate={low: 1, high: 1000}", "has 1000 values, and the samples of each are kept in memory"),
        ("recalibrate=[-1, 5]", "should be at least 0 but is -1"),
    ],
)
def test_a_wrong_dimension_is_refused_with_what_is_wrong(text: str, said: str) -> None:
    name = text.partition("=")[0]
    found = faults(TRAINED, f"space.settings.{text}")
    assert found
    assert all(each.startswith(f"--set space.settings.{name}") for each in found)
    assert any(said in each for each in found), found


def test_all_faults_are_said_at_once_with_their_places(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(
        "settings:\n  criterion: [l1, l3, l4]\n  finetune.rat: [1, 2]\n  finetune.steps:\n    low: 0\n    high: 0\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_experiment(None, {"space": str(tmp_path / "space.yaml"), "search.trials": 0})
    places = [each.removeprefix(f"{tmp_path}/") for each in caught.value.faults]
    assert sorted(each.partition(": ")[0] for each in places) == [
        "--trials", "space.yaml:2:14", "space.yaml:2:14", "space.yaml:3:17", "space.yaml:5:10", "space.yaml:6:11"
    ]  # fmt: skip


def test_settings_that_are_no_mapping_are_refused() -> None:
    assert "should be a mapping of names" in faults("space.settings=[criterion]")[0]


@pytest.mark.parametrize("name", ["finetune.rate", "finetune.distill", "finetune.momentum"])
def test_how_to_fine_tune_is_searched_only_where_candidates_are(name: str) -> None:
    dimension = f"space.settings.{name}=[0.1, 0.2]"
    (said,) = faults(dimension)
    assert said.startswith(f"--set space.settings.{name}: {name} is searched, but candidates are not fine-tuned")
    assert load_experiment(None, {}, [dimension, TRAINED])
    assert load_experiment(None, {}, [dimension, "space.settings.finetune.steps=[10, 20]"])


def test_a_finalists_own_section_goes_before_what_was_searched() -> None:
    settings = {"criterion": "l2", "finetune.rate": 0.1, "finetune.steps": 20, "reconstruct": 64}
    assert load_experiment().final_settings(settings) == settings
    tuned = load_experiment(None, {}, ["search.rerank.steps=500"])
    assert tuned.final_settings(settings) == {"criterion": "l2", "reconstruct": 64}
    refitted = load_experiment(None, {}, ["search.rerank.reconstruct=512"])
    assert refitted.final_settings(settings) == {"criterion": "l2", "finetune.rate": 0.1, "finetune.steps": 20}

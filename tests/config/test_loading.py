import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.config import load_experiment
from autoprune.errors import ConfigError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def faults(text=None, overrides=None, sets=()):
    """What is reported; the text becomes `e.yaml` in the current folder."""
    if text is not None:
        Path("e.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_experiment(None if text is None else Path("e.yaml"), overrides or {}, sets)
    assert str(caught.value) == "\n".join(caught.value.faults)
    return list(caught.value.faults)


def load(text, overrides=None, sets=()):
    Path("e.yaml").write_text(text, encoding="utf-8")
    return load_experiment(Path("e.yaml"), overrides or {}, sets)


@pytest.mark.parametrize("text", ["", "# nothing\n", "task:\nsearch:\nevaluation: {recalibrate: }\nspace:\n", "{}"])
def test_what_is_left_out_has_its_default(here, text):
    assert load(text) == load_experiment()


def test_options_win_over_the_file_and_sets_over_options(here):
    text = "search: {trials: 1, seed: 1, searcher: random}"
    experiment = load(text, {"search.trials": 2, "search.seed": 2}, ["search.trials=3"])
    assert (experiment.search.trials, experiment.search.seed, experiment.search.searcher) == (3, 2, "random")


def test_an_option_that_is_not_given_leaves_the_file_alone(here):
    assert load("search: {trials: 7}", {"search.trials": None, "task.name": None}).search.trials == 7


def test_a_faulty_value_that_an_option_replaces_is_no_fault(here):
    assert load("search: {trials: many}", {"search.trials": 2}).search.trials == 2


def test_sets_reach_sections_lists_and_rules_of_groups(here):
    experiment = load_experiment(
        sets=[
            "evaluation.recalibrate={samples: 0}",
            "space.exclude=['layer1.*', fc]",
            "space.groups.layer1.0.conv1.min_keep=0.5",
            "space.min_keep=1e-1",
            "task.model=",
        ]
    )
    assert experiment.evaluation.recalibrate.samples == 0
    assert experiment.space.exclude == ("layer1.*", "fc")
    assert experiment.space.groups["layer1.0.conv1"].min_keep == 0.5
    assert experiment.space.min_keep == 0.1
    assert experiment.task.model is None


def test_every_fault_is_reported_at_once_each_with_its_place(here):
    text = (
        "task: {name: digts}\nsearch:\n  trials: abc\nevaluation:\n  sampels: 3\npruner: l1_filter\npruner: l1_filtr\n"
    )
    found = faults(text, {"budget": "flops=0", "run.device": "gpu"}, ["sensitivity.levels=0", "nonsense", "a.b=1"])
    assert sorted(found) == sorted(
        [
            "e.yaml:7:1: 'pruner' is given twice (first in line 6)",
            "--set nonsense: should read KEY=VALUE, for example --set evaluation.samples=1000",
            "e.yaml:1:14: task.name: unknown task 'digts'; did you mean 'digits'?; known: cifar10, digits, "
            "image_folder, language_model, text_classification; or your own as package.module:attribute",
            "e.yaml:3:11: search.trials: should be a whole number but is 'abc'",
            "e.yaml:5:3: evaluation.sampels: unknown key; did you mean 'samples'?",
            next(
                fault
                for fault in found
                if fault.startswith("e.yaml:7:9: pruner: unknown pruner 'l1_filtr'; did you mean")
            ),
            "--budget: budget 'flops=0': without a unit a limit is a fraction of the dense network, above 0 and at "
            "most 1; for an absolute limit add a unit (k, K, M, G, T)",
            "--device: should be one of auto, cpu, cuda but is 'gpu'; did you mean 'cpu'?",
            "--set sensitivity.levels: should be at least 1 but is 0",
            "--set a.b: unknown key; known: task, space, pruner, scoring, budget, search, evaluation, "
            "sensitivity, run, track, output",
        ]
    )


def test_options_are_evaluated_even_if_the_file_has_wrong_syntax(here):
    found = faults("search:\n    trials: 3\n  seed: 2", {"search.trials": 0})
    assert found[0].startswith("e.yaml:3:3: wrong indentation")
    assert found[1:] == ["--trials: should be at least 1 but is 0"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("search: {trials: '1000'}", "e.yaml:1:18: search.trials: should be a whole number but is '1000'"),
        ("search: {trials: true}", "e.yaml:1:18: search.trials: should be a whole number but is true"),
        ("search: {trials: 1.0}", "e.yaml:1:18: search.trials: should be a whole number but is 1.0"),
        ("search: {seed: }", "e.yaml:1:15: search.seed: should be a whole number but is empty (null)"),
        ("search: {trials: [1]}", "e.yaml:1:18: search.trials: should be a whole number but is a list"),
        ("search: {seed: -1}", "e.yaml:1:16: search.seed: should be at least 0 but is -1"),
        ("search: {seed: 4294967296}", "e.yaml:1:16: search.seed: should be at most 4294967295 but is 4294967296"),
        ("search: 3", "e.yaml:1:9: search: should be a mapping (key: value) but is 3"),
        ("evaluation: {samples: 0}", "e.yaml:1:23: evaluation.samples: should be at least 1 but is 0"),
        ("evaluation: {batch_size: 0}", "e.yaml:1:26: evaluation.batch_size: should be at least 1 but is 0"),
        (
            "evaluation: {recalibrate: {samples: -1}}",
            "e.yaml:1:37: evaluation.recalibrate.samples: should be at least 0",
        ),
        ("evaluation: {recalibrate: {augment: yes}}", "e.yaml:1:37: evaluation.recalibrate.augment: should be true or"),
        ("space: {min_keep: 0}", "e.yaml:1:19: space.min_keep: should be above 0"),
        ("space: {min_keep: .nan}", "e.yaml:1:19: space.min_keep: should be"),
        ("evaluation: {rungs: [2]}", "e.yaml:1:22: evaluation.rungs.0: should be below 1"),
        ("space: {max_keep: 1.5}", "e.yaml:1:19: space.max_keep: should be at most 1"),
        ("space: {multiple_of: 0}", "e.yaml:1:22: space.multiple_of: should be at least 1"),
        ("space: {min_keep: 0.5, max_keep: 0.2}", "e.yaml:1:34: space.max_keep: 0.2 is below min_keep 0.5"),
        (
            "space: {max_keep: 0.2, groups: {a: {min_keep: 0.5}}}",
            "e.yaml:1:36: space.groups.a.max_keep: 0.2 is below min_keep 0.5",
        ),
        ("space: {include: layer1}", "e.yaml:1:18: space.include: should be a list but is 'layer1'"),
        ("space: {include: [1]}", "e.yaml:1:19: space.include.0: should be text but is 1"),
        ("space: {protect: [middle]}", "e.yaml:1:19: space.protect.0: should be one of first, last"),
        (
            "space: {groups: {a: {mni_keep: 1}}}",
            "e.yaml:1:22: space.groups.a.mni_keep: unknown key; did you mean",
        ),
        ("space: [a]", "e.yaml:1:8: space: should be a file, a shipped name or a mapping but is a list"),
        ("space: filtrs", "e.yaml:1:8: space: no such search space: 'filtrs'; did you mean 'filters'?"),
        ("budget: [0.5]", "e.yaml:1:9: budget: (0.5,) is no budget; expected"),
        ("budget: {watts: 1}", "e.yaml:1:9: budget: unknown cost 'watts'"),
        ("task: {model: resnet21}", "e.yaml:1:15: task.model: unknown model 'resnet21'; did you mean 'resnet"),
        ("search: {searcher: tep}", "e.yaml:1:20: search.searcher: unknown searcher 'tep'; did you mean 'tpe'"),
        ("task: {data: }\ntrack: {uri: ''}", "e.yaml:2:14: track.uri: should be text, not empty"),
        ("task: {data: ''}", "e.yaml:1:14: task.data: should be a path but is empty"),
        ("task: {data: 3}", "e.yaml:1:14: task.data: should be a path but is 3"),
        ("task: {data: ~nobody-at-all/x}", "e.yaml:1:14: task.data: '~nobody-at-all/x' names no folder"),
        ("- a", "e.yaml:1:1: should be a mapping (key: value) but is a list"),
        ("text", "e.yaml:1:1: should be a mapping (key: value) but is 'text'"),
    ],
)
def test_one_fault_is_one_plain_message(here, text, fault):
    found = faults(text)
    assert len(found) == 1
    assert found[0].startswith(fault)


def test_a_set_below_a_text_says_to_set_it_as_a_whole(here):
    assert faults("budget: flops=0.5", sets=["budget.params=0.6"]) == [
        "--set budget.params: budget is 'flops=0.5', which has no keys; set budget as a whole"
    ]


@pytest.mark.parametrize("text", ["trials", "=3", ".trials=3", "search..trials=3"])
def test_a_set_that_is_no_pair_is_explained(text):
    assert faults(sets=[text]) == [f"--set {text}: should read KEY=VALUE, for example --set evaluation.samples=1000"]


def test_a_fault_inside_the_value_of_a_set_names_both(here):
    said = "--set evaluation: sampels: unknown key; did you mean 'samples'?"
    assert faults(sets=["evaluation={sampels: 3}"]) == [said]
    assert faults(sets=["task.name=*x"])[0].startswith("--set task.name: a text that begins with '*' needs quotes")


def test_names_with_a_colon_are_the_users_own():
    experiment = load_experiment(overrides={"task.name": "mine.tasks:Birds", "task.model": "mine:net"})
    assert (experiment.task.name, experiment.task.model) == ("mine.tasks:Birds", "mine:net")


def test_paths_become_absolute_and_home_is_expanded(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    for name in ("net.pt", "curves.json"):
        (here / name).touch()
    (here / "data").mkdir()
    experiment = load(
        "task: {data: data, checkpoint: ~/net.pt}\nsensitivity: {file: ./curves.json}\noutput: ~/runs/1", {}
    )
    assert experiment.task.data == here / "data"
    assert experiment.task.checkpoint == here / "net.pt"
    assert experiment.sensitivity.file == here / "curves.json"
    assert experiment.output == here / "runs" / "1"


def test_paths_may_be_given_as_paths(here):
    (here / "net.pt").touch()
    experiment = load_experiment(overrides={"task.checkpoint": Path("net.pt"), "output": Path("out")})
    assert (experiment.task.checkpoint, experiment.output) == (here / "net.pt", Path("out"))


def test_missing_files_are_faults_with_the_nearest_name(here):
    (here / "resnet20.th").touch()
    text = "task: {checkpoint: resnet2.th, data: no/where}\nsensitivity: {file: x.json}"
    found = faults(text)
    assert (
        found[0] == f"e.yaml:1:38: task.data: no such file or folder: no/where; the folder {here / 'no'} does not exist"
    )
    assert (
        found[1] == f"e.yaml:1:20: task.checkpoint: no such file or folder: resnet2.th; nearest: {here / 'resnet20.th'}"
    )
    assert found[2].startswith("e.yaml:2:21: sensitivity.file: no such file: x.json")
    assert faults(None, {"sensitivity.file": "."}) == ["sensitivity.file: . is a folder; expected a file"]


def test_a_space_file_is_read_and_its_faults_have_its_own_places(here):
    Path("my.yaml").write_text("coupled: false\nmin_keep: 0.3\n", encoding="utf-8")
    space = load("space: my.yaml", sets=["space.min_keep=0.2"]).space
    assert (space.coupled, space.min_keep, space.source) == (False, 0.2, "my.yaml")
    Path("my.yaml").write_text("coupled: maybe\nmin_kep: 3\n", encoding="utf-8")
    expected = [
        "my.yaml:1:10: coupled: should be true or false but is 'maybe'",
        "my.yaml:2:1: min_kep: unknown key; did you mean 'min_keep'?",
    ]
    assert faults("space: my.yaml") == expected
    assert faults(None, {"space": "my.yaml"}) == expected
    Path("my.yaml").write_text("a: {\n", encoding="utf-8")
    assert faults("space: my.yaml")[0].startswith("my.yaml:2:1: a value that is missing, or a '{'")
    Path("my.yaml").write_text("- a\n", encoding="utf-8")
    assert faults("space: my.yaml")[0].startswith("my.yaml:1:1: should be a mapping (key: value) but is a list; keys: ")


def test_a_missing_experiment_file_is_named(here):
    (here / "experiment.yaml").touch()
    with pytest.raises(ConfigError, match=r"no such file: experimnt\.yaml; nearest: .*experiment\.yaml"):
        load_experiment(Path("experimnt.yaml"))


def test_reading_an_experiment_loads_no_heavy_library():
    code = (
        "import sys; from autoprune.config import load_experiment, dump_experiment; "
        "e = load_experiment(None, {'budget': 'flops=0.5'}); dump_experiment(e); e.space_rules(); e.budget_value(); "
        "print([m for m in ('torch', 'optuna', 'mlflow', 'ray', 'numpy') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.strip() == "[]"

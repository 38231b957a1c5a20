from pathlib import Path

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.config import dump_experiment, load_experiment

texts = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1) | st.sampled_from(
    [
        "1e-3",
        "1e5",
        "yes",
        "null",
        "~",
        "0.5",
        "010",
        "1:30",
        "2020-01-01",
        "<<",
        "=",
        "*",
        "&a",
        "a: b",
        "#",
        "- x",
        "🦆",
    ]
)
keeps = st.floats(0.05, 1.0, allow_subnormal=False)


def reloaded(experiment, folder):
    path = folder / "written.yaml"
    path.write_text(dump_experiment(experiment), encoding="utf-8")
    return load_experiment(path)


def test_a_full_experiment_reads_back_equal_from_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("net.pt", "curves.json"):
        Path(name).touch()
    Path("my.yaml").write_text(
        "coupled: false\ngroups: {0.1: {pin: true}, 'a.*': {min_keep: 1.0e-1}}\n", encoding="utf-8"
    )
    experiment = load_experiment(
        overrides={
            "task.checkpoint": "net.pt",
            "task.data": ".",
            "space": "my.yaml",
            "budget": {"flops": 0.5, "size": "3 kB"},
            "output": "out",
        },
        sets=[
            "sensitivity.file=curves.json",
            "run.threads=2",
            "track={uri: 'sqlite:///x.db', enabled: false}",
            "search.rounds.count=3",
        ],
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert reloaded(experiment, tmp_path) == experiment
    assert experiment.space.source == "my.yaml"


@given(texts, st.dictionaries(texts, keeps), st.lists(texts), keeps, st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_any_name_pattern_and_number_reads_back(tmp_path_factory, name, groups, exclude, keep, seed):
    rules = {key: {"max_keep": most} for key, most in groups.items()}
    experiment = load_experiment(
        overrides={
            "track.experiment": name,
            "search.seed": seed,
            "space": {
                "exclude": exclude,
                "min_keep": 0.05,
                "groups": rules,
            },
            "budget": {"flops": keep},
        }
    )
    assert reloaded(experiment, tmp_path_factory.getbasetemp()) == experiment


def test_every_setting_is_written_so_that_later_defaults_change_nothing():
    def keys(section):
        return {name: keys(inner) if isinstance(inner, dict) else None for name, inner in section.items()}

    written = yaml.safe_load(dump_experiment(load_experiment()))
    assert keys(written) == keys(load_experiment().model_dump())
    assert written["space"]["source"] == "search_spaces/filters.yaml"


def test_credentials_are_never_written(tmp_path):
    experiment = load_experiment(overrides={"track.uri": "https://me:secret@host/x?token=secret"})
    assert "secret" not in dump_experiment(experiment)
    assert reloaded(experiment, tmp_path).track.uri == "https://***@host/x?token=***"

from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.config.schedule import load_schedule
from autoprune.errors import ConfigError
from tests.repository import REPOSITORY

EXAMPLES = REPOSITORY / "experiments" / "schedules"


def _written(folder: Path, text: str) -> Path:
    path = folder / "schedule.yaml"
    path.write_text(text)
    return path


def _faults(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load_schedule(_written(folder, text))
    return [line.replace(f"{folder}/", "") for line in str(refused.value).splitlines()]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_a_schedule(path: Path) -> None:
    assert load_schedule(path).train.rate > 0


def test_every_fault_is_told_at_once_with_its_place(tmp_path: Path) -> None:
    text = """\
train: {epochs: 3, rate: -1, bacth_size: 3}
pruners:
  a: {pruner: agq, sparsity: 0.5}
  b: {pruner: agp, sparsity: 1.5, layers: 3}
  c: {pruner: agp}
penalties:
  d: {penalty: group_laso, strength: 0.1}
policies:
  - {thin: true}
  - {pruner: a, thin: true, epochs: [1]}
  - {pruner: a, epochs: [1, 2, 4]}
"""
    faults = _faults(tmp_path, text)
    assert all(fault.startswith("schedule.yaml:") for fault in faults)
    for place, words in (
        ("1:26", "train.rate: should be above 0 but is -1"),
        ("1:30", "train.bacth_size: unknown key; did you mean 'batch_size'?"),
        ("3:15", "unknown pruner 'agq'; did you mean 'agp'?"),
        ("4:30", "pruners.b.sparsity: should be at most 1 but is 1.5"),
        ("4:43", "pruners.b.layers: should be a list but is 3"),
        ("5:6", "pruners.c: needs sparsity, threshold or widths: one of them"),
        ("7:16", "unknown penalty 'group_laso'; did you mean 'group_lasso'?"),
        ("9:5", "policies.0: needs epochs, steps, or start and end"),
        ("10:5", "policies.1: needs pruner, penalty, remove_layers or thin: one of them"),
        ("11:5", "policies.2: updates should be equally far apart"),
    ):
        assert any(fault.startswith(f"schedule.yaml:{place}: ") and words in fault for fault in faults), words


def test_parts_that_contradict_each_other_are_told_at_once(tmp_path: Path) -> None:
    text = """\
train: {epochs: 3}
pruners:
  a: {pruner: agp, sparsity: {"layer1*": 0.5}}
  b: {pruner: agp, sparsity: 0.5}
policies:
  - {pruner: c, start: 0, end: 2}
  - {pruner: b, start: 0, end: 20}
  - {remove_layers: dead, epochs: [1]}
"""
    faults = _faults(tmp_path, text)
    assert [fault.partition(": ")[2] for fault in faults] == [
        "'c' is not among the pruners (a, b)",
        "'dead' is not among the penalties (none)",
        "pruner 'a' should be in one policy, which says when, but is in 0",
        "reaches to epoch 20, but training ends after 3",
    ]


def test_a_key_that_is_needed_is_named(tmp_path: Path) -> None:
    assert _faults(tmp_path, "pruners: {a: {pruner: agp, sparsity: 0.5}}\n") == [
        "schedule.yaml:1:1: train: is needed but not given"
    ]


def test_rounds_are_of_one_pruner_and_nothing_else(tmp_path: Path) -> None:
    text = """\
train: {steps: 30}
pruners:
  a: {pruner: lottery_ticket, sparsity: 0.5}
  b: {pruner: agp, sparsity: 0.5}
policies:
  - {thin: true, epochs: [1]}
rounds: {count: 2}
"""
    faults = _faults(tmp_path, text)
    assert "rounds are of one pruner, but there are 2" in faults[0]
    assert "nothing is thinned or removed" in faults[1]


@pytest.mark.parametrize(
    ("policy", "timing"),
    [
        ("{pruner: a, start: 1, end: 9, frequency: 2}", (1, 9, 2, "epoch")),
        ("{pruner: a, start: 1, end: 9, unit: step}", (1, 9, 1, "step")),
        ("{pruner: a, epochs: [2]}", (2, 2, 1, "epoch")),
        ("{pruner: a, steps: [10, 20, 30]}", (10, 30, 10, "step")),
        ("{pruner: a, end: 4}", (0, 4, 1, "epoch")),
    ],
)
def test_times_are_lists_or_spans(tmp_path: Path, policy: str, timing: tuple[object, ...]) -> None:
    text = f"train: {{epochs: 50}}\npruners: {{a: {{pruner: agp, sparsity: 0.5}}}}\npolicies: [{policy}]\n"
    assert load_schedule(_written(tmp_path, text)).policies[0].timing() == timing


@pytest.mark.parametrize("text", ["", "- a\n", "3\n"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert "should be a mapping" in _faults(tmp_path, text)[0]


def test_a_training_has_one_length(tmp_path: Path) -> None:
    assert "train: needs steps or epochs but has neither" in _faults(tmp_path, "train: {rate: 0.1}\n")[0]
    both = "train: should have steps or epochs but has both (3 and 1)"
    assert both in _faults(tmp_path, "train: {epochs: 1, steps: 3}\n")[0]


def test_milestones_belong_to_the_schedule_that_falls_at_them(tmp_path: Path) -> None:
    assert _faults(tmp_path, "train: {steps: 9, milestones: [0.5]}\n") == [
        "schedule.yaml:1:31: train.milestones: belong to the schedule 'steps', but it is 'cosine'"
    ]


def test_broken_yaml_and_missing_files_are_named(tmp_path: Path) -> None:
    assert "schedule.yaml:2:1: a '{'" in _faults(tmp_path, "train: {epochs: 1\n")[0]
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_schedule(tmp_path / "none.yaml")

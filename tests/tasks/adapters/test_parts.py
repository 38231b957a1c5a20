from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest

from autoprune.errors import DataError
from autoprune.tasks.adapters.parts import complete_parts, draw_parts, find_parts, joined

SOURCE = Path("data")


def test_drawn_parts_hold_each_sample_once_and_every_class_in_its_share() -> None:
    classes = [0] * 100 + [1] * 40
    parts = draw_parts(classes, ["validation", "test"])
    assert sorted(index for part in parts.values() for index in part) == list(range(140))
    shares = {name: Counter(classes[index] for index in part) for name, part in parts.items()}
    assert shares == {"train": {0: 70, 1: 28}, "validation": {0: 15, 1: 6}, "test": {0: 15, 1: 6}}
    assert parts == draw_parts(classes, ["validation", "test"])
    assert parts["validation"] != list(range(15)) + list(range(100, 106))


def test_what_is_missing_is_drawn_from_what_trains_and_said(caplog: pytest.LogCaptureFixture) -> None:
    samples, caplog_level = [f"s{n}" for n in range(20)], logging.WARNING
    with caplog.at_level(caplog_level, "autoprune"):
        parts = complete_parts({"train": samples}, [0] * 20, SOURCE)
        assert complete_parts({"train": samples, "validation": ["v"]}, [0] * 20, SOURCE)["train"] == samples
    assert {name: len(part) for name, part in parts.items()} == {"train": 14, "validation": 3, "test": 3}
    assert caplog.messages == [
        "data has no validation and no test part; drawn with seed 0: 14 train, 3 validation, 3 test"
    ]


def test_a_test_part_that_is_there_stays() -> None:
    parts = complete_parts({"train": list("abcdefghij"), "test": ["t"]}, [0] * 10, SOURCE)
    assert parts["test"] == ["t"]
    assert len(parts["train"]) == 8
    assert len(parts["validation"]) == 2


def test_too_few_samples_to_divide_are_refused() -> None:
    with pytest.raises(DataError, match=r"^data has 2 samples .* too few to divide: validation would be empty$"):
        complete_parts({"train": ["a", "b"]}, [0, 1], SOURCE)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train", "val", "validation"], "has val and validation; expected one of them as validation data"),
        (["val", "test"], "has val, test but no train"),
    ],
)
def test_parts_that_do_not_add_up_are_refused(names: list[str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        find_parts(SOURCE, {name: SOURCE / name for name in names})


def test_of_many_faults_the_first_are_shown() -> None:
    assert joined([f"fault {n}" for n in range(1200)], shown=2) == "fault 0\nfault 1\nand 1,198 more"

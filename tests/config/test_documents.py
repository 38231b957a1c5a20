import os
import time
from pathlib import Path

import pytest

from autoprune.config.documents import in_file, parse_document, parse_path, read_document


def parse(text):
    return parse_document(text, in_file(Path("e.yaml")))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("0.5", 0.5),
        (".5", 0.5),
        ("-2", -2),
        ("1_000", 1000),
        ("010", "010"),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("2020-99-99", "2020-99-99"),
        ("true", True),
        ("~", None),
        ("", None),
        ("20M", "20M"),
        ("~/nets", "~/nets"),
    ],
)
def test_plain_scalars_are_what_a_reader_expects(text, value):
    read = parse(text).value
    assert read == value
    assert type(read) is type(value)


def test_an_empty_value_is_null_and_keys_are_always_text():
    assert parse("task:\n0.1: 2\ntrue: 3").value == {"task": None, "0.1": 2, "true": 3}


def test_places_are_the_lines_and_columns_of_keys_and_values():
    document = parse("task: {name: digits}\nspace:\n  include: [a,\n    b]\n")
    assert document.keys[("task", "name")] == "e.yaml:1:8"
    assert document.values[("task", "name")] == "e.yaml:1:14"
    assert document.keys[("space", "include")] == "e.yaml:3:3"
    assert document.values[("space", "include", 1)] == "e.yaml:4:5"


def test_anchors_and_merges_are_read():
    document = parse("a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}")
    assert document.value["b"] == {"k": 3, "l": 2}
    assert not document.faults


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("search:\n    trials: 3\n  seed: 2", "e.yaml:3:3: wrong indentation"),
        ("a: 1\n b: 2", "e.yaml:2:3: a ':' that cannot stand here: wrong indentation"),
        ("evaluation:\n  samples 3\n  batch_size: 3", "e.yaml:3:13: a ':' that cannot stand here"),
        ("search:\n\ttrials: 3", "e.yaml:2:1: a tab; indent with spaces"),
        ("a: {b: 1\n", "e.yaml:2:1: a '{' or '[' that is never closed"),
        ('a: "x\n', "e.yaml:2:1: a quote that is never closed"),
        ("include: [*]", "e.yaml:1:12: a text that begins with '*' or '&' needs quotes"),
        ("include: *layer", "e.yaml:1:10: a text that begins with '*' needs quotes"),
        ("a: 1\n---\nb: 2", "e.yaml:2:1: a second document"),
        ("x: !!python/object/apply:os.system [ls]", "e.yaml:1:4: a tag"),
        ("&a [*a]", "e.yaml:1:1: holds itself"),
        ("? [a]\n: 1", "e.yaml:1:3: a key should be text"),
        ("a: 1\nb:\n  c: 1\n  c: 2", "e.yaml:4:3: 'c' is given twice (first in line 3)"),
        ("\x07", "e.yaml: unacceptable character"),
    ],
)
def test_faults_of_a_document_are_placed_and_in_plain_words(text, fault):
    faults = parse(text).faults
    assert len(faults) == 1
    assert faults[0].startswith(fault)


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path):
    (tmp_path / "experiment.yaml").write_bytes(b"a: \xff")
    assert "is no text in UTF-8" in read_document(tmp_path / "experiment.yaml").faults[0]
    assert "is a folder" in read_document(tmp_path).faults[0]
    assert "nearest: " in read_document(tmp_path / "experimnt.yaml").faults[0]
    assert "does not exist" in read_document(tmp_path / "no" / "e.yaml").faults[0]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "stands for more than 100,000 values"),
        ("[" * 5000, "is nested too deeply"),
        ("{a: " * 3000 + "1" + "}" * 3000, "is nested too deeply"),
        ("a: " + "9" * 5000, "4300"),
    ],
    ids=["aliases", "lists", "mappings", "digits"],
)
def test_what_is_made_to_exhaust_is_refused_in_a_second(text, said):
    started = time.process_time()
    [fault] = parse(text).faults
    assert said in fault
    assert time.process_time() - started < 3


@pytest.mark.parametrize("name", ["nul\0.yaml", "x" * 300 + ".yaml", "a/" + "é" * 130])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(ValueError, match="no file can have this name"):
        parse_path(name)


def test_a_file_that_could_block_is_refused(tmp_path):
    os.mkfifo(tmp_path / "e.yaml")
    [fault] = read_document(tmp_path / "e.yaml").faults
    assert "is no regular file" in fault

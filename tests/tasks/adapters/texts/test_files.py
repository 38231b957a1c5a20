from __future__ import annotations

from pathlib import Path

import pytest

from autoprune.errors import DataError
from autoprune.tasks.adapters.texts.files import LabelledText, read_documents, read_labelled, text_parts


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,label\n"good, very",1\nbad,0\n'),
        ("a.csv", '\ufeffid;Text;LABEL\r\n1;"good, very";1\r\n2;bad;0\r\n'),
        ("a.tsv", "label\tsentence\n1\tgood, very\n0\tbad\n"),
        ("a.jsonl", '{"text": "good, very", "label": 1}\n\n{"label": 0, "text": "bad"}\n'),
        ("a.json", '[{"text": "good, very", "label": 1}, {"text": "bad", "label": "0"}]'),
    ],
)
def test_tables_of_every_kind_are_read(name: str, content: str, tmp_path: Path) -> None:
    found = read_labelled(write(tmp_path, name, content), None, None)
    assert [(each.text, each.label) for each in found] == [("good, very", "1"), ("bad", "0")]


def test_columns_may_be_named_and_texts_may_be_long_and_have_lines(tmp_path: Path) -> None:
    text = "word " * 40_000 + "\nend"
    path = write(tmp_path, "a.csv", f'label,abstract,field\n0,"{text}",maths\n')
    assert read_labelled(path, "abstract", "field") == [LabelledText(text, "maths", 3)]


def test_a_quotation_mark_may_begin_a_text_between_tabs(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", 'text\tlabel\n"Well" he said\t1\n')
    assert read_labelled(path, None, None)[0].text == '"Well" he said'


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "", "a.csv has no lines$"),
        ("a.csv", "text,label\n", "a.csv has no lines of texts$"),
        ("a.csv", "words,kind\na,b\n", r"has no column of texts that is found \(words, kind\); call it 'text', or say"),
        ("a.csv", "text,kind\na,b\n", "has no column of labels .* --set task.options.label=NAME"),
        ("a.csv", "text,label\na,b\nc,\n,d\n", r"a.csv:3: label is empty\n.*a.csv:4: text is empty$"),
        ("a.csv", "text,label\nyes, well,b\n", r"a.csv:2 has more fields than the header; texts with ',' in them need"),
        ("a.csv", 'text,label\n"never closed,1\n', "cannot be read: unexpected end of data"),
        ("a.jsonl", '{"text": "a"\n', "a.jsonl:1 is no JSON"),
        ("a.jsonl", '["a", 1]\n["b", 0]\n', "a.json"),
        ("a.jsonl", '"a"\n', r"a.jsonl:1 should be an object \{...\} but is a str"),
        ("a.csv", "text,label\ncaf\xe9,1\n".encode("latin-1"), r"is no text in UTF-8 \(.* at byte 14\); convert it"),
        ("a.parquet", "PAR1", r"should be a .csv, .tsv or .jsonl file"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_file_and_line(
    name: str, content: str | bytes, said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        read_labelled(write(tmp_path, name, content), None, None)


def test_a_column_that_is_named_wrongly_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no column 'texts'; did you mean 'text'.*; it has text, label"):
        read_labelled(write(tmp_path, "a.csv", "text,label\na,b\n"), "texts", None)


def test_documents_are_those_of_a_column_or_the_whole_of_plain_text(tmp_path: Path) -> None:
    assert read_documents(write(tmp_path, "a.txt", "one\ntwo\n"), None) == ["one\ntwo\n"]
    assert read_documents(write(tmp_path, "a.jsonl", '{"text": "one"}\n{"text": ""}\n{"text": "two"}'), None) == [
        "one",
        "two",
    ]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_without_text_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{name} has no (text|lines)$"):
        read_documents(write(tmp_path, name, " \n\n"), None)


def test_a_folder_has_a_file_for_each_part(tmp_path: Path) -> None:
    assert text_parts(tmp_path / "a.csv") == {"train": tmp_path / "a.csv"}
    for name in ("train.csv", "dev.csv", "notes.md"):
        write(tmp_path, name, "")
    assert text_parts(tmp_path) == {"train": tmp_path / "train.csv", "validation": tmp_path / "dev.csv"}


def test_a_folder_without_parts_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "texts.csv", "")
    with pytest.raises(DataError, match=r"has no train file; expected a file, or a folder with train.csv"):
        text_parts(tmp_path)

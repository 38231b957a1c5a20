from __future__ import annotations

import os
from pathlib import Path

import pytest

from autoprune.files import csv_text, parse_json, read_whole, write_whole


def test_file_is_replaced_and_nothing_else_stays(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"first")
    write_whole(tmp_path / "a", memoryview(b"second"))
    assert (tmp_path / "a").read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_failure_leaves_the_old_file_and_no_part_of_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "a", b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append(f"sync {os.fstat(file).st_size}"), sync(file))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), replace(*paths))[1])
    write_whole(tmp_path / "a", b"four")
    assert done == ["sync 4", "replace"]


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(OSError, match="is no regular file"):
            read_whole(path)
    (tmp_path / "file").write_bytes(b"text")
    assert read_whole(tmp_path / "file") == b"text"


def test_json_that_is_nested_too_deeply_is_no_json() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


def test_csv_quotes_what_has_to_be_and_leaves_empty_what_is_not_known() -> None:
    assert csv_text(["name", "loss"], [["a,b", 0.5], ["c", None]]) == 'name,loss\n"a,b",0.5\nc,\n'

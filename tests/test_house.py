"""The house as its own tools see it: the drawing of the rooms, circles, the version's one source."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

import autoprune
from experiments.house.drawing import DRAWINGS, PAGE, drawn, mermaid, rooms, without_shortcuts
from experiments.house.measure import circles, imports, read_modules
from experiments.house.names import remaining
from tests.repository import REPOSITORY

PACKAGES = [match["package"] for match in DRAWINGS.finditer(PAGE.read_text())]
GRAPH = imports(read_modules(REPOSITORY))


@pytest.mark.parametrize(
    "package", ["autoprune", *(f"autoprune.{room}" for room in ("running", "evaluation", "pruning"))]
)
def test_the_drawing_of_the_architecture_shows_the_rooms_and_the_imports_between_them(package: str) -> None:
    assert package in PACKAGES
    [shown] = [match[0] for match in DRAWINGS.finditer(PAGE.read_text()) if match["package"] == package]
    wanted = mermaid(without_shortcuts(rooms(GRAPH, package)))
    assert shown.endswith(wanted), f"run python -m experiments.house.drawing; imports are now\n{wanted}"
    assert drawn(PAGE.read_text()).count(wanted) == 1


def test_every_room_is_explained() -> None:
    explained = re.findall(r"`(\w+)/?`", "".join(re.findall(r"^\| (`[^|]*) \|", PAGE.read_text(), re.MULTILINE)))
    assert set(rooms(GRAPH, "autoprune")) == set(explained)


def test_arrows_that_follow_from_others_are_left_out() -> None:
    graph = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set[str](), "d": {"c"}, "e": set[str]()}
    assert without_shortcuts(graph) == {"a": {"b", "d"}, "b": {"c"}, "c": set(), "d": {"c"}, "e": set()}
    assert mermaid(without_shortcuts(graph)).splitlines()[1:3] == ["    e", "    a --> b"]


def test_rooms_are_the_files_and_folders_of_a_package() -> None:
    graph = {
        "p": {"p.a"},
        "p.a": {"p.b.x"},
        "p.b": set[str](),
        "p.b.x": {"p.b.y"},
        "p.b.y": {"q"},
        "p.__main__": {"p.a"},
    }
    assert rooms(graph, "p") == {"a": {"b"}, "b": set()}


def test_circles_are_found_over_any_number_of_steps() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"f"}, "f": {"e"}}) == [
        ["a", "b", "c"],
        ["e", "f"],
    ]


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(GRAPH) == []


def test_the_version_has_one_source() -> None:
    assert autoprune.__version__ == version("autoprune")
    assert f"version: {autoprune.__version__}\n" in (REPOSITORY / "CITATION.cff").read_text()


def test_no_name_remains_that_the_fields_own_replaced() -> None:
    assert remaining(REPOSITORY) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("class Witness: ...", "class 'Witness'"),
        ("def f(course): ...", "parameter 'course'"),
        ("class A:\n    batch: int = 8", "attribute 'batch'"),
        ("def f(batch: Tensor): ...", None),  # samples, not how many
        ("ledger.write(told, {'bars': 1})", "key 'bars'"),
        ("def f():\n    place = 3", None),  # a local variable
        ("command.add_argument('--images', type=int)", "option 'images'"),
        ("def ask(self): ...", None),  # a searcher's method, as in Optuna
    ],
)
def test_old_names_are_found_wherever_code_gives_a_name(tmp_path: Path, code: str, found: str | None) -> None:
    (tmp_path / "autoprune").mkdir()
    (tmp_path / "autoprune" / "new.py").write_text(code)
    lines = remaining(tmp_path)
    assert [line.partition(": ")[2].partition(" is now")[0] for line in lines] == ([] if found is None else [found])

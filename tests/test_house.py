"""The house as its own tools see it: the drawing of the rooms, circles, the version's one source."""

from __future__ import annotations

import re
from importlib.metadata import version

import pytest

import autoprune
from experiments.house.drawing import DRAWINGS, PAGE, drawn, mermaid, rooms, without_shortcuts
from experiments.house.measure import circles, imports, read_modules
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

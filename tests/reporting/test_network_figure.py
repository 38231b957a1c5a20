from __future__ import annotations

import re
from xml.etree import ElementTree

from autoprune.reporting.network_figure import NetworkRow, draw_network, fold_repeated


def row(name: str, *sources: int, kind: str = "Linear", group: str = "", reason: str = "") -> NetworkRow:
    return NetworkRow(name, kind, "4 → 4", group, "channels", reason, 0.1, sources)


def blocks(count: int) -> list[NetworkRow]:
    """A stem, blocks of two layers and an addition to their shortcut, and a head."""
    rows = [row("stem", group="stem")]
    for i in range(count):
        start = len(rows) - 1
        rows += [
            row(f"blocks.{i}.one", start, group=f"blocks.{i}.one"),
            row(f"blocks.{i}.two", start + 1, group="stem"),
        ]
        rows.append(row(f"blocks.{i}", start, start + 2, kind="", group="stem"))
    return [*rows, row("head", len(rows) - 1, reason="it is the network's output")]


def test_modules_that_repeat_are_drawn_once_with_all_their_costs() -> None:
    folded = fold_repeated(blocks(12))
    assert [each.name for each in folded] == ["stem", "blocks.0.one", "blocks.0.two", "blocks.0", "head"]
    assert [each.times for each in folded] == [1, 12, 12, 12, 1]
    assert abs(folded[1].flops - 12 * 0.1) < 1e-9
    assert [each.sources for each in folded] == [(), (0,), (1,), (0, 2), (3,)]


def test_modules_that_differ_are_all_drawn() -> None:
    rows = blocks(3)
    rows[4] = row("blocks.1.one", 3, group="blocks.1.one", reason="pinned")
    assert len(fold_repeated(rows)) == len(rows)


def test_a_picture_shows_layers_groups_reasons_and_shortcuts() -> None:
    text = draw_network("net <of> mine", blocks(2))
    root = ElementTree.fromstring(text)
    said = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert said[0] == "net <of> mine"
    assert "blocks.0.one" in said
    assert "it is the network's output" in said
    assert "2 × alike" in said
    assert len(re.findall(r'd="M[^"]*Q[^"]*Q', text)) == 1, "one shortcut"
    colours = dict(re.findall(r"<title>(\S+)[^<]*</title><rect [^>]*fill=\"([^\"]+)\"", text))
    assert colours["stem"] == colours["blocks.0.two"] != colours["blocks.0.one"]
    assert colours["head"] == "#e3e7ec"


def test_a_page_holds_the_same_picture() -> None:
    assert draw_network("net", blocks(2)) in draw_network("net", blocks(2), page=True)
    assert draw_network("net", [], page=True).startswith("<!DOCTYPE html>")

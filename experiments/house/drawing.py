"""Draws the rooms and the imports between them: `python -m experiments.house.drawing` brings the page up to date."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from experiments.house.measure import imports, read_modules

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "architecture.md"
DRAWINGS = re.compile(r"(<!-- drawing: (?P<package>[\w.]+) -->\n```mermaid\n).*?(?=```\n)", re.DOTALL)
"""The drawings of a page, each of the rooms of one package."""


def rooms(graph: Mapping[str, set[str]], package: str) -> dict[str, set[str]]:
    """Returns the rooms (modules and folders) of a package, and those that each of them imports from."""
    found: dict[str, set[str]] = {}
    for module, targets in graph.items():
        room = _inside(module, package)
        if room is not None:
            found.setdefault(room, set()).update(filter(None, (_inside(target, package) for target in targets)))
    return {room: targets - {room} for room, targets in found.items()}


def _inside(module: str, package: str) -> str | None:
    inside = module.removeprefix(f"{package}.")
    return None if inside in (module, "__main__") else inside.partition(".")[0]


def without_shortcuts(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Returns the arrows from which all others follow (the transitive reduction of a graph without circles)."""

    def reached(name: str) -> set[str]:
        return {name}.union(*(reached(target) for target in graph[name]))

    return {
        room: {x for x in targets if not any(x in reached(y) for y in targets - {x})} for room, targets in graph.items()
    }


def mermaid(graph: Mapping[str, set[str]]) -> str:
    """Returns the drawing's text."""
    arrows = [f"    {_node(name)} --> {_node(target)}\n" for name in sorted(graph) for target in sorted(graph[name])]
    joined = {name for name in graph if graph[name]}.union(*graph.values())
    return "graph TD\n" + "".join([*(f"    {_node(name)}\n" for name in sorted(set(graph) - joined)), *arrows])


def _node(name: str) -> str:
    return 'graph_["graph"]' if name == "graph" else name  # a word of mermaid's own


def drawn(page: str) -> str:
    """Returns the text of a page with every drawing as the imports are."""
    graph = imports(read_modules(ROOT))
    return DRAWINGS.sub(lambda match: match[1] + mermaid(without_shortcuts(rooms(graph, match["package"]))), page)


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text()))

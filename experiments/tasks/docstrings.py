"""Real text that is there wherever Python is: the docstrings of the standard library.

They depend on Python's version; the figures are of 3.11.
"""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SHORTEST = 30
"""Characters that a docstring should have."""
LEFT_OUT = frozenset({"test", "tests", "site-packages", "dist-packages", "lib2to3"})
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Docstring:
    """A docstring and where it is from.

    Attributes:
        package: the package or module at the top: `json`, `ipaddress`.
        file: its path below the library's folder.
    """

    package: str
    file: str
    text: str


@cache
def docstrings() -> tuple[Docstring, ...]:
    """Returns every docstring of the standard library once, in the order of the files."""
    found = {each.text: each for each in _all(Path(sysconfig.get_path("stdlib")))}
    return tuple(found.values())


def _all(library: Path) -> Iterator[Docstring]:
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if LEFT_OUT.intersection(parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:  # templates and the like
            continue
        for node in ast.walk(tree):
            text = ast.get_docstring(node) if isinstance(node, _DOCUMENTED) else None
            if text and len(text) >= SHORTEST:
                yield Docstring(parts[0].removesuffix(".py"), "/".join(parts), text)

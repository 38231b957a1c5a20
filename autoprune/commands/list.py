"""`autoprune list`."""

from __future__ import annotations

import argparse
import inspect
import json
from typing import Any

from autoprune import registry


def run(arguments: argparse.Namespace) -> None:
    """Prints one table of names with a line on each."""
    kind = arguments.what
    described = {name: _describe(kind, name, text) for name, text in registry.TABLES[kind].items()}
    if arguments.json:
        print(json.dumps(described, indent=1))
        return
    width = max(map(len, described))
    for name, text in described.items():
        print(f"{name:{width}}  {text}")


def _describe(kind: str, name: str, text: str) -> str:
    if kind == "budgets":
        return text
    found: Any = registry.resolve(kind.removesuffix("s"), name)
    if kind == "pruners":
        return f"{found.criterion.__name__} × {found.pattern} × {found.schedule}: {_first_line(found.criterion)}"
    return _first_line(found)


def _first_line(found: object) -> str:
    return (inspect.getdoc(found) or "").partition("\n")[0]

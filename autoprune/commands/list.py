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
    found: Any = registry.resolve(registry.singular(kind), name)
    if kind == "pruners":
        return _pruner(found)
    description = getattr(found, "description", None)
    return description if isinstance(description, str) else _first_line(found)


def _pruner(found: Any) -> str:
    said = found.describe()
    combined = f"{said['combine']} over layers{', each divided by its mean' if said['normalise'] else ''}"
    parts = " × ".join(said[part] for part in ("criterion", "pattern", "schedule", "penalty") if said[part])
    return f"{parts}, {combined}: {found.criterion.description}"


def _first_line(found: object) -> str:
    return (inspect.getdoc(found) or "").partition("\n")[0]

"""A matrix of cells that can be stopped and gone on with: each is a line of results when it is done; what cells share.

The scripts beside this run from the repository's root: `python -m experiments.searchers.run`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from autoprune.core.ledger import History, read_history

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Cell = TypeVar("Cell", bound="DataclassInstance")
Line = dict[str, Any]


def read(results: Path) -> list[Line]:
    """The lines of a file of results; one that was cut off while it was written is left out."""
    lines = results.read_text().splitlines(keepends=True) if results.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def missing(cells: Iterable[Cell], results: Path) -> list[Cell]:
    """The cells that have no line yet, in their order."""
    done = {json.dumps(line["cell"], sort_keys=True) for line in read(results)}
    found = [cell for cell in cells if json.dumps(asdict(cell), sort_keys=True) not in done]
    print(f"{len(done)} cells are done, {len(found)} to do", file=sys.stderr)
    return found


def append(results: Path, lines: Iterable[Line]) -> None:
    """Adds each line as it comes, and prints it without its courses."""
    for line in lines:
        with results.open("a") as file:
            file.write(json.dumps(line) + "\n")
        shown = {key: len(each) if isinstance(each, list) else each for key, each in line.items()}
        print(json.dumps(shown), flush=True)


def at_once(run: Callable[[Cell], Line], cells: Sequence[Cell], processes: int) -> Iterable[Line]:
    """The lines of cells that each start processes of their own, as they are done."""
    with ThreadPoolExecutor(processes) as pool:
        for done in as_completed([pool.submit(run, cell) for cell in cells]):
            yield done.result()


def plain_options(description: str | None, quick: str, processes: str | None = None) -> argparse.ArgumentParser:
    """What every matrix can be told.

    Args:
        quick: what `--quick` leaves of it.
        processes: what `--processes` counts; None where nothing runs at once.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--report", action="store_true", help="only write tables and pictures from what is there")
    if processes:
        parser.add_argument("--processes", type=int, default=2, help=f"{processes} at once, each on one thread")
    return parser


def autoprune(*arguments: Any) -> str:
    """What a command prints.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    command = [sys.executable, "-m", "autoprune", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def search(run: Path, options: Sequence[Any]) -> None:
    """A search in a folder, or what is left of it."""
    run.parent.mkdir(parents=True, exist_ok=True)
    if (run / "best.yaml").exists():
        return
    resumable = (run / "ledger.jsonl").exists()
    autoprune(*(("search", "--resume", run) if resumable else ("search", *options, "--output", run)))


def unit(history: History) -> int:
    """Multiply-adds of evaluating the dense network."""
    dense = history.last("dense")
    assert dense is not None
    return int(dense["score"]["samples"]) * int(dense["costs"]["flops"]) // 2


def evaluations(run: Path) -> float:
    """What a search cost, in evaluations of the dense network."""
    history = read_history(run)
    return round(1 + sum(record.get("work") or 0 for record in history.records) / unit(history), 1)

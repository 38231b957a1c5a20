"""Tries autoprune on the networks of the matrix: `python -m tests.zoo.matrix [NAMES…] --output FILE`.

Each network has a process of its own, with limits of time and memory. Rows are kept in FILE.jsonl, so it can be stopped
and goes on; FILE.json and FILE.md are written from them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.zoo.networks import NETWORKS

Entry = dict[str, Any]


def main() -> None:
    """Reads the command line."""
    run_matrix("tests.zoo.matrix", __doc__, _examine, table)


def run_matrix(
    module: str, description: str | None, examine: Callable[[str], Entry], write: Callable[[Sequence[Entry]], str]
) -> None:
    """Runs a matrix as its command line says.

    Args:
        module: whose command it is.
        description: what it says of itself.
        examine: makes the row of one network, in a process of its own.
        write: makes a table of rows.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks, or beginnings of their names; all if none")
    parser.add_argument("--output", type=Path, metavar="FILE", help="without its suffix")
    parser.add_argument("--limit", type=float, default=600, help="seconds of processor time for each network")
    parser.add_argument("--memory", type=float, default=10, help="GB of memory for each network")
    parser.add_argument("--again", action="store_true", help="also those that have a row")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print("\n" + json.dumps(examine(options.names[0])))
        return
    if options.output is None:
        parser.error("--output FILE is missing")
    rows_file = options.output.with_suffix(".jsonl")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for name in chosen(options.names):
        if options.again or name not in read(rows_file):
            row = examine_apart(module, name, options.limit, options.memory)
            with rows_file.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    rows = read(rows_file)
    ordered = [rows[name] for name in NETWORKS if name in rows]
    options.output.with_suffix(".json").write_text(json.dumps(ordered, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(write(ordered))


def chosen(beginnings: Iterable[str]) -> list[str]:
    """Returns the names of the networks that begin so, all where nothing is said.

    Raises:
        SystemExit: there is none.
    """
    beginnings = tuple(beginnings)
    found = [name for name in NETWORKS if not beginnings or name.startswith(beginnings)]
    return found or sys.exit(f"no network's name begins with {', '.join(beginnings)}")


def read(rows_file: Path) -> dict[str, Entry]:
    """Returns the rows of a file by network, the last of each; a line that was cut off is left out."""
    lines = rows_file.read_text().splitlines(keepends=True) if rows_file.exists() else []
    return {row["network"]: row for row in (json.loads(line) for line in lines if line.endswith("\n"))}


def examine_apart(module: str, name: str, limit: float, memory: float) -> Entry:
    """Returns a network's row from a process of its own, or a row that says that this died or took too long.

    Args:
        module: which command makes the row.
        name: of the network.
        limit: in seconds of processor time, so that other work on the machine changes nothing.
        memory: in GB.
    """

    def set_limits() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
        resource.setrlimit(resource.RLIMIT_AS, (int(memory * 1e9),) * 2)

    command = [sys.executable, "-W", "ignore", "-m", module, "--one", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, preexec_fn=set_limits, check=False)
    complete = done.stdout.rpartition("\n")[0].splitlines()
    row = json.loads(complete[-1]) if complete and complete[-1].startswith("{") else {"network": name}
    if done.returncode == -signal.SIGXCPU:
        return {**row, "failure": f"more than {limit:.0f} s"}
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return {**row, "failure": f"exit code {done.returncode}: {said[-1][:300] if said else ''}"}
    return row


def _examine(name: str) -> Entry:
    from tests.zoo.examination import examine

    return examine(NETWORKS[name]).as_dict()


def table(rows: Sequence[Entry]) -> str:
    """Returns rows as a table in Markdown, and what they come to."""
    lines = [
        "| network | captured | groups | least FLOPs | seconds | difference | costs | own class | trains |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | --- | --- |",
    ]
    for row in rows:
        captured = "yes" if row.get("captured") else short(row.get("failure") or "differs")
        numbers = [
            show(row.get("groups")),
            show(row.get("least")),
            show(row.get("seconds")),
            show(row.get("difference")),
        ]
        thinned = row.get("difference") is not None
        checks = [
            "exact" if row.get("costs") is None else "differ",
            "yes" if row.get("own_class") else "no",
            "yes" if row.get("trains") is None else short(row["trains"]),
        ]
        lines.append(f"| {' | '.join([row['network'], captured, *numbers, *(checks if thinned else ['', '', ''])])} |")
    return "\n".join([*lines, "", summary(rows), ""])


def summary(rows: Sequence[Entry]) -> str:
    """Returns in one sentence what share of the networks came how far."""
    captured = [row for row in rows if row.get("captured")]
    narrow = [row for row in captured if row["least"] <= 0.35]
    wrong = [row for row in rows if row.get("difference") is not None and not row.get("captured")]
    own = [row for row in captured if row["own_class"]]
    trains = [row for row in captured if row["trains"] is None]
    exact = [row for row in captured if row["costs"] is None]
    slow = [row for row in rows if (row.get("seconds") or 0) > 20]
    count = len(rows)
    return (
        f"Of {count} networks {share(captured, count)} were captured and thinned exactly, {share(narrow, count)} "
        f"reach 0.35 of their FLOPs or less by widths alone, {len(wrong)} are wrong; of those captured {len(exact)} "
        f"cost what was predicted, {len(own)} are of their own class, {len(trains)} train; {len(slow)} took more than "
        f"20 s to analyse."
    )


def share(part: Sequence[Entry], count: int) -> str:
    """Returns how many rows these are, and of how many."""
    return f"{len(part)} ({len(part) / max(count, 1):.0%})"


def show(value: float | int | None) -> str:
    """Returns a number as it stands in a table."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.1e}" if 0 < value < 1e-3 else f"{value:.3g}"


def short(text: str, length: int = 110) -> str:
    """Returns a text that fits into a cell."""
    text = text.replace("|", "/")
    return text if len(text) <= length else text[: length - 1] + "…"


if __name__ == "__main__":
    main()

"""Tables and a picture out of the results of `run.py`."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Line = Mapping[str, Any]


def write_report(lines: Sequence[Line], folder: Path) -> None:
    """Writes `tables.md` and `accuracy.png`."""
    parts = [
        ("ResNet-20 from its checkpoint, by method", *_table(_of(lines, "methods", "resnet20"), "method", "sparsity")),
        ("Digits from true initialisation, by method", *_table(_of(lines, "methods", "digits"), "method", "sparsity")),
        ("ResNet-20, number of prunings", *_table(_of(lines, "prunings", "resnet20"), "prunings", "sparsity")),
        ("ResNet-20 at 90 %, steps between AGP's updates", *_table(_of(lines, "frequency", "resnet20"), "frequency")),
    ]
    text = "\n\n".join("\n".join((f"**{title}**", "", *rows)) for title, *rows in parts)
    (folder / "tables.md").write_text(text + "\n")
    print(text)
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    axes = figure.subplots(1, 3)
    _plot(axes[0], _of(lines, "methods", "resnet20"), "method", "ResNet-20 from its checkpoint")
    _plot(axes[1], _of(lines, "methods", "digits"), "method", "digits from true initialisation")
    _plot(axes[2], _of(lines, "prunings", "resnet20"), "prunings", "ResNet-20, pruned in 1, 2, 4, 8 times")
    figure.savefig(folder / "accuracy.png", dpi=110)


def _of(lines: Sequence[Line], part: str, network: str) -> list[Line]:
    return [line for line in lines if line["cell"]["part"] == part and line["cell"]["network"] == network]


def _table(lines: Sequence[Line], row: str, column: str = "sparsity") -> list[str]:
    """Mean test accuracy ± standard deviation over seeds, and how many there are."""
    cells = _grouped(lines, row, column)
    columns = sorted({key[1] for key in cells})
    head = [f"| {row} | " + " | ".join(f"{name:.0%}" for name in columns) + " |", "| --- |" + " ---: |" * len(columns)]
    rows = []
    for name in dict.fromkeys(key[0] for key in sorted(cells, key=lambda key: str(key[0]).rjust(6))):
        rows.append(f"| {name} | " + " | ".join(_shown(cells.get((name, other), [])) for other in columns) + " |")
    return head + rows


def _grouped(lines: Sequence[Line], row: str, column: str) -> dict[tuple[Any, Any], list[float]]:
    found: dict[tuple[Any, Any], list[float]] = defaultdict(list)
    for line in lines:
        found[line["cell"][row], line["cell"][column]].append(100 * line["test"]["accuracy"])
    return found


def _shown(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread} ({len(values)})"


def _plot(axes: Axes, lines: Sequence[Line], by: str, title: str) -> None:
    cells = _grouped(lines, by, "sparsity")
    for name in sorted({key[0] for key in cells}):
        points = sorted((100 * key[1], values) for key, values in cells.items() if key[0] == name)
        means = [statistics.mean(values) for _, values in points]
        spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in points]
        axes.errorbar([x for x, _ in points], means, yerr=spread, marker="o", capsize=3, label=str(name))
    axes.set_xlabel("sparsity (%)")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(title=by, fontsize=8)

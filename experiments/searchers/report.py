"""Tables and a picture out of the results of `run.py`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

Line = Mapping[str, Any]

_TITLES = {
    "half": "ResNet-20, inner groups, half of the FLOPs",
    "third": "ResNet-20, inner groups, 35 % of the FLOPs",
    "all_groups": "ResNet-20, all groups, half of the FLOPs",
    "resnet56": "ResNet-56, inner groups, half of the FLOPs",
}
# Seconds are shown of one part alone: in the others too much else ran beside.
_COLUMNS = {
    "validation loss": ("loss", 1.0, 4),
    "validation": ("best_validation", 100.0, 2),
    "test": ("best_test", 100.0, 2),
    "reconstructed: test": ("refitted_test", 100.0, 2),
    "after one epoch: test": ("tuned_test", 100.0, 2),
    "evaluations": ("evaluations", 1.0, 1),
    "judged": ("trials", 1.0, 0),
    "dropped early": ("stopped", 1.0, 0),
    "seconds": ("seconds", 1.0, 0),
}


def write_report(lines: Sequence[Line], folder: Path) -> None:
    """Writes `tables.md` and `anytime.png`."""
    parts = []
    for part, title in _TITLES.items():
        of = [line for line in lines if line["cell"]["part"] == part]
        if of:
            columns = _COLUMNS if part == "half" else {name: _COLUMNS[name] for name in _COLUMNS if name != "seconds"}
            parts.append("\n".join((f"**{title}**", "", *_table(of, columns))))
    text = "\n\n".join(parts)
    (folder / "tables.md").write_text(text + "\n")
    print(text)
    _picture([line for line in lines if line["cell"]["part"] == "half"], folder / "anytime.png")


def _table(lines: Sequence[Line], columns: Mapping[str, tuple[str, float, int]]) -> list[str]:
    """A row for each searcher: means over seeds ± standard deviation, the least mean loss first."""
    searchers = {line["cell"]["searcher"] for line in lines}
    rows = {name: [line for line in lines if line["cell"]["searcher"] == name] for name in searchers}
    order = sorted(rows, key=lambda name: statistics.mean(line["loss"] for line in rows[name]))
    head = ["| searcher | seeds | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * (len(columns) + 1)]
    return head + [
        f"| {name} | {len(rows[name])} | "
        + " | ".join(
            _shown([line[key] * scale for line in rows[name]], digits) for key, scale, digits in columns.values()
        )
        + " |"
        for name in order
    ]


def _shown(values: Sequence[float], digits: int) -> str:
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 and digits > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def _picture(lines: Sequence[Line], path: Path) -> None:
    """The best validation loss so far against what was spent: each seed thin, their mean bold.

    What ends early is dotted from there on. Losses above the mean of uniform's are cut off.
    """
    figure = Figure(figsize=(8.5, 5.2), layout="constrained")
    axes = figure.subplots()
    most = max(line["evaluations"] for line in lines)
    for number, name in enumerate(sorted({line["cell"]["searcher"] for line in lines})):
        of = [line for line in lines if line["cell"]["searcher"] == name]
        curves, until = [line["anytime"] for line in of], max(line["evaluations"] for line in of)
        colour, begun = f"C{number}", max(curve[0][0] for curve in curves)
        for curve in curves:
            xs, ys = zip(*[*curve, [until, curve[-1][1]]], strict=True)
            axes.step(xs, ys, where="post", color=colour, linewidth=0.6, alpha=0.5)
        grid = sorted({begun, *(x for curve in curves for x, _ in curve if x > begun), until})
        means = [statistics.mean(_at(curve, x) for curve in curves) for x in grid]
        axes.step(grid, means, where="post", color=colour, linewidth=2, label=name)
        if until < most / 2:
            axes.plot([until, most], [means[-1]] * 2, ":", color=colour, linewidth=1.5)
    losses = [line["loss"] for line in lines]
    uniform = [line["loss"] for line in lines if line["cell"]["searcher"] == "uniform"] or losses
    axes.set_ylim(0.98 * min(losses), 1.03 * statistics.mean(uniform))
    axes.set_xlabel("evaluations (samples × multiply-adds, in judgements of the dense network; the sweep counted in)")
    axes.set_ylabel("best validation loss so far")
    axes.grid(alpha=0.3)
    axes.legend(title="searcher", fontsize=8, loc="upper right", bbox_to_anchor=(1.0, 0.93))
    figure.savefig(path, dpi=120)


def _at(curve: Sequence[Sequence[float]], spent: float) -> float:
    """The best value at a cost, after the first trial."""
    return [value for cost, value in curve if cost <= spent][-1]

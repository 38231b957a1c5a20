"""A table of results, one of the rounds, and a picture, out of the results of `run.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.figure import Figure

from experiments.cells import Line


def write_report(lines: Sequence[Line], folder: Path) -> None:
    """Writes `tables.md` and `rounds.png`."""
    ordered = sorted(lines, key=lambda line: (-line["cell"]["flops"], -line["trained"]["validation"]))
    text = "\n".join((*_results(ordered), "", *_rounds([line for line in ordered if len(line["rounds"]) > 1])))
    (folder / "tables.md").write_text(text + "\n")
    print(text)
    _picture(ordered, folder / "rounds.png")


def _results(lines: Sequence[Line]) -> list[str]:
    headings = [
        "budget",
        "searcher",
        "FLOPs kept",
        "parameters",
        "untrained: test",
        "trained: validation",
        "trained: test",
    ]
    headings += ["after another epoch: test", "evaluations", "seconds"]
    rows = [f"| {' | '.join(headings)} |", "| ---: | --- |" + " ---: |" * (len(headings) - 2)]
    for line in lines:
        trained, untrained = line["trained"], line["untrained"]
        cells = [
            f"{100 * line['cell']['flops']:.0f} %",
            line["cell"]["searcher"],
            f"{_kept(line, trained):.2f} %",
            f"{trained['params']:,}",
            f"{100 * untrained['test']:.2f}" if untrained else "",
            f"{100 * trained['validation']:.2f}",
            f"{100 * trained['test']:.2f}",
            f"{100 * line['after_epoch']['test']:.2f}",
            f"{line['evaluations']:.0f}",
            f"{line['seconds']}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _rounds(lines: Sequence[Line]) -> list[str]:
    """Validation accuracy and FLOPs kept after each round."""
    rows = ["| budget | searcher | after each round: FLOPs kept, validation accuracy (%) |", "| ---: | --- | --- |"]
    for line in lines:
        rounds = "; ".join(f"{_kept(line, each):.1f}: {100 * each['accuracy']:.2f}" for each in line["rounds"])
        rows.append(f"| {100 * line['cell']['flops']:.0f} % | {line['cell']['searcher']} | {rounds} |")
    return rows


def _kept(line: Line, network: Mapping[str, float]) -> float:
    return 100 * network["flops"] / float(line["dense"]["flops"])


def _picture(lines: Sequence[Line], path: Path) -> None:
    """Accuracy against FLOPs, round by round; what was trained at the end alone are points."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    colours = {name: f"C{i}" for i, name in enumerate(sorted({line["cell"]["searcher"] for line in lines}))}
    for axes, (budget, of) in zip(panels, groupby(lines, key=lambda line: line["cell"]["flops"]), strict=False):
        for line in of:
            name, trained = line["cell"]["searcher"], line["trained"]
            end = (_kept(line, trained), 100 * trained["validation"])
            if len(line["rounds"]) > 1:
                xs = [100.0, *(_kept(line, each) for each in line["rounds"])]
                ys = [100 * line["dense"]["accuracy"], *(100 * each["accuracy"] for each in line["rounds"])]
                axes.plot(xs, ys, ".-", color=colours[name], label=f"{name}, after each round")
            else:
                axes.plot(*end, "D", color=colours[name], label=f"{name}, trained at the end for as many steps")
        axes.axvline(100 * budget, color="grey", linewidth=0.8)
        axes.set_title(f"ResNet-20 to {100 * budget:.0f} % of its FLOPs")
        axes.set_xlabel("FLOPs kept (%)")
        axes.invert_xaxis()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    panels[0].set_ylabel("validation accuracy (%)")
    figure.savefig(path, dpi=120)

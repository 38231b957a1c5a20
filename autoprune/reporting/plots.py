"""Pictures of a run: sensitivity curves, and what its trials reached at what cost."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.core.budget import COST_KINDS, EFFECTIVE_KINDS
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.core.trial import Trial
from autoprune.files import write_whole
from autoprune.reporting.results import Result, cost_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"dense": "black", "uniform": "tab:orange", "best": "tab:red"}
_MARKERS = {"dense": "s", "uniform": "D", "best": "*"}


def plot_sensitivity(curves: SensitivityCurves, path: Path) -> None:
    """Loss and accuracy of every group against the fraction of it that is kept."""
    figure = _figure(13, max(5.0, 0.24 * len(curves.levels)))
    loss, accuracy = figure.subplots(1, 2)
    colours = _palette(len(curves.levels))
    for (group, levels), colour in zip(curves.levels.items(), colours, strict=True):
        points = sorted({**levels, curves.widths[group]: curves.dense}.items())
        kept = [width / curves.widths[group] for width, _ in points]
        style = {"color": colour, "marker": ".", "linewidth": 1.2, "label": group}
        loss.plot(kept, [score.loss for _, score in points], **style)
        accuracy.plot(kept, [100 * score.accuracy for _, score in points], **style)
    _label(loss, "kept fraction of the group", "validation loss")
    _label(accuracy, "kept fraction of the group", "validation accuracy (%)")
    if all(score.loss > 0 for levels in curves.levels.values() for score in levels.values()):
        _log_scale(loss)
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=7, title="group")
    figure.suptitle(f"Sensitivity: one group pruned, the others dense ({curves.dense.samples} samples)")
    _write(figure, path)


def plot_frontier(
    trials: Sequence[Trial],
    frontier: Sequence[Trial],
    results: Sequence[Result],
    limits: Mapping[str, int],
    path: Path,
) -> None:
    """Accuracy against FLOPs, parameters and any other limited cost, and the best loss so far.

    Marked are dense, uniform and best, and the trials of the frontier; a line joins them where one cost alone is
    limited, for elsewhere they are no curve.
    """
    kinds = [kind for kind in COST_KINDS if kind in (*EFFECTIVE_KINDS, *limits)]
    figure = _figure(5.0 * (len(kinds) + 1), 4.8)
    *panels, anytime = figure.subplots(1, len(kinds) + 1)
    dense = next(result for result in results if result.name == "dense")
    for axes, kind in zip(panels, kinds, strict=True):
        _plot_cost(axes, kind, trials, results, dense)
        _plot_non_dominated(axes, kind, frontier, dense, joined=list(limits) == [kind])
        if kind in limits:
            axes.axvline(100 * limits[kind] / dense.costs[kind], color="grey", linestyle=":", label="limit")
        _label(axes, f"{cost_name(kind, dense.effective)} kept (%)", "validation accuracy (%)")
    panels[0].legend(fontsize=8)
    _plot_anytime(anytime, trials, results)
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_whole(path, content.getbuffer())


def _plot_cost(axes: Axes, kind: str, trials: Sequence[Trial], results: Sequence[Result], dense: Result) -> None:
    axes.scatter(*_kept_and_accuracy(kind, trials, dense), s=14, alpha=0.4, color="tab:blue", label="trials")
    for result in results:
        axes.scatter(
            [100 * result.costs[kind] / dense.costs[kind]],
            [100 * result.validation.accuracy],
            s=120 if result.name == "best" else 50,
            color=_COLOURS[result.name],
            marker=_MARKERS[result.name],
            label=result.name,
            zorder=4,
        )


def _plot_non_dominated(axes: Axes, kind: str, frontier: Sequence[Trial], dense: Result, joined: bool) -> None:
    kept, accuracy = _kept_and_accuracy(kind, frontier, dense)
    axes.scatter(kept, accuracy, s=36, color="tab:green", edgecolor="black", linewidth=0.6, label="frontier", zorder=3)
    if joined:
        order = sorted(range(len(kept)), key=kept.__getitem__)
        axes.plot([kept[i] for i in order], [accuracy[i] for i in order], color="tab:green", linewidth=1, zorder=2)


def _kept_and_accuracy(kind: str, trials: Sequence[Trial], dense: Result) -> tuple[list[float], list[float]]:
    """Per cent of a cost that is kept, and of samples that are right, of the trials that have a score."""
    scored = [(100 * trial.costs[kind] / dense.costs[kind], trial.score) for trial in trials if trial.score]
    return [kept for kept, _ in scored], [100 * score.accuracy for _, score in scored]


def _plot_anytime(axes: Axes, trials: Sequence[Trial], results: Sequence[Result]) -> None:
    losses = [trial.score.loss if trial.score else float("inf") for trial in sorted(trials, key=lambda t: t.number)]
    finite = [(i, loss) for i, loss in enumerate(losses) if loss < float("inf")]
    axes.scatter([i for i, _ in finite], [loss for _, loss in finite], s=14, alpha=0.5, label="trials")
    best = [min(losses[: i + 1]) for i, _ in finite]
    axes.step([i for i, _ in finite], best, where="post", color=_COLOURS["best"], label="best so far")
    for result in results:
        if result.name != "best":
            axes.axhline(result.validation.loss, color=_COLOURS[result.name], linestyle="--", label=result.name)
    if all(loss > 0 for _, loss in finite):
        _log_scale(axes)
    _label(axes, "trial", "validation loss")
    axes.legend(fontsize=8)


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)


def _log_scale(axes: Axes) -> None:
    """A logarithmic axis whose ticks read 0.5, 1, 2."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _palette(count: int) -> list[tuple[float, float, float, float]]:
    from matplotlib import colormaps

    return [colormaps["turbo"](0.05 + 0.9 * i / max(count - 1, 1)) for i in range(count)]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # takes half a second to import

    return Figure(figsize=(width, height), layout="constrained")

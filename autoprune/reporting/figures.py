"""The figures of a report, one panel each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

from autoprune.core.trial import Score, Trial, value
from autoprune.reporting.comparison import frontier_of
from autoprune.reporting.drawing import LIGHT, SERIES, label, log_scale, panel, styled
from autoprune.reporting.record import RunRecord, best_so_far
from autoprune.reporting.results import cost_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

_Style: TypeAlias = dict[str, Any]
_OBJECTIVES = {"loss": "validation loss", "accuracy": "validation error", "kl": "divergence from dense"}
_DRAWN_AS_POINTS = 3000
"""More trials than these are drawn as a picture, which keeps the page small."""
_NAMED = 8
_APART = 4.0
"""Of the axes: how many numbers fit above, and how many per cent of the cost apart side by side."""


def cost_figure(record: RunRecord, kind: str) -> Figure | None:
    """Accuracy against the share of a cost that is kept, with dense, uniform, best and the frontier."""
    if record.dense is None or not any(trial.score for trial in record.trials):
        return None
    dense = record.dense.costs[kind]
    with styled():
        figure, axes = panel()
        kept, accuracy = _points(record.trials, kind, dense)
        many = len(kept) > _DRAWN_AS_POINTS
        axes.scatter(kept, accuracy, s=14, alpha=0.55, color=LIGHT["trial"], label="trials", rasterized=many)
        _draw_frontier(axes, record, kind, dense)
        if kind in record.limits:
            axes.axvline(100 * record.limits[kind] / dense, color=LIGHT["limit"], linestyle=":", label="limit")
        _draw_networks(axes, record, kind, dense)
        label(axes, f"{cost_name(kind, record.effective)} kept (%)", "validation accuracy (%)")
        _legend(figure)
    return figure


def _legend(figure: Figure, columns: int = 6) -> None:
    """Above the axes, where it hides nothing."""
    figure.legend(loc="outside upper left", ncols=columns, handlelength=1.5, columnspacing=1.2)


def _draw_frontier(axes: Axes, record: RunRecord, kind: str, dense: int) -> None:
    trials = frontier_of(record)
    kept, accuracy = _points(trials, kind, dense)
    style: _Style = {
        "linewidth": 1.2 if _alone(record, kind) else 0,
        "marker": "o",
        "markersize": 5,
        "color": LIGHT["frontier"],
    }
    axes.plot(kept, accuracy, **style, label="frontier", zorder=3)
    written: _Style = {"textcoords": "offset points", "fontsize": 8, "color": LIGHT["muted"]}
    for trial, x, y in _apart(list(zip(trials, kept, accuracy, strict=True))):
        axes.annotate(str(trial.number), (x, y), (6, -9), **written)


def _alone(record: RunRecord, kind: str) -> bool:
    """Whether the frontier is a curve: only one cost is limited, and it is this one."""
    return list(record.limits or ("flops",)) == [kind]


def _apart(points: list[tuple[Trial, float, float]]) -> list[tuple[Trial, float, float]]:
    """Points whose numbers can stand beside them without touching; the most accurate first, per cent on both axes."""
    chosen: list[tuple[Trial, float, float]] = []
    height = max((y for _, _, y in points), default=0) - min((y for _, _, y in points), default=0)
    for point in sorted(points, key=lambda each: -each[2]):
        if all(abs(point[1] - x) > _APART or abs(point[2] - y) > height / _NAMED for _, x, y in chosen):
            chosen.append(point)
    return chosen


def _draw_networks(axes: Axes, record: RunRecord, kind: str, dense: int) -> None:
    """The rows of the final table; before it stands, the dense network and the best so far."""
    rows = [(result.name, result.costs[kind], result.validation) for result in record.results]
    if not rows and record.dense is not None:
        rows = [("dense", dense, record.dense.validation)]
        if record.best is not None and record.best.score is not None:
            rows.append(("best", record.best.costs[kind], record.best.score))
    markers = {"dense": ("s", 44, "dense"), "uniform": ("D", 44, "uniform"), "best": ("*", 170, "best")}
    for name, cost, score in rows:
        marker, size, text = markers[name]
        text = text if name != "best" or record.results else "best so far"
        style: _Style = {"marker": marker, "s": size, "color": LIGHT[name], "label": text, "zorder": 4}
        axes.scatter([100 * cost / dense], [100 * score.accuracy], **style)


def _points(trials: Sequence[Trial], kind: str, dense: int) -> tuple[list[float], list[float]]:
    """Per cent of the cost that is kept and of samples that are right, of the trials that have a score."""
    scored = [(100 * trial.costs[kind] / dense, trial.score) for trial in trials if trial.score]
    return [kept for kept, _ in scored], [100 * score.accuracy for _, score in scored]


def anytime_figure(records: Sequence[RunRecord], against: str) -> Figure | None:
    """The best objective so far against the number of trials, or against `evaluations`, the work that was done.

    One run's other trials are drawn too, and its dense and uniform network as lines.
    """
    drawn = [record for record in records if record.best and (against == "trials" or record.evaluations is not None)]
    if not drawn:
        return None
    with styled():
        figure, axes = panel()
        lowest = [_draw_anytime(axes, record, against, _colour(records, record)) for record in drawn]
        if len(records) == 1:
            _draw_levels(axes, records[0])
        if min(lowest) > 0:
            log_scale(axes)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(_whole_numbers())
        label(axes, against if against == "trials" else "evaluations (dense judgements)", _objective_label(drawn))
        _legend(figure, 6 if len(records) == 1 else 2)
    return figure


def _whole_numbers() -> Locator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(8, integer=True)


def _draw_anytime(axes: Axes, record: RunRecord, against: str, colour: str) -> float:
    """Draws one run; the least value that is drawn."""
    places = _places(record, against)
    best = [
        (place, value(trial.score, record.objective))
        for place, trial in zip(places, best_so_far(record.trials, record.objective), strict=True)
        if trial is not None and trial.score is not None
    ]
    own = [
        (place, value(t.score, record.objective))
        for place, t in zip(places, record.trials, strict=True)
        if t.score is not None and t.candidate.role == "final"
    ]
    alone = colour == LIGHT["best"]
    if alone:
        style: _Style = {"s": 12, "alpha": 0.5, "color": LIGHT["trial"], "label": "trials"}
        axes.scatter([x for x, _ in own], [y for _, y in own], **style, rasterized=len(own) > _DRAWN_AS_POINTS)
    name = "best so far" if alone else record.name
    axes.step([x for x, _ in best], [y for _, y in best], where="post", color=colour, linewidth=1.8, label=name)
    return min(y for _, y in [*best, *own])


def _draw_levels(axes: Axes, record: RunRecord) -> None:
    for result in record.results or ((record.dense,) if record.dense else ()):
        if result.name != "best" and (result.validation.kl is not None or record.objective != "kl"):
            style: _Style = {"color": LIGHT[result.name], "linestyle": "--", "linewidth": 1.1, "label": result.name}
            axes.axhline(value(result.validation, record.objective), **style)


def _places(record: RunRecord, against: str) -> list[float]:
    """Where each trial stands on the axis: how many were told until then, or what had been done."""
    if against == "trials":
        return [float(count) for count in range(1, len(record.trials) + 1)]
    before = record.unit + record.swept
    return [work / record.unit for work in accumulate((t.work for t in record.trials), initial=before)][1:]


def _objective_label(records: Sequence[RunRecord]) -> str:
    names = {_OBJECTIVES[record.objective] for record in records}
    return names.pop() if len(names) == 1 else "objective"


def widths_figure(record: RunRecord) -> Figure | None:
    """The best one's kept width of each group beside the dense one, the first group on top."""
    if record.best is None or not record.groups:
        return None
    kept = record.best.candidate.allocation
    names = [name for name in record.groups if name in kept]
    with styled():
        figure, axes = panel(7.2, 1.1 + 0.27 * len(names))
        places = list(range(len(names)))
        axes.barh(places, [record.groups[name] for name in names], color=LIGHT["whole"], height=0.72, label="dense")
        axes.barh(places, [kept[name] for name in names], color=LIGHT["trial"], height=0.72, label="kept")
        for place, name in zip(places, names, strict=True):
            text = f"{kept[name]} of {record.groups[name]}"
            style: _Style = {"va": "center", "fontsize": 8, "textcoords": "offset points", "color": LIGHT["muted"]}
            axes.annotate(text, (record.groups[name], place), (4, 0), **style)
        axes.set_yticks(places, names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, 1.14 * max(record.groups[name] for name in names))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("width")
        _legend(figure)
    return figure


def sensitivity_figure(record: RunRecord, name: str) -> Figure | None:
    """Loss or accuracy of every group against its kept share, the others dense."""
    curves = record.curves
    if curves is None:
        return None
    read: Callable[[Score], float] = (lambda s: s.loss) if name == "loss" else (lambda s: 100 * s.accuracy)
    with styled():
        figure, axes = panel(_SENSITIVITY_WIDTH, max(3.9, 0.9 + 0.17 * len(curves.levels)))
        for i, (group, levels) in enumerate(curves.levels.items()):
            points = sorted({**levels, curves.widths[group]: curves.dense}.items())
            kept = [100 * width / curves.widths[group] for width, _ in points]
            style: _Style = {"marker": ".", "linewidth": 1.3, "color": _shade(i, len(curves.levels)), "label": group}
            axes.plot(kept, [read(score) for _, score in points], **style)
        if name == "loss" and all(score.loss > 0 for levels in curves.levels.values() for score in levels.values()):
            log_scale(axes)
        label(axes, "kept of the group (%)", f"validation {name}" + ("" if name == "loss" else " (%)"))
        figure.legend(loc="outside right upper")
    return figure


_SENSITIVITY_WIDTH = 7.6


def _shade(i: int, count: int) -> str:
    """One of `count` colours that read on light and on dark: of a few distinct ones, of more along a scale."""
    if count <= len(SERIES):
        return SERIES[i]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return str(to_hex(colormaps["turbo"](0.08 + 0.84 * i / max(count - 1, 1))))


def frontiers_figure(records: Sequence[RunRecord], kind: str) -> Figure | None:
    """The frontier of each of several runs, and its best."""
    drawn = [record for record in records if record.dense is not None and record.best is not None]
    if not drawn:
        return None
    with styled():
        figure, axes = panel()
        for record in drawn:
            assert record.dense is not None
            assert record.best is not None
            dense, colour = record.dense.costs[kind], _colour(records, record)
            kept, accuracy = _points(frontier_of(record), kind, dense)
            width = 1 if _alone(record, kind) else 0
            axes.plot(kept, accuracy, marker="o", markersize=4, linewidth=width, color=colour, label=record.name)
            kept, accuracy = _points([record.best], kind, dense)
            axes.scatter(kept, accuracy, marker="*", s=150, color=colour, zorder=4)
        label(axes, f"{cost_name(kind, drawn[0].effective)} kept (%)", "validation accuracy (%)")
        _legend(figure, 2)
    return figure


def _colour(records: Sequence[RunRecord], record: RunRecord) -> str:
    return LIGHT["best"] if len(records) == 1 else SERIES[list(records).index(record) % len(SERIES)]

"""The figures of runs: `_draw_…` fills a pair of axes; `…_figure` is a whole figure, or None where nothing is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

from autoprune.core.budget import COST_KINDS, EFFECTIVE_KINDS, CostKind
from autoprune.core.metrics import KL, LOSS, MetricInfo
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.core.trial import Score, Trial
from autoprune.reporting.comparison import frontier_of
from autoprune.reporting.drawing import LIGHT, SERIES, legend, log_scale, name_text, panels, shade
from autoprune.reporting.record import RunRecord, best_so_far
from autoprune.reporting.results import cost_name, heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Style: TypeAlias = dict[str, Any]
Figures: TypeAlias = Mapping[str, tuple["Figure", str]]
"""By name of the file: a figure and what it shows."""
_DRAWN_AS_POINTS = 3000
"""More trials than these are drawn as a picture, which keeps the page small."""
_NAMED = 8
_APART = 4.0
"""Of the axes: how many numbers fit above, and how many per cent of the cost apart side by side."""


def figures_of(records: Sequence[RunRecord]) -> Figures:
    """Returns what can be drawn of the runs, in the order of a page about them."""
    work = "The best so far against all work that was done, the sweep and trials dropped early included."
    drawn = {
        "best-trials": (anytime_figure(records, "trials"), "The best so far after each trial."),
        "best-evaluations": (anytime_figure(records, "evaluations"), work),
    }
    if len(records) > 1:
        for kind in EFFECTIVE_KINDS:
            name = cost_name(kind, records[0].effective)
            text = f"The frontier of each run in {heading(records[0].primary)} and {name}; a star is its best."
            drawn[f"frontiers-{kind}"] = frontiers_figure(records, kind), text
    else:
        record = records[0]
        for kind in _drawn_costs(record):
            name = heading(record.primary)
            text = f"Validation {name} of every trial against the {cost_name(kind, record.effective)} that it keeps."
            drawn[f"cost-{kind}"] = cost_figure(record, kind), f"{text} Numbers name trials of the frontier."
        text = "Channels or weights that each group keeps in the best one, beside the dense network."
        drawn["widths"] = widths_figure(record), text
        for metric in dict.fromkeys((LOSS, *record.metrics)):
            text = f"Validation {heading(metric)} with one group pruned and all others dense."
            drawn[f"sensitivity-{metric.name}"] = (
                sensitivity_figure(record.curves, metric) if record.curves else None,
                text,
            )
    return {name: (found, caption) for name, (found, caption) in drawn.items() if found is not None}


def _drawn_costs(record: RunRecord) -> list[CostKind]:
    """Returns the kinds of cost that are drawn of a run: FLOPs, parameters, and what else is limited."""
    return [kind for kind in COST_KINDS if kind in (*EFFECTIVE_KINDS, *record.limits)]


def overview_figure(record: RunRecord) -> Figure | None:
    """Draws the primary metric against each cost, and the best so far: one picture of a run."""
    kinds = _drawn_costs(record)
    if not _has_scores(record):
        return None
    with panels(1 + len(kinds)) as (figure, (*costs, anytime)):
        for axes, kind in zip(costs, kinds, strict=True):
            _draw_cost(axes, record, kind)
        _draw_anytime(anytime, [record], "trials")
        legend(figure, 8)
    return figure


def cost_figure(record: RunRecord, kind: str) -> Figure | None:
    """Draws the primary metric against the share of a cost that is kept, with dense, uniform, best and the frontier."""
    if not _has_scores(record):
        return None
    with panels() as (figure, (axes,)):
        _draw_cost(axes, record, kind)
        legend(figure)
    return figure


def _has_scores(record: RunRecord) -> bool:
    return record.dense is not None and any(trial.score for trial in record.trials)


def _draw_cost(axes: Axes, record: RunRecord, kind: str) -> None:
    """Draws every trial, the frontier, the limit, and the networks of the final table."""
    assert record.dense is not None  # the caller looked
    dense = record.dense.costs[kind]
    kept, values = _points(record, record.trials, kind)
    many = len(kept) > _DRAWN_AS_POINTS
    axes.scatter(kept, values, s=14, alpha=0.55, color=LIGHT["trial"], label="trials", rasterized=many)
    _draw_frontier(axes, record, kind)
    if kind in record.limits:
        axes.axvline(100 * record.limits[kind] / dense, color=LIGHT["limit"], linestyle=":", label="limit")
    _draw_networks(axes, record, kind, dense)
    axes.set(xlabel=f"{cost_name(kind, record.effective)} kept (%)", ylabel=f"validation {record.primary.label}")


def _draw_frontier(axes: Axes, record: RunRecord, kind: str) -> None:
    trials = frontier_of(record)
    kept, values = _points(record, trials, kind)
    line: _Style = {"linewidth": 1.2 if _alone(record, kind) else 0, "color": LIGHT["frontier"]}
    axes.plot(kept, values, marker="o", markersize=5, label="frontier", zorder=3, **line)
    written: _Style = {"textcoords": "offset points", "fontsize": 8, "color": LIGHT["muted"]}
    for trial, x, y in _apart(list(zip(trials, kept, values, strict=True)), record.primary):
        axes.annotate(str(trial.number), (x, y), (6, -9), **written)


def _alone(record: RunRecord, kind: str) -> bool:
    """Whether the frontier is a curve: only one cost is limited, and it is this one."""
    return list(record.limits or ("flops",)) == [kind]


def _apart(points: list[tuple[Trial, float, float]], metric: MetricInfo) -> list[tuple[Trial, float, float]]:
    """Returns points whose numbers do not touch when written beside them, the best values first."""
    upwards = -1 if metric.direction == "maximize" else 1
    chosen: list[tuple[Trial, float, float]] = []
    height = max((y for _, _, y in points), default=0) - min((y for _, _, y in points), default=0)
    for point in sorted(points, key=lambda each: upwards * each[2]):
        if all(abs(point[1] - x) > _APART or abs(point[2] - y) > height / _NAMED for _, x, y in chosen):
            chosen.append(point)
    return chosen


def _draw_networks(axes: Axes, record: RunRecord, kind: str, dense: int) -> None:
    """Draws the rows of the final table; before it stands, the dense network and the best so far."""
    rows = [(result.name, result.costs[kind], result.validation) for result in record.results]
    if not rows and record.dense is not None:
        rows = [("dense", dense, record.dense.validation)]
        if record.best is not None and record.best.score is not None:
            rows.append(("best", record.best.costs[kind], record.best.score))
    markers = {"dense": ("s", 44), "uniform": ("D", 44), "best": ("*", 170)}
    for name, cost, score in rows:
        marker, size = markers[name]
        text = name if name != "best" or record.results else "best so far"
        style: _Style = {"marker": marker, "s": size, "color": LIGHT[name], "label": text, "zorder": 4}
        axes.scatter([100 * cost / dense], [_shown(record, score)], **style)


def _points(record: RunRecord, trials: Sequence[Trial], kind: str) -> tuple[list[float], list[float]]:
    """Returns per cent of the cost that is kept and the primary metric, of the trials that have a score."""
    assert record.dense is not None  # the caller looked
    scored = [(100 * trial.costs[kind] / record.dense.costs[kind], trial.score) for trial in trials if trial.score]
    return [kept for kept, _ in scored], [_shown(record, score) for _, score in scored]


def _shown(record: RunRecord, score: Score, metric: MetricInfo | None = None) -> float:
    """Returns the primary metric of a score, or another, as it is drawn; not a number where it was not measured."""
    metric = metric or record.primary
    found = score.get(metric.name)
    return math.nan if found is None else metric.drawn(found)


def anytime_figure(records: Sequence[RunRecord], against: str) -> Figure | None:
    """Draws the best objective so far against the number of trials, or against `evaluations`, the work that was done.

    One run's other trials are drawn too, and its dense and uniform network as lines.
    """
    if not _with_scores(records, against):
        return None
    with panels() as (figure, (axes,)):
        _draw_anytime(axes, records, against)
        legend(figure, 6 if len(records) == 1 else 2)
    return figure


def _with_scores(records: Sequence[RunRecord], against: str) -> list[RunRecord]:
    return [record for record in records if record.best and (against == "trials" or record.evaluations is not None)]


def _draw_anytime(axes: Axes, records: Sequence[RunRecord], against: str) -> None:
    """Draws the best objective so far of each run."""
    from matplotlib.ticker import MaxNLocator

    drawn = _with_scores(records, against)
    lowest = [_draw_best_so_far(axes, record, against, _colour(records, record)) for record in drawn]
    if len(records) == 1:
        _draw_levels(axes, records[0])
    if min(lowest) > 0:
        log_scale(axes)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    names = {f"validation {record.objective.label}" for record in drawn}
    axes.set_xlabel(against if against == "trials" else "evaluations (of the dense network)")
    axes.set_ylabel(names.pop() if len(names) == 1 else "objective")


def _draw_best_so_far(axes: Axes, record: RunRecord, against: str, colour: str) -> float:
    """Draws one run; returns the least value that is drawn."""
    places = _positions(record, against)
    best = [
        (place, _shown(record, trial.score, record.objective))
        for place, trial in zip(places, best_so_far(record.trials, record.objective), strict=True)
        if trial is not None and trial.score is not None
    ]
    own = [
        (place, _shown(record, t.score, record.objective))
        for place, t in zip(places, record.trials, strict=True)
        if t.score is not None and t.candidate.role == "final"
    ]
    alone = colour == LIGHT["best"]
    if alone:
        style: _Style = {"s": 12, "alpha": 0.5, "color": LIGHT["trial"], "label": "trials"}
        axes.scatter([x for x, _ in own], [y for _, y in own], **style, rasterized=len(own) > _DRAWN_AS_POINTS)
    name = "best so far" if alone else name_text(record.name)
    axes.step([x for x, _ in best], [y for _, y in best], where="post", color=colour, linewidth=1.8, label=name)
    return min(y for _, y in [*best, *own])


def _draw_levels(axes: Axes, record: RunRecord) -> None:
    for result in record.results or ((record.dense,) if record.dense else ()):
        if result.name != "best" and (result.validation.kl is not None or record.objective != KL):
            style: _Style = {"color": LIGHT[result.name], "linestyle": "--", "linewidth": 1.1, "label": result.name}
            axes.axhline(_shown(record, result.validation, record.objective), **style)


def _positions(record: RunRecord, against: str) -> list[float]:
    """Returns where each trial stands on the axis: how many were told until then, or what had been done."""
    if against == "trials":
        return [float(count) for count in range(1, len(record.trials) + 1)]
    before = record.unit + record.swept
    return [work / record.unit for work in accumulate((t.work for t in record.trials), initial=before)][1:]


def widths_figure(record: RunRecord) -> Figure | None:
    """Draws the best one's kept width of each group beside the dense one, the first group on top."""
    if record.best is None or not record.groups:
        return None
    kept = record.best.candidate.allocation
    names = [name for name in record.groups if name in kept]
    with panels(1, 7.2, 1.1 + 0.27 * len(names)) as (figure, (axes,)):
        places = list(range(len(names)))
        axes.barh(places, [record.groups[name] for name in names], color=LIGHT["whole"], height=0.72, label="dense")
        axes.barh(places, [kept[name] for name in names], color=LIGHT["trial"], height=0.72, label="kept")
        for place, name in zip(places, names, strict=True):
            text = f"{kept[name]} of {record.groups[name]}"
            style: _Style = {"va": "center", "fontsize": 8, "textcoords": "offset points", "color": LIGHT["muted"]}
            axes.annotate(text, (record.groups[name], place), (4, 0), **style)
        axes.set_yticks(places, [name_text(name) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(0, 1.14 * max(record.groups[name] for name in names))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("width")
        legend(figure)
    return figure


def sensitivity_figure(curves: SensitivityCurves, *metrics: MetricInfo) -> Figure:
    """Draws the loss or metrics of every group against its kept share, the others dense."""
    height = max(3.9, 0.9 + 0.17 * len(curves.levels))
    with panels(len(metrics), 5.2 * len(metrics) + 2.4, height) as (figure, every):
        for axes, metric in zip(every, metrics, strict=True):
            _draw_sensitivity(axes, curves, metric)
        legend(figure, side=True)
    return figure


def _draw_sensitivity(axes: Axes, curves: SensitivityCurves, metric: MetricInfo) -> None:
    def read(score: Score) -> float:
        found = score.get(metric.name)
        return math.nan if found is None else metric.drawn(found)

    for i, (group, levels) in enumerate(curves.levels.items()):
        points = sorted({**levels, curves.widths[group]: curves.dense}.items())
        kept = [100 * width / curves.widths[group] for width, _ in points]
        style: _Style = {"marker": ".", "linewidth": 1.3, "color": shade(i, len(curves.levels))}
        axes.plot(kept, [read(score) for _, score in points], label=name_text(group), **style)
    if metric == LOSS and all(score.loss > 0 for levels in curves.levels.values() for score in levels.values()):
        log_scale(axes)
    axes.set(xlabel="kept of the group (%)", ylabel=f"validation {metric.label}")


def frontiers_figure(records: Sequence[RunRecord], kind: str) -> Figure | None:
    """Draws the frontier of each of several runs, and its best."""
    drawn = [record for record in records if record.dense is not None and record.best is not None]
    if not drawn:
        return None
    with panels() as (figure, (axes,)):
        for record in drawn:
            assert record.dense is not None
            assert record.best is not None
            colour = _colour(records, record)
            line: _Style = {"color": colour, "marker": "o", "markersize": 4, "linewidth": int(_alone(record, kind))}
            axes.plot(*_points(record, frontier_of(record), kind), label=name_text(record.name), **line)
            axes.scatter(*_points(record, [record.best], kind), marker="*", s=150, color=colour, zorder=4)
        axes.set(
            xlabel=f"{cost_name(kind, drawn[0].effective)} kept (%)", ylabel=f"validation {drawn[0].primary.label}"
        )
        legend(figure, 2)
    return figure


def _colour(records: Sequence[RunRecord], record: RunRecord) -> str:
    return LIGHT["best"] if len(records) == 1 else SERIES[list(records).index(record) % len(SERIES)]

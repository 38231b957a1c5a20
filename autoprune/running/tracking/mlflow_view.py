"""A view of runs in MLflow's user interface, prepared for its reader.

The interface keeps a shared view as a tag of the experiment, which its address names. The format is not documented: it
is what the interface of MLflow 3.17 writes itself. One that does not understand it shows its own table instead.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoprune.core.trial import Objective

_TAG = "mlflow.sharedViewState."
_MOST_GROUPS = 24
"""Axes of the parallel coordinates: more cannot be read."""


@dataclass(frozen=True)
class View:
    """What is shown.

    Attributes:
        run: key of the search that is shown alone; None shows all.
        groups: whose kept widths are compared.
    """

    objective: Objective
    groups: Sequence[str]
    run: str | None = None

    @property
    def key(self) -> str:
        return f"autoprune-{self.run or 'all'}"

    def tag(self) -> tuple[str, str]:
        """The experiment's tag that holds the view."""
        state = json.dumps(self.state(), separators=(",", ":")).encode()
        now = int(time.time() * 1000)
        packed = "deflate;" + base64.b64encode(zlib.compress(state)).decode()
        return _TAG + self.key, json.dumps({"name": "autoprune", "createdAt": now, "updatedAt": now, "state": packed})

    def address(self, root: str, experiment: str, charts: bool) -> str:
        """Where an interface at `root` shows it: as a table, or as charts."""
        mode = "CHART" if charts else "TABLE"
        # No filter and no order here: the interface leaves a shared view alone where its address names any.
        path = f"/#/experiments/{experiment}/runs?workflowType=machine_learning&compareRunsMode={mode}"
        return f"{root}{path}&viewStateShareKey={self.key}"

    def _facets(self) -> dict[str, Any]:
        """What is listed and in which order; with neither MLflow shows trials below their search."""
        if self.run is None:
            return {"orderByKey": "attributes.start_time", "orderByAsc": False}
        name = "accuracy" if self.objective == "accuracy" else self.objective
        return {
            "searchFilter": f"tags.`autoprune.run` = '{self.run}'",
            "orderByKey": f"metrics.`{name}`",
            "orderByAsc": self.objective != "accuracy",
        }

    def state(self) -> dict[str, Any]:
        """The state of the interface."""
        columns = ["tags.`autoprune.role`", "tags.`autoprune.state`"]
        columns += ["params.`searcher`", "params.`budget`"] if self.run is None else []
        columns += [f"metrics.`{name}`" for name in self._metrics()]
        return {
            **self._facets(),
            "selectedColumns": columns,
            "columnOrder": columns,
            "runsHiddenMode": "SHOW_ALL",
            "useGroupedValuesInCharts": True,
            "hideEmptyCharts": True,
            "compareRunSections": [_section("Search"), _section("Widths", columns=1, cardHeight=460)],
            "compareRunCharts": self._charts(),
            "isAccordionReordered": False,
            "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        }

    def _metrics(self) -> list[str]:
        named = ["loss", "accuracy", "flops_kept", "params_kept", "test_accuracy", "latency_ms", "seconds"]
        return (["kl"] if self.objective == "kl" else []) + named

    def _charts(self) -> list[dict[str, Any]]:
        best = "best_accuracy" if self.objective == "accuracy" else "best_loss"
        name = "accuracy" if self.objective == "accuracy" else "loss"
        return [
            _chart("accuracy-flops", "SCATTER", "Search", **_against("flops_kept"), runsCountToCompare=1000),
            _chart("accuracy-params", "SCATTER", "Search", **_against("params_kept"), runsCountToCompare=1000),
            _chart("best", "LINE", "Search", metricKey=best, selectedMetricKeys=[best], xAxisKey="step",
                   lineSmoothness=0, scaleType="linear", xAxisScaleType="linear", useGlobalXaxisKey=False,
                   useGlobalLineSmoothing=False),
            _chart("widths", "PARALLEL", "Widths", selectedParams=[f"keep.{group}" for group in self.groups],
                   selectedMetrics=[name], showAllRuns=True, runsCountToCompare=1000),
        ]  # fmt: skip


def _section(name: str, **settings: Any) -> dict[str, Any]:
    return {"uuid": _identifier(name), "name": name, "display": True, "isReordered": True, "deleted": False,
            "isGenerated": False, **settings}  # fmt: skip


def _chart(name: str, kind: str, section: str, **settings: Any) -> dict[str, Any]:
    return {"uuid": f"autoprune-{name}", "type": kind, "metricSectionId": _identifier(section), "deleted": False,
            "isGenerated": False, **settings}  # fmt: skip


def _identifier(section: str) -> str:
    return f"autoprune-{section.lower()}"


def _against(metric: str) -> dict[str, Any]:
    return {"xaxis": {"key": metric, "type": "METRIC"}, "yaxis": {"key": "accuracy", "type": "METRIC"}}


def telling_groups(widths: Sequence[Mapping[str, int]]) -> list[str]:
    """The groups whose widths differ most between allocations, as shares of the widest; in the network's order."""
    if not widths:
        return []
    spread = {
        name: 1 - min(each.get(name, 0) for each in widths) / max(1, *(each.get(name, 0) for each in widths))
        for name in widths[0]
    }
    chosen = set(sorted(spread, key=lambda name: -spread[name])[:_MOST_GROUPS])
    return [name for name in widths[0] if name in chosen]

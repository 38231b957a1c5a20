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

from autoprune.core.metrics import KL, LOSS, Objective
from autoprune.running.tracking.mlflow_runs import allowed

_TAG = "mlflow.sharedViewState."
_MOST_GROUPS = 24
"""Axes of the parallel coordinates: more cannot be read."""


@dataclass(frozen=True)
class View:
    """What is shown.

    Attributes:
        run: key of the search that is shown alone; None shows all.
        objective: by which trials are sorted.
        metrics: names of the task's.
        groups: whose kept widths are compared.
    """

    objective: Objective
    metrics: Sequence[str]
    groups: Sequence[str]
    run: str | None = None

    @property
    def shown(self) -> str:
        """The metric that is drawn: the objective if it is one, else the first, else the loss."""
        return self.objective.name if self.objective.name in self.metrics else next(iter(self.metrics), LOSS.name)

    @property
    def key(self) -> str:
        """What the view is called in the experiment's tags and in addresses."""
        return f"autoprune-{self.run or 'all'}"

    def tag(self) -> tuple[str, str]:
        """Returns the name and the content of the experiment's tag that holds the view."""
        state = json.dumps(self.state(), separators=(",", ":")).encode()
        now = int(time.time() * 1000)
        packed = "deflate;" + base64.b64encode(zlib.compress(state)).decode()
        return _TAG + self.key, json.dumps({"name": "autoprune", "createdAt": now, "updatedAt": now, "state": packed})

    def address(self, root: str, experiment: str, charts: bool) -> str:
        """Returns where an interface shows the view.

        Args:
            root: the interface's own address.
            experiment: number of MLflow's experiment.
            charts: whether it is shown as charts, and not as a table.
        """
        mode = "CHART" if charts else "TABLE"
        # No filter and no order here: the interface leaves a shared view alone where its address names any.
        path = f"/#/experiments/{experiment}/runs?workflowType=machine_learning&compareRunsMode={mode}"
        return f"{root}{path}&viewStateShareKey={self.key}"

    def state(self) -> dict[str, Any]:
        """Returns the state of the interface."""
        columns = ["tags.`autoprune.role`", "tags.`autoprune.state`"]
        if self.run is None:  # without a filter, and in the order of time, MLflow shows trials below their search
            columns += ["params.`searcher`", "params.`budget`"]
            order: dict[str, Any] = {"orderByKey": "attributes.start_time", "orderByAsc": False}
        else:
            ascending = self.objective.direction != "maximize"
            order = {"orderByKey": f"metrics.`{self.objective.name}`", "orderByAsc": ascending}
            order["searchFilter"] = f"tags.`autoprune.run` = '{self.run}'"
        metrics = ["kl"] if self.objective == KL else []
        metrics += ["loss", *self.metrics, "flops_kept", "params_kept"]
        metrics += [*(f"test_{name}" for name in self.metrics), "latency_ms", "seconds"]
        columns += [f"metrics.`{name}`" for name in metrics]
        return {
            **order,
            "selectedColumns": columns,
            "columnOrder": columns,
            "runsHiddenMode": "SHOW_ALL",
            "useGroupedValuesInCharts": True,
            "hideEmptyCharts": True,
            "compareRunSections": [
                _card("search", name="Search", display=True, isReordered=True),
                _card("widths", name="Widths", display=True, isReordered=True, columns=1, cardHeight=460),
            ],
            "compareRunCharts": self._charts(),
            "isAccordionReordered": False,
            "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        }

    def _charts(self) -> list[dict[str, Any]]:
        name = self.objective.name
        search, widths = {"metricSectionId": "autoprune-search"}, {"metricSectionId": "autoprune-widths"}
        all_runs = {"runsCountToCompare": 1000}
        lines = {"metricKey": f"best_{name}", "selectedMetricKeys": [f"best_{name}"], "lineSmoothness": 0}
        axes = {"xAxisKey": "step", "scaleType": "linear", "xAxisScaleType": "linear"}
        own = {"useGlobalXaxisKey": False, "useGlobalLineSmoothing": False}
        groups = [f"keep.{allowed(group)}" for group in self.groups]
        chosen = {"selectedParams": groups, "selectedMetrics": [name], "showAllRuns": True}
        return [
            _card("cost-flops", type="SCATTER", **search, **all_runs, **_against("flops_kept", self.shown)),
            _card("cost-params", type="SCATTER", **search, **all_runs, **_against("params_kept", self.shown)),
            _card("best", type="LINE", **search, **lines, **axes, **own),
            _card("widths", type="PARALLEL", **widths, **all_runs, **chosen),
        ]


def _card(identifier: str, **settings: Any) -> dict[str, Any]:
    """Returns a section or a chart, which the interface is not to take for one of its own."""
    return {"uuid": f"autoprune-{identifier}", "deleted": False, "isGenerated": False, **settings}


def _against(cost: str, metric: str) -> dict[str, Any]:
    return {"xaxis": {"key": cost, "type": "METRIC"}, "yaxis": {"key": metric, "type": "METRIC"}}


def telling_groups(widths: Sequence[Mapping[str, int]]) -> list[str]:
    """Returns the groups whose widths, as shares of the widest, differ most; in the network's order."""
    if not widths:
        return []
    spread = {
        name: 1 - min(each.get(name, 0) for each in widths) / max(1, *(each.get(name, 0) for each in widths))
        for name in widths[0]
    }
    chosen = set(sorted(spread, key=lambda name: -spread[name])[:_MOST_GROUPS])
    return [name for name in widths[0] if name in chosen]

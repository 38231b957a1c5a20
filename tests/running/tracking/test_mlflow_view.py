from __future__ import annotations

import base64
import json
import zlib
from typing import Any

from autoprune.core.metrics import LOSS
from autoprune.running.tracking.mlflow_view import View, telling_groups
from tests.scores import ACCURACY


def state_of(view: View) -> dict[str, Any]:
    """What MLflow's interface unpacks."""
    key, content = view.tag()
    assert key == f"mlflow.sharedViewState.{view.key}"
    packed = json.loads(content)["state"]
    assert packed.startswith("deflate;")
    return dict(json.loads(zlib.decompress(base64.b64decode(packed.removeprefix("deflate;")))))


def test_a_view_of_one_run_is_ordered_by_its_objective() -> None:
    loss, accuracy = (
        state_of(View(LOSS, ["accuracy"], ["a"], "key")),
        state_of(View(ACCURACY, ["accuracy"], ["a"], "key")),
    )
    assert (loss["orderByKey"], loss["orderByAsc"]) == ("metrics.`loss`", True)
    assert (accuracy["orderByKey"], accuracy["orderByAsc"]) == ("metrics.`accuracy`", False)
    assert loss["searchFilter"] == "tags.`autoprune.run` = 'key'"
    assert [chart["type"] for chart in loss["compareRunCharts"]] == ["SCATTER", "SCATTER", "LINE", "PARALLEL"]
    assert loss["compareRunCharts"][-1]["selectedParams"] == ["keep.a"]


def test_a_view_of_all_runs_leaves_trials_below_their_search() -> None:
    """MLflow does so only without a filter and in the order of time."""
    state = state_of(View(LOSS, ["accuracy"], []))
    assert state["orderByKey"] == "attributes.start_time"
    assert "searchFilter" not in state


def test_the_address_names_the_view_and_nothing_that_would_override_it() -> None:
    address = View(LOSS, ["accuracy"], [], "key").address("http://127.0.0.1:5000", "3", charts=True)
    assert address == (
        "http://127.0.0.1:5000/#/experiments/3/runs?workflowType=machine_learning&compareRunsMode=CHART"
        "&viewStateShareKey=autoprune-key"
    )


def test_the_groups_that_differ_most_are_compared_in_the_networks_order() -> None:
    many = {f"g{i}": 10 for i in range(30)}
    assert len(telling_groups([many, {**many, "g29": 1, "g3": 5}])) == 24
    assert telling_groups([many, {**many, "g29": 1, "g3": 5}])[-1] == "g29"
    assert telling_groups([]) == []

"""The mirror of one training in MLflow: curves over its epochs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.running.tracking.mlflow_client import PARAM_LENGTH, Guard, client, open_experiment

# MLflow takes no other characters in names; a slash would open a section of its own.
_NOT_IN_NAMES = re.compile(r"[^\w\-.: ]")


class MlflowCurves:
    """One MLflow run for the training.

    Args:
        uri: the store or server; None leaves it to MLflow.
        experiment: name of the MLflow experiment.
    """

    def __init__(self, uri: str | None, experiment: str) -> None:
        self._uri, self._experiment = uri, experiment
        self._guard = Guard()
        self._run = ""

    def start(self, folder: Path, params: Mapping[str, Any], known: str | None) -> str | None:
        return self._guard(lambda: self._open(folder, params, known))

    def log(self, metrics: Mapping[str, float], epoch: int) -> None:
        self._guard(lambda: self._points(metrics, epoch))

    def finish(self, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        self._guard(lambda: self._close(metrics, files))

    def interrupt(self) -> None:
        self._guard(lambda: self._client.set_terminated(self._run, "KILLED"))

    def _open(self, folder: Path, params: Mapping[str, Any], known: str | None) -> str:
        self._client = client(self._uri)
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            self._run = known
            return known
        tags = {"autoprune.role": "training", "autoprune.folder": str(folder.resolve())}
        number = open_experiment(self._client, self._experiment)
        self._run = str(self._client.create_run(number, tags=tags, run_name=folder.resolve().name).info.run_id)
        for name, value in params.items():
            self._client.log_param(self._run, _allowed(name), str(value)[:PARAM_LENGTH])
        return self._run

    def _points(self, metrics: Mapping[str, float], epoch: int) -> None:
        for name, value in metrics.items():
            # Step 0 would draw bars in place of lines.
            self._client.log_metric(self._run, _allowed(name), value, step=max(1, epoch))

    def _close(self, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._run, f"final_{_allowed(name)}", value)
        for path in files:
            self._client.log_artifact(self._run, str(path))
        self._client.set_terminated(self._run, "FINISHED")


def _allowed(name: str) -> str:
    return _NOT_IN_NAMES.sub("_", name)

"""A run's folder: what lies in it and where."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autoprune.core import ledger
from autoprune.errors import RunFolderError

EXPERIMENT = "experiment.yaml"


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run's folder."""

    path: Path

    @property
    def experiment(self) -> Path:
        return self.path / EXPERIMENT

    @property
    def ledger(self) -> Path:
        return self.path / ledger.NAME

    @property
    def best(self) -> Path:
        return self.path / "best.yaml"

    @property
    def frontier(self) -> Path:
        return self.path / "frontier.png"

    @property
    def weights(self) -> Path:
        return self.path / "weights"

    def sensitivity(self, suffix: str) -> Path:
        return self.path / f"sensitivity.{suffix}"

    def weights_of(self, number: int) -> Path:
        return self.weights / f"{number}.pt"

    def write_best(self, content: Mapping[str, Any]) -> None:
        self.best.write_text(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True))


def new_folder(output: Path | None, task: str) -> RunFolder:
    """Where a new run goes; nothing is created yet.

    Raises:
        RunFolderError: the folder holds a run already, or something else stands in its place.
    """
    path = output or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{task.replace(':', '.')}"
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is a file; --output names a folder")
    if (path / ledger.NAME).exists() or (path / EXPERIMENT).exists():
        raise RunFolderError(
            f"{path} already holds a run; continue it with --resume {path} or choose another folder with --output"
        )
    return RunFolder(path)


def existing_folder(path: Path) -> RunFolder:
    """The folder of a run that was started.

    Raises:
        RunFolderError: it is no run.
    """
    if not (path / EXPERIMENT).is_file():
        raise RunFolderError(f"{path} is no run of autoprune: it has no {EXPERIMENT}")
    return RunFolder(path)

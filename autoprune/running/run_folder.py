"""A run's folder: what lies in it and where."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autoprune.core import ledger
from autoprune.errors import RunFolderError
from autoprune.files import write_whole

EXPERIMENT = "experiment.yaml"
SHARED = "shared-"
"""Begins the name of a file that shows whether other machines see the folder."""
# Errors that another folder mends.
_NOT_HERE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)


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
    def frontier_table(self) -> Path:
        return self.path / "frontier.csv"

    @property
    def results(self) -> Path:
        return self.path / "results.csv"

    @property
    def weights(self) -> Path:
        return self.path / "weights"

    @property
    def ray(self) -> Path:
        """What Ray Tune writes of its own, while it runs."""
        return self.path / "ray"

    def sensitivity(self, suffix: str) -> Path:
        return self.path / f"sensitivity.{suffix}"

    def weights_of(self, number: int) -> Path:
        return self.weights / f"{number}.pt"

    def create(self, experiment: str, beside: Mapping[str, bytes] | None = None) -> None:
        """Makes the folder with its `experiment.yaml`, which is written last: with it the folder is one to resume.

        Args:
            beside: name to content of further files.

        Raises:
            RunFolderError: no folder can be made there.
            OSError: the file cannot be written; nothing new is left.
        """
        new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name, content in (beside or {}).items():
                write_whole(self.path / name, content)
            write_whole(self.experiment, experiment.encode())
        except OSError as fault:
            if new:
                shutil.rmtree(self.path, ignore_errors=True)
            if fault.errno in _NOT_HERE:
                raise RunFolderError(
                    f"{self.path} cannot hold a run ({fault.strerror}); choose another folder with --output"
                ) from fault
            raise

    def tidy(self) -> None:
        """Removes what processes of the run that were killed left half written or in passing; none may write now."""
        shutil.rmtree(self.ray, ignore_errors=True)
        curves = [self.sensitivity(suffix) for suffix in ("json", "csv", "png")]
        whole = (self.best, self.frontier, self.frontier_table, self.results, *curves)
        halves = [path.with_name(f"{path.name}.part") for path in whole]
        for left in (*halves, *self.weights.glob("[0-9]*.part"), *self.path.glob(f"{SHARED}[0-9]*")):
            left.unlink(missing_ok=True)

    def write_best(self, content: Mapping[str, Any]) -> None:
        text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
        write_whole(self.best, text.encode())


def new_folder(output: Path | None, task: str) -> RunFolder:
    """Where a new run goes; nothing is created yet.

    Raises:
        RunFolderError: the folder holds a run already, or something else stands in its place.
    """
    path = output or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{task.replace(':', '.')}"
    in_the_way = next((part for part in (path, *path.parents) if part.exists() and not part.is_dir()), None)
    if in_the_way is not None:
        raise RunFolderError(f"{in_the_way} is a file; --output names a folder")
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

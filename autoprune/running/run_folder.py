"""A run's folder: what lies in it and where, how it is made, and what is removed from it."""

from __future__ import annotations

import errno
import secrets
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from autoprune.core.ledger import NAME, Ledger, read_records
from autoprune.errors import LedgerWriteError, RunFolderError, UserError
from autoprune.files import write_whole

EXPERIMENT = "experiment.yaml"
FINAL = "final.pt"
"""What a training ends with."""
SHARED = "shared-"
"""Begins the name of a file that shows whether other machines see the folder."""
# What a ledger tells before anything is evaluated.
_BEGINNING = ("started", "dense")
# Errors that another folder mends.
_NOT_HERE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)


class RunFolder:
    """Paths inside one run's folder.

    Attributes:
        outputs: what a run is there for, beside weights; `experiment.yaml` and the ledger are not among them.
        weights: folder of trials' networks.
        ray: folder of what Ray Tune writes of its own, while it runs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.experiment = path / EXPERIMENT
        self.ledger = path / NAME
        self.best = path / "best.yaml"
        self.results = path / "results.csv"
        self.frontier = path / "frontier.png"
        self.frontier_table = path / "frontier.csv"
        curves = map(self.sensitivity, ("png", "csv", "json"))
        self.outputs = (self.best, self.results, self.frontier, self.frontier_table, *curves)
        self.weights = path / "weights"
        self.ray = path / "ray"

    def sensitivity(self, suffix: str) -> Path:
        """Returns where the sensitivity curves lie as `json`, `csv` or `png`."""
        return self.path / f"sensitivity.{suffix}"

    def weights_of(self, number: int) -> Path:
        """Returns where a trial's network lies, if it was kept."""
        return self.weights / f"{number}.pt"

    @contextmanager
    def new_run(self, records: Path, experiment: str, beside: Mapping[str, bytes] | None = None) -> Iterator[Ledger]:
        """Makes the folder of a new run and gives its ledger, which is locked until the end.

        `experiment.yaml` is written last: with it the folder is one to resume. Where the run is refused (`UserError`)
        before anything was evaluated, what was made of the folder is removed again.

        Args:
            records: path of the ledger.
            experiment: content of `experiment.yaml`.
            beside: name to content of further files.

        Raises:
            RunFolderError: no folder can be made there, it holds a run already, or another process writes to it.
            OSError: a file cannot be written; nothing new is left.
        """
        missing = [path for path in (self.path, *self.path.parents) if not path.exists()]
        before = set(() if missing else self.path.iterdir())
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            ledger = Ledger(records)
        except (OSError, LedgerWriteError) as fault:
            _remove_empty(missing)
            self._refuse_if_not_here(fault)
            raise
        with ledger:
            self.check_new(records)  # another process may have begun a run since the first look
            begun = False
            try:
                for name, content in (beside or {}).items():
                    write_whole(self.path / name, content)
                write_whole(self.experiment, experiment.encode())
                begun = True
                yield ledger
            except BaseException as fault:
                if not begun or (isinstance(fault, UserError) and not _has_results(records)):
                    self._remove_new(records, beside or {}, before)
                    _remove_empty(missing)
                if not begun:
                    self._refuse_if_not_here(fault)
                raise

    def check_new(self, records: Path) -> None:
        """Checks that the folder holds no run.

        Raises:
            RunFolderError: it does.
        """
        if self.holds_run(records):
            raise RunFolderError(
                f"{self.path} already holds a run; continue it with --resume {self.path} or choose another folder with "
                "--output"
            )

    def holds_run(self, records: Path | None = None) -> bool:
        """Returns whether a run was begun here; `records` is the path of its ledger, a search's if None."""
        records = records or self.ledger
        return self.experiment.exists() or (records.exists() and records.stat().st_size > 0)

    def _refuse_if_not_here(self, fault: BaseException) -> None:
        cause = fault if isinstance(fault, OSError) else fault.__cause__
        if isinstance(cause, OSError) and cause.errno in _NOT_HERE:
            raise RunFolderError(
                f"{self.path} cannot hold a run ({cause.strerror}); choose another folder with --output"
            ) from fault

    def _remove_new(self, records: Path, beside: Iterable[str], before: Collection[Path]) -> None:
        """Removes what a run that was refused has made; files of the user's stay."""
        made = (self.experiment, *(self.path / name for name in beside), records, records.with_suffix(".lock"))
        for path in made:
            if path not in before:
                path.unlink(missing_ok=True)
        for path in (self.weights, self.ray):
            if path not in before:
                shutil.rmtree(path, ignore_errors=True)

    def tidy(self) -> None:
        """Removes what processes of the run that were killed left half written or in passing; none may write now."""
        shutil.rmtree(self.ray, ignore_errors=True)
        halves = [path.with_name(f"{path.name}.part") for path in self.outputs]
        for left in (*halves, *self.weights.glob("[0-9]*.part"), *self.path.glob(f"{SHARED}[0-9]*")):
            left.unlink(missing_ok=True)

    def write_best(self, content: Mapping[str, Any]) -> None:
        """Writes `best.yaml`."""
        text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
        write_whole(self.best, text.encode())


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _has_results(records: Path) -> bool:
    """Returns whether a ledger holds more than how the run began and what the dense network scored."""
    return any(record["event"] not in _BEGINNING for record in read_records(records))


def new_folder(output: Path | None, task: str) -> RunFolder:
    """Returns where a new run goes; nothing is created yet.

    Raises:
        RunFolderError: the folder holds a run already, or something else stands in its place.
    """
    # The random part keeps apart what is started in the same second.
    started = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    path = output or Path("runs") / f"{started}-{task.replace(':', '.')}"
    in_the_way = next((part for part in (path, *path.parents) if part.exists() and not part.is_dir()), None)
    if in_the_way is not None:
        raise RunFolderError(f"{in_the_way} is a file; --output names a folder")
    folder = RunFolder(path)
    folder.check_new(folder.ledger)
    return folder


def existing_folder(path: Path, records: str | None = None) -> RunFolder:
    """Returns the folder of a run that was started.

    Args:
        path: of the folder.
        records: name of the file of records that it must have: a search's, or a training's; None asks for none.

    Raises:
        RunFolderError: it is no run, or one of another kind.
    """
    if not (path / EXPERIMENT).is_file():
        raise RunFolderError(f"{path} is no run of autoprune: it has no {EXPERIMENT}")
    if records is not None and not (path / records).is_file():
        raise RunFolderError(f"{path} holds the run of another command: it has no {records}")
    return RunFolder(path)

"""The append-only record of a run, from which everything else is rebuilt."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from autoprune.core.trial import Candidate, Trial
from autoprune.errors import LedgerWriteError, RunFolderError, UserError
from autoprune.files import parse_json, read_whole

VERSION = 1
NAME = "ledger.jsonl"


class Ledger(contextlib.AbstractContextManager["Ledger"]):
    """A file of JSON objects, one a line, each with `event` and `time`; written by one process at a time.

    A record counts once it is flushed and synced to disk. A last line torn by a crash is dropped when the file is
    opened for writing, and ignored when it is read.
    """

    def __init__(self, path: Path) -> None:
        """Opens the ledger for writing, makes it if it is not there, and takes its lock.

        Raises:
            RunFolderError: another process writes to it.
            LedgerWriteError: the file cannot be opened.
        """
        self.path = path
        self._lock = _locked(path)
        try:
            self._repair()
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - stays open as long as the ledger
        except RunFolderError:
            self._lock.release()
            raise
        except OSError as fault:
            self._lock.release()
            raise LedgerWriteError(f"{path} cannot be opened: {fault}") from fault

    def _repair(self) -> None:
        if not self.path.exists():
            return
        content = read_whole(self.path)
        whole = len(content) - len(_torn(self.path, content))
        if whole < len(content):
            with open(self.path, "r+b") as file:
                file.truncate(whole)

    def write(self, event: str, **fields: Any) -> None:
        """Appends one record and syncs it.

        Raises:
            LedgerWriteError: it could not be written whole; nothing of it is left in the file.
        """
        line = json.dumps({"event": event, "time": round(time.time(), 3), **fields}, allow_nan=False) + "\n"
        before = self._file.seek(0, os.SEEK_END)
        data = line.encode()
        try:
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as fault:
            with contextlib.suppress(OSError):  # what cannot be cut now is a torn line, dropped at the next opening
                os.ftruncate(self._file.fileno(), before)
            raise LedgerWriteError(
                f"the ledger {self.path} could not be written ({fault.strerror}); what was finished before is kept: "
                f"make room, then continue with --resume {self.path.parent}"
            ) from fault

    def begin(self, **fields: Any) -> None:
        """Writes that this process starts the run, or resumes it if there are records, and in which version.

        Raises:
            LedgerWriteError: it could not be written.
        """
        event = "resumed" if self._file.seek(0, os.SEEK_END) else "started"
        process = {"host": socket.gethostname(), "id": os.getpid()}
        self.write(event, version=VERSION, process=process, **fields)

    def asked(self, candidate: Candidate) -> None:
        """Writes that a candidate is to be evaluated."""
        self.write("asked", **candidate.to_json())

    def told(self, trial: Trial) -> None:
        """Writes the outcome of a candidate."""
        self.write("told", **trial.to_json())

    def close(self) -> None:
        """Closes the file and gives up its lock."""
        self._file.close()
        self._lock.release()

    def __exit__(self, *_: object) -> None:
        self.close()


def check_idle(path: Path) -> None:
    """Checks that no process writes to a ledger.

    Raises:
        RunFolderError: one does; the message names it.
        LedgerWriteError: the folder cannot be written.
    """
    _locked(path).release()


def _locked(path: Path) -> FileLock:
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunFolderError(
            f"{path.parent} is being written by {_writer(path)}; wait for its end, or stop it first"
        ) from None
    except OSError as fault:
        raise LedgerWriteError(f"{path.parent} cannot be written: {fault}") from fault
    return lock


def _writer(path: Path) -> str:
    """Returns the process that began or resumed a ledger last, in words."""
    with contextlib.suppress(RunFolderError, KeyError, TypeError, ValueError):
        begun = [record for record in read_records(path) if record["event"] in ("started", "resumed")]
        if begun:
            process, since = begun[-1]["process"], time.localtime(begun[-1]["time"])
            if process["host"] == socket.gethostname() and not _is_alive(process["id"]):
                return "another process"  # which has written nothing yet
            return f"process {process['id']} on {process['host']} since {time.strftime('%Y-%m-%d %H:%M:%S', since)}"
    return "another process"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


@dataclass(frozen=True)
class History:
    """What a ledger says, in order."""

    records: Sequence[dict[str, Any]]

    def of(self, event: str) -> list[dict[str, Any]]:
        """Returns the records of one kind, in order."""
        return [record for record in self.records if record["event"] == event]

    def last(self, event: str) -> dict[str, Any] | None:
        """Returns the newest record of one kind, or None."""
        return next((record for record in reversed(self.records) if record["event"] == event), None)

    def steps(self) -> Iterator[Candidate | Trial]:
        """Yields every candidate asked and every trial told, in the order in which it happened.

        A candidate that was asked again after a crash appears once; a trial counts once, the first time it was told.

        Raises:
            RunFolderError: a record lacks what it must hold, or tells a trial of a candidate that was never asked.
        """
        candidates: dict[int, Candidate] = {}
        told: set[int] = set()
        for line, record in enumerate(self.records, start=1):
            try:
                if record["event"] == "asked" and record["number"] not in candidates:
                    candidates[record["number"]] = Candidate.from_json(record)
                    yield candidates[record["number"]]
                elif record["event"] == "told" and record["number"] not in told:
                    told.add(record["number"])
                    yield Trial.from_json(record, candidates[record["number"]])
            except (KeyError, TypeError, AttributeError, UserError) as fault:
                raise RunFolderError(
                    f"record {line} of the ledger ({record['event']}) is not what this release writes: {fault!r}"
                ) from fault

    def trials(self) -> list[Trial]:
        """Returns every finished trial, in the order told."""
        return [step for step in self.steps() if isinstance(step, Trial)]

    def open_candidates(self) -> list[Candidate]:
        """Returns candidates asked and not told, in the order asked."""
        done = {trial.number for trial in self.trials()}
        return [step for step in self.steps() if isinstance(step, Candidate) and step.number not in done]


def _torn(path: Path, content: bytes) -> bytes:
    """Returns what stands behind the last line's end: one record that a crash cut off.

    Raises:
        RunFolderError: there is more than one, so that line ends were lost and not a record.
    """
    torn = content[content.rfind(b"\n") + 1 :]
    if torn.count(b'{"event": ') > 1:
        raise RunFolderError(f"{path} has lost line ends; each record is one line, and ends in a line feed")
    return torn


def read_records(path: Path) -> list[dict[str, Any]]:
    """Returns the records of a file that a `Ledger` wrote, none if there is no file; a torn last line is ignored.

    Raises:
        RunFolderError: it is damaged before its last line, or written by a newer release.
    """
    content = read_whole(path) if path.exists() else b""
    lines = content.removesuffix(_torn(path, content)).splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line)
            record["event"]
            version = record.get("version", VERSION)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise RunFolderError(
                f"{path}, line {number} is damaged; cut the file there to keep what comes before"
            ) from None
        if not isinstance(version, int) or version > VERSION:
            raise RunFolderError(
                f"{path} has version {version!r}, but this release of autoprune reads up to {VERSION}: go on with the "
                "release that wrote it, or a newer one"
            )
        records.append(record)
    return records


def read_history(folder: Path) -> History:
    """Returns what the ledger in a run's folder says; a torn last line is ignored.

    Raises:
        RunFolderError: there is no ledger, it is damaged before its last line, or written by a newer release.
    """
    path = folder / NAME
    if not path.is_file():
        raise RunFolderError(f"{folder} is no run of autoprune: it has no {NAME}")
    return History(read_records(path))

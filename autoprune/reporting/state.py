"""How far a run is: finished, going on, or interrupted."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

State = Literal["finished", "going on", "interrupted"]


def is_being_written(folder: Path) -> bool:
    """Whether a process holds the lock of the run's ledger; False where that cannot be told."""
    try:
        import fcntl
    except ImportError:  # not a Unix
        return False
    try:
        lock = os.open(folder / "ledger.lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def sessions_seconds(records: Sequence[Mapping[str, Any]]) -> float:
    """How long a run took in all its sessions, the time between an interruption and the resumption left out."""
    seconds = 0.0
    for before, record in pairwise(records):
        if record["event"] != "resumed":
            seconds += max(0.0, record["time"] - before["time"])
    return seconds

"""What is said when a run stops early, and how to go on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoprune.commands import disk
from autoprune.errors import AutopruneError, Interrupted


@contextmanager
def interruptible(records: Path, experiment: Path, resume: str) -> Iterator[None]:
    """Turns an interrupt or a full disk into a message that says how to go on.

    Args:
        records: the file of the run's records; without it nothing was done yet.
        experiment: the run's settings; without them there is nothing to go on with.
        resume: the command that goes on.

    Raises:
        Interrupted: an interrupt from the keyboard, or SIGTERM.
        AutopruneError: the disk is full.
    """
    try:
        yield
    except KeyboardInterrupt:
        if records.exists():
            raise Interrupted(f"interrupted; continue with: {resume}") from None
        raise Interrupted("interrupted before anything was evaluated") from None
    except OSError as fault:
        if disk.is_full(fault) and experiment.exists():
            raise AutopruneError(f"the disk is full ({fault}); make room, then continue with: {resume}") from fault
        raise


def typed(*parts: str) -> str:
    """A command of autoprune as one types it."""
    return shlex.join(["autoprune", *parts])

"""A task whose workers have accidents: each file in a folder is one, for the worker that first takes it away."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from autoprune import SimpleTask
from tests.user_tasks import data, tiny

FOLDER = "AUTOPRUNE_TEST_ACCIDENTS"
DRIVER = "AUTOPRUNE_TEST_DRIVER"


def _happens(kind: str) -> bool:
    """Whether an accident of this kind waits, and is this worker's."""
    for waiting in Path(os.environ[FOLDER]).glob(f"{kind}-*"):
        try:
            waiting.unlink()
        except FileNotFoundError:  # another worker's
            continue
        return True
    return False


def _wait_for_company() -> None:
    """Until other workers have taken the others of this kind; two minutes at most, as workers may start slowly."""
    until = time.monotonic() + 120
    while list(Path(os.environ[FOLDER]).glob("company-*")) and time.monotonic() < until:
        time.sleep(0.05)


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    if str(os.getpid()) != os.environ[DRIVER]:
        if _happens("company"):
            _wait_for_company()
        if _happens("death"):
            os._exit(1)
        if _happens("hang"):
            time.sleep(1000)
        if _happens("memory"):
            raise MemoryError("too much")
        if _happens("full"):
            raise OSError(errno.ENOSPC, "No space left on device", "weights")
    return F.cross_entropy(outputs, targets)


def _unhurried(outputs: Tensor, targets: Tensor) -> Tensor:
    """A second for each batch."""
    time.sleep(1)
    return F.cross_entropy(outputs, targets)


def _steady(outputs: Tensor, targets: Tensor) -> Tensor:
    """Slow enough that a moment between two records can be met."""
    time.sleep(0.005)
    return F.cross_entropy(outputs, targets)


steady = SimpleTask(tiny, data(0, 96), data(1, 64), data(2, 64), loss=_steady)
unhurried = SimpleTask(tiny, data(0, 96), data(1, 64), data(2, 64), loss=_unhurried)
task = SimpleTask(tiny, data(0, 96), data(1, 64), data(2, 64), loss=_loss)

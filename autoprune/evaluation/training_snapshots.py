"""Training inside a candidate that goes on where a run was killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from autoprune.core.trial import Candidate
from autoprune.errors import CheckpointError
from autoprune.pruning.surgery.masks import Importance
from autoprune.tasks.base import Hook
from autoprune.tasks.training.snapshot import Snapshot, read_snapshot, take_snapshot, write_snapshot

Phase = Literal["admm", "finetune"]

SNAPSHOT_SECONDS = 30.0
"""Between two snapshots: one takes a few milliseconds for a small network and up to a second for a large one, and who
kills a run loses less than it takes to start it again. A shorter training leaves none."""


@dataclass(frozen=True)
class Paused:
    """A candidate's training as it was interrupted.

    Attributes:
        snapshot: of the network that was in training: whole in phase `admm`, pruned in phase `finetune`.
    """

    snapshot: Snapshot

    @property
    def phase(self) -> Phase:
        found: Phase = self.snapshot.extra["phase"]
        return found

    @property
    def admm(self) -> Mapping[str, Any] | None:
        """The state of ADMM; None where no group lost anything."""
        found: Mapping[str, Any] | None = self.snapshot.extra["admm"]
        return found

    @property
    def importance(self) -> Importance | None:
        """The scores by which the network in phase `finetune` was pruned; None where nothing was trained before."""
        found = self.snapshot.extra["importance"]
        return {name: scores.numpy() for name, scores in found.items()} if found else None


class Pauses:
    """The snapshot of one candidate's training.

    Args:
        path: where it lies; None keeps none.
        key: what the training follows from, as text: a snapshot of something else is not gone on with.
        seconds: between two snapshots.
    """

    def __init__(self, path: Path | None = None, key: str = "", seconds: float = SNAPSHOT_SECONDS) -> None:
        self._path, self._key, self._seconds = path, key, seconds

    def read(self) -> Paused | None:
        """What was interrupted; None if nothing was.

        Raises:
            CheckpointError: the file is damaged or of something else.
        """
        if self._path is None or not self._path.is_file():
            return None
        snapshot = read_snapshot(self._path)
        if snapshot.extra.get("candidate") != self._key or not _whole(snapshot.extra):
            raise CheckpointError(f"{self._path} is a snapshot of another candidate's training")
        return Paused(snapshot)

    def remove(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def hook(
        self,
        phase: Phase,
        admm: Callable[[], Mapping[str, Any] | None] = lambda: None,
        importance: Importance | None = None,
    ) -> Hook:
        """Takes snapshots of a training; put it behind all other hooks.

        Nothing is taken in a task's own loop that leaves out `on_start` or `at_rest`: there a training starts anew.
        """
        if self._path is None:
            return Hook()
        scores = {name: torch.from_numpy(array) for name, array in importance.items()} if importance else None
        constant = {"candidate": self._key, "phase": phase, "importance": scores}
        return _Pausing(self._path, self._seconds, lambda: {**constant, "admm": admm()}).hook()


class _Pausing:
    def __init__(self, path: Path, seconds: float, extra: Callable[[], Mapping[str, Any]]) -> None:
        self._path, self._seconds, self._extra = path, seconds, extra
        self._optimizer: torch.optim.Optimizer | None = None
        self._last = 0.0

    def hook(self) -> Hook:
        return Hook(on_start=self._start, at_rest=self._rest)

    def _start(self, network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        self._optimizer, self._last = optimizer, time.monotonic()

    def _rest(self, network: nn.Module, step: int, steps: int) -> None:
        if self._optimizer is not None and time.monotonic() - self._last >= self._seconds:
            write_snapshot(self._path, take_snapshot(network, self._optimizer, step, self._extra()))
            self._last = time.monotonic()


def _whole(extra: Mapping[str, Any]) -> bool:
    """Whether what a snapshot holds beside the training is what `Pauses.hook` puts there."""
    scores, admm = extra.get("importance"), extra.get("admm")
    return (
        extra.get("phase") in ("admm", "finetune")
        and (scores is None or _tensors(scores))
        and (
            admm is None or (isinstance(admm, dict) and all(_tensors(admm.get(kind)) for kind in ("projected", "dual")))
        )
    )


def _tensors(found: object) -> bool:
    return isinstance(found, dict) and all(isinstance(tensor, Tensor) for tensor in found.values())


def training_key(candidate: Candidate, seed: int) -> str:
    """What a candidate's training follows from besides network and data, as text."""
    record = candidate.to_json()
    return json.dumps({**{name: record[name] for name in ("widths", "recipe", "settings", "parent")}, "seed": seed})

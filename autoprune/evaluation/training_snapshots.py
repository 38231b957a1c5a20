"""Snapshots of the training inside a candidate, so that it goes on where a run was killed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from autoprune.core.trial import Candidate
from autoprune.errors import CheckpointError
from autoprune.pruning.surgery.masks import Importance
from autoprune.tasks.base import Hook
from autoprune.tasks.training.snapshot import Snapshot, read_snapshot, take_snapshot, write_snapshot
from autoprune.tasks.weight_files.state_dicts import maps_to

Phase = Literal["admm", "finetune"]

_ADMM = ("projected", "dual")
"""What ADMM's state holds by name of a weight."""

SNAPSHOT_SECONDS = 30.0
"""Time between two snapshots. One takes a few milliseconds for a small network and up to a second for a large one, and
a run that is killed loses less than it takes to start it again. A shorter training leaves none."""


@dataclass(frozen=True)
class InterruptedTraining:
    """A candidate's training as it was interrupted.

    Attributes:
        snapshot: of the network that was in training: whole in phase `admm`, pruned in phase `finetune`.
        admm: ADMM's state; None where no group lost anything.
        importance: the scores by which the network in phase `finetune` was pruned; None where nothing was trained
            before.
    """

    snapshot: Snapshot
    phase: Phase
    admm: Mapping[str, Any] | None
    importance: Importance | None


class TrainingSnapshots:
    """The snapshot file of one candidate's training.

    Args:
        path: where it lies; None keeps none.
        key: what the training follows from, as text; a snapshot with another key is refused.
        seconds: between two snapshots.
    """

    def __init__(self, path: Path | None = None, key: str = "", seconds: float = SNAPSHOT_SECONDS) -> None:
        self._path, self._key, self._seconds = path, key, seconds

    def read(self) -> InterruptedTraining | None:
        """Returns the training that was interrupted, or None if none was.

        Raises:
            CheckpointError: the file is damaged or of something else.
        """
        if self._path is None or not self._path.is_file():
            return None
        snapshot = read_snapshot(self._path)
        extra = snapshot.extra
        if extra.get("candidate") != self._key or not _is_whole(extra):
            raise CheckpointError(f"{self._path} is a snapshot of another candidate's training")
        importance = {name: scores.numpy() for name, scores in (extra["importance"] or {}).items()} or None
        return InterruptedTraining(snapshot, extra["phase"], extra["admm"], importance)

    def remove(self) -> None:
        """Removes the file if there is one."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def hook(
        self,
        phase: Phase,
        admm: Callable[[], Mapping[str, Any] | None] = lambda: None,
        importance: Importance | None = None,
    ) -> Hook:
        """Returns a hook that takes snapshots of a training; it goes behind all other hooks.

        Nothing is taken in a task's own loop that leaves out `on_start` or `at_rest`: there a training starts anew.

        Args:
            phase: of the candidate.
            admm: returns ADMM's state.
            importance: the scores by which the network was pruned, group name to `[structures]`
                (`[choices, structures]` with N:M); None where it was not trained before it was pruned.
        """
        if self._path is None:
            return Hook()
        path, seconds, last = self._path, self._seconds, 0.0
        running: torch.optim.Optimizer | None = None
        scores = {name: torch.from_numpy(array) for name, array in importance.items()} if importance else None
        constant = {"candidate": self._key, "phase": phase, "importance": scores}

        def begin(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
            nonlocal running, last
            running, last = optimizer, time.monotonic()

        def save(network: nn.Module, step: int, steps: int) -> None:
            nonlocal last
            if running is not None and time.monotonic() - last >= seconds:
                write_snapshot(path, take_snapshot(network, running, step, {**constant, "admm": admm()}))
                last = time.monotonic()

        return Hook(on_start=begin, at_rest=save)


def _is_whole(extra: Mapping[str, Any]) -> bool:
    """Returns whether a snapshot holds beside the training what `TrainingSnapshots.hook` puts there."""
    scores, admm = extra.get("importance"), extra.get("admm")
    return (
        extra.get("phase") in get_args(Phase)
        and (scores is None or maps_to(scores, Tensor))
        and (admm is None or (maps_to(admm, object) and all(maps_to(admm.get(each), Tensor) for each in _ADMM)))
    )


def training_key(candidate: Candidate, seed: int) -> str:
    """Returns what a candidate's training follows from besides network and data, as text."""
    record = candidate.to_json()
    return json.dumps({**{name: record[name] for name in ("widths", "recipe", "settings", "parent")}, "seed": seed})

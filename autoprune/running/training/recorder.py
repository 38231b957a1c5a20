"""The folder of a training by a schedule, and what is written into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from autoprune.core.ledger import Ledger
from autoprune.core.trial import Score
from autoprune.running.progress import Advance, Display
from autoprune.running.tracking.mlflow_runs import TRAINING
from autoprune.tasks.base import Hook
from autoprune.tasks.training.snapshot import Snapshot, write_snapshot

SCHEDULE = "schedule.yaml"
_SPARSITY = "sparsity."


@dataclass(frozen=True)
class TrainingFolder:
    """Paths inside the folder of one training."""

    path: Path

    @property
    def schedule(self) -> Path:
        return self.path / SCHEDULE

    @property
    def events(self) -> Path:
        return self.path / TRAINING

    @property
    def initial(self) -> Path:
        """The weights that training from scratch started from."""
        return self.path / "initial.pt"

    @property
    def snapshot(self) -> Path:
        return self.path / "snapshot.pt"

    @property
    def final(self) -> Path:
        return self.path / "final.pt"


class Recorder:
    """Writes a training's events and snapshots, and shows its progress.

    Attributes:
        identity: of network, weights and data, written into every snapshot.
        last: what was measured last.
        sparsity: by pruner, the share of its structures that it masked when it was last measured.
        progress: a hook that moves the bar on.
    """

    def __init__(self, folder: TrainingFolder, display: Display) -> None:
        self.folder, self._display = folder, display
        self.identity: Mapping[str, Any] = {}
        self.last: dict[str, Any] = {}
        self.sparsity: dict[str, float] = {}
        self.progress = Hook(after_step=self._advance)
        self._ledger: Ledger | None = None
        self._bar = ExitStack()
        self._show: Advance | None = None

    @contextmanager
    def recording(self, ledger: Ledger, **fields: Any) -> Iterator[None]:
        """Writes events to a ledger while the body runs; its first record there has these fields too."""
        self._ledger = ledger
        ledger.begin(autoprune=version("autoprune"), **fields)
        with self._bar:
            yield

    def record(self, event: Mapping[str, Any]) -> None:
        """Writes an event of a training run, and remembers what was measured."""
        fields = {key: value for key, value in event.items() if key != "event"}
        if self._ledger is not None:
            self._ledger.write(str(event["event"]), **fields)
        if event["event"] == "removed":
            names = ", ".join(fields["branches"]) or "nothing"
            self._display.say(f"step {fields['step']}: removed {names}")
        if "accuracy" not in fields:
            return
        self.last = fields
        self.sparsity.update(
            {key.removeprefix(_SPARSITY): share for key, share in fields.items() if key.startswith(_SPARSITY)}
        )

    def save(self, snapshot: Snapshot) -> None:
        """Writes a snapshot in the place of the one before it."""
        write_snapshot(
            self.folder.snapshot, replace(snapshot, extra={**snapshot.extra, "identity": dict(self.identity)})
        )

    def finish(self, final: Score, test: Score | None, costs: Mapping[str, int]) -> None:
        """Writes the end of the training.

        Args:
            final: of the trained network, on the validation samples.
            test: on the test samples; None if the task has none.
            costs: of the trained network, by kind.
        """
        metrics = {"accuracy": final.accuracy, "loss": final.loss, **{kind: float(c) for kind, c in costs.items()}}
        if test is not None:
            metrics["test_accuracy"] = test.accuracy
        if self._ledger is not None:
            self._ledger.write("finished", **metrics)

    def _advance(self, network: object, step: int, steps: int, loss: float) -> None:
        if self._show is None:
            self._show = self._bar.enter_context(self._display.stage("training", steps, step - 1))
        accuracy = self.last.get("accuracy")
        self._show(f"loss {loss:.3f}" + (f", validation {100 * accuracy:.2f} %" if accuracy is not None else ""))
        if step == steps:  # a round of a lottery ticket has a bar of its own
            self._bar.close()
            self._show = None

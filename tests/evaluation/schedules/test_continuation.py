"""Two schedules in a row do what one does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.config.schedule import load_schedule
from autoprune.errors import ConfigError
from autoprune.evaluation.schedules.training_run import TrainingCallbacks, TrainingRun
from autoprune.pruning.surgery.provenance import Provenance, note_provenance
from autoprune.tasks.training.snapshot import Snapshot
from tests.user_tasks import task, tiny

INPUTS = torch.rand(2, 1, 8, 8)
TRAIN = "train: {epochs: 4, rate: 0.05, batch_size: 32, optimizer: KIND}\n"
GRADUAL = """
pruners:
  weights: {pruner: agp, sparsity: 0.8, layers: [second]}
  early: {pruner: level, sparsity: 0.5, layers: [third]}
  late: {pruner: level, sparsity: 0.5, layers: [head]}
policies:
  - {pruner: weights, start: 0, end: 4}
  - {pruner: early, epochs: [1]}
  - {pruner: late, epochs: [3]}
"""
LASSO = """
penalties: {them: {penalty: group_lasso, pattern: filter, strength: 0.05, threshold: 0.05, threshold_every: 2}}
policies: [{penalty: them, start: 0, end: 3}]
"""
THINNED = """
pruners: {filters: {pruner: l1_filter, sparsity: 0.5, layers: [second]}}
policies: [{pruner: filters, epochs: [1]}, {thin: true, epochs: [2]}]
"""


@dataclass
class Trained:
    """A training that has ended, and what it reported."""

    run: TrainingRun
    snapshots: list[Snapshot] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path, text: str, dense: nn.Module, before: Snapshot | None = None) -> Trained:
        (folder / "schedule.yaml").write_text(text)
        snapshots: list[Snapshot] = []
        said: list[str] = []
        callbacks = TrainingCallbacks(lambda _: None, snapshots.append, say=said.append)
        run = TrainingRun(task, dense, INPUTS, load_schedule(folder / "schedule.yaml"), callbacks, before=before)
        run.run()
        return cls(run, snapshots, said)

    def left(self) -> nn.Module:
        """The network as its file gives it."""
        note_provenance(self.run.network, Provenance((), self.run.active.masking.masks))
        return self.run.network


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("what", ["", GRADUAL, LASSO, THINNED], ids=["plain", "gradual", "lasso", "thinned"])
def test_two_schedules_in_a_row_equal_one_bit_for_bit(tmp_path: Path, what: str, kind: str) -> None:
    text = TRAIN.replace("KIND", kind) + what
    whole = Trained.of(tmp_path, text, tiny())
    first = Trained.of(tmp_path, f"stop_epoch: 2\n{text}", tiny())
    second = Trained.of(tmp_path, f"start_epoch: 2\n{text}", first.left(), first.snapshots[-1])
    expected, found = whole.run.network.state_dict(), second.run.network.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert second.snapshots[-1].step == whole.snapshots[-1].step == 2 * first.snapshots[-1].step
    wanted = "changed its shape" if what == THINNED else "optimizer and random numbers go on"
    assert wanted in second.said[0]


def test_without_the_state_of_the_first_the_optimizer_begins_anew_and_masks_hold(tmp_path: Path) -> None:
    text = TRAIN.replace("KIND", "sgd") + GRADUAL
    first = Trained.of(tmp_path, f"stop_epoch: 2\n{text}", tiny())
    dense = first.left()
    gone = {name: ~mask for name, mask in first.run.active.masking.masks.items()}
    alone = Trained.of(tmp_path, f"start_epoch: 2\n{text}", dense)
    other = Trained.of(tmp_path, f"start_epoch: 1\n{text}", dense, first.snapshots[-1])
    assert "no snapshot" in alone.said[0]
    assert "was taken after step 6, and not 3" in other.said[0]
    for each in (alone, other):
        parameters: dict[str, Any] = dict(each.run.network.named_parameters())
        assert not any(bool(parameters[name][where].any()) for name, where in gone.items())


def test_what_is_due_where_the_second_starts_is_done_then(tmp_path: Path) -> None:
    text = "start_epoch: 2\ntrain: {epochs: 3, rate: 0.05, batch_size: 32}\n" + THINNED.replace(
        "epochs: [1]", "epochs: [2]"
    )
    trained = Trained.of(tmp_path, text, tiny())
    assert trained.run.network.get_parameter("second.weight").shape[0] == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("start_epoch: 4", "start_epoch should be below the 4 epochs of the whole training"),
        ("stop_epoch: 5", "stop_epoch should be at most the 4 epochs"),
        ("start_epoch: 3\nstop_epoch: 3", r"stop_epoch should come after start_epoch \(3\) but is 3"),
        ("start_epoch: -1", "start_epoch: should be"),
        ("start_epoch: 1.5", "start_epoch: should be a whole number"),
        ("start_epoch: 1\npruners: {a: {pruner: lottery_ticket, sparsity: 0.5}}\nrounds: {count: 1}", "rounds of a"),
    ],
)
def test_offsets_that_cannot_be_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "schedule.yaml"
    path.write_text(f"{text}\n{TRAIN.replace('KIND', 'sgd')}")
    with pytest.raises(ConfigError, match=said):
        load_schedule(path)

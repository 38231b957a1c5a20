"""Schedules at work inside training, and every snapshot leads to the same end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoprune.config.schedule import load_schedule
from autoprune.core.recipe import TrainingPlan
from autoprune.errors import CheckpointError, UserError
from autoprune.evaluation.metrics import zeros_in
from autoprune.evaluation.schedules.training_run import TrainingCallbacks, TrainingRun
from autoprune.tasks.base import Hook
from autoprune.tasks.datasets.digits import DigitsTask
from autoprune.tasks.training.loop import seeded
from autoprune.tasks.training.snapshot import Snapshot
from tests.tiers import rest_slow

GRADUAL = """
train: {epochs: 2.5, rate: 0.02, batch_size: 128}
distill: {}
pruners:
  a: {pruner: agp, layers: ["stage*"], sparsity: 0.8}
  b: {pruner: level, layers: [linear], sparsity: 0.5}
policies:
  - {pruner: a, start: 0, end: 2}
  - {pruner: b, epochs: [1]}
"""
THINNED = """
train: {epochs: 3, rate: 0.02, batch_size: 128, optimizer: adam}
pruners:
  filters: {pruner: l1_filter, sparsity: 0.5, schedule: agp, layers: ["stage1*", "conv"]}
  classifier: {pruner: level, layers: [linear], sparsity: 0.5}
  late: {pruner: agp, layers: ["stage3.conv2"], sparsity: 0.6}
policies:
  - {pruner: filters, start: 0, end: 8, frequency: 4, unit: step}
  - {pruner: classifier, steps: [4]}
  - {pruner: late, start: 1, end: 3}
  - {thin: true, epochs: [1]}
"""
TICKET = """
train: {epochs: 1.5, rate: 0.02, batch_size: 128}
pruners:
  a: {pruner: lottery_ticket, sparsity: 0.8}
rounds: {count: 2, rewind: 3}
"""
LAYERS = """
train: {epochs: 4, rate: 0.02, batch_size: 128}
penalties:
  dead: {penalty: group_lasso, pattern: layer, strength: 0.02, scale_by_size: true, threshold_every: 5,
         layers: ["stage[23].conv*"]}
policies:
  - {penalty: dead, start: 0, end: 3}
  - {remove_layers: dead, epochs: [3]}
"""


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    """The digits' network after a few steps."""
    task = DigitsTask()
    with seeded(0):
        found = task.network()
    task.train(found, TrainingPlan(steps=40, rate=0.1, batch_size=64))
    return found


class _Watched:
    """A run whose events and snapshots are kept."""

    def __init__(self, folder: Path, dense: nn.Module, text: str, every: int | None = 3, hooks: Any = ()) -> None:
        path = folder / "schedule.yaml"
        path.write_text(text)
        self.events: list[Mapping[str, Any]] = []
        self.snapshots: list[Snapshot] = []
        task = DigitsTask()
        inputs = next(iter(task.batches("validation", 2)))[0]
        callbacks = TrainingCallbacks(self.events.append, self.snapshots.append, every, hooks)
        self.run = TrainingRun(task, dense, inputs, load_schedule(path), callbacks)

    def of(self, event: str) -> list[Mapping[str, Any]]:
        return [record for record in self.events if record["event"] == event]


@pytest.mark.parametrize(
    "text", rest_slow([GRADUAL, THINNED, TICKET, LAYERS]), ids=["gradual", "thinned", "ticket", "layers"]
)
def test_every_snapshot_leads_to_the_same_weights(tmp_path: Path, dense: nn.Module, text: str) -> None:
    unbroken = _Watched(tmp_path, dense, text)
    score = unbroken.run.run()
    expected = unbroken.run.network.state_dict()
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    for snapshot in unbroken.snapshots[:: max(1, len(unbroken.snapshots) // 6)]:
        again = _Watched(tmp_path, dense, text)
        again.run.resume(snapshot)
        assert again.run.run() == score
        found = again.run.network.state_dict()
        assert list(found) == list(expected)
        assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items()), snapshot.step
    assert all(torch.equal(tensor, dense.state_dict()[name]) for name, tensor in before.items())


def test_epochs_are_measured_and_the_last_sparsity_is_the_asked_one(tmp_path: Path, dense: nn.Module) -> None:
    watched = _Watched(tmp_path, dense, GRADUAL)
    watched.run.run()
    assert [note["epoch"] for note in watched.of("epoch")] == [1, 2]
    [final] = watched.of("final")
    assert final["sparsity.a"] == pytest.approx(0.8, abs=1e-3)
    assert final["sparsity.b"] == 0.5
    assert {"accuracy", "loss", "training_loss", "rate", "zeros", "epochs"} <= set(watched.of("epoch")[0])
    assert [note["rate"] for note in watched.of("epoch")] == sorted(
        (note["rate"] for note in watched.of("epoch")), reverse=True
    )


def test_masks_hold_after_every_step(tmp_path: Path, dense: nn.Module) -> None:
    seen = 0

    def check(network: nn.Module, step: int, steps: int, loss: float) -> None:
        nonlocal seen
        parameters = dict(network.named_parameters())
        for name, mask in watched.run.active.masking.masks.items():
            assert not bool(parameters[name].detach()[~mask].any())
            seen += 1

    watched = _Watched(tmp_path, dense, THINNED, hooks=[Hook(after_step=check)])
    watched.run.run()
    assert seen > 20


def test_thinning_carries_the_masks_of_weights_over(tmp_path: Path, dense: nn.Module) -> None:
    watched = _Watched(tmp_path, dense, THINNED)
    watched.run.run()
    network = watched.run.network
    assert network.get_submodule("stage1.conv1").out_channels == 8
    [thinned] = watched.of("thinned")
    assert thinned["widths"]["stage1.conv1"] == 8
    masks = watched.run.active.masking.masks
    assert int((~masks["linear.weight"]).sum()) == 320
    assert int((~masks["stage3.conv2.weight"]).sum()) == int(64 * 64 * 9 * 0.6 + 1e-9)
    [shape] = watched.run.shapes
    assert shape.kept["stage1.conv1"] == sorted(shape.kept["stage1.conv1"])
    assert zeros_in(network) > 0.2


def test_a_ticket_starts_each_round_from_the_early_weights_times_its_mask(tmp_path: Path, dense: nn.Module) -> None:
    starts: list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], bool]] = []

    def note(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        weights = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        starts.append((weights, watched.run.active.masking.masks, bool(optimizer.state)))

    watched = _Watched(tmp_path, dense, TICKET, hooks=[Hook(on_start=note)])
    watched.run.run()
    early = next(snapshot for snapshot in watched.snapshots if snapshot.step == 3)
    assert len(starts) == 3
    survivors = [sum(int(mask.sum()) for mask in masks.values()) for _, masks, _ in starts[1:]]
    total = sum(mask.numel() for mask in starts[2][1].values())
    assert survivors[1] == pytest.approx(0.2 * total, rel=1e-2)
    assert survivors[0] == pytest.approx(0.2**0.5 * total, rel=1e-2)
    for weights, masks, momentum in starts[1:]:
        assert momentum  # the optimizer's early state is back too
        for name, weight in weights.items():
            expected = early.state_dict[name]
            assert torch.equal(weight, expected * masks[name] if name in masks else expected)


def test_dead_layers_are_gone_and_the_network_is_trained_on(tmp_path: Path, dense: nn.Module) -> None:
    watched = _Watched(tmp_path, dense, LAYERS)
    score = watched.run.run()
    [removed] = watched.of("removed")
    assert removed["branches"]
    names = {name for name, _ in watched.run.network.named_parameters()}
    for branch in removed["branches"]:
        assert not any(name.startswith(branch) for name in names)
    assert [shape.removed for shape in watched.run.shapes] == [tuple(removed["branches"])]
    assert score.metrics["accuracy"] > 0.6


def test_thinning_removes_masked_channels_and_masked_layers(tmp_path: Path, dense: nn.Module) -> None:
    text = """
train: {epochs: 2, rate: 0.02, batch_size: 128}
pruners:
  layers: {pruner: l1_filter, pattern: layer, allocator: global, sparsity: 0.4}
  filters: {pruner: l1_filter, layers: ["stage*.conv1"], sparsity: 0.5}
policies:
  - {pruner: layers, epochs: [0]}
  - {pruner: filters, epochs: [0]}
  - {thin: true, epochs: [1]}
"""
    watched = _Watched(tmp_path, dense, text)
    watched.run.run()
    [gone] = watched.run.shapes[-1].removed
    names = [name for name, _ in watched.run.network.named_modules()]
    assert gone not in names
    left = [name for name in ("stage1.conv1", "stage2.conv1", "stage3.conv1") if name != gone]
    widths = {"stage1.conv1": 8, "stage2.conv1": 16, "stage3.conv1": 32}
    assert all(watched.run.network.get_submodule(name).out_channels == widths[name] for name in left)
    again = _Watched(tmp_path, dense, text)
    again.run.resume(watched.snapshots[-1])
    again.run.run()
    found = again.run.network.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in watched.run.network.state_dict().items())


def test_what_does_not_fit_the_training_is_refused(tmp_path: Path, dense: nn.Module) -> None:
    with pytest.raises(UserError, match="there is nothing to thin"):
        _Watched(tmp_path, dense, "train: {epochs: 1}\npolicies: [{thin: true, epochs: [0]}]\n").run.run()
    with pytest.raises(UserError, match="after the last of 8 steps"):
        _Watched(tmp_path, dense, GRADUAL.replace("epochs: 2.5", "steps: 8"))
    with pytest.raises(UserError, match="go back to step 3, after the last of 2 steps"):
        _Watched(tmp_path, dense, TICKET.replace("epochs: 1.5", "steps: 2"))


def test_a_snapshot_of_another_schedule_is_refused(tmp_path: Path, dense: nn.Module) -> None:
    watched = _Watched(tmp_path, dense, GRADUAL)
    watched.run.run()
    other = _Watched(tmp_path, dense, TICKET)
    with pytest.raises(CheckpointError, match="not of this schedule"):
        other.run.resume(Snapshot(3, {}, {}, {}, {"shapes": []}))

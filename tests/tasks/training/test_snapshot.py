from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import CheckpointError, TaskError
from autoprune.tasks.base import Hook, Task
from autoprune.tasks.datasets.digits import DigitsTask
from autoprune.tasks.simple import SimpleTask
from autoprune.tasks.training import loop
from autoprune.tasks.training.loop import seeded, train
from autoprune.tasks.training.optimizers import SCALER
from autoprune.tasks.training.snapshot import (
    FORMAT,
    Snapshot,
    checkpointing,
    read_snapshot,
    resume,
    take_snapshot,
    write_snapshot,
)
from autoprune.tasks.weights import load_weights


def _snapshot(extra: dict[str, object] | None = None) -> tuple[nn.Module, Snapshot]:
    """A network after two steps of Adam, and a snapshot of it."""
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(network.parameters(), lr=np.float64(0.1), betas=(0.8, 0.99))
    for _ in range(2):
        network(torch.randn(4, 2)).square().sum().backward()
        optimizer.step()
    return network, take_snapshot(network, optimizer, 2, extra)


def _flat(value: object) -> list[object]:
    """Every leaf with its type, tensors as lists."""
    if isinstance(value, Tensor):
        return [value.dtype, value.tolist()]
    if isinstance(value, dict):
        return [part for key, item in value.items() for part in (key, *_flat(item))]
    if isinstance(value, list | tuple):
        return [type(value), *(part for item in value for part in _flat(item))]
    return [type(value), value]


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    extra = {"masks": {"conv": torch.tensor([True, False])}, "round": 3, "rates": [0.5, (1, None)], "name": "agp"}
    _, snapshot = _snapshot(extra)
    write_snapshot(tmp_path / "new" / "s.pt", snapshot)
    again = read_snapshot(tmp_path / "new" / "s.pt")
    assert _flat(vars(again)) == _flat(vars(snapshot))
    assert again.extra["rates"] == [0.5, (1, None)]
    assert again.step == 2
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["s.pt"]


def test_file_is_plain_tensors_and_values_and_serves_as_a_dense_checkpoint(tmp_path: Path) -> None:
    network, snapshot = _snapshot()
    write_snapshot(tmp_path / "s.pt", snapshot)
    assert torch.load(tmp_path / "s.pt", weights_only=True)["snapshot"] == FORMAT
    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    load_weights(other, tmp_path / "s.pt")
    assert torch.equal(other[0].weight, network[0].weight)  # type: ignore[arg-type]


def test_snapshot_is_a_copy() -> None:
    mask = torch.ones(2)
    network, snapshot = _snapshot({"mask": mask})
    before = _flat(vars(snapshot))
    with torch.no_grad():
        for tensor in (mask, *network.parameters(), *network.buffers()):
            tensor.zero_()
    assert _flat(vars(snapshot)) == before


def test_numbers_of_numpy_become_plain_and_what_is_not_plain_is_named() -> None:
    _, snapshot = _snapshot({"rate": np.float64(0.25)})
    assert type(snapshot.extra["rate"]) is float
    assert type(snapshot.optimizer["param_groups"][0]["lr"]) is float
    with pytest.raises(TypeError, match=r"extra\['a'\]\[1\] is a ndarray"):
        _snapshot({"a": [1, np.zeros(2)]})
    with pytest.raises(TypeError, match=r"keys but has 1\.5"):
        _snapshot({"a": {1.5: 2}})


def _written(path: Path, **changes: object) -> Path:
    write_snapshot(path, _snapshot()[1])
    content = torch.load(path, weights_only=True)
    torch.save({**content, **changes}, path)
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"snapshot": FORMAT + 1}, f"format {FORMAT + 1}; this release of autoprune reads {FORMAT}"),
        ({"step": "2"}, "damaged: step is not"),
        ({"step": -1}, "damaged: step is not"),
        ({"state_dict": 1, "extra": []}, "damaged: state_dict and extra is not"),
        ({"optimizer": {"state": {}}}, "damaged: optimizer is not"),
        ({"random": {}}, "damaged: random is not"),
        ({"random": {"cpu": 3}}, "damaged: random is not"),
    ],
)
def test_newer_and_damaged_snapshots_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_snapshot(_written(tmp_path / "s.pt", **changes))


def test_truncated_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "s.pt", _snapshot()[1])
    (tmp_path / "half.pt").write_bytes((tmp_path / "s.pt").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_snapshot(tmp_path / "half.pt")
    with pytest.raises(CheckpointError, match="does not exist"):
        read_snapshot(tmp_path / "none.pt")
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "dense.pt")
    with pytest.raises(CheckpointError, match="is no snapshot of a training run"):
        read_snapshot(tmp_path / "dense.pt")


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """24 samples of 8x8 pixels, with noise that torch's global generator draws anew each time."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= len(self):
            raise IndexError
        return torch.full((1, 8, 8), index / 24) + 0.1 * torch.randn(1, 8, 8), torch.tensor(index % 3)


def _network() -> nn.Module:
    with seeded(7):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 10)
        )


def _digits() -> Task:
    return DigitsTask(model=_network)


def _dataset() -> Task:
    return SimpleTask(_network, Noisy(), Noisy())


def _loader() -> Task:
    loader = DataLoader(Noisy(), batch_size=4, shuffle=True)
    return SimpleTask(_network, loader, loader)


BATCH = {_digits: 250, _dataset: 6, _loader: 99}  # four batches a pass, or the loader's six: both borders are crossed
PLANS = [
    TrainingPlan(steps=10, warmup=0.2),
    TrainingPlan(steps=10, rate=0.01, optimizer="adam", schedule="steps", milestones=(0.4, 0.7)),
    TrainingPlan(steps=10, rate=0.01, optimizer="adamw", schedule="constant", channels_last=True, precision="bf16"),
]


def _whole_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    moments = [item for kept in optimizer.state.values() for item in kept.values() if isinstance(item, Tensor)]
    return [tensor.detach().clone() for tensor in (*network.state_dict().values(), *moments, torch.get_rng_state())]


def _ends_with(found: list[list[Tensor]]) -> Hook:
    """Keeps what the network, the optimizer and the generator are after the last step."""
    kept: list[torch.optim.Optimizer] = []

    def at_rest(network: nn.Module, step: int, steps: int) -> None:
        if step == steps:
            found.append(_whole_state(network, kept[-1]))

    return Hook(on_start=lambda network, optimizer, steps: kept.append(optimizer), at_rest=at_rest)


class Killed(Exception):
    pass


def _killed_at(step: int) -> Hook:
    def at_rest(network: nn.Module, done: int, steps: int) -> None:
        if done == step:
            raise Killed

    return Hook(at_rest=at_rest)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.optimizer)
@pytest.mark.parametrize("make", [_digits, _dataset, _loader], ids=["digits", "dataset", "loader"])
@pytest.mark.parametrize("killed_after", [3, 4, 6])
def test_training_that_is_killed_and_resumed_ends_bit_for_bit_as_the_unbroken_one(
    tmp_path: Path, make: Callable[[], Task], plan: TrainingPlan, killed_after: int
) -> None:
    """Step 4 or 6 ends a pass; fresh objects read the file, and global random states differ."""
    ends: list[list[Tensor]] = []
    plan = replace(plan, batch_size=BATCH[make])
    path = tmp_path / "s.pt"

    unbroken = _network()
    train(unbroken, make(), plan, [_ends_with(ends)])

    def save(snapshot: Snapshot) -> None:
        write_snapshot(path, snapshot)

    with pytest.raises(Killed):
        train(_network(), make(), plan, [checkpointing(save, every_steps=1), _killed_at(killed_after)])
    torch.manual_seed(99)
    snapshot = read_snapshot(path)
    assert snapshot.step == killed_after
    fresh = make().network().apply(_forget)
    train(fresh, make(), snapshot.remaining(plan), [resume(snapshot), _ends_with(ends)])

    assert len(ends) == 2
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), unbroken.state_dict().values(), strict=True)
    )


def _forget(module: nn.Module) -> None:
    for parameter in module.parameters(recurse=False):
        nn.init.constant_(parameter, 0.1)


DATA = [(torch.randn(4, 3, generator=torch.Generator().manual_seed(i)), torch.tensor([0, 1, 0, 1])) for i in range(3)]


def _small() -> nn.Module:
    with seeded(7):
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 2))


def _snapshots(plan: TrainingPlan, every_steps: int | None = None, **others: Any) -> list[Snapshot]:
    taken: list[Snapshot] = []
    train(_small(), SimpleTask(_small, DATA, DATA), plan, [checkpointing(taken.append, every_steps, **others)])
    return taken


def test_snapshots_are_taken_every_n_steps_after_passes_and_at_the_end_once_each() -> None:
    assert [snapshot.step for snapshot in _snapshots(TrainingPlan(steps=8), 2)] == [2, 3, 4, 6, 8]
    assert [snapshot.step for snapshot in _snapshots(TrainingPlan(steps=8))] == [3, 6, 8]


def test_snapshot_at_the_end_of_a_pass_holds_what_the_hooks_did_after_it() -> None:
    """Even where it is first in the list."""
    seen: list[int] = []
    taken: list[Snapshot] = []
    hooks = [
        checkpointing(taken.append, 1, extra=lambda: {"epochs": len(seen)}),
        Hook(after_epoch=lambda network, epoch: seen.append(epoch)),
    ]
    train(_small(), SimpleTask(_small, DATA, DATA), TrainingPlan(steps=4), hooks)
    assert [(snapshot.step, snapshot.extra) for snapshot in taken] == [
        (1, {"epochs": 0}), (2, {"epochs": 0}), (3, {"epochs": 1}), (4, {"epochs": 1}),
    ]  # fmt: skip


def test_resuming_leaves_the_snapshot_as_it_is() -> None:
    snapshot = _snapshots(TrainingPlan(steps=6), 2)[0]
    ends: list[list[Tensor]] = []
    for _ in range(2):
        plan = snapshot.remaining(TrainingPlan(steps=6))
        train(_small(), SimpleTask(_small, DATA, DATA), plan, [resume(snapshot), _ends_with(ends)])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize(
    ("plan", "network", "message"),
    [
        (TrainingPlan(steps=6, begin=2, optimizer="adam"), _small, "differ in .*betas.*momentum"),
        (TrainingPlan(steps=6, begin=2, weight_decay=0.1), _small, "differ in weight_decay"),
        (TrainingPlan(steps=6, begin=2), lambda: nn.Linear(3, 2), "does not fit Linear"),
    ],
)
def test_snapshot_that_does_not_fit_is_refused(
    plan: TrainingPlan, network: Callable[[], nn.Module], message: str
) -> None:
    snapshot = _snapshots(TrainingPlan(steps=6), 2)[0]
    with pytest.raises(CheckpointError, match=message):
        train(network(), SimpleTask(_small, DATA, DATA), plan, [resume(snapshot)])


def test_adam_is_not_resumed_as_adamw() -> None:
    snapshot = _snapshots(TrainingPlan(steps=6, optimizer="adam"), 2)[0]
    plan = TrainingPlan(steps=6, begin=2, optimizer="adamw")
    with pytest.raises(CheckpointError, match="decoupled_weight_decay"):
        train(_small(), SimpleTask(_small, DATA, DATA), plan, [resume(snapshot)])


@pytest.mark.parametrize("change", ["shape", "count"])
def test_optimizer_state_of_other_parameters_is_refused(change: str) -> None:
    snapshot = _snapshots(TrainingPlan(steps=6), 2)[0]
    state = {name: dict(value) if name == "state" else value for name, value in snapshot.optimizer.items()}
    if change == "shape":
        state["state"][0] = {"momentum_buffer": torch.zeros(9, 9)}
    else:
        state["param_groups"] = [{**group, "params": group["params"][:1]} for group in state["param_groups"]]
    plan = TrainingPlan(steps=6, begin=2)
    with pytest.raises(CheckpointError, match="SGD does not fit the network"):
        train(_small(), SimpleTask(_small, DATA, DATA), plan, [resume(replace(snapshot, optimizer=state))])


@pytest.fixture
def fp16_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets fp16 train on a CPU, slowly, for the sake of its scaler, with a scale that grows at every second step."""
    monkeypatch.setattr(loop, "check_precision", lambda *_: None)
    scaler = partial(torch.amp.GradScaler, growth_interval=2, init_scale=8.0)
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)


@pytest.mark.usefixtures("fp16_on_cpu")
def test_snapshots_of_fp16_hold_the_scaler_and_training_goes_on_with_it(tmp_path: Path) -> None:
    plan = TrainingPlan(steps=6, accumulate=2, clip_norm=1.0, precision="fp16")
    *_, third, fourth, fifth, last = _snapshots(plan, 1)
    assert [each.optimizer[SCALER]["scale"] for each in (third, fourth, fifth, last)] == [16, 32, 32, 64]
    write_snapshot(tmp_path / "s.pt", fifth)
    fifth = read_snapshot(tmp_path / "s.pt")
    network, taken = _small(), []
    hooks = [resume(fifth), checkpointing(taken.append, 1)]
    train(network, SimpleTask(_small, DATA, DATA), fifth.remaining(plan), hooks)
    assert _flat(vars(taken[-1])) == _flat(vars(last))


@pytest.mark.usefixtures("fp16_on_cpu")
@pytest.mark.parametrize(("before", "after"), [("fp16", "fp32"), ("fp32", "fp16")])
def test_a_training_is_not_resumed_with_another_precision(before: Any, after: Any) -> None:
    snapshot = _snapshots(TrainingPlan(steps=3, precision=before))[-1]
    plan = TrainingPlan(steps=5, precision=after)
    with pytest.raises(CheckpointError, match="with another precision"):
        train(_small(), SimpleTask(_small, DATA, DATA), snapshot.remaining(plan), [resume(snapshot)])


def test_plan_that_begins_elsewhere_is_refused_before_a_step_is_taken() -> None:
    snapshot = _snapshots(TrainingPlan(steps=6), 2)[0]
    network = _small()
    with pytest.raises(TaskError, match=r"began at step 1, but the snapshot was taken before step 3"):
        train(network, SimpleTask(_small, DATA, DATA), TrainingPlan(steps=6), [resume(snapshot)])
    assert all(torch.equal(p, snapshot.state_dict[name]) for name, p in network.named_parameters())


def test_loop_of_a_task_that_hands_over_no_optimizer_is_told_to() -> None:
    hook = checkpointing(lambda snapshot: None, 1)
    with pytest.raises(TaskError, match="does not call the hooks' on_start"):
        hook.after_step(_small(), 1, 1, 0.5)
    with pytest.raises(TaskError, match="every 1 or more steps, not every 0"):
        checkpointing(lambda snapshot: None, 0)

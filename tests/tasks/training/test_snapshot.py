from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import CheckpointError
from autoprune.tasks.training.snapshot import FORMAT, Snapshot, read_snapshot, take_snapshot, write_snapshot
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

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from autoprune.core.allocation import Allocation
from autoprune.core.trial import Candidate
from autoprune.errors import CheckpointError
from autoprune.evaluation.checkpoints.checkpoint import (
    FORMAT,
    PrunedCheckpoint,
    load,
    read_checkpoint,
    rebuild,
    write_checkpoint,
)
from autoprune.evaluation.checkpoints.example_inputs import describe_inputs
from autoprune.evaluation.checkpoints.export import export_network
from autoprune.graph.groups import find_groups
from autoprune.graph.inputs import ModelInputs
from autoprune.pruning.surgery.branch_removal import remove_branches
from autoprune.pruning.surgery.provenance import PrunedShape, kept_by_layer
from autoprune.pruning.surgery.thinning import thin
from tests.evaluation.test_evaluator import HALF, RECIPE, make_evaluator
from tests.journeys import DigitsRun, fresh_process
from tests.tiers import rest_slow
from tests.user_tasks import tiny


def write_tiny(path: Path, allocation: Allocation = HALF) -> nn.Module:
    evaluator = make_evaluator()
    built = evaluator.build(Candidate(0, allocation, RECIPE))
    write_checkpoint(path, built.checkpoint({"accuracy": 0.5}, {}))
    return built.network


def test_a_pruned_checkpoint_is_tensors_and_plain_values(tmp_path: Path) -> None:
    network = write_tiny(tmp_path / "p.pt")
    content = torch.load(tmp_path / "p.pt", weights_only=True)
    assert content["widths"] == {"second": 8, "third": 5}
    [shape] = content["shapes"]
    assert shape["removed"] == []
    assert len(shape["kept"]["second"]) == 8
    assert "first" not in shape["kept"]
    assert content["metrics"] == {"accuracy": 0.5}
    assert set(content["state_dict"]) == set(network.state_dict())


def test_a_users_network_is_passed_in_to_load_it(tmp_path: Path) -> None:
    network = write_tiny(tmp_path / "p.pt")
    inputs = torch.rand(3, 1, 8, 8)
    for model in (tiny, tiny()):
        assert torch.equal(load(tmp_path / "p.pt", model=model)(inputs), network(inputs))
    with pytest.raises(CheckpointError, match="which autoprune does not bundle"):
        load(tmp_path / "p.pt")
    with pytest.raises(CheckpointError, match="layers that the network does not have"):
        load(tmp_path / "p.pt", model=nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 4)))


def test_loading_leaves_the_network_that_is_passed_in_as_it_was(tmp_path: Path) -> None:
    write_tiny(tmp_path / "p.pt")
    dense = tiny().train()
    load(tmp_path / "p.pt", model=dense)
    assert dense.training
    assert all(torch.equal(tensor, tiny().state_dict()[name]) for name, tensor in dense.state_dict().items())


def test_only_pruned_checkpoints_are_loaded(tmp_path: Path) -> None:
    torch.save(tiny().state_dict(), tmp_path / "dense.pt")
    assert read_checkpoint(tmp_path / "dense.pt") is None
    with pytest.raises(CheckpointError, match="is no pruned checkpoint of autoprune"):
        load(tmp_path / "dense.pt")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load(tmp_path / "missing.pt")


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path / "p.pt")
    checkpoint = read_checkpoint(tmp_path / "p.pt")
    assert checkpoint is not None
    odd = {**vars(checkpoint), "state_dict": {**checkpoint.state_dict, "head.weight": torch.zeros(4, 9)}}
    with pytest.raises(CheckpointError, match="does not fit"):
        rebuild(type(checkpoint)(**odd), tiny)


def write_residual(path: Path) -> nn.Module:
    """A network that lost two branches, the outer of nested ones after the inner, and then channels."""
    dense, inputs = Nested().eval(), torch.rand(2, 1, 8, 8)
    network: nn.Module = dense
    for name in ("inner", "first"):
        network = remove_branches(network, find_groups(network, inputs), [name], check_on=inputs)
    graph = find_groups(network, inputs)
    kept = {"stem": [0, 2, 3]}
    network = thin(network, graph, kept, check_on=inputs).eval()
    state, by_layer = network.state_dict(), kept_by_layer(graph, kept)
    found = describe_inputs(ModelInputs.of(inputs))
    shapes = [PrunedShape(("inner", "first"), by_layer)]
    write_checkpoint(path, PrunedCheckpoint(state, {"stem": 3}, shapes, "", found, {}))
    return network


class Nested(nn.Module):
    """A branch within a branch, and another one beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.inner, self.last, self.other = (
            nn.Conv2d(ins, 4, 3, padding=1) for ins in (1, 4, 4, 4, 4)
        )
        self.head = nn.Linear(4, 3)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        samples = self.stem(samples).relu()
        inside = self.first(samples)
        samples = samples + self.last(inside + self.inner(inside))
        return self.head((samples + self.other(samples)).mean((2, 3)))


def test_a_network_without_branches_is_rebuilt_and_then_thinned(tmp_path: Path) -> None:
    network = write_residual(tmp_path / "p.pt")
    inputs = torch.rand(3, 1, 8, 8)
    assert torch.load(tmp_path / "p.pt", weights_only=True)["shapes"][0]["removed"] == ["inner", "first"]
    loaded = load(tmp_path / "p.pt", model=Nested)
    assert torch.equal(loaded(inputs), network(inputs))
    assert {name.partition(".")[0] for name in loaded.state_dict()} == {"stem", "other", "head"}
    with pytest.raises(CheckpointError, match="does not fit Tiny: no branch 'first' can be removed"):
        load(tmp_path / "p.pt", model=tiny)


def test_files_of_another_format_are_refused(tmp_path: Path) -> None:
    write_tiny(tmp_path / "p.pt")
    content = torch.load(tmp_path / "p.pt", weights_only=True)
    torch.save({**content, "autoprune": FORMAT + 1}, tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match=f"has format {FORMAT + 1}; this release of autoprune reads {FORMAT}"):
        load(tmp_path / "new.pt", model=tiny)


@pytest.mark.parametrize("removed", ["first", {"first": 1}, ["first", 2], None, 3])
def test_branches_that_are_no_list_of_names_are_refused(tmp_path: Path, removed: object) -> None:
    write_residual(tmp_path / "p.pt")
    content = torch.load(tmp_path / "p.pt", weights_only=True)
    torch.save({**content, "shapes": [{"removed": removed, "kept": {}}]}, tmp_path / "p.pt")
    with pytest.raises(CheckpointError, match="damaged: shapes is not what"):
        load(tmp_path / "p.pt", model=Nested)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny(tmp_path / "p.pt")
    before = (tmp_path / "p.pt").read_bytes()

    def half(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(bytes(content)[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space"):
        write_tiny(tmp_path / "p.pt", Allocation({"second": 3}))
    assert (tmp_path / "p.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["p.pt"]


def test_a_fresh_process_loads_the_same_network(digits_run: DigitsRun, tmp_path: Path) -> None:
    path = digits_run.folder / "weights" / "1.pt"
    inputs = torch.rand(5, 1, 8, 8)
    torch.save(inputs, tmp_path / "in.pt")
    fresh_process(
        f"import autoprune, torch; torch.set_num_threads(1); network = autoprune.load({str(path)!r});"
        "torch.save(network(torch.load('in.pt')).detach(), 'out.pt')",
        tmp_path,
    )
    assert torch.equal(torch.load(tmp_path / "out.pt"), load(path)(inputs).detach())


@pytest.mark.parametrize("form", rest_slow(["onnx", "pt2"]))
def test_exports_run_without_autoprune_on_batches_of_any_size(digits_run: DigitsRun, tmp_path: Path, form: str) -> None:
    network = load(digits_run.folder / "weights" / "1.pt")
    written = export_network(network, torch.zeros(2, 1, 8, 8), tmp_path / "small.pt", form)
    assert written == tmp_path / f"small.{form}"
    for size in (1, 2, 7):
        torch.save(torch.rand(size, 1, 8, 8), tmp_path / f"in{size}.pt")
    run = {
        "pt2": "call = torch.export.load('small.pt2').module()",
        "onnx": "import onnxruntime; session = onnxruntime.InferenceSession('small.onnx');"
        "call = lambda x: torch.tensor(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])",
    }[form]
    fresh_process(
        f"import sys, torch; sys.modules['autoprune'] = None; {run}\n"
        "for n in (1, 2, 7): torch.save(call(torch.load(f'in{n}.pt')).detach(), f'out{n}.pt')",
        tmp_path,
    )
    for size in (1, 2, 7):
        expected = network(torch.load(tmp_path / f"in{size}.pt")).detach()
        torch.testing.assert_close(torch.load(tmp_path / f"out{size}.pt"), expected, atol=1e-4, rtol=1e-4)

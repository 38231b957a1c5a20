"""Networks that were pruned before: pruned again, saved, read onto the first network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autoprune
from autoprune.core.allocation import Allocation
from autoprune.errors import CheckpointError, UserError
from autoprune.evaluation.checkpoints.checkpoint import read_checkpoint, rebuild
from autoprune.evaluation.prunable_model import PrunableModel, analyze
from autoprune.graph.costs import measure_costs
from autoprune.pruning.pruner import L1_FILTER, LEVEL, N_OF_M
from autoprune.pruning.surgery.provenance import provenance_of
from autoprune.pruning.surgery.written_forward import WrittenForward
from autoprune.pruning.weight_uses import measure_effective
from tests.evaluation.checkpoints.test_round_trips import encoder, outputs
from tests.graph.contract import randomise
from tests.pruning.residual import residual
from tests.user_tasks import tiny

SAMPLES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def pruned(prunable: PrunableModel, widths: Mapping[str, int]) -> nn.Module:
    found = prunable.structures.prune(prunable.network, prunable.importance, widths, prunable.inputs).eval()
    assert prunable.structures.measure(found, prunable.inputs, prunable.importance, widths) == prunable.costs.costs(
        widths
    )
    return found


def halved(prunable: PrunableModel) -> Allocation:
    return Allocation({g.name: max(g.least, 1, g.width // 2) for g in prunable.structures.groups})


def round_trip(network: nn.Module, dense: nn.Module, inputs: Any, path: Path) -> nn.Module:
    """Checks that a file of the network gives it again on the first one, and returns what it gives."""
    autoprune.save(network, path, inputs)
    loaded = autoprune.load(path, copy.deepcopy(dense), inputs=inputs)
    for found, expected in zip(
        *(outputs(each, autoprune.ModelInputs.of(inputs)) for each in (loaded, network)), strict=True
    ):
        assert torch.equal(found, expected)
    return loaded


def test_removed_branches_and_then_channels_and_branches_again(tmp_path: Path) -> None:
    dense = randomise(residual()).eval()
    inputs = torch.rand(2, 1, 8, 8)
    network, depth = copy.deepcopy(dense), L1_FILTER.with_depth()
    for _ in range(2):
        prunable = analyze(network, inputs, depth)
        leads = [g.name for g in prunable.structures.groups if g.least == 0 and g.lead is None]
        assert leads
        network = pruned(prunable, {**halved(prunable), leads[0]: 0})
        network = round_trip(network, dense, inputs, tmp_path / "p.pt")
    shapes = provenance_of(network).shapes
    assert [len(shape.removed) for shape in shapes] == [1, 1]
    assert all(shape.kept for shape in shapes)


def test_heads_and_hidden_units_of_a_transformer_go_in_three_steps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense, inputs = encoder().eval(), torch.randn(2, 5, 6)
    network = copy.deepcopy(dense)
    for step in range(1, 4):  # at last channels of the one head that is left
        prunable = analyze(network, inputs, L1_FILTER)
        network = round_trip(pruned(prunable, halved(prunable)), dense, inputs, tmp_path / "p.pt")
        assert len(provenance_of(network).shapes) == step


class Padded(nn.Module):
    """Its forward names a number of channels, so that a thinned one is written anew."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        x = self.second(x) + nn.functional.pad(x, (0, 0, 0, 0, 4, 4))
        return self.head(x.relu().mean((2, 3)).view(-1, 16))


def test_a_forward_that_was_written_anew_is_written_again(tmp_path: Path) -> None:
    dense = Padded().eval()
    network: nn.Module = copy.deepcopy(dense)
    for _ in range(2):
        prunable = analyze(network, SAMPLES, L1_FILTER)
        network = round_trip(pruned(prunable, halved(prunable)), dense, SAMPLES, tmp_path / "p.pt")
        assert any(isinstance(module, WrittenForward) for module in network.modules())


def test_weights_are_counted_and_pruned_among_those_that_are_left(tmp_path: Path) -> None:
    once = analyze(tiny(), SAMPLES, LEVEL)
    network = round_trip(pruned(once, halved(once)), tiny(), SAMPLES, tmp_path / "p.pt")
    twice = analyze(network, SAMPLES, LEVEL)
    widths = {group.name: group.width for group in once.structures.groups}
    assert {g.name: g.width for g in twice.structures.groups} == {n: max(1, width // 2) for n, width in widths.items()}
    assert twice.costs.dense() == once.costs.costs(halved(once)) == measure_effective(network, SAMPLES)
    found = pruned(twice, halved(twice))
    before, after = provenance_of(network).masks, provenance_of(found).masks
    for name, mask in before.items():
        assert not bool((after[name] & ~mask).any())
        assert int(after[name].sum()) == int(mask.sum()) // 2


def test_channels_take_the_masks_of_what_stays_with_them(tmp_path: Path) -> None:
    once = analyze(tiny(), SAMPLES, LEVEL)
    network = pruned(once, halved(once))
    prunable = analyze(network, SAMPLES, L1_FILTER)
    thinned = round_trip(pruned(prunable, halved(prunable)), tiny(), SAMPLES, tmp_path / "p.pt")
    kept = provenance_of(thinned).shapes[-1].kept
    rows, columns = kept["third"], kept["second"]
    expected = provenance_of(network).masks["third.weight"][rows][:, columns]
    assert torch.equal(provenance_of(thinned).masks["third.weight"], expected)


def test_what_lost_as_much_as_n_of_m_allows_is_not_searched_again() -> None:
    once = analyze(tiny(), SAMPLES, N_OF_M)
    network = pruned(once, Allocation({group.name: group.least for group in once.structures.groups}))
    again = analyze(network, SAMPLES, N_OF_M)
    assert not again.structures.groups
    assert again.costs.dense() == measure_effective(network, SAMPLES)


def test_what_a_loop_of_the_users_own_pruned_is_saved_and_read(tmp_path: Path) -> None:
    network = tiny().eval()
    autoprune.Pruning(network, "level", 0.5, inputs=SAMPLES).finish()
    loaded = round_trip(network, tiny(), SAMPLES, tmp_path / "masked.pt")
    filters = autoprune.Pruning(loaded, "l1_filter", 0.5, inputs=SAMPLES, layers=["second"])
    optimizer = torch.optim.SGD(loaded.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        loaded(SAMPLES).sum().backward()
        optimizer.step()
        filters.step()
    thinned = round_trip(filters.finish(thin=True), tiny(), SAMPLES, tmp_path / "thinned.pt")
    file = read_checkpoint(tmp_path / "thinned.pt")
    assert file is not None
    assert file.first == measure_costs(tiny(), SAMPLES)
    assert file.masks.keys() >= {"first.weight", "third.weight"}
    weight = thinned.get_parameter("third.weight")
    assert int((weight == 0).sum()) == int((~file.masks["third.weight"]).sum()) > 0


def test_an_allocation_of_a_users_own_search_is_saved(tmp_path: Path) -> None:
    space = autoprune.search_space(tiny(), SAMPLES)
    network = tiny()
    for width in (12, 6):
        network = space.apply(network, {"second": width})
        network = round_trip(network, tiny(), SAMPLES, tmp_path / "p.pt")
        space = autoprune.search_space(network, SAMPLES)
    assert network.get_parameter("second.weight").shape[0] == 6
    with torch.no_grad():
        network.get_parameter("head.weight").zero_()
    masks = {"head.weight": torch.zeros(4, 16, dtype=torch.bool)}
    autoprune.save(network, tmp_path / "p.pt", SAMPLES, masks=masks)
    assert torch.equal(
        provenance_of(autoprune.load(tmp_path / "p.pt", tiny)).masks["head.weight"], masks["head.weight"]
    )


def test_masks_that_do_not_fit_or_do_not_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not fit the network's parameter 'head.weight'"):
        autoprune.save(tiny(), tmp_path / "p.pt", SAMPLES, masks={"head.weight": torch.ones(3, dtype=torch.bool)})
    network = tiny()
    autoprune.Pruning(network, "level", 0.5, inputs=SAMPLES).finish()
    with torch.no_grad():
        network.get_parameter("head.weight").fill_(1)
    with pytest.raises(UserError, match=r"weights of 'head.weight' that were pruned are not zero any more"):
        autoprune.save(network, tmp_path / "p.pt", SAMPLES)
    assert not (tmp_path / "p.pt").exists()


def test_files_of_other_networks_and_masks_of_other_shapes_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "p.pt"
    network = autoprune.apply(tiny(), {"second": 4}, inputs=SAMPLES)
    autoprune.save(network, path, SAMPLES)
    other = autoprune.apply(tiny(), {"second": 3}, inputs=SAMPLES)
    stored = read_checkpoint(path)
    assert stored is not None
    for dense, said in (
        (nn.Sequential(nn.Conv2d(1, 4, 3)), "does not fit Sequential: it names layers"),
        (other, "was not pruned from this Tiny, which has itself lost other channels"),
    ):
        with pytest.raises(CheckpointError, match=said) as caught:
            rebuild(stored, dense, SAMPLES)
        assert "\n" not in str(caught.value)
    content = torch.load(path, weights_only=True)
    for masks in (
        {"head.weight": torch.zeros(3, dtype=torch.uint8)},
        {"nobody": torch.zeros(1)},
        {"head.weight": torch.zeros(8)},
    ):
        torch.save({**content, "masks": masks}, path)
        with pytest.raises(CheckpointError, match="is damaged: its masks are not those of its weights"):
            read_checkpoint(path)


def test_zeros_that_no_mask_holds_are_named_when_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = tiny()
    autoprune.save(network, tmp_path / "p.pt", SAMPLES)
    assert not caplog.records
    with torch.no_grad():
        network.head.weight[0] = 0
    autoprune.save(network, tmp_path / "p.pt", SAMPLES)
    assert "no mask holds them, so that training brings them back (head.weight)" in caplog.text
    autoprune.save(network, tmp_path / "p.pt", SAMPLES, masks={"head.weight": network.head.weight != 0})
    assert len(caplog.records) == 1


def test_a_damaged_file_is_called_so(tmp_path: Path) -> None:
    path, network = tmp_path / "p.pt", tiny()
    autoprune.save(network, path, SAMPLES)
    written, weight = path.read_bytes(), network.head.weight.detach().numpy().tobytes()
    place = written.index(weight)
    for damaged in (written[: len(written) // 2], written[:place] + bytes([weight[0] ^ 1]) + written[place + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(autoprune.UserError, match="truncated or damaged"):
            autoprune.load(path, tiny())


def test_a_network_that_a_file_is_not_of_is_named(tmp_path: Path) -> None:
    prunable = analyze(tiny(), SAMPLES, L1_FILTER)
    autoprune.save(pruned(prunable, halved(prunable)), tmp_path / "p.pt", SAMPLES)
    with pytest.raises(CheckpointError, match=r"pruned from .*Tiny, does not fit Linear: "):
        autoprune.load(tmp_path / "p.pt", nn.Linear(3, 2))
    with pytest.raises(CheckpointError, match="should be the dense network or a function"):
        autoprune.load(tmp_path / "p.pt", "tests.user_tasks:tiny")  # type: ignore[arg-type]

"""autoprune's own files as a beginning: searched again, trained, applied, each on what the one before it left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import autoprune as package
from autoprune.evaluation.checkpoints.checkpoint import PrunedCheckpoint, read_checkpoint
from autoprune.graph.costs import measure_costs
from autoprune.graph.groups import find_groups
from autoprune.pruning.surgery.masks import mask_network
from tests.journeys import OWN, Cli
from tests.user_tasks import tiny

TASK = ("--task", "tests.user_tasks:task")
TRAIN = "train: {steps: 4, rate: 0.05, batch_size: 32, weight_decay: 0.1}\n"


def read(path: str | Path) -> PrunedCheckpoint:
    found = read_checkpoint(Path(path))
    assert found is not None
    return found


def written(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def sparse(path: str, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, path)


@pytest.fixture
def twice(autoprune: Cli, workdir: Path) -> Path:
    """A folder in which `p1.pt` is searched and applied, and `p2.pt` from that."""
    autoprune.succeed(*OWN, *TASK, "--output", "r1")
    autoprune.succeed("apply", "r1", "--output", "p1.pt")
    autoprune.succeed(*OWN, *TASK, "--checkpoint", "p1.pt", "--output", "r2")
    autoprune.succeed("apply", "r2", "--output", "p2.pt")
    return workdir


def masked_through(checkpoint: PrunedCheckpoint, dense: nn.Module) -> nn.Module:
    """The first network with all that a chain of two losses left out of it set to zero."""
    graph = find_groups(dense, torch.zeros(2, 1, 8, 8))
    kept = {}
    for group in graph.groups:
        layer = next(member.layer for member in group.members if member.side == "out")
        left = list(range(group.group.width))
        for shape in checkpoint.shapes:
            left = [left[i] for i in shape.kept.get(layer, range(len(left)))]
        kept[group.name] = tuple(left)
    return mask_network(dense, graph, kept).eval()


def test_a_file_pruned_twice_loads_onto_the_first_network(twice: Path) -> None:
    once, again = read("p1.pt"), read("p2.pt")
    assert [len(read(name).shapes) for name in ("p1.pt", "p2.pt")] == [1, 2]
    assert again.shapes[0] == once.shapes[0]
    network = package.load("p2.pt", tiny)
    counted = measure_costs(network, torch.zeros(2, 1, 8, 8))
    assert counted["flops"] <= 0.6 * measure_costs(package.load("p1.pt", tiny), torch.zeros(2, 1, 8, 8))["flops"]
    assert again.first == measure_costs(tiny(), torch.zeros(2, 1, 8, 8))
    samples = torch.rand(3, 1, 8, 8)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.reset_running_stats()  # re-estimated in the file
    torch.testing.assert_close(network(samples), masked_through(again, tiny())(samples))

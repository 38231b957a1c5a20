from __future__ import annotations

import pytest
import torch
from torch import nn

from autoprune import registry
from autoprune.cli import main
from autoprune.errors import UserError
from autoprune.graph.groups import find_groups
from autoprune.pruning.training.penalties import ScaleL1


def test_the_scales_of_batch_norms_are_penalised_by_their_absolute_values() -> None:
    network = nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.InstanceNorm2d(8, affine=True), nn.Conv2d(8, 2, 3)
    )
    graph = find_groups(network, torch.randn(2, 4, 6, 6))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([1.0, -2.0, 0.0, 3.0, 0.5, -0.5, 0.0, 1.0]))
    term = ScaleL1(network, graph, 0.5).term()
    assert float(term.detach()) == 4.0
    term.backward()
    assert network[1].weight.grad.tolist() == [0.5, -0.5, 0, 0.5, 0.5, -0.5, 0, 0.5]
    with pytest.raises(UserError, match="'0' matches no group that can be pruned; there are 1"):
        ScaleL1(network, graph, 0.5, layers=("0",))
    with pytest.raises(UserError, match="strength of a penalty should be a number above 0 but is 0"):
        ScaleL1(network, graph, 0)


def test_penalties_are_listed_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "penalties"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(registry.PENALTIES)
    assert all(len(line.split()) > 6 and line.endswith(".") for line in lines)

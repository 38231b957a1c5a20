from __future__ import annotations

import logging
import time

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import TaskError, UserError
from autoprune.graph.groups import find_groups
from autoprune.tasks.models.cifar_resnet import resnet20, resnet56
from tests.graph.contract import batch, widths
from tests.graph.indexed_networks import INDEXED
from tests.graph.networks import WELL_KNOWN, Case, LeNet
from tests.graph.ordinary_networks import ORDINARY
from tests.graph.unusual_networks import UNUSUAL

CASES = {**WELL_KNOWN, **UNUSUAL, **INDEXED, **ORDINARY}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_expected_groups_are_found_in_every_network(case: Case) -> None:
    torch.manual_seed(0)
    graph = find_groups(case.build().to(case.dtype), batch(case.shape, case.integers, case.dtype))
    assert widths(graph) == case.groups


def test_one_sample_is_enough_to_find_the_groups() -> None:
    for name in ("resnet20", "lenet_numbers", "shufflenet_v2_computed", "vit_fused", "folded"):
        case = CASES[name]
        graph = find_groups(case.build(), batch(case.shape, case.integers, torch.float32, samples=1))
        assert widths(graph) == case.groups, name


def test_the_residual_stream_of_a_cifar_network_is_one_group_of_all_that_it_ties() -> None:
    graph = find_groups(resnet20(), torch.randn(2, 3, 32, 32))
    stream = graph["conv1"]
    assert stream.group.producers == (
        "conv1", "layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2", "layer2.0.conv2", "layer2.1.conv2",
        "layer2.2.conv2", "layer3.0.conv2", "layer3.1.conv2", "layer3.2.conv2",
    )  # fmt: skip
    rows = {(member.layer, member.side): member.rows[:, 0].tolist() for member in stream.members}
    assert rows["layer2.0.conv2", "out"] == list(range(8, 24))  # 8 zero channels are padded in front, 8 behind
    assert rows["linear", "in"] == list(range(24, 40))
    assert stream.group.first
    assert not graph["layer3.0.conv2"].group.first
    assert [(frozen.layer, frozen.width) for frozen in graph.frozen] == [("linear", 10)]


def test_flattened_positions_of_a_channel_belong_to_its_structure() -> None:
    graph = find_groups(LeNet("numbers"), torch.randn(2, 3, 32, 32))
    rows = {(member.layer, member.side): member.rows for member in graph["conv2"].members}
    assert rows["fc1", "in"].tolist() == [list(range(25 * i, 25 * i + 25)) for i in range(16)]


def test_what_is_frozen_is_named_in_the_log_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    case = CASES["local_response"]
    with caplog.at_level(logging.INFO, logger="autoprune"):
        find_groups(case.build(), torch.randn(2, *case.shape))
    assert "conv: its 8 channels stay: local_response_norm (local_response_norm) is not followed" in caplog.text


def test_what_any_flow_ties_is_tied() -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x).relu()
            return self.c(self.b(y) if x.sum() > 0 else y)

    for seed, x in enumerate((torch.ones(2, 3), -torch.ones(2, 3)) * 5):
        noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed))
        graph = find_groups(Deciding(), torch.cat([x, noise]))
        assert {group.name: group.group.producers for group in graph.groups} == {"a": ("a", "b")}


def test_a_network_that_cannot_run_on_the_inputs_is_refused_with_their_shape() -> None:
    with pytest.raises(TaskError, match=r"cannot run on a batch of shape \[2, 4, 32, 32\]"):
        find_groups(resnet20(), torch.randn(2, 4, 32, 32))


def test_an_unknown_group_is_an_error_that_names_those_there_are() -> None:
    graph = find_groups(LeNet("size"), torch.randn(2, 3, 32, 32))
    with pytest.raises(UserError, match="no group 'conv9'; it has conv1, conv2, fc1, fc2"):
        graph["conv9"]


@pytest.mark.parametrize("kept", [[], [6], [-1, 2]])
def test_structures_that_do_not_exist_are_refused(kept: list[int]) -> None:
    graph = find_groups(LeNet("size"), torch.randn(2, 3, 32, 32))
    with pytest.raises(UserError, match="group 'conv1' keeps some of the structures 0 to 5"):
        graph.keep_mask({"conv1": kept})


def test_the_groups_of_a_network_of_56_layers_are_found_at_once() -> None:
    network, inputs = resnet56(), torch.randn(2, 3, 32, 32)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        find_groups(network, inputs)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 5.0  # about 0.7 s on an idle machine

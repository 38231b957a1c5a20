from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import fx
from torch.utils.flop_counter import FlopCounterMode

from autoprune.registry import MODELS, resolve
from autoprune.tasks.models.cifar_resnet import CifarResNet, PaddingShortcut, resnet20, resnet56
from autoprune.tasks.weights import read_state_dict


@pytest.mark.parametrize(("build", "expected"), [(resnet20, 269_722), (resnet56, 853_018)])
def test_parameter_counts_are_the_published_ones(build: Callable[[], CifarResNet], expected: int) -> None:
    assert sum(parameter.numel() for parameter in build().parameters()) == expected


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("resnet")])
def test_depth_is_the_number_in_the_name_and_the_docstring_counts_the_parameters(name: str) -> None:
    network = resolve("model", name)()
    layers = [m for m in network.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(layers) == int(name.removeprefix("resnet"))
    assert f"{sum(p.numel() for p in network.parameters()):,} parameters" in str(resolve("model", name).__doc__)


def test_macs_are_the_published_ones() -> None:
    with FlopCounterMode(display=False) as counter:
        resnet20().eval()(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() == 2 * 40_551_040


def test_shortcut_takes_every_second_pixel_between_zero_channels() -> None:
    x = torch.arange(32.0).view(1, 2, 4, 4) + 1
    out = PaddingShortcut(2, 4)(x)
    assert out.shape == (1, 4, 2, 2)
    assert torch.equal(out[:, 1:3], x[:, :, ::2, ::2])
    assert not out[:, 0].any()
    assert not out[:, 3].any()


def test_network_is_traced_and_the_trace_computes_the_same() -> None:
    network = resnet20().eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fx.symbolic_trace(network)(x), network(x))


@pytest.mark.parametrize(("build", "file"), [(resnet20, "resnet20_cifar10.th"), (resnet56, "resnet56_cifar10.th")])
def test_names_are_those_of_the_published_checkpoints(
    build: Callable[[], CifarResNet], file: str, checkpoints_root: Path
) -> None:
    state = read_state_dict(checkpoints_root / file)
    names = [name for name in build().state_dict() if not name.endswith("num_batches_tracked")]
    assert [name for name in state if not name.endswith("num_batches_tracked")] == names

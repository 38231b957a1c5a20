from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.errors import TaskError
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.recording.capture import record
from autoprune.graph.recording.recordings import Recording
from autoprune.graph.recording.running import mode
from tests.graph.unusual_networks import Branching, DataDependent, FunctionalNorm


def recorded(network: nn.Module, inputs: Any, training: bool = False) -> Recording:
    return record(network, ModelInputs.of(inputs), training)


class Calling(nn.Module):
    """Does what it is given to do."""

    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.width, self.does = nn.Conv2d(3, 8, 1), 8, forward

    def forward(self, x: Tensor) -> Any:
        return self.does(self, x)


def test_the_modes_of_a_network_are_restored_one_by_one_also_after_an_error() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    network[1].eval()
    with mode(network, training=False):
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == [True, True, False]
    with pytest.raises(KeyError), mode(network, training=False):
        raise KeyError
    assert [module.training for module in network.modules()] == [True, True, False]


def test_a_network_is_recorded_in_either_mode_and_left_in_its_own() -> None:
    class Auxiliary(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if self.training else x * 3

    network = Auxiliary().train()
    assert recorded(network, torch.ones(1)).traced(torch.ones(1)).item() == 3
    assert recorded(network, torch.ones(1), training=True).traced(torch.ones(1)).item() == 2
    assert network.training


def test_the_twin_shares_the_networks_parameters_and_nothing_is_written_to_it() -> None:
    network = FunctionalNorm()
    before = {name: dict(module.__dict__) for name, module in network.named_modules()}
    traced = recorded(network, torch.randn(2, 3, 4, 4)).traced
    assert traced.get_parameter("conv.weight") is network.conv.weight
    assert {name: dict(module.__dict__) for name, module in network.named_modules()} == before


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.conv(x).view(x.shape[0], net.width, -1),
        lambda net, x: net.conv(x) if x.dim() == 4 and len(x) else x,
        lambda net, x: net.conv(x).view(x.size(0), 2, net.width // 2, *x.shape[2:]).sum(1),
        lambda net, x: torch.cat([net.conv(x), torch.zeros(x.size(0), 1, *x.shape[2:])], 1),
        lambda net, x: F.interpolate(net.conv(x), size=(int(x.shape[2] * 2), int(x.shape[3] * 2))),
        lambda net, x: {"a": [net.conv(x)], "b": (x.mean(), None)}["a"][0],
        lambda net, x: net.conv(x)[:, : net.width // 2].add_(1),
    ],
)  # fmt: skip
def test_the_twin_does_what_the_network_does_for_other_numbers_of_samples(forward: Callable[..., Any]) -> None:
    network = Calling(forward).eval()
    traced = recorded(network, torch.randn(2, 3, 6, 6)).traced
    x = torch.randn(5, 3, 6, 6)
    torch.testing.assert_close(traced(x), network(x))


def test_any_inputs_are_recorded_by_their_tensors() -> None:
    class Several(nn.Module):
        def forward(
            self, pairs: list[tuple[Tensor, Tensor]], *, scale: dict[str, Tensor], unused: None = None
        ) -> Tensor:
            return sum(one + two for one, two in pairs) * scale["by"]

    inputs = ModelInputs.of({"pairs": [(torch.ones(2), torch.ones(2))], "scale": {"by": torch.full((2,), 3.0)}})
    assert record(Several(), inputs).traced(*inputs.tensors()).tolist() == [6.0, 6.0]


def test_hooks_run_as_they_do_for_the_user_and_what_they_change_is_recorded() -> None:
    network, seen = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval(), []
    network[0].register_forward_hook(lambda module, args, output: output * 2)
    network[1].register_forward_hook(lambda module, args, output: seen.append(float(output.mean())))
    x = torch.randn(2, 3, 4, 4)
    traced = recorded(network, x).traced
    assert len(seen) == 1
    torch.testing.assert_close(traced(x), network(x))


def test_a_tensor_kept_from_the_first_call_stays_out_of_the_users_network() -> None:
    class Keeping(nn.Module):
        grid: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.grid is None:
                self.grid = torch.ones_like(x)
            return x + self.grid

    network = Keeping()
    recorded(network, torch.ones(2))
    assert network.grid is None


def test_a_forward_that_fails_is_told_with_its_own_error_and_the_module() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(5, 4, 1))
    with pytest.raises(
        TaskError, match=r"cannot run on a batch of shape \[2, 3, 4, 4\] in 1: RuntimeError: .* 5 channels"
    ):
        recorded(network, torch.randn(2, 3, 4, 4))


def test_values_that_decide_are_noted() -> None:
    found = recorded(DataDependent(Branching()), torch.randn(2, 3, 4, 4))
    assert set(found.leaving.values()) == {"__bool__"}
    assert not recorded(FunctionalNorm(), torch.randn(2, 3, 4, 4)).leaving


def test_what_a_script_does_is_recorded_operator_by_operator() -> None:
    @torch.jit.script
    def double(x: Tensor) -> Tensor:
        return x * 2

    network = Calling(lambda net, x: net.conv(double(x))).eval()
    x = torch.randn(2, 3, 4, 4)
    found = recorded(network, x)
    assert not any(node.op == "get_attr" for node in found.graph.nodes)
    torch.testing.assert_close(found.traced(x), network(x))


def test_other_threads_are_not_recorded() -> None:
    busy, stop = threading.Event(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            F.relu(torch.ones(3)) + 1
            busy.set()

    thread = threading.Thread(target=work)
    thread.start()
    busy.wait()
    try:
        found = recorded(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(2, 4))
    finally:
        stop.set()
        thread.join()
    assert [node.op for node in found.graph.nodes] == ["placeholder", "call_module", "call_module", "output"]


def test_a_forward_that_fails_is_named_in_one_line_with_its_module_and_its_line_of_code() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("first\n  second")

    with pytest.raises(TaskError) as caught:
        recorded(nn.Sequential(nn.Linear(3, 3), Inner()), torch.ones(2, 3))
    text = str(caught.value)
    assert "\n" not in text
    assert "cannot run on a batch of shape [2, 3] in 1 (" in text
    assert f"{__file__}:" in text
    assert text.endswith("ValueError: first second")


def test_parameters_without_a_shape_are_refused_by_name() -> None:
    with pytest.raises(TaskError, match=r"shapes at its first run \(0.weight, 0.bias\)"):
        recorded(nn.Sequential(nn.LazyLinear(3)), torch.ones(2, 3))


def test_generators_are_recorded_as_the_objects_that_they_are() -> None:
    generator = torch.Generator()
    network = Calling(lambda self, x: self.conv(x) + torch.rand(x.shape[0], 1, 1, 1, generator=generator))
    assert recorded(network, torch.ones(2, 3, 4, 4)).traced(torch.ones(2, 3, 4, 4)).shape == (2, 8, 4, 4)

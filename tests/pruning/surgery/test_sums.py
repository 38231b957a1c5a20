"""What the outputs of layers are added to, on their way through a network of any make."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import symbolic_trace

from autoprune.pruning.surgery.reconstruction import LayerAddition, observe_additions


class _Block(nn.Module):
    """A convolution with batch norm, and something that joins it to its input."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], calls: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.drop = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Identity()
        self.join, self.calls = join, calls
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
            self.norm.running_var.copy_(torch.tensor([0.3, 1.5, 4.0]))
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = inputs
        for _ in range(self.calls):
            outputs = self.conv(outputs)
        return self.join(self.drop(self.norm(outputs)), inputs)


def _in_place(branch: Tensor, shortcut: Tensor) -> Tensor:
    branch += shortcut
    return branch


ADDED = {
    "an operator": lambda branch, shortcut: branch + shortcut,
    "the other way round": lambda branch, shortcut: shortcut + branch,
    "in place": _in_place,
    "a function": torch.add,
    "a method": lambda branch, shortcut: branch.add_(shortcut),
}
NOT_ADDED = {
    "not linear on its way": lambda branch, shortcut: branch.relu() + shortcut,
    "of another shape": lambda branch, shortcut: branch + shortcut[:, :, :1, :1],
    "with a factor": lambda branch, shortcut: torch.add(branch, shortcut, alpha=2),
    "a number": lambda branch, _: branch + 1.0,
    "a product": lambda branch, shortcut: branch * shortcut,
}


def _seen(block: nn.Module, inputs: Tensor) -> tuple[list[tuple[str, Tensor, Tensor]], Tensor]:
    found: list[tuple[str, Tensor, Tensor]] = []

    def take(name: str, addition: LayerAddition) -> None:
        found.append((name, addition.other.clone(), addition.slope))

    with torch.no_grad(), observe_additions(block, ["conv"], take):
        return found, block(inputs)


@pytest.mark.parametrize("make", [lambda block: block, symbolic_trace], ids=["as it is", "traced"])
@pytest.mark.parametrize("join", ADDED.values(), ids=list(ADDED))
def test_a_sum_is_the_layer_s_output_times_the_slope_and_what_it_is_added_to(
    join: Callable[[Tensor, Tensor], Tensor], make: Callable[[nn.Module], nn.Module]
) -> None:
    block, inputs = _Block(join), torch.randn(2, 3, 5, 5)
    [(name, other, slope)], outputs = _seen(make(block), inputs)
    assert name == "conv"
    torch.testing.assert_close(other, inputs)
    with torch.no_grad():
        changed = slope[:, None, None] * (block.conv(inputs) - block.conv(inputs).mean(0))
        moved = block.norm(block.conv(inputs)) - block.norm(block.conv(inputs).mean(0, keepdim=True))
        torch.testing.assert_close(changed, moved)
        torch.testing.assert_close(outputs, block.norm(block.conv(inputs)) + other)


@pytest.mark.parametrize("join", NOT_ADDED.values(), ids=list(NOT_ADDED))
def test_what_else_becomes_of_an_output_is_not_shown(join: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert _seen(_Block(join), torch.randn(2, 3, 5, 5))[0] == []


def test_the_last_of_several_calls_is_not_shown() -> None:
    assert _seen(_Block(torch.add, calls=2), torch.randn(2, 3, 5, 5))[0] == []


def test_nothing_is_left_on_the_network() -> None:
    block = _Block(torch.add)
    _seen(block, torch.randn(2, 3, 5, 5))
    assert not any(module._forward_hooks for module in block.modules())

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

from autoprune.errors import TaskError
from autoprune.graph.networks import deep_copy, unwrap

SAMPLES = torch.rand(2, 3, 8, 8)


def network(normed: Callable[[nn.Module], nn.Module] = lambda layer: layer) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(normed(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()


class ModelEmaV3(nn.Module):
    """Stands in for timm's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.compile,
        ModelEmaV3,
        lambda bare: torch.compile(nn.DataParallel(bare)),
        lambda bare: nn.DataParallel(torch.compile(bare)),
        lambda bare: bare,
    ],
)
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], nn.Module]) -> None:
    bare = network()
    assert unwrap(wrap(bare)) is bare


def test_a_moving_average_stands_for_the_averaged_weights() -> None:
    average, other = AveragedModel(network()), network()
    with torch.no_grad():
        other[0].weight.add_(1)
    average.update_parameters(network())
    average.update_parameters(other)
    torch.testing.assert_close(unwrap(average)[0].weight, network()[0].weight + 0.5)


def test_a_module_that_is_no_wrapper_may_have_such_a_name_inside() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(3, 2)

    assert unwrap(own := Own()) is own


def test_masks_of_torch_are_named_with_their_cure() -> None:
    masked = network()
    prune.l1_unstructured(masked[2], "weight", 0.5)
    prune.random_unstructured(masked[0], "bias", 0.5)
    cure = r"still on in 0\.bias, 2\.weight; .*prune\.remove\(network\.get_submodule\('0'\), 'bias'\)"
    with pytest.raises(TaskError, match=cure):
        unwrap(nn.DataParallel(masked))
    for layer, name in ((masked[0], "bias"), (masked[2], "weight")):
        prune.remove(layer, name)
    assert unwrap(masked) is masked


def test_networks_that_are_not_all_here_are_refused() -> None:
    class FSDPSequential(FSDPModule, nn.Sequential):
        def __new__(cls, *args: nn.Module) -> FSDPSequential:
            return nn.Module.__new__(cls)

    with pytest.raises(TaskError, match="sharded over processes; gather its weights"):
        unwrap(FSDPSequential(nn.Linear(2, 2)))
    with pytest.raises(TaskError, match=r"pass the network before torch\.jit"):
        unwrap(torch.jit.trace(network(), SAMPLES))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "normed",
    [
        weight_norm,
        spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
    ],
)
def test_normed_layers_are_copied_and_train_apart(normed: Callable[[nn.Module], nn.Module]) -> None:
    original = network(normed)
    original.train()(SAMPLES)  # its weight is computed, no leaf
    original.eval()
    expected = original(SAMPLES)
    copied = deep_copy(original)
    torch.testing.assert_close(copied(SAMPLES), expected, rtol=0, atol=0)
    copied(SAMPLES).sum().backward()
    assert all(parameter.grad is not None for parameter in copied.parameters())
    assert all(parameter.grad is None for parameter in original.parameters())


def test_kept_activations_are_copied_as_values_and_locks_are_shared() -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.lock, self.kept = nn.Linear(3, 2), threading.Lock(), list[Tensor]()

        def forward(self, x: Tensor) -> Tensor:
            self.kept.append(self.layer(x))
            return self.kept[-1]

    original = Keeping()
    original(torch.rand(4, 3))
    copied = deep_copy(original)
    assert copied.lock is original.lock
    assert copied.layer is not original.layer
    assert torch.equal(copied.kept[0], original.kept[0])
    assert not copied.kept[0].requires_grad


def test_a_network_whose_weights_have_no_values_is_refused_with_the_cure() -> None:
    with torch.device("meta"):
        empty = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(TaskError, match=r"on the meta device \(0\.weight\).*to_empty"):
        unwrap(empty)

"""What every task must do, as tests to inherit. Provisional: what a task is will grow."""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.evaluation.metrics import check_metrics, evaluate
from autoprune.graph.groups import find_groups
from autoprune.graph.inputs import ModelInputs, call_network, network_inputs
from autoprune.tasks.base import Batch, Split, Task
from autoprune.tasks.loading.drawing import draw
from autoprune.tasks.loading.samples import count_samples
from autoprune.tasks.simple import build_task

_SPLITS: tuple[Split, ...] = ("train", "validation")  # others are needed by some options only


class TaskContract:
    """A task builds its network anew at each call, gives the same batches for the same seed, and trains in place.

    Attributes:
        task: under test: one, or as `--task` takes it, `package.module:attribute`.
    """

    task: ClassVar[Task | str]

    @pytest.fixture
    def built(self) -> Task:
        """Returns the task."""
        return build_task(self.task) if isinstance(self.task, str) else self.task

    @pytest.fixture
    def network(self, built: Task) -> nn.Module:
        """Returns the task's network with its own weights, in evaluation mode."""
        network = built.network()
        built.load(network, None)
        return network.eval()

    def test_it_has_a_name(self, built: Task) -> None:
        """Records call it so."""
        assert isinstance(built.name, str)
        assert built.name

    def test_networks_are_built_anew_and_alike(self, built: Task) -> None:
        """Two networks share no tensor and have the same names and shapes."""
        one, other = built.network(), built.network()
        assert one is not other
        assert {tensor.data_ptr() for tensor in one.parameters()}.isdisjoint(t.data_ptr() for t in other.parameters())
        assert _shapes(one) == _shapes(other)

    def test_its_own_weights_are_the_same_each_time(self, built: Task, network: nn.Module) -> None:
        """`load` without a checkpoint is repeatable, so that a run can be resumed."""
        again = built.network()
        built.load(again, None)
        assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in again.state_dict().items())

    @pytest.mark.parametrize("split", _SPLITS)
    def test_batches_come_again_for_the_same_seed(self, built: Task, split: Split) -> None:
        """Pairs of inputs and targets, from the start at each iteration; ready batches keep their size."""
        batches = built.batches(split, 4, seed=1)
        first, again = [list(zip(range(3), batches, strict=False)) for _ in range(2)]
        assert first
        for (_, one), (_, other) in zip(first, again, strict=True):
            assert len(network_inputs(*one)) >= 1
            if split != "train":  # a seed's order of training samples may go on from pass to pass
                assert _equal(one, other)

    @pytest.mark.parametrize("split", _SPLITS)
    def test_samples_are_drawn_from_a_split_the_same_each_time(self, built: Task, split: Split) -> None:
        """As many as are asked for, or fewer where batches are taken whole."""
        first, again = (list(draw(built.batches(split, 4, seed=1), 6, 4, 1)) for _ in range(2))
        assert 1 <= count_samples(first) <= 6
        assert all(_equal(one, other) for one, other in zip(first, again, strict=True))

    def test_the_loss_is_a_finite_scalar_with_gradients(self, built: Task, network: nn.Module) -> None:
        """What is trained on reaches the parameters."""
        inputs, targets = next(iter(built.batches("validation", 4)))
        loss = built.loss(call_network(network, inputs), targets)
        assert loss.dim() == 0
        assert bool(loss.isfinite())
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        assert any(parameter.grad is not None for parameter in network.parameters())

    def test_metrics_are_finite_and_in_their_range(self, built: Task, network: nn.Module) -> None:
        """Each has a name of its own."""
        batch = next(iter(built.batches("validation", 4)))
        score = evaluate(network, built, [batch])
        check_metrics(built, score, network, batch)
        assert all(map(math.isfinite, score.numbers().values()))
        assert len({each.name for each in built.metrics}) == len(built.metrics)

    def test_its_network_has_groups_to_prune(self, built: Task, network: nn.Module) -> None:
        """The network can be followed on a batch of its inputs."""
        inputs, _ = next(iter(built.batches("validation", 2)))
        assert find_groups(network, inputs).groups

    def test_training_moves_the_weights_in_place(self, built: Task, network: nn.Module) -> None:
        """Two steps change parameters, and the network is left in evaluation mode."""
        before = copy.deepcopy(network.state_dict())
        built.train(network, TrainingPlan(steps=2, rate=0.01, batch_size=4))
        changed = [name for name, tensor in network.named_parameters() if not torch.equal(tensor, before[name])]
        assert changed
        assert not network.training


def _equal(one: Batch, other: Batch) -> bool:
    """Tells whether all tensors of two batches are the same."""
    leaves = [ModelInputs((network_inputs(*batch), batch[1])).tensors() for batch in (one, other)]
    return all(torch.equal(each, same) for each, same in zip(*leaves, strict=True))


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items() if isinstance(tensor, Tensor)}

"""Candidates that train: towards being pruned, after it, and taught by the dense network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.allocation import Allocation
from autoprune.core.metrics import KL
from autoprune.core.recipe import AdmmTraining, Finetune, Recipe
from autoprune.core.trial import Candidate, Failure
from autoprune.evaluation.data import Batches, EvaluationConfig
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.prunable_model import analyze, example_inputs
from autoprune.evaluation.recalibration import recalibrate
from autoprune.pruning.patterns import LAYER
from autoprune.pruning.pruner import L1_FILTER, LEVEL, N_OF_M, RANDOM_FILTER, Pruner
from autoprune.pruning.training.admm import Admm
from autoprune.tasks.base import Hook
from autoprune.tasks.training.loop import seeded
from tests import user_tasks
from tests.pruning.residual import residual
from tests.user_tasks import task, tiny

HALF = Allocation({"second": 8, "third": 5})
DRAWN = AdmmTraining(24, batch_size=32, frequency=6)


def evaluator_of(folder: Path | None = None, pruner: Pruner = L1_FILTER, on: Any = task) -> Evaluator:
    prunable = analyze(on.network(), example_inputs(on, torch.device("cpu")), pruner)
    return Evaluator(prunable, on, EvaluationConfig(batch_size=32, seed=2, weights=folder))


class Watched:
    """Notes how far ADMM's weights are from their projection, at first and after each update."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.distances: list[float] = []
        self.admm: Admm | None = None
        begin, update = Admm.__init__, Admm.update

        def watched_begin(admm: Admm, network: nn.Module, *args: Any, **settings: Any) -> None:
            begin(admm, network, *args, **settings)
            self.admm, self.network = admm, network
            self.distances.append(self._distance())

        def watched_update(admm: Admm) -> None:
            update(admm)
            self.distances.append(self._distance())

        monkeypatch.setattr(Admm, "__init__", watched_begin)
        monkeypatch.setattr(Admm, "update", watched_update)

    def _distance(self) -> float:
        assert self.admm is not None
        weights, projected = self.network.state_dict(), self.admm.state_dict()["projected"]
        return sum(float((weights[name] - tensor).square().sum()) for name, tensor in projected.items()) ** 0.5


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


@pytest.mark.parametrize("pruner", [L1_FILTER, LEVEL, N_OF_M], ids=lambda each: each.name)
def test_admm_brings_weights_and_their_projection_together(pruner: Pruner, watched: Watched) -> None:
    evaluator = evaluator_of(pruner=pruner)
    groups = evaluator.prunable.structures.groups[-2:]
    half = Allocation({group.name: group.width // 2 for group in groups})
    built = evaluator.build(Candidate(0, half, Recipe(0, admm=replace(DRAWN, steps=60))))
    assert len(watched.distances) == 11
    assert watched.distances[-1] < 0.3 * watched.distances[0]
    assert watched.distances[-1] < watched.distances[3] < watched.distances[0]
    assert built.costs() == evaluator.prunable.costs.costs(half)


def test_what_admm_keeps_is_kept_with_its_weights(watched: Watched) -> None:
    evaluator = evaluator_of(pruner=RANDOM_FILTER)  # which would keep others
    built = evaluator.build(Candidate(0, HALF, Recipe(0, admm=DRAWN)))
    admm = watched.admm
    assert admm is not None
    kept = evaluator.prunable.structures.kept_channels(admm.importance(), admm.widths)
    assert {name: len(stays) for name, stays in kept.items()} == dict(HALF)
    trained = built.prunable.network.get_submodule("second").weight
    assert torch.equal(built.network.get_submodule("second").weight, trained[list(kept["second"])])
    assert built.checkpoint({}, {}).shapes[0].kept["second"] == list(kept["second"])
    assert not torch.isin(trained, evaluator.prunable.network.get_submodule("second").weight).any()
    assert torch.equal(evaluator.prunable.network.get_submodule("second").weight, task.network().second.weight)


def test_admm_is_done_before_the_rest_of_the_recipe() -> None:
    evaluator = evaluator_of()
    recipe = Recipe(48, finetune=Finetune(4, rate=0.05, batch_size=32), admm=DRAWN)
    found = evaluator.build(Candidate(0, HALF, recipe))
    drawn = evaluator.build(Candidate(0, HALF, replace(recipe, finetune=None)))
    assert found.checkpoint({}, {}).shapes == drawn.checkpoint({}, {}).shapes
    assert not torch.equal(found.network.get_parameter("head.weight"), drawn.network.get_parameter("head.weight"))


def test_admm_keeps_what_a_parent_lost_at_zero_and_chooses_from_the_rest(tmp_path: Path, watched: Watched) -> None:
    evaluator = evaluator_of(tmp_path)
    evaluator.evaluate(Candidate(0, Allocation({"second": 12, "third": 9}), Recipe(0)))
    built = evaluator.build(Candidate(1, Allocation({"second": 6, "third": 9}), Recipe(0, admm=DRAWN), parent=0))
    assert built.prunable.left() == {"second": 12, "third": 9}
    weight = built.prunable.network.get_submodule("second").weight
    gone = torch.from_numpy(built.prunable.lost["second"])
    assert bool((weight[gone] == 0).all())
    assert not bool((weight[~gone] == 0).any())
    assert watched.admm is not None
    assert watched.admm.widths == {"second": 6}  # "third" loses nothing, and nothing draws it
    stays = set(built.checkpoint({}, {}).shapes[0].kept["second"])
    assert len(stays) == 6
    assert stays < set(np.flatnonzero(~built.prunable.lost["second"]).tolist())


def test_weights_that_a_parent_set_to_zero_stay_zero_while_admm_trains(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path, LEVEL)
    group = evaluator.prunable.structures.groups[1]
    wide, narrow = (Allocation({group.name: group.width * share // 8}) for share in (6, 4))
    evaluator.evaluate(Candidate(0, wide, Recipe(0)))
    built = evaluator.build(Candidate(1, narrow, Recipe(0, admm=DRAWN), parent=0))
    weight = built.prunable.network.get_submodule(group.name).weight
    assert int((weight == 0).sum()) == group.width - wide[group.name]
    assert int((built.network.get_submodule(group.name).weight == 0).sum()) == group.width - narrow[group.name]


def test_where_nothing_goes_admm_is_plain_training(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path)
    evaluator.evaluate(Candidate(0, HALF, Recipe(0)))
    built = evaluator.build(Candidate(1, HALF, Recipe(0, admm=DRAWN), parent=0))
    assert built.costs() == evaluator.prunable.costs.costs(HALF)
    before = evaluator.restore(tmp_path / "0.pt").get_parameter("third.weight")
    assert not torch.isin(built.network.get_parameter("third.weight"), before).any()


def test_admm_draws_whole_branches() -> None:
    with seeded(0):
        network = residual()
    blocks = user_tasks.SimpleTask(lambda: network, user_tasks.data(0, 96), user_tasks.data(1, 64))
    evaluator = evaluator_of(pruner=replace(L1_FILTER, pattern=LAYER), on=blocks)
    first = evaluator.prunable.structures.groups[0].name
    built = evaluator.build(Candidate(0, Allocation({first: 0}), Recipe(0, admm=DRAWN)))
    assert built.costs() == evaluator.prunable.costs.costs(Allocation({first: 0}))


def losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The losses of every training step from now on."""
    found: list[float] = []
    train = type(task).train

    def noting(own: Any, network: nn.Module, plan: Any, hooks: Sequence[Any]) -> None:
        train(own, network, plan, [*hooks, Hook(after_step=lambda *step: found.append(step[-1]))])

    monkeypatch.setattr(type(task), "train", noting)
    return found


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("distill", [0.0, 1.0])
def test_fine_tuning_lowers_its_loss(monkeypatch: pytest.MonkeyPatch, optimizer: Any, distill: float) -> None:
    found = losses(monkeypatch)
    rate = 0.05 if optimizer == "sgd" else 0.01
    tuned = Finetune(40, rate=rate, batch_size=32, optimizer=optimizer, distill=distill)
    evaluator_of().build(Candidate(0, HALF, Recipe(48, finetune=tuned)))
    assert len(found) == 40
    assert sum(found[-5:]) < 0.8 * sum(found[:5])


def test_the_dense_network_teaches(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(evaluator_of().prunable, task, EvaluationConfig(batch_size=32, objective=KL))
    alone, distilled = (
        evaluator.build(Candidate(0, HALF, Recipe(48, finetune=Finetune(30, batch_size=32, distill=weight)))).network
        for weight in (0.0, 20.0)
    )
    divergences = [evaluator.evaluate_network(network).kl for network in (alone, distilled)]
    assert divergences[1] < 0.5 * divergences[0]  # type: ignore[operator]


@pytest.fixture
def spoilt() -> Iterator[list[user_tasks.Fault]]:
    user_tasks.faults.clear()
    user_tasks.batches_seen = 0
    yield user_tasks.faults
    user_tasks.faults.clear()


@pytest.mark.parametrize("recipe", [Recipe(0, finetune=Finetune(8, batch_size=32)), Recipe(0, admm=DRAWN)])
def test_a_training_loss_that_is_no_number_fails_the_trial(
    tmp_path: Path, spoilt: list[user_tasks.Fault], recipe: Recipe
) -> None:
    spoilt.append(lambda batches_seen, loss: loss * float("nan") if batches_seen == 3 else loss)
    trial = evaluator_of(tmp_path, on=user_tasks.faulty).evaluate(Candidate(0, HALF, recipe))
    assert trial.outcome == Failure(
        "nan", "the training loss is nan at step 4; lower the rate, or check the training data"
    )
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_no_numbers_after_the_last_step_fail_the_trial(spoilt: list[user_tasks.Fault]) -> None:
    class Infinite(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, loss: Tensor) -> Tensor:
            return loss.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient * float("nan")

    spoilt.append(lambda batches_seen, loss: Infinite.apply(loss) if batches_seen == 7 else loss)  # type: ignore[no-untyped-call]
    recipe = Recipe(0, admm=replace(DRAWN, steps=8))
    trial = evaluator_of(on=user_tasks.faulty).evaluate(Candidate(0, HALF, recipe))
    assert trial.outcome == Failure("nan", "weights are no numbers after training; lower the rate")


@pytest.mark.parametrize("sizes", [(16, 16, 16, 2), (50,), (1, 48, 1), (1,) * 50], ids=str)
def test_recalibration_gives_mean_and_variance_over_all_samples_whatever_the_batches(sizes: tuple[int, ...]) -> None:
    network = tiny()
    ((inputs, targets),) = Batches(task, "train", 50, 50, 0, torch.device("cpu"))
    recalibrate(network, zip(inputs.split(sizes), targets.split(sizes), strict=True))
    norm, values = network.norm1, network.first(inputs).detach().permute(1, 0, 2, 3).flatten(1)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, values.mean(1))
    torch.testing.assert_close(norm.running_var, values.var(1))
    assert norm.momentum == 0.1
    assert not any(module.training for module in network.modules())


def test_recalibration_of_a_later_norm_sees_the_earlier_ones_at_the_batchs_own_statistics() -> None:
    network = tiny()
    (batch,) = Batches(task, "train", 32, 32, 0, torch.device("cpu"))
    recalibrate(network, [batch])
    first = network.first(batch[0])
    flat = first.permute(1, 0, 2, 3).flatten(1)
    scaled = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    scaled = scaled * network.norm1.weight[:, None] + network.norm1.bias[:, None]
    second = network.second(F.relu(scaled.view(8, 32, 8, 8).permute(1, 0, 2, 3)))
    assert network.norm2.running_mean is not None
    torch.testing.assert_close(network.norm2.running_mean, second.detach().mean((0, 2, 3)), atol=1e-5, rtol=1e-4)


def test_recalibration_takes_one_value_per_channel_and_leaves_norms_that_are_not_called() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    network.unused = nn.BatchNorm1d(2)
    network.unused.running_mean.fill_(5.0)
    network.forward = lambda inputs: network[1](network[0](inputs))  # type: ignore[method-assign]
    inputs = torch.rand(9, 3)
    values = network[0](inputs).detach()
    for sizes in ((1,) * 9, (4, 1, 4)):
        recalibrate(network, [(part, None) for part in inputs.split(sizes)])
        torch.testing.assert_close(network[1].running_mean, values.mean(0))
        torch.testing.assert_close(network[1].running_var, values.var(0))
    assert network.unused.running_mean.tolist() == [5.0, 5.0]


def test_recalibration_changes_nothing_but_the_statistics() -> None:
    network, before = tiny(), tiny().state_dict()
    recalibrate(network, list(Batches(task, "train", 50, 16, 0, torch.device("cpu"))))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]) != ("running" in name or "num_batches" in name)


def test_recalibration_leaves_a_network_without_statistics_alone_and_dropout_off() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False), nn.Dropout(0.5))
    recalibrate(plain, [(torch.rand(4, 1, 8, 8), torch.zeros(4))])
    assert not any(module.training for module in plain.modules())

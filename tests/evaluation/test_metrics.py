from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.core.trial import Score
from autoprune.errors import DataError, TaskError
from autoprune.evaluation.data import Batches
from autoprune.evaluation.metrics import check_metrics, evaluate
from autoprune.graph.inputs import ModelInputs
from autoprune.tasks.metrics import ACCURACY, Metric
from autoprune.tasks.training.loop import seeded
from tests.user_tasks import task, tiny

CPU = torch.device("cpu")


def test_a_score_is_the_mean_over_samples_whatever_the_batches() -> None:
    network = tiny().eval()
    loss = correct = samples = 0.0
    with torch.no_grad():
        for inputs, targets in task.batches("validation", 1):
            outputs = network(inputs)
            loss += F.cross_entropy(outputs, targets).item()
            correct += float(outputs.argmax(1) == targets)
            samples += 1
    for size in (7, 64, 1000):
        score = evaluate(network, task, Batches(task, "validation", None, size, 0, CPU))
        assert score.samples == samples == 64
        assert score.loss == pytest.approx(loss / samples, rel=1e-5)
        assert score.metrics["accuracy"] == pytest.approx(correct / samples)


def test_a_split_without_images_is_refused() -> None:
    empty = replace(task, validation_data=[])
    with pytest.raises(DataError, match="no samples"):
        Batches(empty, "validation", None, 8, 0, CPU).load()
    with pytest.raises(DataError, match="no samples"):
        evaluate(tiny(), empty, [])


def test_a_network_that_draws_random_numbers_has_the_same_score_every_time() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    batches = [(torch.rand(8, 4), torch.randint(0, 4, (8,))) for _ in range(2)]
    scores = {evaluate(Noisy(), task, batches).loss for _ in range(3)}
    assert len(scores) == 1


class OneClass(nn.Module):
    """Whatever it sees, it is of class 2, more or less surely."""

    def forward(self, samples: Tensor) -> Tensor:
        return F.one_hot(torch.full((len(samples),), 2), 4) * (1 + samples.flatten(1).std(1, keepdim=True))


def doubts(metric: Metric, network: nn.Module, caplog: pytest.LogCaptureFixture) -> str:
    """What is said of a metric on 16 samples of four classes."""
    batch = ModelInputs.of(torch.rand(16, 4)), torch.arange(16) % 4
    with caplog.at_level(logging.WARNING):
        check_metrics(replace(task, metrics=[metric]), Score(0.0, {metric.name: 0.5}, 16), network, batch)
    return caplog.text


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (lambda outputs, targets: (targets == 0).float(), "is the same for other outputs; does it look at them?"),
        (lambda outputs, targets: F.cross_entropy(outputs, targets), "gives one number for a batch"),
        (lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"), ""),
    ],
)
def test_a_metric_that_says_little_is_doubted(
    measure: Callable[[Tensor, Tensor], Tensor], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = doubts(Metric("own", measure, "maximize"), nn.Linear(4, 4), caplog)
    assert said in found
    assert bool(said) == bool(found)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda outputs, targets: (outputs - targets).abs().mean(), r"outputs [16, 1] and targets [16] are broadcast"),
        (F.l1_loss, "compares each sample with all others"),
        (lambda outputs, targets: F.l1_loss(outputs[:, 0], targets), ""),
        (lambda outputs, targets: F.l1_loss(outputs.squeeze(-1), targets), ""),
        (lambda outputs, targets: F.l1_loss(outputs, targets[:, None]), ""),
        (lambda outputs, targets: F.l1_loss(outputs.flatten(), targets), ""),
    ],
)
def test_a_loss_that_compares_samples_with_one_another_is_doubted(
    loss: Callable[[Tensor, Tensor], Tensor], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = torch.linspace(-2, 2, 16)
    batch = ModelInputs.of(numbers[:, None].repeat(1, 4)), numbers.roll(3)
    judged = replace(task, loss=loss, metrics={"own": loss})
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # torch's own
        check_metrics(judged, Score(0.0, {"own": 1.0}, 16), tiny_linear(), batch)
    assert said in caplog.text
    assert [f"{each} compares" in caplog.text for each in ("the loss", "metric 'own'")] == [bool(said)] * 2


def tiny_linear() -> nn.Linear:
    with seeded(0):
        return nn.Linear(4, 1)


def test_a_loss_that_sums_over_the_batch_is_doubted(caplog: pytest.LogCaptureFixture) -> None:
    batch = ModelInputs.of(torch.rand(16, 4)), torch.arange(16) % 4
    for loss in (nn.CrossEntropyLoss(reduction="sum"), partial(F.cross_entropy, reduction="sum")):
        caplog.clear()
        check_metrics(replace(task, loss=loss, metrics=[]), Score(0.0, {}, 16), nn.Linear(4, 4), batch)
        assert "the loss is a sum over the batch" in caplog.text


def test_accuracy_is_not_doubted_where_the_network_knows_a_single_class(caplog: pytest.LogCaptureFixture) -> None:
    assert doubts(ACCURACY, OneClass(), caplog) == ""


@pytest.mark.parametrize(("value", "unit"), [(1.5, "%"), (-0.1, "%")])
def test_a_share_that_is_none_is_refused(value: float, unit: str) -> None:
    metric = Metric("own", lambda outputs, targets: torch.tensor(value), "maximize", unit)
    batch = ModelInputs.of(torch.rand(2, 4)), torch.zeros(2)
    with pytest.raises(TaskError, match=rf"'own' is {value} for the dense network, but should be in \[0"):
        check_metrics(replace(task, metrics=[metric]), Score(0.0, {"own": value}, 2), nn.Linear(4, 4), batch)

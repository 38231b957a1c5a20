"""Metrics of torchmetrics as they are: over all samples, whatever the batches, in the direction that they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import autoprune
from autoprune.core.metrics import MetricInfo
from autoprune.errors import TaskError
from autoprune.tasks.metrics import as_metrics
from tests.user_tasks import task, tiny
from tests.zoo.networks.libraries import library

pytestmark = pytest.mark.slow
SHORT: dict[str, Any] = {"trials": 2, "progress": False, "track__enabled": False}


@pytest.fixture(scope="module")
def torchmetrics() -> Any:
    return library("torchmetrics")


def outputs_of(network: nn.Module, data: TensorDataset) -> tuple[Tensor, Tensor]:
    samples, targets = data.tensors
    with torch.no_grad():
        return network.eval()(samples), targets


def test_they_are_what_they_are_over_all_samples_at_once(torchmetrics: Any, tmp_path: Path) -> None:
    classes = {"num_classes": 4}
    kinds = torchmetrics.classification
    metrics = {
        "f1": kinds.MulticlassF1Score(**classes),
        "auc": kinds.MulticlassAUROC(**classes),
        "iou": kinds.MulticlassJaccardIndex(**classes),
    }
    judged = replace(task, metrics=torchmetrics.MetricCollection(metrics))
    assert [each.info for each in judged.metrics] == [MetricInfo(name, "maximize") for name in ("auc", "f1", "iou")]
    found = autoprune.search(
        tiny(), judged, "flops=0.7", output=tmp_path / "run", evaluation__batch_size=7,
        evaluation__objective="f1", space__protect=[], **SHORT,
    )  # fmt: skip
    samples = torch.cat([inputs for inputs, _ in task.batches("validation", 64)])
    targets = torch.cat([labels for _, labels in task.batches("validation", 64)])
    with torch.no_grad():
        outputs = found.network.eval()(samples)
    for name, metric in metrics.items():
        metric.reset()
        expected = float(metric(outputs, targets))
        assert found.results[-1].validation.metrics[name] == pytest.approx(expected, abs=1e-5), name


def test_where_lower_is_better_the_search_goes_down(torchmetrics: Any, tmp_path: Path) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 1))

    def pairs(seed: int) -> TensorDataset:
        samples = torch.rand(200, 6, generator=torch.Generator().manual_seed(seed))
        return TensorDataset(samples, samples.square().sum(1, keepdim=True))

    regression = autoprune.SimpleTask(
        network, pairs(0), pairs(1), loss=F.mse_loss, metrics={"mae": torchmetrics.MeanAbsoluteError()}
    )
    found = autoprune.search(
        network(), regression, "flops=0.5", output=tmp_path / "run", searcher="random",
        evaluation__objective="mae", **{**SHORT, "trials": 8},
    )  # fmt: skip
    errors = [trial.score.metrics["mae"] for trial in found.trials if trial.score is not None]
    assert found.results[-1].validation.metrics["mae"] == pytest.approx(min(errors))
    outputs, targets = outputs_of(found.network, pairs(1))
    assert min(errors) == pytest.approx(float((outputs - targets).abs().mean()), rel=1e-5)


def test_several_numbers_need_the_name_of_one(torchmetrics: Any) -> None:
    (metric,) = as_metrics(torchmetrics.classification.MulticlassF1Score(num_classes=4, average=None))
    computing = metric.accumulator()
    computing.update(torch.rand(8, 4), torch.arange(8) % 4)
    with pytest.raises(TaskError, match=r"should compute one number, but computed a tensor \[4\]"):
        metric.result(computing.compute())

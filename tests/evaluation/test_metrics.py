from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from autoprune.errors import DataError
from autoprune.evaluation.data import Batches
from autoprune.evaluation.metrics import evaluate
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
        assert score.accuracy == pytest.approx(correct / samples)


def test_a_split_without_images_is_refused() -> None:
    empty = replace(task, validation_data=[])
    with pytest.raises(DataError, match="no samples"):
        Batches(empty, "validation", None, 8, 0, CPU).load()
    with pytest.raises(DataError, match="no samples"):
        evaluate(tiny(), empty, [])

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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

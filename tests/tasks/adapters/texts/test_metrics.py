from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import f1_score

from autoprune.tasks.adapters.texts.metrics import F1, PERPLEXITY


def test_f1_is_the_mean_over_classes_whatever_the_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(60, 4, generator=generator), torch.randint(3, (60,), generator=generator)
    expected = f1_score(targets, outputs.argmax(1), average="macro")
    for size in (60, 7):
        metric = F1.accumulator()
        for part in range(0, 60, size):
            metric.update(outputs[part : part + size], targets[part : part + size])
        assert metric.compute() == pytest.approx(expected, abs=1e-12)
    metric.reset()
    metric.update(torch.eye(2), torch.tensor([0, 1]))
    assert metric.compute() == 1.0


def test_classes_that_do_not_occur_do_not_count() -> None:
    metric = F1.accumulator()
    metric.update(torch.eye(5)[[0, 1, 1]], torch.tensor([0, 0, 1]))
    assert metric.compute() == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_perplexity_is_that_of_all_tokens_but_the_first_of_each_sequence() -> None:
    probabilities = torch.tensor([0.5, 0.25, 0.125, 0.125])
    outputs = probabilities.log().expand(2, 3, 4)
    targets = torch.tensor([[3, 0, 1], [3, 2, -100]])
    metric = PERPLEXITY.accumulator()
    for each in (slice(0, 1), slice(1, 2)):
        metric.update(outputs[each], targets[each])
    assert metric.compute() == pytest.approx(math.exp((math.log(2) + math.log(4) + math.log(8)) / 3))

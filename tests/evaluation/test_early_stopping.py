"""Judging rung by rung: the same score at the end, and an early end for who is behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autoprune.core.metrics import LOSS
from autoprune.core.trial import Score, Stopped
from autoprune.evaluation.early_stopping import evaluate_with_early_stopping
from autoprune.evaluation.metrics import evaluate
from autoprune.tasks.base import Batch
from tests.scores import ACCURACY
from tests.user_tasks import task, tiny


def sorted_batches() -> list[Batch]:
    """Batches of 8 samples, sorted by class."""
    samples, labels = next(iter(task.batches("validation", 64)))
    order = labels.argsort()
    return list(zip(samples[order].split(8), labels[order].split(8), strict=True))


class Counting(nn.Module):
    """Counts the samples that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.seen = tiny().eval(), list[Tensor]()

    def forward(self, samples: Tensor) -> Tensor:
        self.seen.append(samples)
        return self.network(samples)


def test_the_score_on_all_samples_is_that_of_evaluate() -> None:
    batches = sorted_batches()
    found = evaluate_with_early_stopping(tiny(), task, batches, (16, 40), (), LOSS)
    assert isinstance(found, Score)
    assert replace(found, rungs=()) == evaluate(tiny(), task, batches)
    assert [rung.samples for rung in found.rungs] == [16, 40]


def test_a_rung_is_the_score_on_the_images_seen_so_far() -> None:
    network = Counting()
    found = evaluate_with_early_stopping(network, task, sorted_batches(), (16, 40), (), LOSS)
    assert isinstance(found, Score)
    samples, classes = map(torch.cat, zip(*sorted_batches(), strict=True))
    labels = dict(zip(samples.sum((1, 2, 3)).tolist(), classes, strict=True))
    for rung in found.rungs:
        samples = torch.cat(network.seen)[: rung.samples]
        targets = torch.stack([labels[total] for total in samples.sum((1, 2, 3)).tolist()])
        with torch.no_grad():
            assert rung.loss == pytest.approx(float(task.loss(tiny().eval()(samples), targets)))


def test_the_first_samples_are_not_all_of_one_class() -> None:
    network = Counting()
    evaluate_with_early_stopping(network, task, sorted_batches(), (32,), (), LOSS)
    first = [float(samples.sum()) for samples in network.seen[:4]]
    assert first != [float(samples.sum()) for samples, _ in sorted_batches()[:4]]
    again = Counting()
    evaluate_with_early_stopping(again, task, sorted_batches(), (32,), (), LOSS)
    assert [float(samples.sum()) for samples in again.seen[:4]] == first


@pytest.mark.parametrize(
    ("stop_thresholds", "samples"), [((-1.0, -1.0), 16), ((None, -1.0), 40), ((1e9, 1e9), 64), ((1e9,), 64)]
)
def test_it_ends_at_the_first_rung_above_its_threshold(stop_thresholds: tuple[float | None, ...], samples: int) -> None:
    network = Counting()
    found = evaluate_with_early_stopping(network, task, sorted_batches(), (16, 40), stop_thresholds, LOSS)
    assert sum(map(len, network.seen)) == samples
    assert isinstance(found, Stopped) is (samples < 64)
    score = found.score if isinstance(found, Stopped) else found
    assert (score.samples, len(score.rungs)) == (samples, {16: 0, 40: 1, 64: 2}[samples])


def test_a_stop_threshold_itself_is_not_above_it() -> None:
    whole = evaluate_with_early_stopping(tiny(), task, sorted_batches(), (16,), (), LOSS)
    assert isinstance(whole, Score)
    assert isinstance(
        evaluate_with_early_stopping(tiny(), task, sorted_batches(), (16,), (whole.rungs[0].loss,), LOSS), Score
    )


def test_a_stop_threshold_is_in_the_objective() -> None:
    whole = evaluate_with_early_stopping(tiny(), task, sorted_batches(), (16,), (), ACCURACY)
    assert isinstance(whole, Score)
    wrong = 1 - whole.rungs[0].metrics["accuracy"]
    assert isinstance(
        evaluate_with_early_stopping(tiny(), task, sorted_batches(), (16,), (wrong + 0.01,), ACCURACY), Score
    )
    assert isinstance(
        evaluate_with_early_stopping(tiny(), task, sorted_batches(), (16,), (wrong - 0.01,), ACCURACY), Stopped
    )


def test_batches_that_are_read_anew_keep_their_order() -> None:
    class Read:
        def __iter__(self) -> Iterator[Batch]:
            return iter(sorted_batches())

    network = Counting()
    evaluate_with_early_stopping(network, task, Read(), (16,), (), LOSS)
    assert [float(samples.sum()) for samples in network.seen] == [
        float(samples.sum()) for samples, _ in sorted_batches()
    ]


def test_the_divergence_is_measured_against_the_same_samples() -> None:
    batches = sorted_batches()
    with torch.no_grad():
        teacher_logits = [tiny().eval()(samples) for samples, _ in batches]
    found = evaluate_with_early_stopping(tiny(), task, batches, (16, 40), (), "kl", teacher_logits)
    assert isinstance(found, Score)
    assert found.kl == pytest.approx(0.0, abs=1e-6)
    assert [rung.kl for rung in found.rungs] == [pytest.approx(0.0, abs=1e-6)] * 2

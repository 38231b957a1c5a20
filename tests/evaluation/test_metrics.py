from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.errors import DataError
from autoprune.evaluation.candidate_builder import recalibrate
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


def test_recalibration_is_the_mean_over_batches_of_their_means_and_unbiased_variances() -> None:
    network = tiny()
    batches = list(Batches(task, "train", 50, 16, 0, CPU))
    recalibrate(network, batches)
    norm, layer = network.norm1, network.first
    means, variances = [], []
    for inputs, _ in batches:
        values = layer(inputs).detach().permute(1, 0, 2, 3).flatten(1)
        center = values.sum(1) / values.shape[1]
        means.append(center)
        variances.append(((values - center[:, None]) ** 2).sum(1) / (values.shape[1] - 1))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(0))
    assert norm.momentum == 0.1
    assert not any(module.training for module in network.modules())


def test_recalibration_of_a_later_norm_sees_the_earlier_ones_at_the_batchs_own_statistics() -> None:
    network = tiny()
    (batch,) = Batches(task, "train", 32, 32, 0, CPU)
    recalibrate(network, [batch])
    first = network.first(batch[0])
    flat = first.permute(1, 0, 2, 3).flatten(1)
    scaled = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    scaled = scaled * network.norm1.weight[:, None] + network.norm1.bias[:, None]
    second = network.second(F.relu(scaled.view(8, 32, 8, 8).permute(1, 0, 2, 3)))
    assert network.norm2.running_mean is not None
    torch.testing.assert_close(network.norm2.running_mean, second.detach().mean((0, 2, 3)), atol=1e-5, rtol=1e-4)


def test_recalibration_changes_nothing_but_the_statistics() -> None:
    network, before = tiny(), tiny().state_dict()
    recalibrate(network, list(Batches(task, "train", 50, 16, 0, CPU)))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]) != ("running" in name or "num_batches" in name)


def test_recalibration_leaves_a_network_without_statistics_alone_and_dropout_off() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False), nn.Dropout(0.5))
    recalibrate(plain, [(torch.rand(4, 1, 8, 8), torch.zeros(4))])
    assert not any(module.training for module in plain.modules())


def test_batches_hold_the_first_samples_only() -> None:
    sizes = [len(inputs) for inputs, _ in Batches(task, "validation", 20, 8, 0, CPU)]
    assert sizes == [8, 8, 4]
    whole = torch.cat([inputs for inputs, _ in Batches(task, "validation", None, 64, 0, CPU)])
    first = torch.cat([inputs for inputs, _ in Batches(task, "validation", 20, 8, 0, CPU)])
    assert torch.equal(first, whole[:20])


def test_batches_that_do_not_fit_in_memory_are_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = Batches(task, "train", None, 16, 0, CPU)
    kept = batches.load()
    monkeypatch.setattr("autoprune.evaluation.metrics.CACHE_BYTES", 100)
    again = batches.load()
    assert again is batches
    assert all(torch.equal(one[0], other[0]) for one, other in zip(kept, again, strict=True))


def test_a_split_without_images_is_refused() -> None:
    empty = replace(task, validation_data=[])
    with pytest.raises(DataError, match="no samples"):
        Batches(empty, "validation", None, 8, 0, CPU).load()
    with pytest.raises(DataError, match="no samples"):
        evaluate(tiny(), empty, [])

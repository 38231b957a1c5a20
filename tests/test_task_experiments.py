"""The tasks of `experiments/tasks`: they build, their metrics are what they say, and their comparison is sound."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import autoprune
from experiments.tasks import (
    compare,
    denoising,
    docstrings,
    language_model,
    regression,
    segmentation,
    text_classification,
)
from experiments.tasks.estimates import Accumulated, Estimate, Statistic, estimate, sample_values
from experiments.tasks.experiment import Experiment

SMALL: dict[str, tuple[Callable[[], autoprune.SimpleTask], tuple[float, float]]] = {
    "regression": (regression.task, (0.0, 255.0)),
    "segmentation": (segmentation.task, (0.0, 1.0)),
    "decoder": (language_model.task, (1.0, math.inf)),
    "lstm": (language_model.EXPERIMENTS[1].task, (1.0, math.inf)),
}


@pytest.fixture(autouse=True)
def little_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few scenes, and the docstrings of two files."""
    monkeypatch.setattr(segmentation, "SCENES", dict.fromkeys(segmentation.SCENES, 4))
    text = "Returns what was asked for, or raises an error that says what was wrong.\n" * 4
    few = tuple(docstrings.Docstring(f"package{i % 3}", f"file{i}.py", f"{text} {i}") for i in range(30))
    monkeypatch.setattr(language_model, "docstrings", lambda: few)


@pytest.mark.parametrize("name", SMALL)
def test_an_untrained_network_has_metrics_in_their_range(name: str) -> None:
    build, (low, high) = SMALL[name]
    task = build()
    network = task.network().eval()
    inputs, targets = next(iter(task.batches("test", 3)))
    outputs = network(inputs)
    assert task.loss(outputs, targets).item() > 0
    measure = task.metrics[0].measure
    if task.metrics[0].accumulates:
        measure.update(outputs, targets)
        values = torch.tensor([measure.compute()])
    else:
        values = measure(outputs, targets)
        assert values.shape == (3,)
    assert ((values >= low) & (values <= high)).all()


def test_denoising_improves_what_it_is_given(checkpoints_root: Path) -> None:
    checkpoint, data = checkpoints_root / "dncnn_s25.pth", checkpoints_root.parent / "data"
    if not (checkpoint.exists() and (data / "denoising").exists()):
        pytest.skip(f"no images in {data} or no {checkpoint}")
    task = denoising.task(data)
    network = task.network()
    task.load(network, checkpoint)
    noisy, clean = (each[:4] for each in next(iter(task.batches("validation", 4))))
    with torch.no_grad():
        values = denoising.psnr(network.eval()(noisy), clean)
    assert (values - denoising.psnr(noisy, clean) > 5).all()  # dB; noise of 25/255 is 20 dB
    patch, target = next(iter(task.batches("train", 2)))
    assert patch.shape == target.shape == (2, 1, denoising.PATCH, denoising.PATCH)


def test_text_classification_tells_where_docstrings_are_from() -> None:
    for library in ("transformers", "tokenizers"):
        pytest.importorskip(library)
    task = text_classification.task()
    inputs, targets = next(iter(task.batches("validation", 3)))
    outputs = task.network().eval()(**inputs)
    assert targets.shape == (3,)
    assert outputs.logits.shape == (3, text_classification.CLASSES)
    assert math.log(text_classification.CLASSES) == pytest.approx(task.loss(outputs, targets).item(), abs=1)


def test_classes_that_are_in_neither_have_no_part_in_the_mean_iou() -> None:
    # of four pixels: truth 0 0 1 1, seen 0 1 1 2; IoU 1/2, 1/3, 0; the other classes are nowhere
    truth, seen = torch.tensor([[[0, 0], [1, 1]]]), torch.tensor([[[0, 1], [1, 2]]])
    outputs = torch.nn.functional.one_hot(seen, segmentation.CLASSES).permute(0, 3, 1, 2).float()
    assert segmentation.mean_iou(outputs, truth).tolist() == pytest.approx([(1 / 2 + 1 / 3) / 3])


def test_psnr_is_in_decibels_of_a_peak_of_one() -> None:
    clean = torch.zeros(2, 1, 2, 2)
    noisy = clean + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    torch.testing.assert_close(denoising.psnr(noisy, clean), torch.tensor([20.0, 40.0]))


def test_scenes_of_different_splits_share_no_digit() -> None:
    ranges = sorted(segmentation.DIGITS.values())
    assert all(last <= first for (_, last), (first, _) in pairwise(ranges))
    first, last = segmentation.DIGITS["test"]
    assert last - first >= 200 * segmentation.IN_A_SCENE


def test_a_perplexity_has_the_error_of_its_samples() -> None:
    # mean 1 nat: perplexity e, and each sample moves it by e times its distance from the mean
    found = estimate(language_model.PERPLEXITY, torch.tensor([[0.5], [1.5]], dtype=torch.float64))
    assert found.value == pytest.approx(math.e)
    assert found.influence.tolist() == pytest.approx([-math.e / 2, math.e / 2])
    assert found.error == pytest.approx(math.e / 2)


def test_the_macro_f1_is_that_of_scikit_learn_in_batches_of_any_size() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.rand(50, 16, generator=generator), torch.arange(50) % 14
    outputs[:, 15] = 0  # a class that is in neither
    metric = Accumulated(Statistic(text_classification.confusion, text_classification.macro_f1))
    for part in (slice(0, 30), slice(30, 50)):
        metric.update(outputs[part], targets[part])
    assert metric.compute() == pytest.approx(f1_score(targets, outputs.argmax(1), average="macro"))


def test_networks_that_fail_alike_differ_with_a_small_error() -> None:
    influence = torch.tensor([-1.0, 1.0, 0.0, 0.0])
    first, other = Estimate(1.0, influence), Estimate(0.5, influence)
    difference = first.minus(other)
    assert (difference.value, difference.error) == (0.5, 0.0)
    assert first.error > 0


def _tiny_experiment() -> Experiment:
    """Ten numbers as sums of three others."""
    x = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, x.sum(1, keepdim=True))

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))

    def error(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs()[:, 0]

    metric = autoprune.Metric("mae", error, "minimize")

    def task() -> autoprune.SimpleTask:
        data_of_all = {"train_data": data, "validation_data": data, "test_data": data}
        return autoprune.SimpleTask(network, **data_of_all, loss=nn.functional.mse_loss, metrics=metric)

    plan = autoprune.TrainingPlan(steps=4, rate=0.01, batch_size=8)
    search = {"trials": 3, "space__protect": [], "sensitivity__levels": 2}
    return Experiment("sums", task, "params=0.5", plan, plan, search=search)


def test_a_comparison_that_is_repeated_does_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "experiments_of", lambda name: (_tiny_experiment(),))
    arguments = ["regression", "--output", str(tmp_path)]
    compare.main(arguments)
    table, results = capsys.readouterr().out, json.loads((tmp_path / "results.json").read_text())
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pt")}
    assert {"dense.pt", "uniform_tuned.pt", "best_tuned.pt"} <= {path.name for path in written}

    compare.main(arguments)
    assert capsys.readouterr().out == table
    assert json.loads((tmp_path / "results.json").read_text()) == results | {"command": results["command"]}
    assert {path: path.stat().st_mtime_ns for path in written if path.parent.name == "test"} == {
        path: time for path, time in written.items() if path.parent.name == "test"
    }


def test_a_comparison_reports_the_difference_in_the_better_direction(tmp_path: Path) -> None:
    experiment = _tiny_experiment()
    report = compare.Comparison(experiment, experiment.task(), tmp_path, "test").run()
    (metric,) = report["metrics"]
    networks, ahead = metric["before"]["networks"], metric["before"]["best_ahead"]
    assert ahead["value"] == pytest.approx(networks["uniform"]["value"] - networks["best"]["value"])
    assert report["samples"] == 40
    dense = experiment.task().network()
    dense.load_state_dict(torch.load(tmp_path / "dense.pt", weights_only=True)["state_dict"])
    values = sample_values(dense, experiment.task(), "test")
    assert float(values["mae"].mean()) == pytest.approx(networks["dense"]["value"])


def test_a_training_by_another_plan_is_refused(tmp_path: Path) -> None:
    experiment = _tiny_experiment()
    comparison = compare.Comparison(experiment, experiment.task(), tmp_path, "test")
    network = experiment.task().network()
    comparison._trained(network, autoprune.TrainingPlan(steps=2, batch_size=8), "dense")
    with pytest.raises(autoprune.UserError, match="name another --output"):
        comparison._trained(network, autoprune.TrainingPlan(steps=3, batch_size=8), "dense")

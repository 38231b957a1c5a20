from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.core.metrics import MetricInfo
from autoprune.errors import TaskError
from autoprune.tasks.metrics import ACCURACY, TOP_5, Metric, as_metrics, classification_metrics, top_1, top_k
from autoprune.tasks.outputs import default_loss


def test_top_1_is_one_where_the_largest_output_is_the_target() -> None:
    outputs = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [-3.0, -2.0, -1.0]])
    assert top_1(outputs, torch.tensor([1, 2, 2])).tolist() == [1.0, 0.0, 1.0]


def test_top_k_is_one_where_fewer_than_k_outputs_come_before_the_target() -> None:
    """Against sorting, with many ties: of equal outputs the lower class comes first."""
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randint(4, (200, 7), generator=generator).float()
    targets = torch.randint(7, (200,), generator=generator)
    for k in range(1, 8):
        expected = []
        for row, target in zip(outputs.tolist(), targets.tolist(), strict=True):
            ranked = sorted(range(7), key=lambda index: (-row[index], index))
            expected.append(float(target in ranked[:k]))
        assert top_k(outputs, targets, k).tolist() == expected
    assert torch.equal(top_k(outputs, targets, 1), top_1(outputs, targets))


def test_outputs_that_are_not_numbers_are_never_right() -> None:
    outputs = torch.tensor([[float("nan")] * 3, [1.0, float("nan"), 0.0]])
    assert top_k(outputs, torch.tensor([1, 0]), 1).tolist() == [0.0, 0.0]
    assert top_k(outputs, torch.tensor([1, 0]), 2).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("outputs", "targets", "said"),
    [
        (torch.zeros(3, 1), torch.tensor([0, 0, 0]), r"float32 \[3, 1\] and int64 \[3\]"),
        (torch.zeros(3, 6), torch.tensor([0, 1]), r"float32 \[3, 6\] and int64 \[2\]"),
        (torch.zeros(3, 6), torch.tensor([0.0, 1.0, 2.0]), r"float32 \[3, 6\] and float32 \[3\]"),
        (torch.zeros(3, 6), torch.zeros(3, 6), r"float32 \[3, 6\] and float32 \[3, 6\]"),
        (torch.zeros(3, 6, 2), torch.zeros(3, 2, dtype=torch.int64), r"float32 \[3, 6, 2\] and int64 \[3, 2\]"),
        ([torch.zeros(3)], torch.tensor([0, 1, 2]), r"float32 \[3\] and int64 \[3\]"),
        (torch.zeros(3, 6), None, r"float32 \[3, 6\] and a NoneType"),
    ],
)
def test_top_1_refuses_what_is_no_classification(outputs: Any, targets: Any, said: str) -> None:
    with pytest.raises(TaskError, match=f"has {said}; give the metric that this task has, metrics=…"):
        top_1(outputs, targets)


def test_top_5_is_measured_from_ten_classes_on() -> None:
    labels = torch.tensor([1, 0])
    assert classification_metrics(torch.zeros(2, 9), labels) == (ACCURACY,)
    assert classification_metrics(torch.zeros(2, 10), labels) == (ACCURACY, TOP_5)
    for outputs in ({"logits": torch.zeros(2, 10)}, {"out": torch.zeros(2, 10), "aux": torch.zeros(2, 3)}):
        assert classification_metrics(outputs, labels) == (ACCURACY, TOP_5)


def test_of_a_tuple_the_first_is_classified() -> None:
    outputs, labels = (torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.zeros(2, 7)), torch.tensor([1, 1])
    assert classification_metrics(outputs, labels) == (ACCURACY,)
    assert top_1(outputs, labels).tolist() == [1.0, 0.0]


class Largest:
    """Accumulates the largest difference, as metrics of torchmetrics would."""

    higher_is_better = False

    def __init__(self) -> None:
        self.reset()

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.found = max(self.found, float((outputs - targets).abs().max()))

    def compute(self) -> Any:
        return {"largest": self.found, "other": 7.0}

    def reset(self) -> None:
        self.found = 0.0


def mae(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs()


def test_metrics_are_given_as_functions_or_objects_by_name_or_not() -> None:
    (one,) = as_metrics(mae)
    assert one.info == MetricInfo("mae", None)
    two = as_metrics([Metric("error", mae, "minimize"), Largest()])
    assert [each.info for each in two] == [MetricInfo("error"), MetricInfo("Largest")]
    assert [each.info for each in as_metrics({"largest": Largest(), "top": top_1})] == [
        MetricInfo("largest"), MetricInfo("top", "maximize", "%"),
    ]  # fmt: skip
    assert as_metrics([]) == ()


def test_an_object_starts_anew_at_every_evaluation_and_gives_the_number_of_its_name() -> None:
    own = Largest()
    own.found = 99.0
    (metric,) = as_metrics({"largest": own})
    fresh = metric.accumulator()
    fresh.update(torch.tensor([1.0, 4.0]), torch.tensor([1.5, 1.0]))
    assert metric.result(fresh.compute()) == 3.0
    assert own.found == 99.0
    with pytest.raises(TaskError, match="computed numbers for largest, other; name it after one"):
        Metric("mine", Largest()).result(fresh.compute())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Metric("loss", mae), "something else is recorded under it"),
        (lambda: Metric("two words", mae), "letters, digits"),
        (lambda: Metric("mae", 3), "but is a int"),  # type: ignore[arg-type]
        (lambda: Metric("mae", mae, "up"), "should be maximize or minimize but is 'up'"),  # type: ignore[arg-type]
        (lambda: as_metrics([mae, mae]), "two metrics have one name"),
        (lambda: as_metrics([3]), "but is a int"),
        (lambda: Metric("m", lambda o, t: torch.zeros(2)).batch_mean(0, 0, 3), r"should return \[3\] values"),
        (lambda: Metric("m", lambda o, t: "high").batch_mean(0, 0, 3), "returned a str"),
    ],
)
def test_what_is_no_metric_is_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(TaskError, match=said):
        make()


def test_a_number_for_a_batch_counts_for_its_samples() -> None:
    metric = Metric("mean", lambda outputs, targets: mae(outputs, targets).mean())
    assert metric.batch_mean(torch.tensor([1.0, 3.0]), torch.zeros(2), 2) == 2.0
    assert Metric("always", lambda outputs, targets: 5).batch_mean(None, None, 2) == 5.0


@pytest.mark.parametrize(
    "given",
    [
        torch.tensor([True, False]),
        torch.tensor([1, 0]),
        np.array([1.0, 0.0]),
        [1, 0],
        torch.tensor([[1.0], [0.0]]),
        0.5,
    ],
)
def test_values_come_in_any_form_of_numbers(given: Any) -> None:
    assert Metric("m", lambda outputs, targets: given).batch_mean(0, 0, 2) == 0.5


def test_a_metric_that_fails_is_named() -> None:
    with pytest.raises(TaskError, match="metric 'm' failed: ZeroDivisionError: division by zero"):
        Metric("m", lambda outputs, targets: 1 / 0).batch_mean(0, 0, 2)
    with pytest.raises(MemoryError):  # says what it is by itself
        Metric("m", lambda outputs, targets: _raise(MemoryError())).batch_mean(0, 0, 2)


def _raise(fault: Exception) -> None:
    raise fault


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_class_numbers_may_be_of_any_integer_type(dtype: torch.dtype) -> None:
    logits, labels = torch.eye(12)[:6], torch.arange(6).to(dtype)
    assert [each.batch_mean(logits, labels, 6) for each in (ACCURACY, TOP_5)] == [1.0, 1.0]
    torch.testing.assert_close(default_loss(logits, labels), F.cross_entropy(logits, torch.arange(6)))

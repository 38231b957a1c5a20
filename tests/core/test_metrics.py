from __future__ import annotations

import math

import pytest

from autoprune.core.metrics import KL, LOSS, MetricInfo, choose_objective, infos_from_json, infos_to_json, primary
from autoprune.errors import UserError
from tests.core.test_trial import through_json

ACCURACY, PSNR, MAE = MetricInfo("accuracy", "maximize", "%"), MetricInfo("psnr", "maximize", "dB"), MetricInfo("mae")
COUNT = MetricInfo("count", None)
METRICS = (ACCURACY, PSNR, MAE, COUNT)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        (ACCURACY, 0.91254, "91.25 %"),
        (ACCURACY, None, ""),
        (PSNR, 30.384, "30.3840 dB"),
        (MAE, 0.04583, "0.0458"),
        (MAE, 15369.5412, "15,369.54"),
        (MAE, 3.2e12, "3.2e+12"),
        (MAE, -4.0, "-4.0000"),
        (MAE, math.nan, "nan"),
    ],
)
def test_values_are_written_in_their_kind(metric: MetricInfo, value: float | None, text: str) -> None:
    assert metric.text(value) == text


def test_what_is_better_follows_the_direction() -> None:
    assert ACCURACY.cost(0.9) < ACCURACY.cost(0.8)
    assert PSNR.cost(30.0) < PSNR.cost(-3.0)
    assert MAE.cost(1.0) < MAE.cost(2.0)
    assert math.isclose(ACCURACY.cost(0.9), 0.1)
    with pytest.raises(ValueError, match="'count' has no direction"):
        COUNT.cost(1.0)


def test_the_objective_is_the_loss_the_divergence_or_a_metric_with_a_direction() -> None:
    assert [choose_objective(name, METRICS) for name in ("loss", "kl", "psnr")] == [LOSS, KL, PSNR]
    with pytest.raises(
        UserError, match=r"no metric 'acuracy'; did you mean 'accuracy'\?; it has loss, kl, accuracy, psnr"
    ):
        choose_objective("acuracy", METRICS)
    with pytest.raises(UserError, match="nobody said whether 'count' should be high or low"):
        choose_objective("count", METRICS)


def test_a_network_is_described_by_the_objective_or_the_first_metric_or_the_loss() -> None:
    assert primary(PSNR, METRICS) == PSNR
    assert primary(LOSS, METRICS) == ACCURACY
    assert primary(LOSS, ()) == LOSS


def test_metrics_come_back_from_json() -> None:
    assert infos_from_json(through_json(infos_to_json(METRICS))) == METRICS

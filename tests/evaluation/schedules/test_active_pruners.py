from __future__ import annotations

from pathlib import Path

import pytest
import torch

from autoprune.config.schedule import load_schedule
from autoprune.errors import UserError
from autoprune.evaluation.data import ScoringSamples
from autoprune.evaluation.schedules.active_pruners import ActivePruners
from autoprune.tasks.datasets.digits import DigitsTask


def _activate(folder: Path, text: str) -> ActivePruners:
    """The parts of a schedule on the digits' network."""
    path = folder / "schedule.yaml"
    path.write_text(text)
    task = DigitsTask()
    samples = ScoringSamples(task, torch.device("cpu"))
    return ActivePruners(task.network(), torch.zeros(2, 1, 8, 8), load_schedule(path), samples)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pruner: level, sparsity: 0.5, layers: [layer9*]", r"pruner 'mine': 'layer9\*' matches no group"),
        ("pruner: sensitivity, sparsity: 0.5", "pruner 'mine': allocator 'threshold' goes by a threshold"),
        ("pruner: level, threshold: 0.5", "pruner 'mine': allocator 'uniform' goes by a sparsity"),
        ("pruner: apoz, sparsity: 0.5, pattern: element", "pruner 'mine': criterion 'apoz' scores whole output"),
    ],
)
def test_a_pruner_that_does_not_fit_the_network_is_named(tmp_path: Path, words: str, message: str) -> None:
    text = f"train: {{epochs: 1}}\npruners: {{mine: {{{words}}}}}\npolicies: [{{pruner: mine, epochs: [0]}}]\n"
    with pytest.raises(UserError, match=message):
        _activate(tmp_path, text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("penalty: group_lasso, strength: 0.1", "penalty 'mine': group_lasso needs 'pattern'"),
        ("penalty: l1_scale, strength: 0.1, rho: 0.2", "penalty 'mine': l1_scale does not take rho"),
        ("penalty: l1, strength: 0.1, pattern: filter", "penalty 'mine': l1 does not take pattern"),
        ("penalty: l1, strength: 0.1, layers: [layer9*]", r"penalty 'mine': 'layer9\*' matches no group"),
    ],
)
def test_a_penalty_that_does_not_fit_the_network_is_named(tmp_path: Path, words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _activate(tmp_path, f"train: {{epochs: 1}}\npenalties: {{mine: {{{words}}}}}\n")


def test_every_penalty_is_built_from_its_settings(tmp_path: Path) -> None:
    text = """
train: {epochs: 1}
penalties:
  lasso: {penalty: group_lasso, pattern: filter, strength: 0.1, threshold: 0.2, threshold_by: max, threshold_every: 5}
  l1: {penalty: l1, strength: 0.1, proximal: true, threshold_every: 5}
  slim: {penalty: l1_scale, strength: 0.1}
  admm: {penalty: admm, pattern: element, sparsity: {"stage1*": 0.5}, rho: 0.1, frequency: 7}
"""
    measured = _activate(tmp_path, text).measured()
    assert sorted(measured) == ["penalty.admm", "penalty.lasso", "penalty.slim"]  # a proximal one adds no term

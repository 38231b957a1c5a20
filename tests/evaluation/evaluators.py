"""Evaluators of small networks on random samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autoprune.core.sensitivity import SensitivityCurves
from autoprune.evaluation.data import EvaluationConfig
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.outcomes import EvaluationResult
from autoprune.evaluation.prunable_model import analyze
from autoprune.evaluation.sensitivity.sweep import Grid, Level, Levels, Record, Skip, Sweep, SweepSettings
from autoprune.pruning.patterns import FILTER, Pattern
from autoprune.pruning.pruner import L1_FILTER
from autoprune.tasks.simple import SimpleTask
from autoprune.tasks.training.loop import seeded
from tests.graph.networks import Case

CLASSES = 3


def samples_like(shape: tuple[int, ...], count: int, seed: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def evaluator_of(case: Case, pattern: Pattern = FILTER, batch_size: int = 8) -> Evaluator:
    """Of a network with random weights and random statistics, judged on 20 samples."""
    with seeded(1):
        network = case.build().float()
        _spread_statistics(network)

    def data(count: int, seed: int) -> TensorDataset:
        return TensorDataset(samples_like(case.shape, count, seed), torch.arange(count) % CLASSES)

    task = SimpleTask(lambda: network, data(40, 0), data(20, 1), plain_data=data(40, 0))
    prunable = analyze(network, samples_like(case.shape, 2, 2), replace(L1_FILTER, pattern=pattern))
    return Evaluator(prunable, task, EvaluationConfig(batch_size=batch_size))


def sweep(
    evaluator: Evaluator,
    grid: Grid,
    settings: SweepSettings,
    done: Mapping[Level, EvaluationResult],
    record: Record,
    skip: Skip = lambda *_: None,
) -> SensitivityCurves:
    """Every level of a grid that is not done yet, one after the other."""
    levels = Levels(evaluator, grid, settings)
    in_progress = Sweep(levels, done, record, skip)
    while (group_sweep := in_progress.next()) is not None:
        for width, result in levels.evaluate_group(group_sweep):
            in_progress.take(group_sweep, width, result)
    return in_progress.curves()


def _spread_statistics(network: nn.Module) -> None:
    """Batch norm that does not do almost nothing."""
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, 0.0, 0.5)

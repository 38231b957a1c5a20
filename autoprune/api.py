"""autoprune from Python: search, apply, load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune import registry
from autoprune.config import load_experiment
from autoprune.core.allocation import Allocation
from autoprune.core.budget import Budget
from autoprune.core.recipe import Recipe
from autoprune.core.trial import Trial
from autoprune.errors import UserError
from autoprune.evaluation.data import EvaluationConfig, ScoringSamples, takes_channels_last
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.prunable_model import analyze, example_inputs
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.networks import unwrap
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.surgery.configuration import follow_configuration
from autoprune.pruning.surgery.copying import copy_network
from autoprune.reporting.results import Result
from autoprune.running.progress import Display
from autoprune.running.run_folder import new_folder
from autoprune.running.search.session import start_session
from autoprune.running.setup import FROM_PYTHON, assemble
from autoprune.running.tracking.tracker import tracking_of
from autoprune.tasks.base import Task

_SHORT = {
    "trials": "search.trials",
    "evaluations": "search.evaluations",
    "seed": "search.seed",
    "searcher": "search.searcher",
    "device": "run.device",
}


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        network: the thinned network of the best trial, as it was scored.
        best: its number.
        allocation: its kept widths.
        results: dense, uniform at the same budget, and best.
        trials: every trial, in the order told.
        folder: the run's folder.
    """

    network: nn.Module
    best: int
    allocation: Allocation
    results: tuple[Result, ...]
    trials: tuple[Trial, ...]
    folder: Path


def search(
    model: nn.Module,
    task: Task,
    budget: str | Budget | Mapping[str, float | str],
    *,
    output: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> SearchResult:
    """Searches for the allocation of a trained network that loses least under a budget.

    Args:
        model: with its trained weights; it is not changed. What training wrapped around it (`DataParallel`,
            `torch.compile`, a moving average) is taken off: the result is a bare network.
        task: data, loss and metric; its own `network` and `load` are not used.
        budget: `"flops=0.5"` or `{"flops": 0.5, "params": "200k"}`.
        output: the run's folder; a new one under `runs/` if None.
        progress: whether to show progress on stderr.
        **settings: any key of an experiment file, `__` in place of the dot: `search__trials=100`,
            `evaluation__samples=1000`, `track__enabled=False`; `trials`, `evaluations`, `seed`, `searcher`
            and `device` for short.

    Raises:
        UserError: a setting, the budget, the network or the data are at fault.
    """
    given = {_SHORT.get(key, key.replace("__", ".")): value for key, value in settings.items()}
    experiment = load_experiment(
        None, {"budget": str(Budget.of(budget)), "output": output, "task.name": f"{FROM_PYTHON}{task.name}", **given}
    )
    folder = new_folder(experiment.output, task.name)
    display = Display(progress)
    setup = assemble(experiment, task, copy_network(unwrap(model)), display)
    found = start_session(setup, folder, tracking_of(experiment), display)
    best = found.best
    network = Evaluator(setup.prunable, task, EvaluationConfig()).restore(folder.weights_of(best.number))
    follow_configuration(network, setup.prunable.inputs)
    return SearchResult(
        network, best.number, setup.space.expanded(best.candidate.allocation), found.results, found.trials, folder.path
    )


def apply(
    model: nn.Module,
    allocation: Mapping[str, int],
    task: Task | None = None,
    *,
    inputs: Any = None,
    pruner: str | Pruner = "l1_filter",
    recipe: Recipe | None = None,
) -> nn.Module:
    """Returns a pruned network: `model` with each group at its kept width; groups that are not named stay whole.

    Where the model is built from a `config` that can say these widths (see `docs/deploying.md`), its config says them.

    Args:
        model: trained; it is not changed. Wrappers are taken off, as by `search`.
        allocation: group to kept width, as `SearchResult.allocation` or a run's `best.yaml` has it; with 0 its residual
            branch is removed.
        task: where given, its training samples re-estimate the batch norm; without them a pruned network is
            of little use before it is trained. They also score the channels if the pruner reads data.
        inputs: samples as the network takes them (see `ModelInputs.of`); needed if no task is given.
        pruner: a name (`autoprune list pruners`), or one composed by yourself.
        recipe: how to re-estimate the batch norm, or to refit the layers by least squares (`reconstruct`).

    Raises:
        UserError: neither task nor inputs are given, or the pruner needs the task, or the widths do not fit the
            network.
    """
    model = unwrap(model)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if inputs is None:
        if task is None:
            raise UserError("autoprune.apply needs a task, whose samples re-estimate the batch norm, or inputs")
        inputs = example_inputs(task, device)
    given = ModelInputs.of(inputs).to(device)
    fitting = takes_channels_last(model, given)
    samples = None if task is None else ScoringSamples(task, device, channels_last=fitting)
    by = registry.resolve("pruner", pruner) if isinstance(pruner, str) else pruner
    by = by.with_depth() if by.pattern.coupled and 0 in allocation.values() else by
    prunable = analyze(copy_network(model), given, by, samples)
    prunable.check_on_fresh_inputs(Allocation(allocation))
    structures, importance = prunable.structures, prunable.importance
    if task is not None:
        network = Evaluator(prunable, task, EvaluationConfig()).prune(allocation, recipe or Recipe())
    else:
        network = structures.prune(prunable.network, importance, Allocation(allocation), prunable.inputs).eval()
    follow_configuration(network, prunable.inputs)
    return network

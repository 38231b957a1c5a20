"""autoprune from Python: search, apply, load."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune import registry
from autoprune.config import Experiment, load_experiment
from autoprune.config.keywords import in_keywords, settings_of
from autoprune.core.allocation import Allocation
from autoprune.core.budget import Budget
from autoprune.core.ledger import NAME, check_idle
from autoprune.core.metrics import MetricInfo
from autoprune.core.recipe import Recipe
from autoprune.core.trial import Trial
from autoprune.errors import AutopruneError, UserError, printable
from autoprune.evaluation.data import EvaluationConfig, ScoringSamples, takes_channels_last
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.prunable_model import analyze, example_inputs
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.networks import unwrap
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.surgery.configuration import follow_configuration
from autoprune.pruning.surgery.copying import copy_network
from autoprune.pruning.surgery.provenance import note_first
from autoprune.reporting.results import Result, results_cells, results_table
from autoprune.reporting.terminal import plain_console
from autoprune.running.interruption import interruptible
from autoprune.running.progress import Display
from autoprune.running.run_folder import RunFolder, existing_folder, new_folder
from autoprune.running.search.results import Conclusion
from autoprune.running.search.session import resume_session, start_session
from autoprune.running.setup import FROM_PYTHON, assemble
from autoprune.running.tracking.mlflow_runs import trial_row
from autoprune.running.tracking.tracker import chosen_in_mlflow, tracking_of
from autoprune.tasks.base import Task
from autoprune.tasks.simple import as_task

_REPR_WIDTH = 140
"""Columns of a result that is printed; the table is as wide as it needs."""


@dataclass(frozen=True, repr=False)
class SearchResult:
    """Result of a search; printed, or as the last line of a notebook's cell, it is the table of results.

    Attributes:
        network: the thinned network of the best trial, as it was scored.
        best: its number.
        allocation: its kept widths.
        results: dense, uniform at the same budget, and best.
        trials: every trial, in the order told.
        folder: the run's folder.
        metrics: the task's.
        shown: by which networks are described where there is room for one number.
    """

    network: nn.Module
    best: int
    allocation: Allocation
    results: tuple[Result, ...]
    trials: tuple[Trial, ...]
    folder: Path
    metrics: tuple[MetricInfo, ...]
    shown: MetricInfo

    def rows(self) -> list[dict[str, Any]]:
        """Returns a row of plain values for each trial, in the order told: `pandas.DataFrame(result.rows())`.

        Metrics that a trial does not have are left out of its row, as those of one that failed.
        """
        return [trial_row(trial, self.results[0].costs) for trial in self.trials]

    def __repr__(self) -> str:
        text = io.StringIO()
        plain_console(text, _REPR_WIDTH).print(results_table(self.results, self.metrics, self.shown))
        return f"{self._headline()}\n{text.getvalue().rstrip()}"

    def _repr_html_(self) -> str:
        headings, rows = results_cells(self.results, self.metrics, self.shown)
        lines = ["".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) for tag, row in _tagged(headings, rows)]
        return f"<p>{escape(self._headline())}</p><table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"

    def _headline(self) -> str:
        count = f"{len(self.trials)} trial{'' if len(self.trials) == 1 else 's'}"
        return printable(f"best of {count}: trial {self.best}, in {self.folder}")


def _tagged(headings: list[str], rows: list[list[str]]) -> list[tuple[str, list[str]]]:
    return [("th", headings), *(("td", row) for row in rows)]


@torch.inference_mode(False)  # in which no criterion could differentiate a loss, nor anything train
def search(
    model: nn.Module,
    task: Task,
    budget: str | float | Budget | Mapping[str, float | str] | None = None,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
    **settings: Any,
) -> SearchResult:
    """Searches for the allocation of a trained network that loses least under a budget.

    Ctrl-C ends the run in order; nothing that was evaluated is lost, and the `KeyboardInterrupt` says how to go on.
    Inside an MLflow run of the caller's the search is a child of that run, in its experiment.

    Args:
        model: with its trained weights; it is not changed. What training wrapped around it (`DataParallel`,
            `torch.compile`, a moving average) is taken off: the result is a bare network.
        task: data, loss and metrics; its own `network` and `load` are not used.
        budget: `"flops=0.5"` or `{"flops": 0.5, "params": "200k"}`; a number alone is a fraction of the FLOPs.
        output: the run's folder; a new one under `runs/` if None.
        resume: goes on with the run in `output`, where there is one. Settings and budget that are not given are those
            it was started with; only where trials are evaluated and tracked, and their number, may be others. A run
            that had finished is returned as it is.
        progress: whether to show progress: in a notebook below the cell, else on stderr.
        **settings: any key of an experiment file, `__` in place of the dot: `search__trials=100`,
            `evaluation__samples=1000`, `track__enabled=False`; `trials`, `evaluations`, `seed`, `searcher`
            and `device` for short.

    Raises:
        UserError: a setting, the budget, the network or the data are at fault, `output` holds a run already, or the
            run that is resumed was started with something else; the message says what differs.
        KeyboardInterrupt: somebody stopped the run.
    """
    with _said_in_keywords():
        task = as_task(task, "task")
        given = settings_of(settings)
        given |= {"task.name": f"{FROM_PYTHON}{task.name}", **({} if output is None else {"output": output})}
        given |= {} if budget is None else {"budget": str(Budget.of(budget))}
        folder, experiment, session = _run_to_do(given, resume, task.name)
        display = Display(progress)
        with interruptible(folder, f"autoprune.search(…, output={str(folder.path)!r}, resume=True)"):
            setup = assemble(experiment, task, copy_network(unwrap(model)), display)
            found = session(setup, folder, tracking_of(experiment), display)
            config = replace(setup.evaluation_config(), weights=folder.weights)
            network = setup.evaluator(config).restore_or_build(found.best.candidate)
            follow_configuration(network, setup.prunable.inputs)
    allocation = setup.space.expanded(found.best.candidate.allocation)
    return SearchResult(
        network, found.best.number, allocation, found.results, found.trials, folder.path, found.metrics, found.shown
    )


def _run_to_do(
    given: Mapping[str, Any], resume: bool, task: str
) -> tuple[RunFolder, Experiment, Callable[..., Conclusion]]:
    """Returns the run's folder, its settings, and what begins it or goes on with it.

    Args:
        given: dotted keys to values.
        resume: whether a run that is there goes on.
        task: its name.
    """
    experiment = load_experiment(None, given)
    if resume:
        if experiment.output is None:
            raise UserError("resume=True goes on with the run in a folder; say in which with --output")
        if RunFolder(experiment.output).holds_run():
            folder = existing_folder(experiment.output, NAME)
            check_idle(folder.ledger)
            return folder, load_experiment(folder.experiment, given), resume_session
    experiment = load_experiment(None, {**chosen_in_mlflow(), **given})
    experiment.require_budget()
    return new_folder(experiment.output, task), experiment, start_session


@contextmanager
def _said_in_keywords() -> Iterator[None]:
    """Has errors name the keywords of `search`, where they name options of the command line."""
    try:
        yield
    except AutopruneError as fault:
        fault.args = tuple(in_keywords(part) if isinstance(part, str) else part for part in fault.args)
        raise


@torch.inference_mode(False)
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
    note_first(prunable.network, prunable.costs.dense())
    structures, importance = prunable.structures, prunable.importance
    if task is not None:
        network = Evaluator(prunable, task, EvaluationConfig()).prune(allocation, recipe or Recipe())
    else:
        network = structures.prune(prunable.network, importance, Allocation(allocation), prunable.inputs).eval()
    follow_configuration(network, prunable.inputs)
    return network

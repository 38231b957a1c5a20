"""The end of a run: the final table and the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from autoprune.core.metrics import MetricInfo, primary
from autoprune.core.settings import criterion_pattern, of_scoring, resolved
from autoprune.core.trial import Score, Trial
from autoprune.errors import TaskError
from autoprune.files import write_whole
from autoprune.graph.costs import measure_latency
from autoprune.reporting.drawing import png
from autoprune.reporting.figures import overview_figure
from autoprune.reporting.frontier import frontier, frontier_csv
from autoprune.reporting.record import read_record
from autoprune.reporting.results import Result, results_csv, results_in
from autoprune.running.coverage import Coverage
from autoprune.running.run_folder import RunFolder
from autoprune.running.search.loop import RunContext
from autoprune.searchers.base.searcher import SearchProblem
from autoprune.searchers.controls import uniform_allocation


@dataclass(frozen=True)
class Conclusion:
    """The result of a run.

    Attributes:
        results: dense, uniform at the same budget, and best.
        trials: every trial, in the order told.
        coverage: what the space reaches of the network, and what it passes over.
        metrics: the task's.
        shown: by which networks are described where there is room for one number.
    """

    folder: RunFolder
    best: Trial
    results: tuple[Result, ...]
    trials: tuple[Trial, ...]
    coverage: Coverage
    metrics: tuple[MetricInfo, ...]
    shown: MetricInfo


@dataclass(frozen=True)
class SearchOutcome:
    """The outcome of a search.

    Attributes:
        trials: every trial, in the order told.
        score: of the best, on all validation samples.
    """

    problem: SearchProblem
    trials: list[Trial]
    best: Trial
    score: Score


def conclude(run: RunContext, dense: Score, found: SearchOutcome) -> Conclusion:
    """Writes the final table, `best.yaml` and the frontier.

    Args:
        run: the run in progress.
        dense: the score of the dense network on the samples that candidates were evaluated on.
        found: what the search came to.
    """
    best, results = found.best, results_in(run.history)
    run.setup.prunable.check_on_fresh_inputs(best.candidate.allocation)
    if not results or (results[-1].name, results[-1].number) != ("best", best.number):
        results = _measure(run, dense, found)
        for result in results:
            run.ledger.write("result", **result.to_json())
    _write_files(run, found.trials, best, results)
    run.ledger.write("finished", best=best.number)
    return _conclusion(run, best, results, found.trials)


def conclude_again(run: RunContext) -> Conclusion:
    """Returns the conclusion of a run that has finished, as its ledger has it; files that are missing are written."""
    folder, results, trials = run.folder, results_in(run.history), run.history.trials()
    best = next(trial for trial in trials if trial.number == results[-1].number)
    if not all(path.exists() for path in (folder.frontier, folder.frontier_table, folder.results, folder.best)):
        _write_files(run, trials, best, results)
    run.ledger.write("finished", best=best.number)
    return _conclusion(run, best, results, trials)


def _conclusion(run: RunContext, best: Trial, results: Sequence[Result], trials: Sequence[Trial]) -> Conclusion:
    setup = run.setup
    shown = primary(setup.objective, setup.metrics)
    return Conclusion(run.folder, best, tuple(results), tuple(trials), setup.coverage, setup.metrics, shown)


def _write_files(run: RunContext, trials: list[Trial], best: Trial, results: list[Result]) -> None:
    _write_frontier(run, trials)
    write_whole(run.folder.results, results_csv(results).encode())
    run.folder.write_best(_best(run, best, results[-1]))


def _write_frontier(run: RunContext, trials: list[Trial]) -> None:
    """Writes the trials that none beats in the objective and every limited cost at once: a table and a picture."""
    best = frontier(trials, run.setup.objective, list(run.limits))
    costs = run.setup.prunable.costs
    write_whole(run.folder.frontier_table, frontier_csv(best, dict(**costs.dense()), costs.effective).encode())
    if (figure := overview_figure(read_record(run.folder.path))) is not None:
        png(figure, run.folder.frontier)


def _measure(run: RunContext, dense: Score, found: SearchOutcome) -> list[Result]:
    """Returns the rows of the final table; test samples are read here for the first time, after the choice."""
    prunable, evaluate = run.setup.prunable, run.evaluator.evaluate_network
    uniform, whole = _uniform(run, found.problem, found.trials), run.evaluator.data.uses_all_samples()
    chosen = [("uniform", uniform), ("best", found.best)] if uniform.score else [("best", found.best)]
    networks = [prunable.network, *(run.evaluator.restore_or_build(trial.candidate) for _, trial in chosen)]
    latencies = measure_latency(networks, prunable.inputs.take(1))
    first = dense if whole else evaluate(networks[0], watch=partial(run.display.watch, "dense network, batches"))
    effective, costs = prunable.costs.effective, dict(**prunable.costs.dense())
    rows = [Result("dense", None, {}, first, _test(run, "dense", networks[0]), costs, latencies[0], effective)]
    for (name, trial), network, latency in zip(chosen, networks[1:], latencies[1:], strict=True):
        known = found.score if name == "best" else uniform.score if whole else None
        validation, test = known or evaluate(network), _test(run, name, network)
        number = trial.number if trial.number >= 0 else None
        widths, settings = trial.candidate.allocation.to_json(), dict(trial.candidate.settings)
        steps = _steps(trial, found.trials)
        rows.append(Result(name, number, widths, validation, test, trial.costs, latency, effective, settings, steps))
    return rows


def _steps(trial: Trial, trials: Sequence[Trial]) -> int:
    """Returns how many steps of training a trial's weights have had, those of its parents counted in."""
    recipe = resolved(trial.candidate.recipe, trial.candidate.settings)
    own = sum(training.steps or 0 for training in (recipe.admm, recipe.finetune) if training is not None)
    parent = trial.candidate.parent
    if parent is None:
        return own
    return own + _steps(next(each for each in trials if each.number == parent), trials)


def _uniform(run: RunContext, problem: SearchProblem, trials: list[Trial]) -> Trial:
    """Returns the uniform allocation's trial, with default settings; number -1 if the search did not try it."""
    candidate = problem.candidate(-1, uniform_allocation(problem))
    for trial in trials:
        if trial.candidate.key == candidate.key:
            return trial
    return run.evaluator.evaluate(candidate, keep=False)


def _test(run: RunContext, name: str, network: nn.Module) -> Score | None:
    watch = partial(run.display.watch, f"test batches, {name}")
    try:
        return run.evaluator.evaluate_network(network, None, "test", watch)
    except TaskError:  # the task has no test samples
        return None


def _best(run: RunContext, best: Trial, result: Result) -> dict[str, Any]:
    """Returns the content of `best.yaml`: enough to prune anew from the dense checkpoint, if it started from that.

    Scoring and recipe are those of the trial, its settings put in; criteria of single groups stand in `settings` alone.
    """
    experiment, settings = run.setup.experiment, best.candidate.settings
    scoring = {name: value for name, value in of_scoring(settings).items() if criterion_pattern(name) is None}
    return {
        "trial": best.number,
        "widths": run.setup.space.expanded(best.candidate.allocation).to_json(),
        "metrics": dict(result.validation.metrics),
        "loss": result.validation.loss,
        "samples": result.validation.samples,
        **({"test": {**result.test.numbers(), "samples": result.test.samples}} if result.test else {}),
        "costs": dict(result.costs),
        "effective": result.effective,
        "budget": str(experiment.budget),
        "task": run.setup.identity["task"],
        "model": run.setup.identity["model"],
        "checkpoint_sha256": run.setup.identity["checkpoint"],
        "pruner": experiment.pruner,
        "scoring": {**experiment.scoring.model_dump(), **scoring, "seed": experiment.search.seed},
        "recipe": resolved(best.candidate.recipe, settings).to_json(),
        **({"settings": dict(settings)} if settings else {}),
        **({} if best.candidate.parent is None else {"parent": best.candidate.parent}),
    }

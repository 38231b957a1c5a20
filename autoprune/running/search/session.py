"""One run from the dense reference to the best allocation; everything it does goes through the ledger."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
import yaml

from autoprune import registry
from autoprune.config import Experiment, dump_experiment
from autoprune.config.credentials import mask
from autoprune.core.budget import Limits
from autoprune.core.ledger import History, Ledger, read_history
from autoprune.core.metrics import infos_to_json
from autoprune.core.recipe import Recipe
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.core.settings import extreme_recipes
from autoprune.core.trial import Score
from autoprune.errors import UserError
from autoprune.evaluation.evaluator import Evaluator, evaluate_dense
from autoprune.evaluation.outcomes import EvaluationResult
from autoprune.evaluation.sensitivity.sweep import Grid
from autoprune.pruning.surgery.masks import by_rank
from autoprune.reporting.results import results_in
from autoprune.running.execution.inline import run_inline
from autoprune.running.execution.jobs import Stages, WorkerContext
from autoprune.running.progress import Display
from autoprune.running.run_folder import RunFolder
from autoprune.running.search.compute_budget import ComputeBudget
from autoprune.running.search.finalists import choose_winner
from autoprune.running.search.loop import RunContext, search
from autoprune.running.search.results import Conclusion, SearchOutcome, conclude, conclude_again
from autoprune.running.search.sensitivity import read_curves, sweep_curves, sweep_settings, write_curves
from autoprune.running.setup import Setup, from_python, unsearched_settings
from autoprune.running.tracking.tracker import Tracking, active_run, mirroring
from autoprune.searchers.base.searcher import Searcher, SearchProblem

_LIBRARIES = ("autoprune", "torch", "numpy", "optuna", "ray", "mlflow")
_CAN_CHANGE = ("run.", "track.", "search.trials", "output", "task.data", "task.checkpoint")
"""Settings that a resumed run may have otherwise; what lies under the paths of the task is compared itself."""
_DIGESTED = {"checkpoint": " (the weights differ)", "data": " (the first samples differ)"}
_SHOWN = 5


def start_session(
    setup: Setup, folder: RunFolder, tracking: Tracking | None, display: Display, command: Sequence[str] = ()
) -> Conclusion:
    """Makes the run's folder and runs; a run that is refused before anything was evaluated leaves nothing behind.

    Args:
        setup: the network and task, and what is searched.
        folder: where the run is recorded; must not hold one yet.
        tracking: where it is mirrored; None: nowhere.
        display: shows progress.
        command: the arguments that were typed, for the records; none for a search begun in Python.

    Raises:
        UserError: the budget cannot be reached, data are missing, the dense network cannot be evaluated, or there are
            not the workers that were asked for.
        AllTrialsFailed: no candidate could be scored.
        LedgerWriteError: the disk is full; the run can be resumed.
    """
    ready = _ready(setup, folder)
    with _workers(setup.experiment), folder.new_run(folder.ledger, dump_experiment(setup.experiment)) as ledger:
        return _run(RunContext(setup, folder, ledger, History([]), tracking, display, *ready), command)


def resume_session(
    setup: Setup, folder: RunFolder, tracking: Tracking | None, display: Display, command: Sequence[str] = ()
) -> Conclusion:
    """Goes on with a run where its ledger ends.

    Args:
        setup: as the run was started with.
        folder: the run's.
        tracking: where it is mirrored; None: nowhere.
        display: shows progress.
        command: as `start_session` has it.

    Raises:
        UserError: the settings, network or data are not those the run was started with, or another process writes to
            the run.
        AllTrialsFailed: no candidate could be scored.
        LedgerWriteError: the disk is full; the run can be resumed.
    """
    with Ledger(folder.ledger) as ledger:
        history = read_history(folder.path)
        _check_unchanged(history, setup, folder)
        if finished := is_finished(history, setup.experiment):  # nothing is evaluated: no data, no workers
            ready = _evaluator(setup, folder), setup.limits(), ComputeBudget(0, None, 0, 0)
        else:
            ready = _ready(setup, folder)
        folder.tidy()
        with nullcontext() if finished else _workers(setup.experiment):
            return _run(RunContext(setup, folder, ledger, history, tracking, display, *ready), command)


def _ready(setup: Setup, folder: RunFolder) -> tuple[Evaluator, Limits, ComputeBudget]:
    """Returns an evaluator whose data are read, the limits, checked, and what the run may cost.

    A file of curves that is given is read too.
    """
    registry.resolve("searcher", setup.experiment.search.searcher)  # what is at fault there is said first
    limits = setup.limits()
    evaluator = _evaluator(setup, folder)
    for recipe in _recipes(setup):
        evaluator.warm_up(recipe)
    if setup.experiment.sensitivity.file is not None:
        read_curves(setup, evaluator, setup.experiment.sensitivity.file)
    return evaluator, limits, ComputeBudget.open(setup, evaluator, limits)


def _evaluator(setup: Setup, folder: RunFolder) -> Evaluator:
    return setup.evaluator(replace(setup.evaluation_config(), weights=folder.weights))


def _recipes(setup: Setup) -> list[Recipe]:
    """Returns those of candidates and finalists, at the ends of what is searched of them."""
    experiment, settings = setup.experiment, setup.space.settings
    finals = extreme_recipes(experiment.final_recipe(), experiment.final_settings(settings))
    return list(dict.fromkeys([*extreme_recipes(experiment.recipe(), settings), *finals]))


def _workers(experiment: Experiment) -> AbstractContextManager[None]:
    """Connects to the workers that the experiment asks for.

    Raises:
        UserError: there are not so many.
    """
    if not experiment.run.workers:
        return nullcontext()
    from autoprune.running.execution.ray_tune import connected

    return connected(experiment.run)


def _check_unchanged(history: History, setup: Setup, folder: RunFolder) -> None:
    """Compares network, data and settings with those that a run was started with.

    Raises:
        UserError: they differ in what its trials depend on.
    """
    started = history.last("started")
    if started is None:  # it was killed before
        return
    others = [key for key, value in started["identity"].items() if setup.identity.get(key) != value]
    if others:
        said = " and ".join(f"{key}{_DIGESTED.get(key, '')}" for key in others)
        raise UserError(
            f"{folder.path} was started with another {said}; its trials do not hold for this one: "
            "restore it, or start a new run"
        )
    before, now = dict(_flat(started["settings"])), dict(_flat(_settings(setup.experiment)))
    changed = [
        f"{key}: {now.get(key)!r} instead of {before.get(key)!r}"
        for key in sorted({**before, **now})
        if before.get(key) != now.get(key) and not key.startswith(_CAN_CHANGE)
    ]
    if changed:
        source = f"this call or {folder.experiment}" if from_python(setup.experiment) else folder.experiment
        raise UserError(
            f"{source} has other settings than the run was started with ({'; '.join(changed[:_SHOWN])}"
            f"{'; …' if len(changed) > _SHOWN else ''}), for which its trials do not hold: restore them, or start a "
            "new run"
        )
    asked = {record["number"] for record in history.of("asked") if record["role"] != "finalist"}
    most = setup.experiment.most_trials()
    if most is not None and most < len(asked):
        raise UserError(
            f"--trials: {folder.path} has {len(asked)} trials already, more than {most}: give as many or more, or "
            "start a new run"
        )


def _flat(settings: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted keys and their values; an empty mapping is a value."""
    if isinstance(settings, Mapping) and settings:
        for name, value in settings.items():
            yield from _flat(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, settings


def _settings(experiment: Experiment) -> Any:
    return yaml.safe_load(dump_experiment(experiment))


def _run(run: RunContext, command: Sequence[str]) -> Conclusion:
    """Does what is not done yet."""
    run.ledger.begin(**_beginning(run, command))
    if line := unsearched_settings(run.setup.space, run.setup.experiment.search.searcher):
        run.display.say(line)
    dense = None if is_finished(run.history, run.setup.experiment) else _dense(run)
    with mirroring(run.folder.path, run.tracking, run.setup.prunable.network):
        if dense is None:
            return conclude_again(run)
        found = _execute(run, dense)
        run.folder.tidy()
        return conclude(run, dense, found)


def _beginning(run: RunContext, command: Sequence[str]) -> dict[str, Any]:
    """Returns what a `started` or `resumed` record holds; credentials are taken out."""
    setup, outer = run.setup, active_run()
    return {
        "autoprune": version("autoprune"),
        "identity": dict(setup.identity),
        "metrics": infos_to_json(setup.metrics),
        "objective": asdict(setup.objective),
        "scoring": dict(setup.prunable.scoring),
        "limits": dict(**run.limits),
        "settings": _settings(setup.experiment),
        "params": _parameters(setup),
        "groups": {group.name: group.width for group in setup.space.groups},
        "coverage": setup.coverage.lines(),
        "start": setup.coverage.start,
        "command": ["autoprune", *map(mask, command)] if command else [],
        "environment": _environment(setup),
        **({"mlflow_run": outer} if outer else {}),
    }


def _dense(run: RunContext) -> Score:
    """Returns the score of the dense network on the samples that candidates are evaluated on."""
    record = run.history.last("dense")
    if record is not None:
        return Score.from_json(record["score"])
    score = evaluate_dense(run.evaluator, partial(run.display.watch, "dense network, batches"))
    run.ledger.write("dense", score=score.to_json(), costs=run.setup.prunable.costs.dense())
    return score


def _execute(run: RunContext, dense: Score) -> SearchOutcome:
    """Does sweep, search and finalists, here or by workers."""
    experiment = run.setup.experiment
    context = WorkerContext(run.evaluator, _grid(run), sweep_settings(experiment))
    stages = _run_stages(run, dense, context)
    if experiment.run.workers:
        from autoprune.running.execution.ray_tune import run_on_ray

        return run_on_ray(stages, run.setup, context)
    return run_inline(stages, context, experiment.run.trial_timeout)


def is_finished(history: History, experiment: Experiment) -> bool:
    """Returns whether a run has come to its end, and no more trials are asked for than then."""
    events = [record["event"] for record in history.records]
    if "finished" not in events:
        return False
    end = len(events) - 1 - events[::-1].index("finished")
    begun = [record for record in history.records[:end] if record["event"] in ("started", "resumed")]
    results = results_in(history)
    return (
        bool(results)
        and results[-1].number == history.records[end]["best"]
        and begun[-1]["settings"]["search"]["trials"] == experiment.search.trials
        and "asked" not in events[end:]
    )


def _run_stages(run: RunContext, dense: Score, context: WorkerContext) -> Stages[SearchOutcome]:
    curves = yield from _curves(run, context)
    problem = _problem(run, dense, curves, swept=bool(context.grid))
    trials = yield from search(run, problem)
    best, score = yield from choose_winner(run, problem, trials)
    return SearchOutcome(problem, trials, best, score)


def _grid(run: RunContext) -> Grid:
    """Returns the levels of the sweep; none where curves are given, are of no use or cost too much."""
    experiment = run.setup.experiment
    searcher: type[Searcher] = registry.resolve("searcher", experiment.search.searcher)
    if experiment.sensitivity.file is not None or not searcher.uses_curves:
        return {}
    return run.compute_budget.grid(run.setup, run.evaluator)


def _curves(run: RunContext, context: WorkerContext) -> Stages[SensitivityCurves | None]:
    """Returns sensitivity curves: from a file, else by a sweep if the searcher uses any."""
    file = run.setup.experiment.sensitivity.file
    if file is not None:
        curves = read_curves(run.setup, run.evaluator, file)
    elif context.grid:
        levels = run.history.of("level")
        done = {(level["group"], level["width"]): EvaluationResult.from_json(level) for level in levels}

        def record(group: str, width: int, result: EvaluationResult) -> None:
            run.ledger.write("level", group=group, width=width, **result.to_json())

        curves = yield from sweep_curves(context.levels, run.display, done, record)
    else:
        return None
    write_curves(curves, run.folder, run.setup.metrics)
    return curves


def _problem(run: RunContext, dense: Score, curves: SensitivityCurves | None, swept: bool) -> SearchProblem:
    """Returns what the searcher has to solve; curves that this run has swept are paid from its compute budget."""
    experiment, prunable = run.setup.experiment, run.setup.prunable
    spent = curves.work or 0 if curves and swept else 0
    return SearchProblem(
        space=run.setup.space,
        costs=prunable.costs,
        limits=run.limits,
        trials=experiment.most_trials(),
        seed=experiment.search.seed,
        objective=run.setup.objective,
        recipe=experiment.recipe(),
        curves={prunable.pruner.name: curves} if curves else {},
        importance={name: by_rank(scores) for name, scores in prunable.importance.items()},
        work=run.compute_budget.left(spent),
        price=run.compute_budget.candidate,
        rungs=run.evaluator.data.rungs(),
        rounds=experiment.search.rounds,
        dense=dense,
    )


def _parameters(setup: Setup) -> dict[str, Any]:
    """Returns what was chosen, by the names under which it is tracked."""
    experiment, identity = setup.experiment, setup.identity
    return {
        "searcher": experiment.search.searcher,
        "pruner": experiment.pruner,
        "costs": "effective" if setup.prunable.costs.effective else "actual",
        **{f"scoring.{key}": value for key, value in setup.prunable.scoring.items() if key != "pruner"},
        "trials": experiment.most_trials(),
        "evaluations": experiment.search.evaluations,
        "seed": experiment.search.seed,
        "objective": experiment.evaluation.objective,
        "samples": experiment.evaluation.samples,
        "task": identity["task"],
        "model": identity["model"],
        "space": setup.space.source,
        **({"searched": " ".join(setup.space.settings)} if setup.space.settings else {}),
    }


def _environment(setup: Setup) -> dict[str, str]:
    """Returns versions and machine, as far as results may depend on them."""
    device = setup.prunable.inputs.device
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device} ({platform.machine()})",
        "threads": str(torch.get_num_threads()),
    }

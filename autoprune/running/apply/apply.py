"""From what a search found to a smaller network: as it was scored, or pruned anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoprune.config import Experiment, load_experiment
from autoprune.config.documents import read_document
from autoprune.core.allocation import Allocation
from autoprune.core.ledger import History, read_history
from autoprune.core.trial import Candidate, Failure, Setting, Trial, winners
from autoprune.errors import CheckpointError, UserError
from autoprune.evaluation.checkpoints.checkpoint import PrunedCheckpoint, read_checkpoint, rebuild
from autoprune.evaluation.evaluator import Evaluator
from autoprune.graph.costs import measure_costs
from autoprune.running.apply.pruned_model import Applied, ApplyOptions, finetuned, finished, how, inputs_of, made
from autoprune.running.apply.recorded_result import RecordedResult
from autoprune.running.progress import Display, training_progress
from autoprune.running.run_folder import RunFolder, existing_folder
from autoprune.running.setup import Setup, prepare, task_of
from autoprune.tasks.weights import digest, read_state_dict

_OF_THE_SEARCH = ("evaluation.recalibrate", "evaluation.reconstruct", "evaluation.finetune", "scoring", "pruner")


def from_run(
    path: Path, number: int | None, given: Mapping[str, Any], sets: Sequence[str], options: ApplyOptions
) -> Applied:
    """The network of a run's trial (None: the best), just as it was scored where its weights are kept.

    It is pruned anew where they are not, where it is to be reconstructed, or where another checkpoint is forced on it
    than the run's own.

    Raises:
        UserError: the folder is no run, has no such trial, or was searched on another checkpoint, the network cannot be
            built, or `sets` would change nothing.
    """
    _check_sets(sets, path)
    folder = existing_folder(path)
    history = read_history(path)
    lost = _without_lost_checkpoint(folder, given)
    if lost and options.plan is not None and "distill" in options.plan:
        raise UserError(f"the checkpoint that {path} was searched on is gone, so nothing can be distilled from it")
    experiment = load_experiment(folder.experiment, given, [*lost, *sets])
    trial = _trial(history, number, folder, experiment)
    recorded = RecordedResult.of_trial(history, trial)
    own = given.get("task.checkpoint") is None or _holds_searched(recorded, experiment, path)
    weights = folder.weights_of(trial.number)
    kept = own and weights.is_file() and not options.reconstruct
    stored = read_checkpoint(weights) if kept else None
    if stored is None:
        return _remade(trial.candidate, folder, experiment, recorded, options, own)
    if stored.widths != trial.candidate.allocation.to_json():
        raise CheckpointError(
            f"{weights} holds other widths than trial {trial.number} has; remove it to have the trial pruned anew"
        )
    origin = f"trial {trial.number} of {path}, as it was scored"
    if options.plan is not None:
        setup = _prepare(experiment)
        if "distill" in options.plan:
            _check(recorded, setup, str(path), options)
        evaluator = _evaluator(setup)
        return replace(
            finetuned(setup, evaluator, evaluator.restore_to_train(weights), options.plan, origin), recorded=recorded
        )
    return _restored(stored, experiment, trial, history, recorded, origin)


def _check_sets(sets: Sequence[str], path: Path) -> None:
    """Nothing, if no setting is given that only a search, or what is pruned from a `best.yaml`, takes notice of.

    Raises:
        UserError: there is one.
    """
    for each in sets:
        key = each.partition("=")[0].strip()
        if key.startswith(_OF_THE_SEARCH):
            raise UserError(
                f"--set {key} changes nothing here, as {path} says how its trials were pruned; give --reconstruct or "
                f"--finetune, or apply {path / 'best.yaml'} to prune the same widths anew under other settings"
            )


def _without_lost_checkpoint(folder: RunFolder, given: Mapping[str, Any]) -> list[str]:
    """The settings that leave a run's own checkpoint out where it is gone.

    Weights that the run kept do without it; what is pruned anew is compared with what was searched on.
    """
    if given.get("task.checkpoint") is not None:
        return []
    settings = read_document(folder.experiment).value
    task = settings.get("task") if isinstance(settings, dict) else None
    file = task.get("checkpoint") if isinstance(task, dict) else None
    return ["task.checkpoint=null"] if isinstance(file, str) and not Path(file).exists() else []


def _restored(
    stored: PrunedCheckpoint,
    experiment: Experiment,
    trial: Trial,
    history: History,
    recorded: RecordedResult,
    origin: str,
) -> Applied:
    build = task_of(experiment).network
    network, dense = rebuild(stored, build), history.last("dense")
    costs = trial.costs if stored.masked else measure_costs(network, inputs_of(stored))
    dense_costs = dense["costs"] if dense else costs
    return Applied(network, build, stored, costs, dense_costs, origin, stored.masked, recorded, scored=True)


def _remade(
    candidate: Candidate,
    folder: RunFolder,
    experiment: Experiment,
    recorded: RecordedResult,
    options: ApplyOptions,
    own: bool,
) -> Applied:
    """A candidate's network made anew: from its parent's weights in the run's folder if it has a parent.

    Args:
        own: whether the checkpoint is the run's own.

    Raises:
        UserError: it has a parent, and its weights are gone or were trained from another checkpoint.
    """
    name = f"trial {candidate.number} of {folder.path}"
    if candidate.parent is not None and not own:
        raise UserError(
            f"{name} starts from the weights of trial {candidate.parent}, which come from the run's own checkpoint; "
            "leave out --checkpoint"
        )
    if candidate.parent is not None and options.reconstruct:
        raise UserError(f"{name} was trained on the way, which --reconstruct would undo; leave it out")
    setup = _prepare(experiment)
    change = _check(recorded, setup, str(folder.path), options)
    evaluator = _evaluator(setup, folder.weights)
    try:
        built = made(evaluator, candidate, options)
    except CheckpointError as fault:
        raise CheckpointError(
            f"{name} cannot be made again: {fault}; runs keep the weights of their best trials, choose one of those"
        ) from fault
    applied = finished(setup, evaluator, built, options, f"{name}, {how(evaluator, options)}")
    return _under(recorded, applied, change, name)


def anew(
    widths: Mapping[str, int],
    experiment: Experiment,
    settings: Mapping[str, Setting],
    recorded: RecordedResult,
    options: ApplyOptions,
    source: str,
) -> Applied:
    """The network of an allocation, pruned from the experiment's checkpoint, after the experiment's recipe.

    Args:
        settings: what a search chose otherwise of scoring and recipe.
        source: where the allocation comes from.

    Raises:
        UserError: the network or data are at fault, the widths do not fit the network, or they were found on other
            weights.
    """
    setup = _prepare(experiment)
    allocation = Allocation.from_json(widths)
    setup.prunable.costs.vector(allocation)  # refuses a group that the network does not have
    groups = {group.name: group for group in setup.prunable.structures.groups}
    for name, width in allocation.items():
        if not groups[name].least <= width <= groups[name].width:
            raise UserError(f"group {name!r} has {groups[name].width} structures, not {width}")
    change = _check(recorded, setup, source, options)
    evaluator = _evaluator(setup)
    built = made(evaluator, Candidate(-1, allocation, setup.experiment.recipe(), dict(settings)), options)
    applied = finished(setup, evaluator, built, options, f"{source}, {how(evaluator, options)}")
    return _under(recorded, applied, change, source)


def _under(recorded: RecordedResult, applied: Applied, change: str, source: str) -> Applied:
    """What was pruned anew with what the records recorded of it, if they are of such a network at all."""
    if any(applied.costs.get(kind) != cost for kind, cost in recorded.costs.items()):
        recorded = RecordedResult(
            remark=f"{source} has the accuracy and costs of another network: were its widths changed?"
        )
    return replace(applied, recorded=recorded, change=applied.change or change)


def _check(recorded: RecordedResult, setup: Setup, source: str, options: ApplyOptions) -> str:
    """What is to be said of the weights: nothing if they are those of the recorded.

    Raises:
        UserError: they are others, and that is not forced.
    """
    found, section = setup.identity["checkpoint"], setup.experiment.task
    if recorded.holds_for(found):
        return ""
    if not options.force:
        whose = f"task {section.name}" if section.checkpoint is None else f"checkpoint {section.checkpoint}"
        raise recorded.other_weights(found, whose, source)
    return "with the weights that were searched on"


def _holds_searched(recorded: RecordedResult, experiment: Experiment, path: Path) -> bool:
    """Whether the checkpoint that was given holds the weights that were searched on.

    Raises:
        CheckpointError: it does not fit the network.
    """
    file = experiment.task.checkpoint
    assert file is not None, "it was given"
    if recorded.holds_for(digest(read_state_dict(file))):
        return True
    # The file may leave out what the network has by itself (counters of batches); compare what is loaded.
    task = task_of(experiment)
    network = task.network()
    try:
        task.load(network, file)
    except CheckpointError as fault:
        raise CheckpointError(
            f"{fault}; leave out --checkpoint, or give the one that {path} was searched on"
        ) from fault
    return recorded.holds_for(digest(network.state_dict()))


def _prepare(experiment: Experiment) -> Setup:
    display = Display()
    with training_progress(display, "training the default network once") as hook:
        return prepare(experiment, hook, display)


def _evaluator(setup: Setup, weights: Path | None = None) -> Evaluator:
    return setup.evaluator(
        replace(setup.evaluation_config(), samples=None, rungs=(), objective="loss", weights=weights)
    )


def _trial(history: History, number: int | None, folder: RunFolder, experiment: Experiment) -> Trial:
    """The trial of that number; without one the run's winner, or the best so far of a run that has not finished."""
    trials = {trial.number: trial for trial in history.trials()}
    finished = history.last("finished")
    if number is None and finished is not None:
        number = int(finished["best"])
    if number is None:
        scored = winners(list(trials.values()), experiment.evaluation.objective)
        if not scored:
            raise UserError(f"{folder.path} has no scored trial yet; continue it with --resume {folder.path}")
        return scored[0]
    if number not in trials:
        raise UserError(f"{folder.path} has no finished trial {number}; it has {_spans(sorted(trials))}")
    outcome = trials[number].outcome
    if isinstance(outcome, Failure):
        raise UserError(
            f"trial {number} of {folder.path} failed ({outcome.kind}: {outcome.reason}); choose another, or leave out "
            "--trial for the best"
        )
    return trials[number]


def _spans(numbers: list[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if numbers else "none"

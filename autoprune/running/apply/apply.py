"""From what a search found to a smaller network: as it was scored, pruned anew, or either one trained further."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from autoprune.config import Experiment, load_experiment
from autoprune.config.documents import read_document
from autoprune.core.allocation import Allocation
from autoprune.core.ledger import History, read_history
from autoprune.core.metrics import LOSS, MetricInfo, infos_from_json
from autoprune.core.trial import Candidate, Failure, Trial, winners
from autoprune.errors import CheckpointError, UserError
from autoprune.evaluation.checkpoints.checkpoint import read_checkpoint, rebuild
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.prunable_model import example_inputs
from autoprune.graph.costs import measure_costs
from autoprune.graph.networks import unwrap
from autoprune.running.apply.checkpoint_file import apply_checkpoint
from autoprune.running.apply.pruned_model import ApplyOptions, PrunedModel, RecordedResult, finalize
from autoprune.running.apply.source import BestFile, CheckpointFile, TrialSource
from autoprune.running.progress import Display
from autoprune.running.run_folder import RunFolder, existing_folder
from autoprune.running.setup import Setup, chosen_pruner, load_checkpoint, prepare, task_of
from autoprune.tasks.weights import digest, read_state_dict

_SHOWN = 12
_OF_THE_SEARCH = ("evaluation.recalibrate", "evaluation.reconstruct", "evaluation.finetune", "scoring", "pruner")


def apply_source(
    source: TrialSource | BestFile | CheckpointFile,
    given: Mapping[str, Any],
    sets: Sequence[str],
    options: ApplyOptions,
) -> PrunedModel:
    """Returns the smaller network of a run's trial, of a `best.yaml` or of a pruned file.

    Args:
        source: what was found.
        given: dotted keys of an experiment to values that win over the source's own.
        sets: texts `key=value`, which win over both.
        options: what is to be otherwise than in the search.

    Raises:
        UserError: the source, network, data or settings are at fault, or were another's when it was searched.
    """
    if isinstance(source, CheckpointFile):
        return apply_checkpoint(source, given, sets, options)
    if isinstance(source, BestFile):
        return _prune_best(source, source.experiment(given, sets), options)
    return _apply_trial(source, given, sets, options)


def _apply_trial(
    source: TrialSource, given: Mapping[str, Any], sets: Sequence[str], options: ApplyOptions
) -> PrunedModel:
    """Returns the network of a run's trial, just as it was scored where its weights are kept.

    It is pruned anew where they are not, where it is to be reconstructed, or where another checkpoint is forced on it
    than the run's own.
    """
    path = source.path
    _check_sets(sets, path)
    folder = existing_folder(path)
    history = read_history(path)
    lost = _without_lost_checkpoint(folder, given)
    distills = options.finetune is not None and options.finetune.distill > 0
    if lost and distills:
        raise UserError(f"the checkpoint that {path} was searched on is gone, so nothing can be distilled from it")
    experiment = load_experiment(folder.experiment, given, [*lost, *sets])
    trial = _choose_trial(history, source.trial, folder, experiment)
    recorded = RecordedResult.of_trial(history, trial)
    own = given.get("task.checkpoint") is None or _holds_searched(recorded, experiment, path)
    weights = folder.weights_of(trial.number)
    stored = read_checkpoint(weights) if own and weights.is_file() and not options.reconstruct else None
    if stored is None:
        return _prune_trial(trial.candidate, folder, experiment, recorded, options, own)
    if stored.widths != trial.candidate.allocation.to_json():
        raise CheckpointError(
            f"{weights} holds other widths than trial {trial.number} has; remove it to have the trial pruned anew"
        )
    origin = f"trial {trial.number} of {path}, as it was scored"
    if options.finetune is None:
        dense = task_of(experiment).network
        network, dense_costs = rebuild(stored, dense), history.of("dense")[0]["costs"]
        costs = recorded.costs if stored.masked else measure_costs(network, stored.example_inputs())
        metrics = infos_from_json(history.of("started")[-1]["metrics"])
        return PrunedModel(
            network, dense, stored, costs, dense_costs, origin, stored.masked, recorded, as_scored=True, metrics=metrics
        )
    setup = prepare(experiment, Display())
    if distills:
        _check_weights(recorded, setup, str(path), options)
    evaluator = _evaluator(setup)
    trained = finalize(setup, evaluator, evaluator.restore_to_train(weights), options, origin)
    return replace(trained, recorded=recorded)


def _prune_trial(
    candidate: Candidate,
    folder: RunFolder,
    experiment: Experiment,
    recorded: RecordedResult,
    options: ApplyOptions,
    own: bool,
) -> PrunedModel:
    """Prunes a run's candidate anew, from its parent's weights in the run's folder if it has a parent.

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
    setup = prepare(experiment, Display())
    change = _check_weights(recorded, setup, str(folder.path), options)
    try:
        return _prune_anew(setup, candidate, recorded, options, name, change, folder.weights)
    except CheckpointError as fault:
        raise CheckpointError(
            f"{name} cannot be made again: {fault}; runs keep the weights of their best trials, choose one of those"
        ) from fault


def _prune_best(best: BestFile, experiment: Experiment, options: ApplyOptions) -> PrunedModel:
    """Prunes the widths of a `best.yaml` from the experiment's checkpoint, by the experiment's recipe."""
    allocation = Allocation.from_json(best.content["widths"])
    depth = 0 in allocation.values() and chosen_pruner(experiment).pattern.coupled
    # Equal widths are written out.
    space = replace(experiment.space, depth=experiment.space.depth or depth, equal=())
    experiment = experiment.model_copy(update={"space": space})
    setup, source, settings = prepare(experiment, Display()), str(best.path), best.criteria()
    setup.prunable.costs.vector(allocation)  # refuses a group that the network does not have
    groups = {group.name: group for group in setup.prunable.structures.groups}
    for name, width in allocation.items():
        if not groups[name].least <= width <= groups[name].width:
            raise UserError(f"group {name!r} has {groups[name].width} structures, not {width}")
    recorded = RecordedResult.of_best(best.content)
    change = _check_weights(recorded, setup, source, options)
    candidate = Candidate(-1, allocation, setup.experiment.recipe(), settings)
    return _prune_anew(setup, candidate, recorded, options, source, change)


def _prune_anew(
    setup: Setup,
    candidate: Candidate,
    recorded: RecordedResult,
    options: ApplyOptions,
    source: str,
    change: str,
    weights: Path | None = None,
) -> PrunedModel:
    """Prunes a candidate, and holds it against what the records say, if they are of such a network at all.

    Args:
        source: where the candidate comes from, in words.
        change: what is otherwise than in the search, in words.
        weights: the folder where the weights of its parent lie.
    """
    evaluator = _evaluator(setup, weights)
    setup.prunable.check_on_fresh_inputs(candidate.allocation)
    wanted, origin = options.of(candidate), f"{source}, pruned anew"
    evaluator.warm_up(wanted.recipe)
    if options.reconstruct:
        samples = evaluator.data.cap_samples(wanted.recipe).reconstruct
        origin += f", reconstructed on {samples} training samples"
    pruned = finalize(setup, evaluator, evaluator.build(wanted), options, origin)
    if any(pruned.costs.get(kind) != cost for kind, cost in recorded.costs.items()):
        recorded = RecordedResult(
            remark=f"{source} has the metrics and costs of another network: were its widths changed?"
        )
    return replace(pruned, recorded=recorded, change=pruned.change or change)


def _check_sets(sets: Sequence[str], path: Path) -> None:
    """Refuses settings that only a search, or what is pruned from a `best.yaml`, takes notice of.

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
    """Returns the settings that leave a run's own checkpoint out where it is gone.

    Weights that the run kept do without it; what is pruned anew is compared with what was searched on.
    """
    if given.get("task.checkpoint") is not None:
        return []
    settings = read_document(folder.experiment).value
    task = settings.get("task") if isinstance(settings, dict) else None
    file = task.get("checkpoint") if isinstance(task, dict) else None
    return ["task.checkpoint=null"] if isinstance(file, str) and not Path(file).exists() else []


def _check_weights(recorded: RecordedResult, setup: Setup, source: str, options: ApplyOptions) -> str:
    """Returns what is to be said of the dense weights: nothing where they are those that were searched on.

    Raises:
        UserError: they are others, and that is not forced.
    """
    found, section = setup.identity["checkpoint"], setup.experiment.task
    if recorded.digest is None or recorded.digest == found:
        return ""
    if options.force:
        return "with the weights that were searched on"
    whose = f"task {section.name}" if section.checkpoint is None else f"checkpoint {section.checkpoint}"
    raise UserError(
        f"{whose} has other weights than {source} was searched on (SHA-256 {found[:_SHOWN]}…, not "
        f"{recorded.digest[:_SHOWN]}…), and what was measured does not hold for them; give the ones searched on with "
        "--checkpoint, or have these pruned to the same widths with --force"
    )


def _holds_searched(recorded: RecordedResult, experiment: Experiment, path: Path) -> bool:
    """Returns whether the checkpoint that was given holds the weights that were searched on.

    Raises:
        CheckpointError: it does not fit the network.
    """
    file = experiment.task.checkpoint
    assert file is not None, "it was given"
    with suppress(CheckpointError):  # which weights are meant only the network may tell
        if recorded.holds_for(digest(read_state_dict(file))):
            return True
    # The file may leave out what the network has by itself (counters of batches); compare what is loaded.
    task = task_of(experiment)
    try:
        network = load_checkpoint(
            experiment.task, task, unwrap(task.network()), example_inputs(task, torch.device("cpu"))
        )
    except CheckpointError as fault:
        raise CheckpointError(
            f"{fault}; leave out --checkpoint, or give the one that {path} was searched on"
        ) from fault
    return recorded.holds_for(digest(network.state_dict()))


def _evaluator(setup: Setup, weights: Path | None = None) -> Evaluator:
    return setup.evaluator(replace(setup.evaluation_config(), samples=None, rungs=(), objective=LOSS, weights=weights))


def _choose_trial(history: History, number: int | None, folder: RunFolder, experiment: Experiment) -> Trial:
    """Returns the trial of that number; without one the run's winner, or the best so far of an unfinished run."""
    trials = {trial.number: trial for trial in history.trials()}
    finished = history.last("finished")
    if number is None and finished is not None:
        number = int(finished["best"])
    if number is None:
        scored = winners(list(trials.values()), MetricInfo(**history.of("started")[-1]["objective"]))
        if not scored:
            raise UserError(f"{folder.path} has no scored trial yet; continue it with --resume {folder.path}")
        return scored[0]
    if number not in trials:
        has = f"{min(trials)} to {max(trials)}" if trials else "none"
        raise UserError(f"{folder.path} has no finished trial {number}; it has {has}")
    outcome = trials[number].outcome
    if isinstance(outcome, Failure):
        raise UserError(
            f"trial {number} of {folder.path} failed ({outcome.kind}: {outcome.reason}); choose another, or leave out "
            "--trial for the best"
        )
    return trials[number]

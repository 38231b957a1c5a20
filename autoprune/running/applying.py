"""From what a search found to the file of a smaller network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from autoprune.config import Experiment, load_experiment
from autoprune.core.allocation import Allocation
from autoprune.core.ledger import History, read_history
from autoprune.core.recipe import Recipe
from autoprune.core.trial import Candidate, Setting, Trial, winners
from autoprune.errors import UserError
from autoprune.evaluation.building import Built
from autoprune.evaluation.checkpoint import PrunedCheckpoint, read_checkpoint, rebuild, write_checkpoint
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.export import export_network
from autoprune.graph.profile import measure_costs
from autoprune.running.folder import RunFolder, existing_folder
from autoprune.running.progress import Display, training_progress
from autoprune.running.setup import Setup, prepare, task_of
from autoprune.tasks.base import TrainingPlan
from autoprune.tasks.weights import digest, read_state_dict

Plan = Mapping[str, Any]


@dataclass(frozen=True)
class Applied:
    """A smaller network, ready to be written.

    Attributes:
        origin: a few words on where it comes from.
        effective: whether weights were set to zero and the costs leave out what is zero.
    """

    network: nn.Module
    checkpoint: PrunedCheckpoint
    costs: Mapping[str, int]
    dense_costs: Mapping[str, int]
    origin: str
    effective: bool = False

    def write(self, path: Path) -> None:
        write_checkpoint(path, self.checkpoint)

    def export(self, path: Path, form: str) -> Path:
        """Writes the network beside `path` as `pt2` or `onnx`; where it went.

        Raises:
            UserError: the network cannot be exported, or ONNX is not installed.
        """
        return export_network(self.network, _inputs(self.checkpoint), path, form)


def from_run(
    path: Path, number: int | None, given: Mapping[str, Any], sets: Sequence[str], plan: Plan | None
) -> Applied:
    """The network of a run's trial (None: the best), just as it was scored where its weights are kept.

    It is pruned anew where they are not, or where another checkpoint is given than the run's own.

    Raises:
        UserError: the folder is no run, has no such trial, or the network cannot be built.
    """
    folder = existing_folder(path)
    history = read_history(path)
    experiment = load_experiment(folder.experiment, given, sets)
    trial = _trial(history, number, folder, experiment)
    weights = folder.weights_of(trial.number)
    stored = read_checkpoint(weights) if weights.is_file() else None
    same = _same_weights(history, given.get("task.checkpoint"), experiment)
    if stored is None or not same:
        return _remade(trial.candidate, experiment, folder, same, plan)
    origin = f"trial {trial.number} of {path}, as it was scored"
    if plan is not None:
        setup = _prepare(experiment)
        evaluator = _evaluator(setup)
        return _finetuned(setup, evaluator, evaluator.restore_to_train(weights), plan, origin)
    task = task_of(experiment)
    network = rebuild(stored, task.network)
    dense = history.last("dense")
    costs = trial.costs if stored.masked else measure_costs(network, _inputs(stored))
    return Applied(network, stored, costs, dense["costs"] if dense else costs, origin, stored.masked)


def _remade(candidate: Candidate, experiment: Experiment, folder: RunFolder, same: bool, plan: Plan | None) -> Applied:
    """A candidate's network made anew: from its parent's weights in the run's folder if it has a parent.

    Args:
        same: whether the experiment's checkpoint is the one that the run was made with.

    Raises:
        UserError: it has a parent, and its weights are gone or were trained from another checkpoint.
    """
    if candidate.parent is not None and not same:
        raise UserError(
            f"trial {candidate.number} of {folder.path} starts from the weights of trial {candidate.parent}, which "
            "come from the run's own checkpoint; leave out --checkpoint"
        )
    setup = _prepare(experiment)
    evaluator = _evaluator(setup, folder.weights)
    origin = f"trial {candidate.number} of {folder.path}, pruned anew"
    return _finished(setup, evaluator, evaluator.make(candidate), plan, origin)


def anew(
    widths: Mapping[str, int],
    experiment: Experiment,
    recipe: Recipe,
    plan: Plan | None,
    settings: Mapping[str, Setting] = MappingProxyType({}),
) -> Applied:
    """The network of an allocation, pruned from the experiment's checkpoint, after a recipe.

    Args:
        settings: what a search chose otherwise of scoring and recipe.

    Raises:
        UserError: the network or data are at fault, or the widths do not fit the network.
    """
    setup = _prepare(experiment)
    allocation = Allocation.from_json(widths)
    setup.subject.costs.vector(allocation)  # refuses a group that the network does not have
    groups = {group.name: group for group in setup.subject.structures.groups}
    for name, width in allocation.items():
        if not groups[name].least <= width <= groups[name].width:
            raise UserError(f"group {name!r} has {groups[name].width} structures, not {width}")
    evaluator = _evaluator(setup)
    built = evaluator.make(Candidate(-1, allocation, recipe, dict(settings)))
    return _finished(setup, evaluator, built, plan, "pruned anew")


def _finished(setup: Setup, evaluator: Evaluator, built: Built, plan: Plan | None, origin: str) -> Applied:
    if plan is not None:
        return _finetuned(setup, evaluator, built, plan, origin)
    return _judged(setup, evaluator, built, origin)


def _finetuned(setup: Setup, evaluator: Evaluator, built: Built, plan: Plan, origin: str) -> Applied:
    with training_progress(Display(), "fine-tuning") as hook:
        setup.task.train(built.network, TrainingPlan(**plan), [built.held_masks(), hook])
    settings = " ".join(f"{key}={value}" for key, value in plan.items())
    return _judged(setup, evaluator, built, f"{origin}, fine-tuned ({settings})")


def _judged(setup: Setup, evaluator: Evaluator, built: Built, origin: str) -> Applied:
    score = evaluator.judge(built.network, None)
    metrics = {"accuracy": score.accuracy, "loss": score.loss, "images": score.images}
    costs, table = built.costs(), setup.subject.costs
    checkpoint = built.checkpoint(metrics, evaluator.judging.identity)
    return Applied(built.network.cpu(), checkpoint, costs, dict(**table.dense()), origin, table.effective)


def _prepare(experiment: Experiment) -> Setup:
    display = Display()
    with training_progress(display, "training the default network once") as hook:
        return prepare(experiment, hook, display)


def _evaluator(setup: Setup, weights: Path | None = None) -> Evaluator:
    return setup.evaluator(replace(setup.judging(), images=None, rungs=(), objective="loss", weights=weights))


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
    if trials[number].failed:
        raise UserError(f"trial {number} of {folder.path} failed: {trials[number].outcome}")
    return trials[number]


def _spans(numbers: list[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if numbers else "none"


def _same_weights(history: History, given: str | None, experiment: Experiment) -> bool:
    """Whether no checkpoint is given, or it holds the weights that the run was made with."""
    started = history.last("started")
    if given is None or started is None:
        return True
    state = read_state_dict(Path(given))
    if digest(state) == started["identity"]["checkpoint"]:
        return True
    # The file may leave out what the network has by itself (counters of batches); compare what is loaded.
    task = task_of(experiment)
    network = task.network()
    task.load(network, Path(given))
    return bool(digest(network.state_dict()) == started["identity"]["checkpoint"])


def _inputs(checkpoint: PrunedCheckpoint) -> torch.Tensor:
    return torch.zeros(2, *checkpoint.inputs["shape"], dtype=getattr(torch, checkpoint.inputs["dtype"]))

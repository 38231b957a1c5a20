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
from autoprune.core.settings import resolved
from autoprune.core.trial import Setting, Trial, winners
from autoprune.errors import UserError
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
    allocation, weights = trial.candidate.allocation, folder.weights_of(trial.number)
    stored = read_checkpoint(weights) if weights.is_file() else None
    if stored is None or not _same_weights(history, given.get("task.checkpoint"), experiment):
        origin = f"trial {trial.number} of {path}, pruned anew"
        return anew(allocation, experiment, trial.candidate.recipe, plan, origin, trial.candidate.settings)
    origin = f"trial {trial.number} of {path}, as it was scored"
    if plan is not None:
        setup = _prepare(experiment)
        evaluator = _evaluator(setup).under(trial.candidate.settings)
        return _finetuned(setup, evaluator, evaluator.restore(weights), allocation, plan, origin)
    task = task_of(experiment)
    network = rebuild(stored, task.network)
    dense = history.last("dense")
    costs = trial.costs if stored.masked else measure_costs(network, _inputs(stored))
    return Applied(network, stored, costs, dense["costs"] if dense else costs, origin, stored.masked)


def anew(
    widths: Mapping[str, int],
    experiment: Experiment,
    recipe: Recipe,
    plan: Plan | None,
    origin: str = "pruned anew",
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
    evaluator = _evaluator(setup).under(settings)
    network = evaluator.build(allocation, resolved(recipe, settings))
    if plan is not None:
        return _finetuned(setup, evaluator, network, allocation, plan, origin)
    return _judged(setup, evaluator, network, allocation, origin)


def _finetuned(
    setup: Setup, evaluator: Evaluator, network: nn.Module, allocation: Allocation, plan: Plan, origin: str
) -> Applied:
    with training_progress(Display(), "fine-tuning") as hook:
        setup.task.train(network, TrainingPlan(**plan), [evaluator.held_masks(network, allocation), hook])
    settings = " ".join(f"{key}={value}" for key, value in plan.items())
    return _judged(setup, evaluator, network, allocation, f"{origin}, fine-tuned ({settings})")


def _judged(setup: Setup, evaluator: Evaluator, network: nn.Module, allocation: Allocation, origin: str) -> Applied:
    score = evaluator.judge(network, None)
    metrics = {"accuracy": score.accuracy, "loss": score.loss, "images": score.images}
    costs = evaluator.measure(network, allocation)
    checkpoint = evaluator.pruned(network, allocation, metrics)
    table = setup.subject.costs
    return Applied(network.cpu(), checkpoint, costs, dict(**table.dense()), origin, table.effective)


def _prepare(experiment: Experiment) -> Setup:
    display = Display()
    with training_progress(display, "training the default network once") as hook:
        return prepare(experiment, hook, display)


def _evaluator(setup: Setup) -> Evaluator:
    return setup.evaluator(replace(setup.judging(), images=None, rungs=(), objective="loss"))


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

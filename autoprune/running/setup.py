"""From an experiment to everything a run needs; what is wrong with the user's input shows here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from autoprune import registry
from autoprune.config import Experiment
from autoprune.config.sections import TaskSection
from autoprune.core.budget import Limits
from autoprune.core.metrics import MetricInfo, Objective, choose_objective
from autoprune.core.projecting.projection import check_feasible
from autoprune.core.settings import CRITERION, Choice, criterion_pattern, defaults, format_settings, with_own
from autoprune.core.space import SearchSpace
from autoprune.core.trial import Setting
from autoprune.errors import CheckpointError, ConfigError, TaskError, UserError
from autoprune.evaluation.checkpoints.checkpoint import read_checkpoint, rebuild
from autoprune.evaluation.data import EvaluationConfig, ScoringSamples, takes_channels_last
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.prunable_model import PrunableModel, analyze, example_inputs
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.networks import unwrap
from autoprune.pruning.patterns import ELEMENT, parse_pattern
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.surgery.provenance import Provenance, note_provenance, provenance_of
from autoprune.running.coverage import Coverage, measure_coverage
from autoprune.running.progress import Display, training_progress
from autoprune.running.threads import settle_threads
from autoprune.searchers.base.searcher import Searcher
from autoprune.tasks.base import Hook, Task
from autoprune.tasks.simple import build_task, model_name
from autoprune.tasks.training.computing import check_precision
from autoprune.tasks.training.loop import count_steps
from autoprune.tasks.weights import digest, read_others

FROM_PYTHON = "python:"
"""Begins the name of a task that was passed to `autoprune.search`."""


def from_python(experiment: Experiment) -> bool:
    """Returns whether the experiment's task was passed to `autoprune.search`."""
    return experiment.task.name.startswith(FROM_PYTHON)


def settle(space: SearchSpace, pruner: Pruner) -> SearchSpace:
    """Returns the space whose settings of the scoring know the pruner's own values.

    Raises:
        ConfigError: a criterion cannot score what the pruner removes; every such criterion is named.
    """
    faults = [
        f"{space.source}: settings.{name}: criterion {value!r} scores whole output channels, which pattern "
        f"{pruner.pattern.name!r} is not made of; leave it out, or choose pattern 'filter'"
        for name, dimension in space.settings.items()
        if isinstance(dimension, Choice) and _is_criterion(name)
        for value in dimension.values
        if registry.resolve("criterion", str(value)).per_channel and not pruner.pattern.coupled
    ]
    if faults:
        raise ConfigError(faults)
    scoring: Mapping[str, Setting] = {"normalise": pruner.normalise, "combine": pruner.combine}
    own = {
        name: pruner.criterion.name if _is_criterion(name) else scoring.get(name, dimension.own)
        for name, dimension in space.settings.items()
    }
    return replace(space, settings=with_own(space.settings, own))


def _is_criterion(name: str) -> bool:
    return name == CRITERION or criterion_pattern(name) is not None


def unsearched_settings(space: SearchSpace, searcher: str) -> str | None:
    """Returns one line on the settings that a searcher leaves as they are; None if it searches them."""
    chosen: type[Searcher] = registry.resolve("searcher", searcher)
    if not space.settings or chosen.handles_settings:
        return None
    handling = [name for name in registry.SEARCHERS if registry.resolve("searcher", name).handles_settings]
    return (
        f"searcher {searcher!r} searches widths alone; the settings of {space.source} stay as they are: "
        f"{format_settings(defaults(space.settings))} (settings are searched by {', '.join(handling)})"
    )


@dataclass(frozen=True)
class Setup:
    """A task with its loaded network, studied.

    Attributes:
        identity: names and digests of model, task, weights and data, for records.
    """

    experiment: Experiment
    task: Task
    prunable: PrunableModel
    space: SearchSpace
    identity: Mapping[str, Any]

    @property
    def first(self) -> Mapping[str, int]:
        """What the first network costs; the network's own costs where nothing was pruned of it before."""
        return provenance_of(self.prunable.network).first or self.prunable.costs.dense()

    def limits(self) -> Limits:
        """Returns the budget as whole numbers.

        Raises:
            BudgetInfeasible: the space cannot reach it.
        """
        first = self.first if self.experiment.search.relative_to == "first" else None
        whole = first or self.prunable.costs.dense()
        limits = self.experiment.budget_value().resolve(whole, self.prunable.costs.effective)
        check_feasible(self.space, self.prunable.costs, limits, first)
        return limits

    @cached_property
    def coverage(self) -> Coverage:
        """What the space reaches of the network, and what it passes over."""
        prunable = self.prunable
        found = measure_coverage(prunable.network, prunable.structures, prunable.costs, self.space)
        return replace(found, start=self._describe_start())

    def _describe_start(self) -> str:
        """Returns what of the first network the checkpoint that was given has; empty where that is the first one."""
        provenance, dense = provenance_of(self.prunable.network), self.prunable.costs.dense()
        if not provenance.shapes and not provenance.masks:
            return ""
        kind = "effective " if self.prunable.costs.effective else ""
        whole = "the first network" if self.experiment.search.relative_to == "first" else "what was given"
        shares = {cost: f"{100 * dense[cost] / self.first[cost]:.1f} %" for cost in ("flops", "params")}
        return (
            f"started from a pruned network, here called dense: it has {shares['flops']} of the {kind}FLOPs and "
            f"{shares['params']} of the {kind}parameters of the first one{self._describe_zeros()}; fractions in the "
            f"budget are of {whole}"
        )

    @cached_property
    def metrics(self) -> tuple[MetricInfo, ...]:
        """The task's metrics, as records know them."""
        return tuple(each.info for each in self.task.metrics)

    @cached_property
    def objective(self) -> Objective:
        """What is minimised or maximised.

        Raises:
            UserError: the task has no such metric, or nobody said which direction is better.
        """
        return choose_objective(self.experiment.evaluation.objective, self.metrics)

    def _describe_zeros(self) -> str:
        """Returns which weights that are held at zero are counted all the same; empty where none are."""
        pattern, held = self.prunable.structures.pattern, provenance_of(self.prunable.network).masks
        if not held or pattern.name == ELEMENT.name:
            return ""
        what = (
            "its zeros" if pattern.thins else f"zeros in structures of pattern {pattern.name!r} that are not zero whole"
        )
        return f" ({what} count as weights)"

    def evaluation_config(self) -> EvaluationConfig:
        """Returns how candidates are evaluated, nothing of them kept."""
        section, seed = self.experiment.evaluation, self.experiment.search.seed
        return EvaluationConfig(
            section.samples, section.batch_size, seed, self.objective, section.rungs, identity=self.identity
        )

    def evaluator(self, config: EvaluationConfig) -> Evaluator:
        """Returns an evaluator of the network; it has read no data yet."""
        return Evaluator(self.prunable, self.task, config)


def task_of(experiment: Experiment, progress: Hook | None = None) -> Task:
    """Returns the task that an experiment names.

    Raises:
        UserError: it cannot be built; one that was passed in from Python can only be built there.
    """
    section = experiment.task
    if from_python(experiment):
        raise TaskError(
            f"the run was started from Python with task {section.name.removeprefix(FROM_PYTHON)!r}, which its folder "
            "cannot build: name it with --task package.module:attribute, or go on in Python"
        )
    return build_task(section.name, section.model, section.data, progress, section.options)


def prepare(experiment: Experiment, display: Display) -> Setup:
    """Builds the experiment's task and network, loads the weights and studies the network.

    Args:
        display: shows the training of a built-in task's network on first use, and the scoring where it reads samples.

    Raises:
        UserError: task, model, checkpoint, data or space are at fault.
    """
    with training_progress(display, "training the default network once") as hook:
        task = task_of(experiment, hook)
        network = unwrap(task.network())
        device = choose_device(experiment)
        inputs = example_inputs(task, device)
        experiment = settle_threads(experiment, network.to(device), inputs)
        network = load_checkpoint(experiment.task, task, network, inputs)
        return assemble(experiment, task, network, display)


def load_checkpoint(section: TaskSection, task: Task, network: nn.Module, inputs: ModelInputs) -> nn.Module:
    """Returns the network with the weights of the checkpoint: the same, filled, or what was pruned of it before.

    Args:
        section: names the checkpoint, if any, and says whether the masks in it hold.
        task: loads the weights of the whole network.
        network: the task's.
        inputs: some that it takes, on its device.

    Raises:
        UserError: the checkpoint cannot be read, or does not fit.
    """
    pruned = None if section.checkpoint is None else read_checkpoint(section.checkpoint)
    if pruned is None:
        task.load(network, section.checkpoint)
        if section.checkpoint is not None:
            note_provenance(network, Provenance(others=read_others(section.checkpoint)))
        return network
    if section.masks == "drop":
        pruned = replace(pruned, masks={})
    tensors = {name: tensor for name, tensor in pruned.state_dict.items() if isinstance(tensor, torch.Tensor)}
    if odd := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise CheckpointError(
            f"{section.checkpoint} holds NaN or infinite numbers in {odd[0]}; take one from before training diverged"
        )
    try:
        return rebuild(pruned, network, inputs.to("cpu")).to(inputs.device)
    except CheckpointError as fault:
        raise CheckpointError(f"{section.checkpoint}: {fault}") from fault


def assemble(experiment: Experiment, task: Task, network: nn.Module, display: Display | None = None) -> Setup:
    """Returns a setup of a network whose weights are loaded.

    Args:
        experiment: says which device, threads, pruner and space.
        task: whose samples the network is run on.
        network: without a wrapper; is moved to the device.
        display: as `prepare` has it.

    Raises:
        UserError: the device is not there, or the network, data or space are at fault.
    """
    device = choose_device(experiment)
    network = network.to(device)
    if experiment.task.masks == "drop":
        note_provenance(network, replace(provenance_of(network), masks={}))
    inputs = example_inputs(task, device)
    for training in experiment.trainings():
        check_precision(training.plan(seed=0), network, device)
    # Nothing is read where no length is in epochs.
    experiment = settle_threads(experiment, network, inputs).in_steps(
        lambda training: max(1, count_steps(task, training.plan(seed=0), network))
    )
    prunable = _analyze(experiment, task, network, inputs, display)
    space = settle(prunable.space(experiment.space_rules()), prunable.pruner)
    return Setup(experiment, task, prunable, space, identity_of(experiment, task, network, inputs))


def identity_of(experiment: Experiment, task: Task, network: nn.Module, inputs: ModelInputs) -> dict[str, str]:
    """Returns the names of task and model, and digests of weights and data, by which a run is known to be the same.

    Args:
        experiment: names the task.
        task: names the model.
        network: with its weights loaded.
        inputs: two of the task's samples.
    """
    return {
        "task": experiment.task.name,
        "model": model_name(task, network),
        "checkpoint": digest(network.state_dict()),
        "data": digest({f"inputs{i or ''}": tensor for i, tensor in enumerate(inputs.tensors())}),
    }


def _analyze(
    experiment: Experiment, task: Task, network: nn.Module, inputs: ModelInputs, display: Display | None
) -> PrunableModel:
    pruner, seed = chosen_pruner(experiment), experiment.search.seed
    samples = scoring_samples(experiment, task, network, inputs)
    if display is None or not pruner.criterion.reads_data:
        return analyze(network, inputs, pruner, samples, seed)
    batches = math.ceil(samples.samples / samples.batch_size)
    with display.stage(f"scoring by {pruner.criterion.name}", batches) as advance:
        prunable = analyze(network, inputs, pruner, replace(samples, seen=lambda: advance("")), seed)
    return replace(prunable, samples=samples)  # scores of another network later are not shown there


def scoring_samples(experiment: Experiment, task: Task, network: nn.Module, inputs: ModelInputs) -> ScoringSamples:
    """Returns the training samples that score structures.

    Args:
        experiment: says how many, how many at once, and the seed that draws them.
        task: whose they are.
        network: that is run on them.
        inputs: some that it takes, on the device where they are wanted.
    """
    settings, seed = experiment.scoring, experiment.search.seed
    fitting = takes_channels_last(network, inputs)
    return ScoringSamples(task, inputs.device, settings.samples, settings.batch_size, seed, channels_last=fitting)


def chosen_pruner(experiment: Experiment) -> Pruner:
    """Returns the experiment's pruner, with what its scoring section says otherwise."""
    scoring = experiment.scoring
    chosen: dict[str, Any] = {
        "criterion": scoring.criterion and registry.resolve("criterion", scoring.criterion),
        "pattern": scoring.pattern and parse_pattern(scoring.pattern),
        "combine": scoring.combine,
        "normalise": scoring.normalise,
    }
    pruner: Pruner = registry.resolve("pruner", experiment.pruner)
    pruner = replace(pruner, **{name: value for name, value in chosen.items() if value is not None})
    return pruner.within(experiment.space)


def choose_device(experiment: Experiment) -> torch.device:
    """Returns the device of the experiment.

    Raises:
        UserError: CUDA is asked for and not there.
    """
    name = experiment.run.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here; use --device cpu")
    return torch.device(name)

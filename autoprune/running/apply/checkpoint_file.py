"""A file of autoprune's on its way to another one: what is masked whole thinned, trained further, to be exported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from autoprune import registry
from autoprune.config import Experiment, load_experiment
from autoprune.core.metrics import LOSS
from autoprune.errors import CheckpointError, UserError
from autoprune.evaluation.candidate_builder import held_masks
from autoprune.evaluation.checkpoints.checkpoint import PrunedCheckpoint, read_checkpoint, rebuild
from autoprune.evaluation.checkpoints.masked_structures import thin_masked
from autoprune.evaluation.data import Batches, takes_channels_last
from autoprune.evaluation.metrics import evaluate
from autoprune.evaluation.prunable_model import example_inputs
from autoprune.graph.costs import measure_costs
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.networks import unwrap
from autoprune.pruning.patterns import FILTER
from autoprune.pruning.surgery.copying import copy_network
from autoprune.pruning.surgery.provenance import provenance_of
from autoprune.pruning.weight_uses import measure_effective
from autoprune.running.apply.pruned_model import ApplyOptions, PrunedModel, RecordedResult, score_in
from autoprune.running.apply.source import CheckpointFile
from autoprune.running.progress import Display, training_progress
from autoprune.running.setup import choose_device, task_of
from autoprune.running.threads import settle_threads
from autoprune.tasks.base import Batch, Task
from autoprune.tasks.training.calls import train_with_hooks
from autoprune.tasks.training.distillation import distillation
from autoprune.tasks.training.snapshot import copied


def apply_checkpoint(
    source: CheckpointFile, given: Mapping[str, Any], sets: Sequence[str], options: ApplyOptions
) -> PrunedModel:
    """Returns the network of a pruned file, without what its masks have left of no use.

    Args:
        source: the file, perhaps of a training's folder.
        given: dotted keys of an experiment to values that win over the source's own.
        sets: texts `key=value`, which win over both.
        options: how it is trained further.

    Raises:
        UserError: the source, network, data or settings are at fault.
    """
    if options.reconstruct or options.force:
        raise UserError(f"--reconstruct and --force prune anew what a search found; {source.path} is pruned: leave out")
    stored = read_checkpoint(source.path)
    if stored is None:
        raise CheckpointError(
            f"{source.path} is no pruned file of autoprune; give one, the folder of a run, or a best.yaml"
        )
    experiment = _experiment(source, stored, given, sets)
    task, device = task_of(experiment), choose_device(experiment)
    first, inputs = unwrap(task.network()), example_inputs(task, device)
    experiment = settle_threads(experiment, first.to(device), inputs)
    whole = rebuild(stored, first, inputs.to("cpu")).to(device)
    network = thin_masked(whole, inputs) if stored.masks else copy_network(whole)
    thinned = len(provenance_of(network).shapes) > len(stored.shapes)
    origin, change = f"{source.path}{', what is masked whole removed' if thinned else ''}", ""
    if (finetune := options.finetune) is not None:
        teaches = [distillation(whole, finetune.temperature, finetune.distill)] if finetune.distill else []
        with training_progress(Display(), "fine-tuning") as hook:
            train_with_hooks(task, network, finetune.plan(options.seed), [*teaches, held_masks(network)], [hook])
        origin, change = f"{origin}, fine-tuned ({finetune})", f"in {source.path}, before the fine-tuning"
    score = evaluate(network, task, _batches(task, experiment, network, inputs))
    metrics = {**score.numbers(), "samples": score.samples}
    provenance, costs = provenance_of(network), measure_costs(network, inputs)
    masked = bool(provenance.masks)
    pattern = ("masked" if stored.pattern == FILTER.name else stored.pattern) if masked else FILTER.name
    written = replace(
        stored,
        state_dict=copied(network.state_dict(), "state_dict"),
        shapes=provenance.shapes,
        masks=provenance.masks,
        metrics=metrics,
        pattern=pattern,
    )
    return PrunedModel(
        network.cpu(), first, written, costs | (measure_effective(network, inputs.to("cpu")) if masked else {}),
        provenance.first or measure_costs(first, inputs), origin, masked, change=change,
        recorded=RecordedResult(score_in(stored) if LOSS.name in stored.metrics else None, source=str(source.path)),
        metrics=tuple(each.info for each in task.metrics),
    )  # fmt: skip


def _batches(
    task: Task, experiment: Experiment, network: nn.Module, inputs: ModelInputs
) -> Sequence[Batch] | Iterable[Batch]:
    fitting = takes_channels_last(network, inputs)
    return Batches(task, "validation", None, experiment.evaluation.batch_size, 0, inputs.device, fitting).load()


def _experiment(
    source: CheckpointFile, stored: PrunedCheckpoint, given: Mapping[str, Any], sets: Sequence[str]
) -> Experiment:
    """Returns the settings of the training that wrote the file, or those of the task that it names."""
    if source.experiment is not None:
        return load_experiment(source.experiment, given, ["task.checkpoint=null", *sets])
    named = {"task.name": ("task", stored.task), "task.model": ("model", stored.model)}
    known = {key: name for key, (kind, name) in named.items() if registry.is_bundled(kind, name)}
    if "task.name" not in {**known, **given}:
        whose = f"was pruned on task {stored.task!r}" if stored.task else "names no task"
        raise UserError(f"{source.path} {whose}; name it with --task to have it imported")
    return load_experiment(None, {**known, **given}, sets)

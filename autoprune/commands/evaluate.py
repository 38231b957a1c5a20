"""`autoprune evaluate`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from autoprune import registry
from autoprune.commands.options import experiment_of
from autoprune.config import Experiment
from autoprune.core.budget import EFFECTIVE_KINDS
from autoprune.core.metrics import MetricInfo
from autoprune.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from autoprune.evaluation.checkpoints.checkpoint import PrunedCheckpoint
    from autoprune.graph.inputs import ModelInputs
    from autoprune.tasks.base import Batch, Split, Task

log = logging.getLogger(__name__)

_SPLITS: Mapping[str, Sequence[Split]] = {"validation": ["validation"], "test": ["test"], "all": ["validation", "test"]}


def run(arguments: argparse.Namespace) -> None:
    """Prints metrics, loss, parameters, FLOPs and latency of a dense or pruned checkpoint, or its sparsity table."""
    experiment_of(arguments)  # options at fault are reported before torch is imported
    if arguments.sparsity_table is None:
        _print_report(arguments)
    else:
        _print_sparsity(arguments)


def _print_report(arguments: argparse.Namespace) -> None:
    from autoprune.evaluation.checkpoints.checkpoint import read_checkpoint

    pruned = read_checkpoint(arguments.file)
    experiment = experiment_of(arguments, None, _defaults(arguments, pruned))
    report, metrics = _evaluate(arguments, experiment, pruned)
    if arguments.json:
        print(json.dumps(report, indent=1))
    else:
        _print(report, metrics)


def _print_sparsity(arguments: argparse.Namespace) -> None:
    """Prints the table of the file's own tensors: no network is built and no data read."""
    if arguments.json:
        raise UserError("--sparsity-table takes its format itself: instead of --json give --sparsity-table json")
    from autoprune.evaluation.checkpoints.sparsity import sparsity_table_of
    from autoprune.reporting.sparsity import FORMATS

    table = sparsity_table_of(arguments.file)
    for row in table.rows:
        if row.not_finite:
            log.warning("%s: %d NaN or infinite, counted as not zero; no std and means", row.name, row.not_finite)
    sys.stdout.write(FORMATS[arguments.sparsity_table](table))


def _defaults(arguments: argparse.Namespace, pruned: PrunedCheckpoint | None) -> dict[str, str]:
    """Returns task and model that a pruned checkpoint names, if autoprune bundles them: a file names no code to run."""
    if pruned is None:
        return {}
    if "task.name" not in arguments.settings and pruned.task not in registry.TASKS:
        whose = f"was pruned on task {pruned.task!r}" if pruned.task else "names no task"
        raise UserError(f"{arguments.file} {whose}; name it with --task to have it imported")
    named = {"task.name": ("task", pruned.task), "task.model": ("model", pruned.model)}
    return {key: name for key, (kind, name) in named.items() if registry.is_bundled(kind, name)}


def _evaluate(
    arguments: argparse.Namespace, experiment: Experiment, pruned: PrunedCheckpoint | None
) -> tuple[dict[str, Any], list[MetricInfo]]:
    """Returns what was measured, and the task's metrics."""
    from autoprune.evaluation.checkpoints.checkpoint import rebuild
    from autoprune.evaluation.metrics import evaluate
    from autoprune.evaluation.prunable_model import example_inputs
    from autoprune.graph.costs import measure_costs, measure_latency
    from autoprune.graph.networks import unwrap
    from autoprune.pruning.weight_uses import measure_effective
    from autoprune.running.progress import Display
    from autoprune.running.setup import choose_device, task_of
    from autoprune.running.threads import settle_threads

    device, task = choose_device(experiment), task_of(experiment)
    network, inputs = unwrap(task.network()), example_inputs(task, device)
    settle_threads(experiment, network.to(device), inputs)
    if pruned is None:
        task.load(network, arguments.file)
    else:
        network = rebuild(pruned, network)
    network = network.to(device).eval()
    batches = _batches(task, arguments.split, experiment.evaluation.batch_size, network, inputs)
    score = evaluate(network, task, Display().watch(f"{arguments.split} batches", batches))
    effective = measure_effective(network, inputs) if pruned and (pruned.masked or pruned.masks) else {}
    report = {
        "file": str(arguments.file),
        "split": arguments.split,
        "samples": score.samples,
        "metrics": dict(score.metrics),
        "loss": score.loss,
        **measure_costs(network, inputs),
        **{f"effective_{kind}": effective[kind] for kind in EFFECTIVE_KINDS if effective},
        "latency_ms": measure_latency([network], inputs.take(1))[0],
    }
    return report, [each.info for each in task.metrics]


def _batches(task: Task, split: str, batch_size: int, network: nn.Module, inputs: ModelInputs) -> Iterable[Batch]:
    """Returns the batches of one split, or of both that `all` stands for; a list where they fit in memory.

    Args:
        task: whose samples they are.
        split: which.
        batch_size: samples in a batch.
        network: that is run on them.
        inputs: some that it takes, on its device.
    """
    from autoprune.evaluation.data import Batches, takes_channels_last

    place = inputs.device, takes_channels_last(network, inputs)
    parts = [Batches(task, name, None, batch_size, 0, *place).load() for name in _SPLITS[split]]
    whole = all(isinstance(part, list) for part in parts)
    return [batch for part in parts for batch in part] if whole else chain.from_iterable(parts)


def _print(report: dict[str, Any], metrics: Sequence[MetricInfo]) -> None:
    from autoprune.reporting.results import short

    print(f"{report['file']} on {report['samples']} {report['split']} samples")
    for each in metrics:
        print(f"  {each.name.replace('_', ' '):11} {each.text(report['metrics'][each.name])}")
    print(f"  loss        {report['loss']:.4f}")
    print(f"  FLOPs       {report['flops']:,} ({short(report['flops'] / 2)}MACs)")
    print(f"  parameters  {report['params']:,}")
    if "effective_flops" in report:
        flops, params = report["effective_flops"], report["effective_params"]
        print(f"  effective   {flops:,} FLOPs ({short(flops / 2)}MACs), {params:,} parameters: without weights of zero")
    print(f"  size        {short(report['size'])}B of parameters and buffers")
    print(f"  latency     {report['latency_ms']:.2f} ms for one sample (median)")

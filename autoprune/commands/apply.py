"""`autoprune apply`."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.config.sections import read_finetune
from autoprune.core.metrics import LOSS
from autoprune.errors import UserError
from autoprune.files import is_full
from autoprune.running.apply.source import find_source

if TYPE_CHECKING:
    from autoprune.core.metrics import MetricInfo
    from autoprune.core.trial import Score
    from autoprune.running.apply.pruned_model import PrunedModel


def run(arguments: argparse.Namespace) -> None:
    """Writes the smaller network of a run, a `best.yaml` or an MLflow run, and says what to expect of it.

    Raises:
        UserError: an option or the source is at fault, or a file cannot be written.
    """
    finetune, seed = (None, 0) if arguments.finetune is None else read_finetune(arguments.finetune)
    _check_output(arguments)
    source = find_source(arguments.source, arguments.trial, arguments.settings.get("track.uri"))
    from autoprune.evaluation.checkpoints.checkpoint import write_checkpoint
    from autoprune.evaluation.checkpoints.export import export_network
    from autoprune.running.apply.apply import apply_source
    from autoprune.running.apply.pruned_model import ApplyOptions

    options = ApplyOptions(finetune, seed, arguments.force, arguments.reconstruct)
    pruned = apply_source(source, arguments.settings, arguments.set, options)
    try:
        write_checkpoint(arguments.output, pruned.checkpoint)
    except OSError as fault:
        if is_full(fault):
            raise
        raise UserError(f"{arguments.output} cannot be written ({fault.strerror}); choose another --output") from fault
    pruned.check_written(arguments.output)
    exported, inputs = None, pruned.checkpoint.example_inputs()
    try:
        if arguments.export:
            exported = export_network(pruned.network, inputs, arguments.output, arguments.export)
    except UserError as fault:
        raise UserError(f"{arguments.output} is written, but {fault}") from fault
    _print(pruned, arguments.output, exported)


def _check_output(arguments: argparse.Namespace) -> None:
    """Checks that the files can probably be written, as the work before that may take hours.

    Raises:
        UserError: they cannot, or are there already and are not to be replaced.
    """
    path: Path = arguments.output
    if path.is_dir():
        raise UserError(f"{path} is a folder; --output names the file to write")
    exported = path.with_suffix(f".{arguments.export}") if arguments.export else path
    if arguments.export and exported == path:
        raise UserError(f"--export {arguments.export} writes {path} itself; give --output another suffix, such as .pt")
    there = [str(each) for each in dict.fromkeys([path, exported]) if os.path.lexists(each)]
    if there and not arguments.overwrite:
        raise UserError(f"{' and '.join(there)} exists already; choose another --output, or replace it by --overwrite")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"{path} cannot be written: {nearest} is no folder that you may write to")


def _print(pruned: PrunedModel, output: Path, exported: Path | None) -> None:
    from autoprune.errors import printable
    from autoprune.reporting.results import cost_name, short

    print(f"{output}: {pruned.origin}")
    for kind in ("flops", "params", "size"):
        cost, dense = pruned.costs[kind], pruned.dense_costs[kind]
        name, share, first = (
            cost_name(kind, pruned.effective),
            100 * cost / dense,
            pruned.checkpoint.first.get(kind, dense),
        )
        whole = (
            "the dense network's" if first == dense else f"what was searched, {100 * cost / first:.2f} % of the first"
        )
        print(f"  {short(cost):>10} {name:10} {share:6.2f} % of {whole}")
    print(f"  expect {_expectation(pruned)}")
    for line in pruned.coverage or pruned.recorded.coverage:
        print(f"  {printable(line)}")
    counted = "the search" if pruned.recorded.costs else "autoprune"
    print(f"  read back, it costs what {counted} counted")
    if pruned.recorded.remark:
        print(f"  {pruned.recorded.remark}")
    if exported is not None:
        print(f"{exported}: the same network, needs neither autoprune nor its own class")


def _expectation(pruned: PrunedModel) -> str:
    """Returns what accuracy to expect, and in brackets what the search had where that is something else."""
    now, then, metrics = pruned.measured(), pruned.recorded.score, pruned.metrics
    if then is not None and (pruned.as_scored or (not pruned.change and _agree(now, then))):
        return f"{_words(then, metrics)}, as in {pruned.recorded.source}"
    if then is None:
        return _words(now, metrics)
    had = " and ".join(filter(None, (each.text(then.get(each.name)) for each in (*metrics, LOSS))))
    had += f" on {then.samples}" if then.samples not in (0, now.samples) else ""
    dropped = f"in {pruned.recorded.source}{', which then dropped it' if pruned.recorded.dropped else ''}"
    return f"{_words(now, metrics)} ({had} {pruned.change or dropped})"


def _words(score: Score, metrics: Sequence[MetricInfo]) -> str:
    on = f" on {score.samples} validation samples" if score.samples else ""
    found = [f"{each.text(score.get(each.name))} {each.name.replace('_', ' ')}" for each in metrics]
    return f"{', '.join(found)} and a loss of {score.loss:.4f}{on}".removeprefix(" and ")


def _agree(now: Score, then: Score) -> bool:
    """Returns whether two scores say the same but for rounding, on another machine too."""
    pairs = [(value, then.get(name)) for name, value in now.numbers().items()]
    alike = all(other is not None and math.isclose(value, other, rel_tol=1e-3, abs_tol=5e-4) for value, other in pairs)
    return alike and then.samples in (0, now.samples)

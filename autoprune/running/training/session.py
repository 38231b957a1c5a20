"""Sessions of training by a schedule, each in a folder of its own: recorded, mirrored, and resumable."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from autoprune.config import Experiment, dump_experiment
from autoprune.config.schedule import ScheduleFile, load_schedule
from autoprune.core.ledger import Ledger
from autoprune.core.trial import Score
from autoprune.errors import RunFolderError, UserError
from autoprune.evaluation.checkpoints.checkpoint import PrunedCheckpoint, write_checkpoint
from autoprune.evaluation.data import Batches
from autoprune.evaluation.metrics import evaluate
from autoprune.evaluation.prunable_model import example_inputs
from autoprune.evaluation.schedules.training_run import TrainingCallbacks, TrainingRun
from autoprune.graph.costs import measure_costs, measure_effective
from autoprune.graph.groups import find_groups
from autoprune.pruning.patterns import FILTER
from autoprune.running.progress import Display, training_progress
from autoprune.running.run_folder import RunFolder
from autoprune.running.setup import choose_device, task_of
from autoprune.running.threads import settle_threads
from autoprune.running.tracking.tracker import Tracking, mirroring
from autoprune.running.training.recorder import SCHEDULE, Recorder, TrainingFolder
from autoprune.tasks.base import Batch, Split, Task
from autoprune.tasks.simple import model_name
from autoprune.tasks.training.snapshot import read_snapshot
from autoprune.tasks.weights import digest, load_weights


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training.

    Attributes:
        dense: of the network that training started from, on the validation samples.
        dense_costs: that network's, by kind.
        final: of the trained network, on the validation samples.
        test: of the trained network, on the test samples, which chose nothing; None if the task has none.
        costs: the trained network's, by kind.
        effective: its costs without weights of zero, where some were set to zero; else empty.
        top_5: accuracy in the first five, on the validation samples; None where there are too few classes.
        sparsity: by pruner, the share of its structures that it masked.
    """

    folder: TrainingFolder
    dense: Score
    dense_costs: Mapping[str, int]
    final: Score
    test: Score | None
    costs: Mapping[str, int]
    effective: Mapping[str, int]
    top_5: float | None
    sparsity: Mapping[str, float]


@dataclass(frozen=True)
class _Start:
    """The task, and the network that training starts from.

    Attributes:
        scratch: whether its weights were drawn from the seed.
        inputs: `[2, …]` samples.
        identity: of network, weights and data, by which a resumed training is known to be the same.
    """

    experiment: Experiment
    scratch: bool
    task: Task
    network: nn.Module
    inputs: torch.Tensor
    identity: Mapping[str, Any]


def start_training(
    experiment: Experiment, file: Path, folder: RunFolder, tracking: Tracking | None, display: Display, scratch: bool
) -> TrainingResult:
    """Makes the folder and trains; until the schedule is known to fit the network nothing is written.

    Args:
        experiment: says which task, network, checkpoint, device and seed.
        file: the schedule; copied into the folder.
        folder: where the training is recorded; must not exist yet.
        tracking: where it is mirrored; None: nowhere.
        display: shows progress.
        scratch: whether training starts from the network's own initial weights, drawn from the seed.

    Raises:
        UserError: the schedule, network or data are at fault.
    """
    schedule = load_schedule(file)
    if scratch and schedule.distill is not None:
        raise UserError("an untrained network teaches nothing: leave out `distill`, or start from a checkpoint")
    start = _load_start(experiment, display, scratch)
    paths = TrainingFolder(folder.path)
    recorder = Recorder(paths, display)
    run = _build_run(start, schedule, recorder)
    beside = {SCHEDULE: file.read_bytes()}
    if scratch:
        content = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError
        torch.save(start.network.state_dict(), content)
        beside[paths.initial.name] = content.getvalue()
    with folder.new_run(paths.events, dump_experiment(experiment), beside) as ledger:
        return _train(run, recorder, ledger, start, tracking)


def resume_training(
    experiment: Experiment, folder: RunFolder, tracking: Tracking | None, display: Display
) -> TrainingResult:
    """Goes on with a training from its last snapshot, to the same result as if it had not been interrupted.

    Args:
        experiment: as the training was started with.
        folder: the training's.
        tracking: where it is mirrored; None: nowhere.
        display: shows progress.

    Raises:
        UserError: the folder is no training, or the network or data are not those it was started with.
    """
    paths = TrainingFolder(folder.path)
    if not paths.schedule.is_file():
        raise RunFolderError(f"{folder.path} is no training of autoprune: it has no {SCHEDULE}")
    scratch = paths.initial.is_file()
    start = _load_start(experiment, display, scratch, paths.initial)
    schedule = load_schedule(paths.schedule)
    recorder = Recorder(paths, display)
    snapshot = read_snapshot(paths.snapshot) if paths.snapshot.is_file() else None
    run = _build_run(start, schedule, recorder)
    if snapshot is not None:
        if snapshot.extra.get("identity") != dict(start.identity):
            raise UserError(f"{folder.path} was started with another network, checkpoint or data: restore them")
        run.resume(snapshot)
    with Ledger(paths.events) as ledger:
        return _train(run, recorder, ledger, start, tracking)


def _load_start(experiment: Experiment, display: Display, scratch: bool, initial: Path | None = None) -> _Start:
    """Builds the network with the weights that training starts from.

    Args:
        experiment: says which task, network, checkpoint, device and seed.
        display: shows the training of a default network.
        scratch: whether the weights are drawn from the seed, instead of the checkpoint's.
        initial: a file with the weights that were drawn when the training was started.
    """
    with training_progress(display, "training the default network once") as hook:
        task = task_of(experiment, hook)
        with torch.random.fork_rng():
            torch.manual_seed(experiment.search.seed)
            network = task.network()
        device = choose_device(experiment)
        network = network.to(device)
        inputs = example_inputs(task, device)
        settle_threads(experiment, network, inputs)
        if not scratch:
            task.load(network, experiment.task.checkpoint)
        elif initial is not None:
            load_weights(network, initial)
    identity = {
        "task": experiment.task.name,
        "model": model_name(task, network),
        "checkpoint": digest(network.state_dict()),
        "data": digest({"inputs": inputs}),
    }
    return _Start(experiment, scratch, task, network.eval(), inputs, identity)


def _build_run(start: _Start, schedule: ScheduleFile, recorder: Recorder) -> TrainingRun:
    recorder.identity = start.identity
    callbacks = TrainingCallbacks(recorder.record, recorder.save, 200, [recorder.progress])
    seed = start.experiment.search.seed
    return TrainingRun(start.task, start.network, start.inputs, schedule, callbacks, seed)


def _train(
    run: TrainingRun, recorder: Recorder, ledger: Ledger, start: _Start, tracking: Tracking | None
) -> TrainingResult:
    settings = yaml.safe_load(dump_experiment(start.experiment))
    with (
        recorder.recording(ledger, params=_params(start, run), settings=settings),
        mirroring(recorder.folder.path, tracking),
    ):
        dense = evaluate(start.network, start.task, _batches(start, "validation"))
        final = run.run()
        result = _result(run, recorder, start, dense, final)
        write_checkpoint(recorder.folder.final, _checkpoint(run, start, final))
        recorder.finish(final, result.test, result.costs)
    return result


def _params(start: _Start, run: TrainingRun) -> dict[str, Any]:
    """Returns what distinguishes this training from others, for its mirror."""
    plan = {f"train.{key}": value for key, value in asdict(run.plan).items()}
    pruners = {
        f"pruner.{name}": " ".join(f"{key}={value}" for key, value in pruning.pruner.describe().items())
        for name, pruning in run.active.prunings.items()
    }
    return {
        "task": start.identity["task"],
        "model": start.identity["model"],
        "start": "scratch" if start.scratch else str(start.experiment.task.checkpoint or "the task's own weights"),
        **plan,
        **pruners,
    }


def _batches(start: _Start, split: Split) -> Sequence[Batch] | Iterable[Batch]:
    return Batches(start.task, split, None, 250, 0, start.inputs.device).load()


def _result(run: TrainingRun, recorder: Recorder, start: _Start, dense: Score, final: Score) -> TrainingResult:
    try:
        test: Score | None = evaluate(run.network, start.task, _batches(start, "test"))
    except UserError:  # the task has no test samples
        test = None
    graph = find_groups(run.network, start.inputs)
    effective = measure_effective(run.network, graph, start.inputs) if run.masking.masks else {}
    return TrainingResult(
        recorder.folder,
        dense,
        measure_costs(start.network, start.inputs),
        final,
        test,
        measure_costs(run.network, start.inputs),
        effective,
        recorder.last.get("top_5"),
        dict(recorder.sparsity),
    )


def _checkpoint(run: TrainingRun, start: _Start, final: Score) -> PrunedCheckpoint:
    state = {name: tensor.detach().cpu().clone() for name, tensor in run.network.state_dict().items()}
    inputs = {"shape": list(start.inputs.shape[1:]), "dtype": str(start.inputs.dtype).removeprefix("torch.")}
    return PrunedCheckpoint(
        state,
        {},
        {name: list(stays) for name, stays in run.shape.kept.items()},
        str(start.identity["model"]),
        inputs,
        {"accuracy": final.accuracy, "loss": final.loss, "samples": final.samples},
        str(start.identity["task"]),
        "masked" if run.masking.masks else FILTER.name,
        run.shape.removed,
    )

"""A training by a schedule, in a folder of its own: recorded, mirrored, and resumable."""

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
from autoprune.running.tracking.tracker import Tracking, mirrored
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
class _Prepared:
    """A task with the network that training starts from."""

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
        scratch: whether training starts from the network's own initial weights, drawn from the seed.

    Raises:
        UserError: the schedule, network or data are at fault.
    """
    schedule = load_schedule(file)
    if scratch and schedule.distill is not None:
        raise UserError("an untrained network teaches nothing: leave out `distill`, or start from a checkpoint")
    prepared = _prepare(experiment, display, scratch)
    place = TrainingFolder(folder.path)
    recorder = Recorder(place, display)
    run = _training(prepared, schedule, experiment, recorder)
    beside = {SCHEDULE: file.read_bytes()}
    if scratch:
        content = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError
        torch.save(prepared.network.state_dict(), content)
        beside[place.initial.name] = content.getvalue()
    with folder.new_run(place.events, dump_experiment(experiment), beside) as ledger:
        return _train(run, recorder, ledger, prepared, experiment, tracking, scratch)


def resume_training(
    experiment: Experiment, folder: RunFolder, tracking: Tracking | None, display: Display
) -> TrainingResult:
    """Goes on with a training from its last snapshot, to the same result as if it had not been interrupted.

    Raises:
        UserError: the folder is no training, or the network or data are not those it was started with.
    """
    place = TrainingFolder(folder.path)
    if not place.schedule.is_file():
        raise RunFolderError(f"{folder.path} is no training of autoprune: it has no {SCHEDULE}")
    scratch = place.initial.is_file()
    prepared = _prepare(experiment, display, scratch, place.initial)
    schedule = load_schedule(place.schedule)
    recorder = Recorder(place, display)
    snapshot = read_snapshot(place.snapshot) if place.snapshot.is_file() else None
    run = _training(prepared, schedule, experiment, recorder)
    if snapshot is not None:
        if snapshot.extra.get("identity") != dict(prepared.identity):
            raise UserError(f"{folder.path} was started with another network, checkpoint or data: restore them")
        run.resume(snapshot)
    with Ledger(place.events) as ledger:
        return _train(run, recorder, ledger, prepared, experiment, tracking, scratch)


def _prepare(experiment: Experiment, display: Display, scratch: bool, initial: Path | None = None) -> _Prepared:
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
    return _Prepared(task, network.eval(), inputs, identity)


def _training(prepared: _Prepared, schedule: ScheduleFile, experiment: Experiment, recorder: Recorder) -> TrainingRun:
    recorder.identity = prepared.identity
    callbacks = TrainingCallbacks(recorder.note, recorder.save, 200, [recorder.progress])
    seed = experiment.search.seed
    return TrainingRun(prepared.task, prepared.network, prepared.inputs, schedule, callbacks, seed)


def _train(
    run: TrainingRun,
    recorder: Recorder,
    ledger: Ledger,
    prepared: _Prepared,
    experiment: Experiment,
    tracking: Tracking | None,
    scratch: bool,
) -> TrainingResult:
    params = _params(prepared, run, experiment, scratch)
    settings = yaml.safe_load(dump_experiment(experiment))
    with (
        recorder.recording(ledger, params=params, settings=settings),
        mirrored(recorder.folder.path, tracking),
    ):
        dense = evaluate(prepared.network, prepared.task, _batches(prepared, "validation"))
        final = run.run()
        outcome = _outcome(run, recorder, prepared, dense, final)
        write_checkpoint(recorder.folder.final, _checkpoint(run, prepared, final))
        recorder.finish(final, outcome.test, outcome.costs)
    return outcome


def _params(prepared: _Prepared, run: TrainingRun, experiment: Experiment, scratch: bool) -> dict[str, Any]:
    plan = {f"train.{key}": value for key, value in asdict(run.plan).items()}
    pruners = {
        f"pruner.{name}": " ".join(f"{key}={value}" for key, value in pruning.pruner.describe().items())
        for name, pruning in run.active.prunings.items()
    }
    return {
        "task": prepared.identity["task"],
        "model": prepared.identity["model"],
        "start": "scratch" if scratch else str(experiment.task.checkpoint or "the task's own weights"),
        **plan,
        **pruners,
    }


def _batches(prepared: _Prepared, split: Split) -> Sequence[Batch] | Iterable[Batch]:
    return Batches(prepared.task, split, None, 250, 0, prepared.inputs.device).load()


def _outcome(run: TrainingRun, recorder: Recorder, prepared: _Prepared, dense: Score, final: Score) -> TrainingResult:
    try:
        test: Score | None = evaluate(run.network, prepared.task, _batches(prepared, "test"))
    except UserError:  # the task has no test samples
        test = None
    graph = find_groups(run.network, prepared.inputs)
    effective = measure_effective(run.network, graph, prepared.inputs) if run.masking.masks else {}
    return TrainingResult(
        recorder.folder,
        dense,
        measure_costs(prepared.network, prepared.inputs),
        final,
        test,
        measure_costs(run.network, prepared.inputs),
        effective,
        recorder.last.get("top_5"),
        dict(recorder.sparsity),
    )


def _checkpoint(run: TrainingRun, prepared: _Prepared, final: Score) -> PrunedCheckpoint:
    state = {name: tensor.detach().cpu().clone() for name, tensor in run.network.state_dict().items()}
    inputs = {"shape": list(prepared.inputs.shape[1:]), "dtype": str(prepared.inputs.dtype).removeprefix("torch.")}
    return PrunedCheckpoint(
        state,
        {},
        {name: list(stays) for name, stays in run.shape.kept.items()},
        str(prepared.identity["model"]),
        inputs,
        {"accuracy": final.accuracy, "loss": final.loss, "samples": final.samples},
        str(prepared.identity["task"]),
        "masked" if run.masking.masks else FILTER.name,
        run.shape.removed,
    )

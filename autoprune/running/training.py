"""Sessions of training by a schedule, each in a folder of its own: recorded, mirrored, and resumable."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from autoprune.config import Experiment, dump_experiment
from autoprune.config.schedule import ScheduleFile, load_schedule
from autoprune.core.ledger import Ledger
from autoprune.core.metrics import LOSS, MetricInfo, infos_to_json
from autoprune.core.trial import Score
from autoprune.errors import RunFolderError, UserError
from autoprune.evaluation.checkpoints.checkpoint import PrunedCheckpoint, write_checkpoint
from autoprune.evaluation.checkpoints.example_inputs import describe_inputs
from autoprune.evaluation.data import Batches, takes_channels_last
from autoprune.evaluation.metrics import evaluate
from autoprune.evaluation.prunable_model import example_inputs
from autoprune.evaluation.schedules.training_run import TrainingCallbacks, TrainingRun
from autoprune.graph.costs import measure_costs
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.networks import unwrap
from autoprune.pruning.patterns import FILTER
from autoprune.pruning.surgery.provenance import provenance_of
from autoprune.pruning.weight_uses import measure_effective
from autoprune.running.progress import Display, training_progress
from autoprune.running.run_folder import FINAL, RunFolder
from autoprune.running.setup import choose_device, identity_of, load_checkpoint, task_of
from autoprune.running.threads import settle_threads
from autoprune.running.tracking.mlflow_runs import TRAINING
from autoprune.running.tracking.tracker import Tracking, mirroring
from autoprune.tasks.base import Batch, Hook, Split, Task
from autoprune.tasks.training.snapshot import Snapshot, copied, read_snapshot, write_snapshot
from autoprune.tasks.weights import load_weights

_SCHEDULE, _INITIAL, _SNAPSHOT = "schedule.yaml", "initial.pt", "snapshot.pt"
_SPARSITY = "sparsity."


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training.

    Attributes:
        file: the checkpoint of the trained network, in the training's folder.
        dense: of the network that training started from, on the validation samples.
        dense_costs: that network's, by kind.
        final: of the trained network, on the validation samples.
        test: of the trained network, on the test samples, which chose nothing; None if the task has none.
        costs: the trained network's, by kind.
        effective: its costs without weights of zero, where some were set to zero; else empty.
        sparsity: by pruner, the share of its structures that it masked.
        metrics: the task's.
    """

    file: Path
    dense: Score
    dense_costs: Mapping[str, int]
    final: Score
    test: Score | None
    costs: Mapping[str, int]
    effective: Mapping[str, int]
    sparsity: Mapping[str, float]
    metrics: tuple[MetricInfo, ...]


@dataclass(frozen=True)
class _Start:
    """The task, and the network that training starts from.

    Attributes:
        scratch: whether its weights were drawn from the seed.
        inputs: two samples.
        identity: of network, weights and data, by which a resumed training is known to be the same.
    """

    experiment: Experiment
    scratch: bool
    task: Task
    network: nn.Module
    inputs: ModelInputs
    identity: Mapping[str, Any]


class _Recorder:
    """Writes a training's events and snapshots.

    Attributes:
        ledger: where events go; set before the training begins.
        last: what was measured last.
        sparsity: by pruner, the share of its structures that it masked when it was last measured.
    """

    ledger: Ledger

    def __init__(self, folder: Path, start: _Start, display: Display) -> None:
        self.folder, self._identity, self._display = folder, start.identity, display
        self._metric = next((each.info for each in start.task.metrics), LOSS)
        self.last: dict[str, Any] = {}
        self.sparsity: dict[str, float] = {}

    def record(self, event: Mapping[str, Any]) -> None:
        """Writes an event of a training run, and remembers what was measured."""
        fields = {key: value for key, value in event.items() if key != "event"}
        self.ledger.write(str(event["event"]), **fields)
        if event["event"] == "removed":
            names = ", ".join(fields["branches"]) or "nothing"
            self._display.say(f"step {fields['step']}: removed {names}")
        if "loss" in fields:
            self.last = fields
            shares = {key: share for key, share in fields.items() if key.startswith(_SPARSITY)}
            self.sparsity |= {key.removeprefix(_SPARSITY): share for key, share in shares.items()}

    def save(self, snapshot: Snapshot) -> None:
        """Writes a snapshot, with what it is a training of, in the place of the one before it."""
        extra = {**snapshot.extra, "identity": dict(self._identity)}
        write_snapshot(self.folder / _SNAPSHOT, replace(snapshot, extra=extra))

    def say(self, text: str) -> None:
        """Shows a sentence."""
        self._display.say(text)

    def note(self) -> str:
        """Returns what the bar of progress says beside the loss."""
        value = self.last.get(self._metric.name)
        return f", validation {self._metric.name} {self._metric.text(value)}" if value is not None else ""


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
    if scratch and experiment.task.checkpoint is not None:
        raise UserError("--scratch starts from initial weights, and --checkpoint gives others; leave one of them out")
    start = _load_start(experiment, display, scratch)
    beside = {_SCHEDULE: file.read_bytes()}
    if scratch:
        content = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError
        torch.save(start.network.state_dict(), content)
        beside[_INITIAL] = content.getvalue()
    before = _end_before(start) if schedule.start_epoch else None
    recorder = _Recorder(folder.path, start, display)
    with training_progress(display, "training", recorder.note) as hook:
        run = _build_run(start, schedule, recorder, hook, before)
        with folder.new_run(folder.path / TRAINING, dump_experiment(experiment), beside) as recorder.ledger:
            return _train(run, recorder, start, tracking)


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
    schedule, initial, snapshot = (folder.path / name for name in (_SCHEDULE, _INITIAL, _SNAPSHOT))
    if not schedule.is_file():
        raise RunFolderError(f"{folder.path} is no training of autoprune: it has no {_SCHEDULE}")
    start = _load_start(experiment, display, initial.is_file(), initial)
    recorder = _Recorder(folder.path, start, display)
    with training_progress(display, "training", recorder.note) as hook:
        run = _build_run(start, load_schedule(schedule), recorder, hook)
        if snapshot.is_file():
            state = read_snapshot(snapshot)
            if state.extra.get("identity") != dict(start.identity):
                raise UserError(f"{folder.path} was started with another network, checkpoint or data: restore them")
            run.resume(state)
        with Ledger(folder.path / TRAINING) as recorder.ledger:
            return _train(run, recorder, start, tracking)


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
            network = unwrap(task.network())
        device = choose_device(experiment)
        network = network.to(device)
        inputs = example_inputs(task, device)
        settle_threads(experiment, network, inputs)
        if not scratch:
            network = load_checkpoint(experiment.task, task, network, inputs)
        elif initial is not None:
            load_weights(network, initial)
    identity = identity_of(experiment, task, network, inputs)
    return _Start(experiment, scratch, task, network.eval(), inputs, identity)


def _end_before(start: _Start) -> Snapshot | None:
    """Returns the last snapshot of the training that the checkpoint is the end of, where that is known."""
    file = start.experiment.task.checkpoint
    path = None if file is None or file.name != FINAL else file.with_name(_SNAPSHOT)
    return read_snapshot(path) if path is not None and path.is_file() else None


def _build_run(
    start: _Start, schedule: ScheduleFile, recorder: _Recorder, progress: Hook, before: Snapshot | None = None
) -> TrainingRun:
    callbacks = TrainingCallbacks(recorder.record, recorder.save, 200, [progress], recorder.say)
    seed = start.experiment.search.seed
    return TrainingRun(start.task, start.network, start.inputs, schedule, callbacks, seed, before)


def _train(run: TrainingRun, recorder: _Recorder, start: _Start, tracking: Tracking | None) -> TrainingResult:
    settings = yaml.safe_load(dump_experiment(start.experiment))
    infos = infos_to_json(each.info for each in start.task.metrics)
    recorder.ledger.begin(autoprune=version("autoprune"), params=_params(start, run), settings=settings, metrics=infos)
    with mirroring(recorder.folder, tracking):
        dense = evaluate(start.network, start.task, _batches(start, "validation"))
        final = run.run()
        result = _result(run, recorder, start, dense, final)
        write_checkpoint(result.file, _checkpoint(run, start, final))
        metrics = {**final.numbers(), **{kind: float(cost) for kind, cost in result.costs.items()}}
        if result.test is not None:
            metrics |= {f"test_{name}": value for name, value in result.test.numbers().items()}
        recorder.ledger.write("finished", **metrics)
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
    fitting = takes_channels_last(start.network, start.inputs)
    return Batches(start.task, split, None, 250, 0, start.inputs.device, fitting).load()


def _result(run: TrainingRun, recorder: _Recorder, start: _Start, dense: Score, final: Score) -> TrainingResult:
    try:
        test: Score | None = evaluate(run.network, start.task, _batches(start, "test"))
    except UserError:  # the task has no test samples
        test = None
    effective = measure_effective(run.network, start.inputs) if run.active.masking.masks else {}
    return TrainingResult(
        recorder.folder / FINAL,
        dense,
        measure_costs(start.network, start.inputs),
        final,
        test,
        measure_costs(run.network, start.inputs),
        effective,
        dict(recorder.sparsity),
        tuple(each.info for each in start.task.metrics),
    )


def _checkpoint(run: TrainingRun, start: _Start, final: Score) -> PrunedCheckpoint:
    before, masks = provenance_of(start.network), run.active.masking.masks
    return PrunedCheckpoint(
        copied(run.network.state_dict(), "state_dict"),
        {},
        (*before.shapes, *run.shapes),
        str(start.identity["model"]),
        describe_inputs(start.inputs),
        {**final.numbers(), "samples": final.samples},
        str(start.identity["task"]),
        "masked" if masks else FILTER.name,
        masks,
        before.first or measure_costs(start.network, start.inputs),
        before.others,
    )

"""Does a run's jobs with Ray Tune, on a machine or a cluster; the one file that imports ray.

The run is a Tune `Searcher`: what Tune asks for comes from the ledger's side, and what Tune's own records say is never
read. Each of its "trials" is a job: the levels of a group of the sweep, a candidate, a finalist. A worker is a class
`Trainable` that keeps its network and data from job to job, and through all stages of the run.
"""

# ruff: noqa: E402  # ray reads its environment when it is imported

from __future__ import annotations

import itertools
import logging
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar, cast
from unittest import mock

from autoprune.config.sections import RunSection
from autoprune.errors import AutopruneError, UserError
from autoprune.running.execution.dispatch import Dispatch, RunningJob
from autoprune.running.execution.jobs import Stages, WorkerContext
from autoprune.running.execution.worker import WorkerPayload, ending_after, worker_name
from autoprune.running.run_folder import SHARED, RunFolder
from autoprune.running.setup import Setup

# No usage statistics; interrupts reach us, not Tune; none of Tune's own logs and records.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**6),
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
}
for _name, _setting in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _setting)

import ray
from ray import tune
from ray._private import ray_constants, services
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # made by Cython
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

T = TypeVar("T")

# Of a Ray of our own: it listens on the loopback interface alone, as it does on other systems than Linux, and takes
# nobody's word but ours: the token lives in the environment of its processes, not in a file.
_OWN = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


def _start_own() -> None:
    """Starts a Ray on this machine alone."""
    os.environ.update(_OWN)
    # Read the environment again, if it was imported before, or had another Ray in this process.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
    # Even without a dashboard Ray starts its server, which does nothing but ask clouds' metadata services who they are.
    no_server = mock.patch.object(services, "start_api_server", return_value=(None, None))
    with no_server, mock.patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False):
        ray.init("local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)


@contextmanager
def connected(settings: RunSection) -> Iterator[None]:
    """Connects to a cluster that has what the workers need, or to a Ray of our own, which ends with it.

    Nothing that Tune logs or records is of use: the run's ledger and display say it.

    Raises:
        UserError: there is no cluster at the address, or it has not what the workers need.
        AutopruneError: a Ray of our own does not start.
    """
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(settings.workers)
    if ray.is_initialized():  # somebody's program that calls `autoprune.search` has chosen its cluster
        _check_resources(settings)
        yield
        return
    try:
        _connect(settings.ray_address or os.environ.get("RAY_ADDRESS"))
        _check_resources(settings)
        yield
    finally:
        ray.shutdown()


def _connect(address: str | None) -> None:
    """Connects to the cluster at an address, or starts a Ray of our own where there is none."""
    try:
        with _sigterm_restored(), _interrupt_put_off():
            if address:
                ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
            else:
                _start_own()
    except Exception as fault:  # of whatever kind: where it takes too long, ray raises a plain one
        if address is None:
            raise AutopruneError(
                f"Ray did not start ({fault}); try again when the machine has less to do, or without --workers"
            ) from fault
        raise UserError(
            f"no Ray cluster answers at {address!r} ({fault}); start one with `ray start --head`, or leave out "
            "--ray-address and RAY_ADDRESS"
        ) from fault


def run_on_ray(stages: Stages[T], setup: Setup, context: WorkerContext) -> T:
    """Does every job of every stage, as many at once as there are workers, inside `connected`.

    Args:
        context: that of this process, which workers get a copy of.

    Returns:
        What the stages return.

    Raises:
        UserError: the cluster does not see the run's folder.
        OSError: a worker could not write or read what belongs to the run.
        LedgerWriteError: a record could not be written; the run can be resumed.
    """
    weights = context.evaluator.config.weights
    assert weights is not None, "a run keeps its weights"
    folder = weights.resolve().parent
    with closing(stages):
        _check_shared(folder)
        dispatch = Dispatch(stages, setup.experiment.run)
        return _tune(dispatch, WorkerPayload.of(setup, context), RunFolder(folder).ray)


@contextmanager
def _sigterm_restored() -> Iterator[None]:
    """Restores the handler of SIGTERM: Ray's own prints a stack and aborts, without a word on how to resume."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _interrupt_put_off() -> Iterator[None]:
    """Puts a first SIGINT off to the end: `ray.shutdown` does not know processes of a Ray that is half started."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, FrameType | None]] = []

    def put_off(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))
        if len(came) > 1:
            before(number, frame)

    signal.signal(signal.SIGINT, put_off)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        before(*came[0])


def _check_resources(settings: RunSection) -> None:
    """Checks that all workers can run at once.

    Raises:
        UserError: the cluster has not what they need; Ray would wait for it for ever.
    """
    there = ray.cluster_resources()  # type: ignore[no-untyped-call]  # ray leaves it untyped
    for kind, share in (("CPU", settings.cpus_per_trial), ("GPU", settings.gpus_per_trial)):
        needed, found = settings.workers * share, there.get(kind, 0.0)
        if share > 1 and share != int(share):
            raise UserError(f"--{kind.lower()}s-per-trial above 1 should be a whole number but is {share:g}")
        if needed > found + 1e-6:
            raise UserError(
                f"{settings.workers} workers with {share:g} {kind}s each need {needed:g} {kind}s, but Ray has "
                f"{found:g}; lower --workers or --{kind.lower()}s-per-trial"
            )


def _check_shared(folder: Path) -> None:
    """Checks that every machine of the cluster sees the run's folder, through which weights travel.

    Raises:
        UserError: one does not.
    """
    token = folder / f"{SHARED}{os.getpid()}"
    token.touch()

    def sees() -> bool:
        return token.exists()

    try:
        asked = {
            node["NodeManagerAddress"]: ray.remote(sees)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote()
            for node in ray.nodes()  # type: ignore[no-untyped-call]
            if node["Alive"]
        }
        blind = [address for address, answer in asked.items() if not ray.get(answer)]
    finally:
        token.unlink()
    if blind:
        raise UserError(
            f"{folder} is not seen on {', '.join(blind)}; weights travel through the run's folder, so name one on "
            "storage that all machines share with --output"
        )


def _tune(dispatch: Dispatch[T], payload: WorkerPayload, storage: Path) -> T:
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    settings, count = payload.experiment.run, itertools.count()
    worker = tune.with_parameters(_Worker, payload=payload)
    tuner = tune.Tuner(
        tune.with_resources(worker, {"cpu": settings.cpus_per_trial, "gpu": settings.gpus_per_trial}),
        tune_config=tune.TuneConfig(
            search_alg=_JobAlgorithm(dispatch),
            scheduler=_KeepingWorkers(settings.workers),
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: str(next(count)),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(storage),
            verbose=0,
            progress_reporter=tune.CLIReporter(),  # else Tune shows an empty field in a notebook
            failure_config=tune.FailureConfig(max_failures=settings.retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
    try:
        tuner.fit()
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    if dispatch.fault is not None:
        raise dispatch.fault
    return cast(T, dispatch.value)


class _JobAlgorithm(Searcher):
    """A run's jobs as a search algorithm of Tune."""

    def __init__(self, dispatch: Dispatch[Any]) -> None:
        super().__init__()
        self._dispatch = dispatch

    def suggest(self, trial_id: str) -> Any:
        """Returns what `_Worker.setup` is given, None while there is no job, or that the run is over."""
        job = self._dispatch.next(trial_id)
        if job is None:
            return Searcher.FINISHED if self._dispatch.over else None
        return {"job": job}

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """Takes a result that is not a job's last."""
        self._dispatch.take(trial_id, result["result"])

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Takes a job's last result, or that its workers have died."""
        lost = error or result is None
        if result is not None and not lost:
            self._dispatch.take(trial_id, result["result"])
        self._dispatch.end(trial_id, lost)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the run's ledger is the truth."""

    def __reduce__(self) -> Any:
        """Leaves everything out of the copy that Tune stores, and which is never read."""
        return dict, ()


class _KeepingWorkers(FIFOScheduler):
    """A scheduler of Tune that lets idle workers live.

    Tune ends all but one worker that it has no trial for, so that a round that waits for its last trial, or the end of
    the sweep, would cost each of them a new start. It has no setting for that, only a number in its controller; a
    release that keeps it elsewhere merely starts workers anew.
    """

    def __init__(self, workers: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # ray leaves it untyped
        self._workers, self._told = workers, False

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Tells Tune before the first trial how many workers live."""
        controller = getattr(tune_controller, "_tune_controller", tune_controller)
        cache = getattr(controller, "_actor_cache", None)
        if cache is not None and not self._told:
            cache.increase_max(trial.placement_group_factory, self._workers)
            self._told = True


class _Worker(tune.Trainable):
    """Does one job a trial, a result of it each step."""

    def setup(self, config: dict[str, Any], payload: WorkerPayload | None = None) -> None:
        """Builds what all of its jobs work with, and begins the first."""
        assert payload is not None, "Tune passes what was put beside the class"
        self._timeout = payload.experiment.run.trial_timeout
        self._fault: AutopruneError | None = None
        try:
            self._context = payload.unpack()
        except Exception as fault:  # of the user's code or data; Tune would try it again and say nothing
            self._fault = AutopruneError(f"worker {worker_name()} cannot begin ({type(fault).__name__}: {fault})")
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begins another job, if this worker can do any."""
        if not self._fault:
            self._running = RunningJob(self._context, new_config["job"])
        return True

    def step(self) -> dict[str, Any]:
        """Returns the job's next result, or why this worker can do none."""
        if self._fault:
            return {"result": self._fault, "done": True}
        with ending_after(self._timeout):
            result, done = self._running.step()
        return {"result": result, "done": done}

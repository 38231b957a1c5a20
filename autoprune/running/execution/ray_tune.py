"""Does a run's jobs with Ray Tune, on a machine or a cluster; the one file that imports ray.

The run is a Tune `Searcher`: what Tune asks for comes from the ledger's side, and what Tune's own records say is never
read. Each of its "trials" is a job: the levels of a group of the sweep, a candidate, a finalist. A worker is a class
`Trainable` that keeps its network and data from job to job, and through all stages of the run.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from unittest import mock

from autoprune.config.sections import RunSection
from autoprune.errors import AutopruneError, UserError
from autoprune.running.execution.dispatch import Dispatch, RunningJob
from autoprune.running.execution.jobs import Stages, WorkerContext
from autoprune.running.execution.worker import WorkerPayload, choose_hardware, ending_after, worker_name
from autoprune.running.run_folder import SHARED, RunFolder
from autoprune.running.setup import Setup

if TYPE_CHECKING:
    from ray.tune import Trainable

T = TypeVar("T")

# Before the first import: no usage statistics; interrupts reach us, not Tune; none of Tune's own logs and records.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": str(10**6),
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",
}


# Of a Ray of our own: it listens on the loopback interface alone, as it does on other systems than Linux, and takes
# nobody's word but ours: the token lives in the environment of its processes, not in a file.
_OWN = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


def _start_own() -> None:
    """Starts a Ray on this machine alone."""
    import ray
    from ray._private import ray_constants, services
    from ray._raylet import Config  # type: ignore[attr-defined]  # made by Cython

    os.environ.update(_OWN)
    Config.initialize("")  # reads the environment again, if it was imported before
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
    for name, setting in _ENVIRONMENT.items():
        os.environ.setdefault(name, setting)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(settings.workers)
    import ray

    if ray.is_initialized():  # somebody's program that calls `autoprune.search` has chosen its cluster
        _check_resources(settings)
        yield
        return
    address = settings.ray_address or os.environ.get("RAY_ADDRESS")
    try:
        with _sigterm_restored():
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
    try:
        _check_resources(settings)
        yield
    finally:
        ray.shutdown()


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
    settings = setup.experiment.run
    weights = context.evaluator.config.weights
    assert weights is not None, "a run keeps its weights"
    folder = weights.resolve().parent
    with closing(stages):
        _check_shared(folder)
        return _tune(Dispatch(stages, settings), WorkerPayload.of(setup, context), settings, RunFolder(folder).ray)


@contextmanager
def _sigterm_restored() -> Iterator[None]:
    """Restores the handler of SIGTERM: Ray's own prints a stack and aborts, without a word on how to resume."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _check_resources(settings: RunSection) -> None:
    """Checks that all workers can run at once.

    Raises:
        UserError: the cluster has not what they need; Ray would wait for it for ever.
    """
    import ray

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
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

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


def _tune(dispatch: Dispatch[T], payload: WorkerPayload, settings: RunSection, storage: Path) -> T:
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    resources = {"cpu": settings.cpus_per_trial, "gpu": settings.gpus_per_trial}
    trainable = tune.with_resources(tune.with_parameters(_worker(), payload=payload, settings=settings), resources)
    count = itertools.count()
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_search_algorithm(dispatch),
            scheduler=_scheduler(settings.workers),
            num_samples=-1,
            reuse_actors=True,
            metric="job",
            mode="min",
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: str(next(count)),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(storage),
            verbose=0,
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


def _search_algorithm(dispatch: Dispatch[T]) -> Any:
    """Returns a run's jobs as a search algorithm of Tune."""
    from ray.tune.search import Searcher

    class JobAlgorithm(Searcher):
        def __init__(self) -> None:
            super().__init__(metric="job", mode="min")

        def suggest(self, trial_id: str) -> Any:
            job = dispatch.next(trial_id)
            return Searcher.FINISHED if job is None and dispatch.over else job

        def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
            dispatch.take(trial_id, result)

        def on_trial_complete(
            self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
        ) -> None:
            lost = error or result is None
            if result is not None and not lost:
                dispatch.take(trial_id, result)
            dispatch.end(trial_id, lost)

        def save(self, checkpoint_path: str) -> None:
            """Does nothing: the run's ledger is the truth."""

        def restore(self, checkpoint_path: str) -> None:
            """Does nothing: the run's ledger is the truth."""

        def __reduce__(self) -> Any:
            """Leaves everything out of the copy that Tune stores, and which is never read."""
            return dict, ()

    return JobAlgorithm()


def _scheduler(workers: int) -> Any:
    """Returns a Tune scheduler that lets idle workers live.

    Tune ends all but one worker that it has no trial for, so that a round that waits for its last trial, or the end of
    the sweep, would cost each of them a new start. It has no setting for that, only a number in its controller; a
    release that keeps it elsewhere merely starts workers anew.
    """
    from ray.tune.schedulers import FIFOScheduler

    class KeepingWorkers(FIFOScheduler):
        _told = False

        def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
            controller = getattr(tune_controller, "_tune_controller", tune_controller)
            cache = getattr(controller, "_actor_cache", None)
            if cache is not None and not self._told:
                cache.increase_max(trial.placement_group_factory, workers)
                self._told = True

    return KeepingWorkers()  # type: ignore[no-untyped-call]  # ray leaves it untyped


def _worker() -> type[Trainable]:
    """Returns the class of the workers; made here, so that ray is imported only when it is used."""
    from ray import tune

    class Worker(tune.Trainable):
        """Does one job a trial, a result of it each step."""

        def setup(
            self, config: dict[str, Any], payload: WorkerPayload | None = None, settings: RunSection | None = None
        ) -> None:
            assert payload is not None, "Tune passes what was put beside the class"
            assert settings is not None, "Tune passes what was put beside the class"
            self._timeout, self._fault = settings.trial_timeout, ""
            try:
                self._context = payload.unpack(
                    choose_hardware(math.ceil(settings.cpus_per_trial), settings.gpus_per_trial)
                )
                self._running = RunningJob(self._context, config)
            except Exception as fault:  # of the user's code or data; Tune would try it again and say nothing
                self._fault = f"{type(fault).__name__}: {fault}"

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            if not self._fault:
                self._running = RunningJob(self._context, new_config)
            return True

        def step(self) -> dict[str, Any]:
            if self._fault:
                return {"broken": f"worker {worker_name()} cannot begin ({self._fault})", "job": 0, "done": True}
            with ending_after(self._timeout):
                said, done = self._running.step()
            return {**said, "job": 0, "done": done}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            return None

        def load_checkpoint(self, checkpoint: object) -> None:
            return None

    return Worker

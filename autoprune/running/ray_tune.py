"""Evaluates candidates with Ray Tune, on a machine or a cluster; the one file that imports ray.

The run's course is a Tune `Searcher`: what Tune asks for comes from the ledger's side, and what Tune's own records say
is never read. A worker is a class `Trainable` that keeps its network and data from trial to trial.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.config.sections import RunSection
from autoprune.core.trial import Candidate, Failure, Trial
from autoprune.errors import AutopruneError, UserError
from autoprune.evaluation.images import Judging
from autoprune.running.course import Course
from autoprune.running.folder import SHARED, RunFolder
from autoprune.running.setup import Setup
from autoprune.running.worker import Parcel, evaluate, settle, worker_name

if TYPE_CHECKING:
    from ray.tune import Trainable

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


def evaluate_on_ray(course: Course, setup: Setup, judging: Judging) -> None:
    """Evaluates until the search ends, as many trials at once as there are workers.

    Nothing that Tune logs or records is of use: the run's ledger and display say it.

    Raises:
        UserError: the cluster cannot be reached, has not what the workers need, or does not see the run's folder.
        OSError: a worker could not write or read what belongs to the run.
        LedgerWriteError: a record could not be written; the run can be resumed.
    """
    settings = setup.experiment.run
    for name, setting in _ENVIRONMENT.items():
        os.environ.setdefault(name, setting)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(settings.workers)
    assert judging.weights is not None, "a run keeps its weights"
    folder = judging.weights.resolve().parent
    with _connected(settings.ray_address):
        _check_resources(settings)
        _check_shared(folder)
        _tune(course, Parcel.of(setup, judging), settings, RunFolder(folder).ray)


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """A connection to a cluster, or to a Ray of our own, which ends with it.

    Raises:
        UserError: there is no cluster at the address.
    """
    import ray

    if ray.is_initialized():  # somebody's program that calls `autoprune.search` has chosen its cluster
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    dashboard = None if address else False
    try:
        with _signals_kept():
            ray.init(address or "local", include_dashboard=dashboard, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as fault:
        raise UserError(
            f"no Ray cluster answers at {address!r} ({fault}); start one with `ray start --head`, or leave out "
            "--ray-address and RAY_ADDRESS"
        ) from fault
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Restores what SIGTERM does: Ray's own handler prints a stack and aborts, and nobody hears how to go on."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _check_resources(settings: RunSection) -> None:
    """Nothing, if all workers can run at once.

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
    """Nothing, if every machine of the cluster sees the run's folder, where weights travel.

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


def _tune(course: Course, parcel: Parcel, settings: RunSection, storage: Path) -> None:
    from ray import tune

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    asking = _asking(course, settings)
    resources = {"cpu": settings.cpus_per_trial, "gpu": settings.gpus_per_trial}
    trainable = tune.with_resources(tune.with_parameters(_worker(), parcel=parcel, settings=settings), resources)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=asking,
            num_samples=-1,
            reuse_actors=True,
            metric="number",
            mode="min",
            trial_name_creator=lambda trial: str(trial.config["candidate"]["number"]),
            trial_dirname_creator=lambda trial: str(trial.config["candidate"]["number"]),
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
    if asking.fault is not None:
        raise asking.fault


def _asking(course: Course, settings: RunSection) -> Any:
    """The course as a Tune searcher."""
    from ray.tune.search import Searcher

    class Asking(Searcher):
        """Attributes: fault: what ended the search before its time."""

        def __init__(self) -> None:
            super().__init__(metric="number", mode="min")
            self.fault: Exception | None = None
            self._running: dict[str, tuple[Candidate, float]] = {}

        def suggest(self, trial_id: str) -> Any:
            if self.fault is not None:
                return Searcher.FINISHED if not self._running else None
            if len(self._running) >= settings.workers:
                return None
            try:
                candidate = course.next()
            except Exception as fault:  # Tune would wrap it
                self.fault = fault
                return self.suggest(trial_id)
            if candidate is None:
                return None if self._running else Searcher.FINISHED
            self._running[trial_id] = candidate, time.monotonic()
            return {"candidate": candidate.to_json()}

        def on_trial_complete(
            self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False
        ) -> None:
            candidate, begun = self._running.pop(trial_id)
            try:
                if result is not None and "broken" in result:
                    raise AutopruneError(result["broken"])
                if result is not None and "fault" in result:
                    raise OSError(*result["fault"])
                if error or result is None or "trial" not in result:
                    course.take(_lost(candidate, time.monotonic() - begun, settings))
                else:
                    course.take(Trial.from_json(json.loads(result["trial"]), candidate))
            except Exception as fault:
                self.fault = self.fault or fault

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the run's ledger is the truth."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing: the run's ledger is the truth."""

        def __reduce__(self) -> Any:
            """Nothing of it is in the copy that Tune stores, and which nobody reads."""
            return dict, ()

    return Asking()


def _lost(candidate: Candidate, seconds: float, settings: RunSection) -> Trial:
    """The trial of a candidate whose workers died, every time."""
    tries = settings.retries + 1
    often = "" if tries == 1 else f" {tries} times"
    if settings.trial_timeout is not None and seconds >= tries * settings.trial_timeout:
        failure = Failure("timeout", f"the trial took longer than {settings.trial_timeout:g} s{often}")
    else:
        failure = Failure("worker_died", f"its worker died{often}; out of memory, or ended by the network's own code?")
    return Trial(candidate, failure, seconds=seconds, worker="ray")


def _worker() -> type[Trainable]:
    """The class of the workers; made here, so that ray is imported only when it is used."""
    from ray import tune

    class Worker(tune.Trainable):
        """Evaluates one candidate a trial."""

        def setup(
            self, config: dict[str, Any], parcel: Parcel | None = None, settings: RunSection | None = None
        ) -> None:
            assert parcel is not None, "Tune passes what was put beside the class"
            assert settings is not None, "Tune passes what was put beside the class"
            self._settings, self._fault = settings, ""
            self._candidate = Candidate.from_json(config["candidate"])
            try:
                self._evaluator = parcel.unpack(settle(math.ceil(settings.cpus_per_trial), settings.gpus_per_trial))
            except Exception as fault:  # of the user's code or data; Tune would try it again and say nothing
                self._fault = f"{type(fault).__name__}: {fault}"

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._candidate = Candidate.from_json(new_config["candidate"])
            return True

        def step(self) -> dict[str, Any]:
            settings = self._settings
            if self._fault:
                return {"broken": f"worker {worker_name()} cannot begin ({self._fault})", "number": 0, "done": True}
            try:
                trial = evaluate(self._evaluator, self._candidate, settings.retries, settings.trial_timeout)
            except OSError as fault:
                return {"fault": [fault.errno, fault.strerror, fault.filename], "number": 0, "done": True}
            return {"trial": json.dumps(trial.to_json()), "number": trial.number, "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            return None

        def load_checkpoint(self, checkpoint: object) -> None:
            return None

    return Worker

"""A store is brought up to the records of a run, as often and from wherever one likes, each trial and point once."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from autoprune.api import search
from autoprune.core.allocation import Allocation
from autoprune.core.ledger import Ledger
from autoprune.core.trial import Candidate, Trial
from autoprune.errors import RunFolderError, UserError
from autoprune.running.tracking.mlflow_client import Store, connect, resolve_uri
from autoprune.running.tracking.mlflow_runs import store_of_run
from autoprune.running.tracking.sync import Sync, answering
from autoprune.running.tracking.tracker import active_run, chosen_in_mlflow
from tests.journeys import Cli, in_child, left_behind
from tests.reporting.ledgers import OUTCOMES, trial, write_run
from tests.scores import scored
from tests.user_tasks import task, tiny

NUMBERS = [str(number) for number in range(len(OUTCOMES))]
CURVE = [(1, 0.5), (2, 0.5), (3, 0.5), (4, 0.3), (5, 0.3)]
STEPS = 7
"""Of bringing such a run into a store that has the search: its five trials, the curve, and the end."""


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as MLflow makes it, to be copied."""
    path = tmp_path_factory.mktemp("store") / "empty.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def store(empty: Path, workdir: Path) -> str:
    shutil.copy(empty, workdir / "mlflow.db")
    return f"sqlite:///{workdir / 'mlflow.db'}"


def sync(folder: Path, store: str, steps: int | None = None, over: bool = True) -> Sync:
    """Brings a store up to a folder, or stops after some steps as a process does that is killed."""
    begun = Sync(folder, store, "autoprune")
    for _ in islice(begun.update(over), steps):
        pass
    return begun


def found(store: str) -> tuple[Run, list[Run]]:
    """The search's run and its trials' in the order of their numbers."""
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("autoprune")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.data.tags["autoprune.role"] == "search"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return parent, sorted(children, key=lambda run: int(run.info.run_name))


def curve(store: str, run: Run, name: str = "best_loss") -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in MlflowClient(store).get_metric_history(run.info.run_id, name))


@pytest.mark.parametrize("steps", range(STEPS))
def test_stopped_anywhere_the_next_one_completes_it_with_each_trial_once(workdir: Path, store: str, steps: int) -> None:
    folder = write_run(workdir / "run")
    sync(folder, store, steps)
    again = sync(folder, store)
    assert (again.trials, again.state) == (5, "finished")
    parent, children = found(store)
    assert parent.info.status == "FINISHED"
    assert [child.info.run_name for child in children] == NUMBERS
    assert {child.info.status for child in children} == {"FINISHED", "FAILED"}
    assert curve(store, parent) == CURVE
    assert sync(folder, store).added == 0
    assert curve(store, found(store)[0]) == CURVE


def test_what_has_not_grown_is_not_written_and_what_has_is_added(
    workdir: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(workdir / "run", OUTCOMES[:2], ended=False)
    live = Sync(folder, store, "autoprune")
    list(live.update())
    with monkeypatch.context() as patch:
        for name in ("log_batch", "create_run", "search_runs", "update_run", "set_terminated"):
            patch.setattr(MlflowClient, name, None)
        assert list(live.update()) == []
    with Ledger(folder / "ledger.jsonl") as ledger:
        told = trial(2, OUTCOMES[2])
        ledger.asked(told.candidate)
        ledger.told(told)
    with open(folder / "ledger.jsonl", "ab") as file:
        file.write(b'{"event": "asked", "num')  # as a process leaves it that is at it
    list(live.update())
    assert live.added == 3
    parent, children = found(store)
    assert parent.info.status == "RUNNING"
    assert len(children) == 3
    assert curve(store, parent) == CURVE[:3]


def test_a_run_that_was_copied_elsewhere_goes_on_in_the_same_mirror(workdir: Path, store: str) -> None:
    folder = write_run(workdir / "run", ended=False)
    sync(folder, store, 3)
    before = found(store)[0]
    copied = Path(shutil.copytree(folder, workdir / "elsewhere" / "run"))
    shutil.rmtree(folder)
    assert sync(copied, store).added == 2
    parent, children = found(store)
    assert parent.info.run_id == before.info.run_id
    assert parent.data.tags["autoprune.folder"] == str(copied)
    assert parent.info.status == "KILLED"
    assert [child.info.run_name for child in children] == NUMBERS


def test_a_search_that_was_half_made_is_made_anew(workdir: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(workdir / "run")

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_inputs", fail)
        with pytest.raises(ConnectionError):
            sync(folder, store)
    sync(folder, store)
    parent, children = found(store)
    assert len(parent.inputs.dataset_inputs) == 2
    assert len(children) == 5


def test_a_network_of_more_groups_than_mlflow_takes_at_once_is_mirrored(workdir: Path, store: str) -> None:
    folder = write_run(workdir / "run", (), ended=False)
    widths = {f"group{number}": number + 1 for number in range(320)}
    with Ledger(folder / "ledger.jsonl") as ledger:
        candidate = Candidate(0, Allocation(widths))
        ledger.asked(candidate)
        ledger.told(Trial(candidate, scored(0.1, 0.9, 10), {"flops": 1}, 1.0, "inline", 1))
    sync(folder, store)
    [child] = found(store)[1]
    assert {name: int(value) for name, value in child.data.params.items() if name.startswith("keep.")} == {
        f"keep.{name}": width for name, width in widths.items()
    }


def write_training(folder: Path, epochs: int, ended: bool = False) -> Path:
    with Ledger(folder / "training.jsonl") as ledger:
        ledger.begin(autoprune="0", params={"task": "digits", "pruner.a/b": "x"}, settings={"track": {}})
        for epoch in range(1, epochs + 1):
            ledger.write("epoch", step=epoch * 10, epochs=epoch, accuracy=epoch / 10, loss=1 / epoch)
        if ended:
            ledger.write("finished", accuracy=0.5, loss=0.2)
    return folder


def test_a_training_is_mirrored_the_same_way_and_epochs_trained_again_once(
    autoprune: Cli, workdir: Path, store: str
) -> None:
    (workdir / "run").mkdir()
    folder = write_training(workdir / "run", 3)
    sync(folder, store, 1, over=False)
    write_training(folder, 4, ended=True)  # from the first snapshot on
    assert "the run is finished" in autoprune.succeed("track", "run").out
    autoprune.succeed("track", "run")
    client = MlflowClient(store)
    [run] = client.search_runs([client.get_experiment_by_name("autoprune").experiment_id])
    assert curve(store, run, "accuracy") == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert (run.info.status, run.data.metrics["final_loss"]) == ("FINISHED", 0.2)
    assert run.data.params == {"task": "digits", "pruner.a_b": "x"}


def test_a_folder_without_records_has_nothing_to_mirror(workdir: Path) -> None:
    with pytest.raises(RunFolderError, match=r"has no ledger\.jsonl"):
        Sync(workdir, None, "autoprune")
    (workdir / "training.jsonl").touch()
    with pytest.raises(RunFolderError, match="nothing to mirror yet"):
        Sync(workdir, None, "autoprune")


def test_a_search_inside_a_run_of_the_user_s_is_its_child_where_that_run_is(
    workdir: Path, store: str, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert active_run() is None
    monkeypatch.setattr(mlflow, "active_run", lambda: MlflowClient(store).create_run("0"))
    outer = active_run()
    assert outer is not None
    folder = write_run(workdir / "run", started={**described(workdir), "mlflow_run": outer})
    sync(folder, store)
    parent, children = found(store)
    assert parent.data.tags["mlflow.parentRunId"] == outer
    assert len(children) == 5
    shutil.copy(empty, workdir / "other.db")
    elsewhere = f"sqlite:///{workdir / 'other.db'}"
    sync(folder, elsewhere)
    assert "mlflow.parentRunId" not in found(elsewhere)[0].data.tags


def test_a_search_from_python_is_a_child_of_the_active_run_in_the_users_own_experiment(
    workdir: Path, empty: Path
) -> None:
    shutil.copy(empty, workdir / "mine.db")
    store = f"sqlite:///{workdir / 'mine.db'}"
    quick = {"trials": 2, "sensitivity__levels": 2, "progress": False, "output": "run"}

    def search_inside() -> int:
        mlflow.set_tracking_uri(store)
        mlflow.set_experiment("product X")
        assert chosen_in_mlflow() == {"track.uri": store, "track.experiment": "product X"}
        with mlflow.start_run(experiment_id=mlflow.create_experiment("product Y")) as outer:
            search(tiny(), task, 0.6, **quick)
            assert mlflow.active_run().info.run_id == outer.info.run_id
        return 0

    assert in_child(search_inside) == 0  # what is set stays set in its process
    client = MlflowClient(store)
    assert [each.name for each in client.search_experiments()] == ["product Y", "product X", "Default"]
    runs = client.search_runs([client.get_experiment_by_name("product Y").experiment_id])
    by_role = {run.data.tags.get("autoprune.role", "outer"): run for run in runs}
    assert len(runs) == 4
    assert by_role["outer"].info.status == "FINISHED"
    assert by_role["search"].data.tags["mlflow.parentRunId"] == by_role["outer"].info.run_id
    assert store_of_run(Path("run"), None, None) == (store, "product Y")


def described(workdir: Path) -> dict[str, Any]:
    """What the first record of a made-up run says of it."""
    import json

    line = (write_run(workdir / "model") / "ledger.jsonl").read_text().splitlines()[0]
    known = json.loads(line)
    return {key: known[key] for key in ("settings", "params", "groups", "command", "environment")}


def test_a_deleted_experiment_is_named_with_its_cure(autoprune: Cli, workdir: Path, store: str) -> None:
    write_run(workdir / "run")
    autoprune.succeed("track", "run")
    client = MlflowClient(store)
    number = client.get_experiment_by_name("autoprune").experiment_id
    client.delete_experiment(number)
    for command in ("track", "ui"):
        said = autoprune.refused(command, "run")
        assert "MLflow's experiment 'autoprune' was deleted: restore it with " in said
        assert f"mlflow experiments restore --experiment-id {number}" in said
    client.restore_experiment(number)
    assert autoprune.succeed("track", "run").out.startswith("0 of 5 trials")


def test_groups_are_mirrored_whatever_their_modules_are_called(workdir: Path, store: str) -> None:
    folder = write_run(workdir / "run", (), ended=False)
    with Ledger(folder / "ledger.jsonl") as ledger:
        candidate = Candidate(0, Allocation({"a[0]=<b>": 3, "x" * 400: 4}))
        ledger.asked(candidate)
        ledger.told(Trial(candidate, scored(0.1, 0.9, 10), {"flops": 1}, 1.0, "inline", 1))
    sync(folder, store)
    [child] = found(store)[1]
    assert [name[:12] for name in child.data.params if name.startswith("keep.")] == ["keep.a_0___b", "keep.xxxxxxx"]


@pytest.mark.parametrize("name", ["a b", "a%20b", "100%", "a#b", "a?b", "a@b", "übung"])
def test_a_store_and_its_artifacts_lie_in_their_folder_whatever_that_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: Path, name: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    if set(name) & set("?%"):
        # Such a store may have a relative address, and MLflow keeps the first of an address while a process runs.
        action: Callable[[], int] = lambda: use_default_store(folder)  # noqa: E731
        assert in_child(action) == 0
    else:
        shutil.copy(empty, folder / "mlflow.db")
        assert use_default_store(folder) == 0
    assert left_behind(tmp_path) == [name]
    assert left_behind(folder) == ["file.txt", "mlflow.db", "mlruns"]
    assert [path.name for path in folder.glob("mlruns/*/*/artifacts/*")] == ["file.txt"]


def use_default_store(folder: Path) -> int:
    """Mirrors a file in MLflow's default store; 0 if it can be read back, by others too."""
    (folder / "file.txt").write_text("x")
    begun = Store(None, "autoprune")
    content = Sync(write_run(folder / "run"), None, "autoprune")._reader.describe()
    run = begun.create(content)
    begun.write_file(run, folder / "file.txt")
    shutil.rmtree(folder / "run")
    with answering(None) as uri:
        client = MlflowClient(uri)
    assert [each.path for each in client.list_artifacts(run)] == ["file.txt"]
    client.download_artifacts(run, "file.txt", str(folder / "mlruns"))
    (folder / "mlruns" / "file.txt").unlink()
    assert resolve_uri("sqlite:///mlflow.db") == uri
    return 0


def test_a_kill_while_a_store_is_made_leaves_nothing_beside_it(workdir: Path) -> None:
    def killed_early() -> int:
        import mlflow.store.db.utils as database

        database._initialize_tables = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        return connect(f"sqlite:///{workdir / 'mlflow.db'}") is None

    assert in_child(killed_early) == -signal.SIGKILL
    assert left_behind(workdir) == []

    def killed_in_the_middle() -> int:
        execute = sqlite3.connect

        class Mortal(sqlite3.Connection):
            count = 0

            def execute(self, *arguments: Any) -> sqlite3.Cursor:
                Mortal.count += 1
                if Mortal.count > 60:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().execute(*arguments)

        sqlite3.connect = lambda *arguments, **named: execute(*arguments, **{"factory": Mortal, **named})
        return connect(f"sqlite:///{workdir / 'mlflow.db'}") is None

    assert in_child(killed_in_the_middle) == -signal.SIGKILL
    assert set(left_behind(workdir)) <= {"mlflow.db", "mlflow.db-journal"}
    assert connect(f"sqlite:///{workdir / 'mlflow.db'}").search_experiments()
    assert left_behind(workdir) == ["mlflow.db"]


@pytest.mark.parametrize("scheme", ["mysql", "mysql+mysqldb", "postgresql", "mssql+pyodbc"])
def test_a_missing_database_driver_is_named_in_one_line_without_credentials(
    autoprune: Cli, workdir: Path, scheme: str
) -> None:
    write_run(workdir / "run")
    for command in ("track", "ui"):
        said = autoprune.refused(command, "run", "--tracking-uri", f"{scheme}://somebody:hush%2Fhush@host/db")
        assert f"{scheme}://***@host/db needs the Python package " in said
        assert "which is not installed: install it, or name another store with --tracking-uri" in said
        assert not {"somebody", "hush", "Traceback"} & set(said.replace(":", " ").split())
        assert said.count("\n") <= 1


def test_a_store_that_cannot_be_opened_is_not_tried_for_minutes(
    autoprune: Cli, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir / "folder.db").mkdir()
    write_run(workdir / "run")

    def slept(seconds: float) -> None:
        raise AssertionError(f"MLflow waits {seconds} s")

    monkeypatch.setattr("mlflow.store.db.utils.time.sleep", slept)
    said = autoprune.refused("track", "run", "--tracking-uri", f"sqlite:///{workdir / 'folder.db'}", code=1)
    assert "MLflow cannot be written (OperationalError: unable to open database file)" in said


@pytest.mark.parametrize(
    "uri",
    [
        "http://somebody:hush-hush@127.0.0.1:9",
        "http://somebody:hush%2Dhush@127.0.0.1:9/?user=somebody&token=hush-hush",
        "nonsense://somebody:hush-hush@host",
    ],
)
def test_no_command_says_the_credentials_of_a_store(
    autoprune: Cli, workdir: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    write_run(workdir / "run")
    for command in (("track", "run"), ("ui", "run"), ("ui",), ("apply", "mlflow:0123", "--output", "p.pt")):
        outcome = autoprune(*command, "--tracking-uri", uri)
        assert outcome.code in (1, 2), command
        for secret in ("somebody", "hush-hush", "hush%2Dhush", "Traceback"):
            assert secret not in outcome.out + outcome.err, (command, outcome.err)
    assert "hush" not in autoprune.refused("search", f"--tracking-ur={uri}")


def test_an_address_that_is_taken_for_a_stored_one_asks_for_its_credentials(workdir: Path) -> None:
    from autoprune.running.tracking.mlflow_runs import store_of_run

    folder = write_run(workdir / "run", track={"uri": "https://***@host", "experiment": "mine"})
    with pytest.raises(UserError, match="credentials"):
        store_of_run(folder, None, None)
    assert store_of_run(folder, "https://me:pw@host", None) == ("https://me:pw@host", "mine")

"""autoprune from Python, as the README shows it."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autoprune
from autoprune import Allocation, SimpleTask, errors
from autoprune.core.recipe import Recipe
from autoprune.errors import UserError
from tests import user_tasks
from tests.evaluation.test_evaluator import HALF
from tests.journeys import Cli, fresh_process, history_of
from tests.repository import REPOSITORY
from tests.tiers import rest_slow
from tests.user_tasks import faulty, task, tiny

QUICK = {"trials": 3, "sensitivity__levels": 2, "track__enabled": False, "progress": False}
IMAGES = torch.rand(5, 1, 8, 8)
ITSELF: dict[str, Any] = {}
ITSELF["a"] = ITSELF


@pytest.fixture(autouse=True)
def _no_faults_left() -> Iterator[None]:
    yield
    user_tasks.faults.clear()


README = textwrap.dedent(
    """
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset
    import autoprune

    def network():
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Flatten(), nn.Linear(256, 2),
        )

    samples = torch.rand(128, 1, 8, 8)
    labels = (samples.mean((1, 2, 3)) > 0.5).long()
    data = TensorDataset(samples, labels)
    task = autoprune.SimpleTask(network, train_data=data, validation_data=data)
    model = network()
    task.train(model, autoprune.TrainingPlan(steps=5, rate=0.1))
    result = autoprune.search(model, task, budget="flops=0.7", trials=2, output="run", track__enabled=False)
    again = autoprune.apply(model, result.allocation, task)
    loaded = autoprune.load(f"run/weights/{result.best}.pt", model=network)
    for small in (again, loaded):
        torch.testing.assert_close(small(samples[:3]), result.network(samples[:3]))
    print("fine")
    """
)


def test_twenty_lines_of_the_users_own_are_enough(workdir: Path) -> None:
    assert fresh_process(README, workdir) == "fine\n"


@pytest.mark.parametrize("training", [True, False])
def test_a_search_gives_a_smaller_network_and_leaves_the_model_as_it_was(workdir: Path, training: bool) -> None:
    model = tiny().train(training)
    before = copy.deepcopy(model.state_dict())
    result = autoprune.search(model, task, "flops=0.6", output="run", **QUICK)
    assert model.training is training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    best = next(trial for trial in result.trials if trial.number == result.best)
    assert result.allocation == best.candidate.allocation
    assert result.network.second.out_channels == result.allocation["second"]
    assert [row.name for row in result.results] == ["dense", "uniform", "best"]
    assert result.results[-1].costs["flops"] <= 0.6 * result.results[0].costs["flops"]
    assert result.folder == Path("run")
    assert len(history_of(result.folder).trials()) == len(result.trials) == 3


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_that_are_off_around_it_are_on_inside(workdir: Path, mode: Callable[[], Any]) -> None:
    with mode():
        result = autoprune.search(
            tiny(), task, "flops=0.6", **QUICK, scoring__criterion="taylor", evaluation__finetune={"steps": 1}
        )
        assert not torch.is_grad_enabled()
    assert result.network.second.out_channels == result.allocation["second"]
    assert len(result.trials) == 3


def test_progress_can_be_left_out(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    autoprune.search(tiny(), task, {"flops": 0.6, "params": "3k"}, **QUICK)
    assert capfd.readouterr() == ("", "")


def test_what_the_python_search_left_is_not_mistaken_for_another_task(autoprune_cli: Cli, workdir: Path) -> None:
    autoprune.search(tiny(), task, "flops=0.6", output="run", **QUICK)
    for command in (
        ("search", "--resume", "run"),
        ("apply", "run", "--output", "p.pt"),
        ("evaluate", next((workdir / "run" / "weights").iterdir())),
        ("apply", "run/best.yaml", "--output", "p.pt"),
    ):
        assert "task" in (message := autoprune_cli.refused(*command))
        assert "python" in message.lower()
    autoprune_cli.succeed("apply", "run", "--task", "tests.user_tasks:task", "--output", "p.pt")


def search(**settings: Any) -> autoprune.SearchResult:
    return autoprune.search(tiny(), faulty, **{"budget": 0.6, "output": "run", **QUICK, **settings})


def test_a_cell_that_runs_twice_says_what_to_do_and_goes_on_where_that_is_asked_for(workdir: Path) -> None:
    first = search(resume=True)  # nothing to go on with
    with pytest.raises(UserError, match=r"^run already holds a run; continue it with resume=True or .* with output=$"):
        search()
    user_tasks.faults.append(refuse)
    again = search(resume=True)
    assert torch.equal(again.network(IMAGES), first.network(IMAGES))
    assert (again.best, again.allocation, again.rows()) == (first.best, first.allocation, first.rows())
    assert (again.folder, len(again.trials)) == (Path("run"), 3)
    user_tasks.faults.clear()
    assert len(search(resume=True, trials=5).trials) == 5


def refuse(_: int, loss: Tensor) -> Tensor:
    raise AssertionError("evaluated although the run had finished")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"budget": 0.5, "search__seed": 4},
            r"budget: 'flops=0\.5' instead of 'flops=0\.6'; search\.seed: 4 instead of 0",
        ),
        ({"trials": 2}, "^trials: run has 3 trials already, more than 2"),
        ({"model": nn.Sequential(tiny())}, "was started with another model and checkpoint .the weights differ."),
        ({"output": None}, r"resume=True goes on with the run in a folder; say in which with output=$"),
    ],
)
def test_what_differs_from_the_run_that_is_resumed_is_named(
    ended_run: Path, changed: dict[str, Any], message: str
) -> None:
    before = (ended_run / "ledger.jsonl").read_bytes()
    given = {"model": tiny(), "task": faulty, "output": "run", "resume": True, "progress": False, **changed}
    with pytest.raises(UserError, match=message):
        autoprune.search(**given)
    assert (ended_run / "ledger.jsonl").read_bytes() == before


@pytest.fixture(scope="module")
def _ended_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return search(output=tmp_path_factory.mktemp("finished") / "run").folder


@pytest.fixture
def ended_run(_ended_once: Path, workdir: Path) -> Path:
    """A finished run of three trials, in the current folder."""
    shutil.copytree(_ended_once, "run")
    return Path("run")


def test_a_folder_that_lost_its_settings_is_not_begun_anew(ended_run: Path) -> None:
    (ended_run / "experiment.yaml").unlink()
    with pytest.raises(UserError, match="it has no experiment"):
        search(resume=True)


def test_an_interrupt_keeps_what_was_done_and_says_how_to_go_on(workdir: Path) -> None:
    def interrupt(judged: int, loss: Tensor) -> Tensor:
        if Path("run/ledger.jsonl").read_bytes().count(b'"told"') == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    whole = search(output="whole")
    user_tasks.faults.append(interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt) as raised:
            search()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    said = "interrupted after 2 trials, which are kept; continue with autoprune.search(…, output='run', resume=True)"
    assert str(raised.value) == said
    assert type(raised.value) is KeyboardInterrupt
    user_tasks.faults.clear()
    resumed = autoprune.search(tiny(), faulty, output="run", resume=True, progress=False)
    assert [trial.candidate for trial in resumed.trials] == [trial.candidate for trial in whole.trials]
    assert torch.equal(resumed.network(IMAGES), whole.network(IMAGES))


def test_code_of_the_users_that_ends_the_process_is_an_error(workdir: Path) -> None:
    class Leaving(nn.Module):
        def forward(self, samples: Tensor) -> Tensor:
            sys.exit(0)

    with pytest.raises(errors.AutopruneError, match="SystemExit: 0"):
        autoprune.search(Leaving(), task, 0.5)
    assert list(workdir.iterdir()) == []


def test_a_result_is_shown_as_its_table_and_gives_plain_rows(ended_run: Path) -> None:
    result = search(resume=True)
    lines = repr(result).splitlines()
    assert lines[0] == f"best of 3 trials: trial {result.best}, in run"
    assert [line.split()[0] for line in lines[1:]] == ["network", "dense", "uniform", "best"]
    page = result._repr_html_()
    assert page.count("<tr>") == 4
    assert f"<td>best (trial {result.best})</td>" in page
    row = result.rows()[result.best]
    assert {type(value) for value in row.values()} <= {str, int, float}
    best = result.trials[result.best]
    assert best.score is not None
    assert (row["trial"], row["state"], row["loss"]) == (result.best, "scored", best.score.loss)
    assert (row["flops"], row["keep.second"]) == (best.costs["flops"], result.allocation["second"])
    stored = pickle.loads(pickle.dumps(result))
    assert stored.rows() == result.rows()
    assert torch.equal(stored.network(IMAGES), result.network(IMAGES))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task": [IMAGES]}, "'task' should be a task or return one, but the list lacks name"),
        ({"model": tiny().state_dict()}, "should be a torch.nn.Module but is a OrderedDict"),
        ({"budget": None}, r"^budget= is needed, for example budget='flops=0\.5'$"),
        ({"budget": [0.5, 0.3]}, "several budgets are several searches"),
        ({"trails": 3}, "unknown keyword 'trails'; did you mean 'trials'"),
        ({"seed": 10**5000}, "^seed: should be at most 4294967295 but is a number of more digits"),
        ({"space__groups": ITSELF}, "nested too deeply, or hold themselves"),
        ({"output": "/".join(["x" * 100] * 60)}, "^output: should be a path but no file can have this name"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(workdir: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        autoprune.search(**{"model": tiny(), "task": task, "budget": 0.5, **QUICK, **given})
    assert "\n" not in str(raised.value)
    assert list(workdir.iterdir()) == []


@pytest.fixture
def autoprune_cli(request: pytest.FixtureRequest) -> Cli:
    found: Cli = request.getfixturevalue("autoprune")
    return found


def test_apply_prunes_anew_from_an_allocation_alone(workdir: Path) -> None:
    model = tiny().train()
    small = autoprune.apply(model, HALF, task)
    assert small.second.out_channels == 8
    assert not small.training
    assert model.training
    assert model.second.out_channels == 16
    plain = autoprune.apply(model, {"second": 8}, inputs=IMAGES)
    assert plain.second.out_channels == 8
    assert plain.third.out_channels == 16
    assert not torch.equal(small.norm1.running_mean, plain.norm1.running_mean)
    assert torch.equal(plain.norm1.running_mean, model.norm1.running_mean)


def test_apply_reconstructs_where_its_recipe_says_so(workdir: Path) -> None:
    model = tiny().eval()
    dense = model(IMAGES)
    plain, refitted = (
        autoprune.apply(model, HALF, task, recipe=recipe) for recipe in (Recipe(0), Recipe(reconstruct=96))
    )
    assert (refitted(IMAGES) - dense).square().mean() < 0.5 * (plain(IMAGES) - dense).square().mean()
    assert torch.equal(model(IMAGES), dense)


def test_apply_needs_a_task_or_inputs() -> None:
    with pytest.raises(UserError, match="needs a task, whose samples re-estimate the batch norm, or inputs"):
        autoprune.apply(tiny(), HALF)


@pytest.mark.parametrize(
    ("allocation", "message"),
    [
        ({"second": 0}, "can be kept, not 0"),
        ({"second": 17}, "not 17"),
        ({"fourth": 3}, "fourth"),
        ({"second": 2.5}, "2.5"),
    ],
)
def test_widths_that_do_not_fit_are_refused(allocation: dict[str, int], message: str) -> None:
    for given in ({"task": task}, {"inputs": IMAGES}):
        with pytest.raises(UserError, match=message):
            autoprune.apply(tiny(), allocation, **given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": "flops=2"}, "above 0 and at most 1"),
        ({"trials": 0}, "at least 1"),
        ({"searcher": "tpee"}, "did you mean 'tpe'"),
        ({"serach__trials": 3}, "unknown keyword 'serach__trials'; did you mean 'search'"),
        ({"search__trails": 3}, "search.trails: unknown key; did you mean 'trials'"),
        ({"budget": "flops=0.001"}, "cannot be met"),
        ({"pruner": "l1"}, "l1_filter"),
    ],
)
def test_settings_at_fault_are_refused_before_anything_is_written(
    workdir: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        autoprune.search(tiny(), task, **{"budget": "flops=0.5", **QUICK, **settings})
    assert list(workdir.iterdir()) == []


def test_the_public_names_are_there() -> None:
    for name in autoprune.__all__:
        assert getattr(autoprune, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        autoprune.serach  # noqa: B018
    assert isinstance(Allocation({"a": 1}), dict) is False
    assert isinstance(task, SimpleTask)
    assert isinstance(tiny(), nn.Module)


def test_every_error_class_is_public() -> None:
    classes = {name for name, found in vars(errors).items() if getattr(found, "__module__", "") == errors.__name__}
    kinds = {name: getattr(errors, name) for name in classes if isinstance(getattr(errors, name), type)}
    classes = {name for name, kind in kinds.items() if issubclass(kind, errors.AutopruneError)}
    assert "UserError" in classes
    assert classes - set(autoprune.__all__) == set()
    assert all(getattr(autoprune, name) is getattr(errors, name) for name in classes)


IMPORTS = textwrap.dedent(
    """
    import sys
    import autoprune
    from tests.user_tasks import faulty, task, tiny

    settings = {"trials": 3, "sensitivity__levels": 2, "track__enabled": False, "progress": False}
    autoprune.search(tiny(), task, "flops=0.6", searcher=sys.argv[1], output="run", **settings)
    print(*{name.partition(".")[0] for name in sys.modules})
    """
)


@pytest.mark.parametrize(("searcher", "used"), rest_slow([("auto", {"scipy"}), ("tpe", {"optuna"}), ("random", set())]))
def test_a_search_imports_no_library_that_it_does_not_use(workdir: Path, searcher: str, used: set[str]) -> None:
    """Matplotlib draws the pictures of a run, and is always used."""
    program = IMPORTS.replace("sys.argv[1]", repr(searcher))
    loaded = set(fresh_process(program, workdir, {"PYTHONPATH": str(REPOSITORY)}).split())
    heavy = {"ray", "mlflow", "optuna", "cmaes", "sklearn", "scipy", "pandas", "pyarrow", "sqlalchemy", "onnx"}
    assert loaded & heavy == used

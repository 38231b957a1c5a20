"""autoprune from Python, as the README shows it."""

from __future__ import annotations

import copy
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

import autoprune
from autoprune import Allocation, SimpleTask, errors
from autoprune.core.recipe import Recipe
from autoprune.errors import UserError
from tests.evaluation.test_evaluator import HALF
from tests.journeys import Cli, fresh_process, history_of
from tests.repository import REPOSITORY
from tests.tiers import rest_slow
from tests.user_tasks import task, tiny

QUICK = {"trials": 3, "sensitivity__levels": 2, "track__enabled": False, "progress": False}
IMAGES = torch.rand(5, 1, 8, 8)

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
        ({"serach__trials": 3}, "unknown key"),
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
    from tests.user_tasks import task, tiny

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

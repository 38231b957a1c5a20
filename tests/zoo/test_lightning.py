"""A `LightningModule` with its data module as a task."""

from __future__ import annotations

import copy
import runpy
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autoprune
from autoprune.core.recipe import TrainingPlan
from autoprune.errors import TaskError
from autoprune.tasks.adapters.lightning import from_module
from autoprune.tasks.base import Hook
from autoprune.tasks.training.distillation import distillation
from autoprune.tasks.training.loop import seeded
from tests.repository import REPOSITORY
from tests.user_tasks import data
from tests.zoo.networks.libraries import library

pytestmark = pytest.mark.slow
PACKAGES = ("lightning.pytorch", "pytorch_lightning")


@cache
def module_class(package: str = "lightning.pytorch") -> Any:
    lightning = library(package)

    class Quarters(lightning.LightningModule):  # type: ignore[misc, name-defined]
        """Logs, draws dropout, and weighs the loss if it is told to."""

        def __init__(self, weight: float = 1.0) -> None:
            super().__init__()
            self.save_hyperparameters()
            with seeded(3):
                self.model = nn.Sequential(
                    nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Dropout(0.1),
                    nn.Flatten(), nn.Linear(128, 4),
                )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)  # type: ignore[no-any-return]

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            loss = self.hparams.weight * F.cross_entropy(self(x), y)
            self.log("train_loss", loss, prog_bar=True)
            self.log_dict({"step": float(self.global_step)})
            return {"loss": loss}

        def configure_optimizers(self) -> Any:
            raise AssertionError("the optimizer is the plan's")

    return Quarters


@cache
def data_class(package: str = "lightning.pytorch") -> Any:
    lightning = library(package)

    class Pictures(lightning.LightningDataModule):  # type: ignore[misc, name-defined]
        def setup(self, stage: str) -> None:
            if stage == "fit":
                self.fitted, self.judged = data(0, 65), data(1, 64)

        def train_dataloader(self) -> Any:
            return DataLoader(self.fitted, 16, shuffle=True)

        def val_dataloader(self) -> Any:
            return DataLoader(self.judged, 32)

    return Pictures


@pytest.mark.parametrize("package", PACKAGES)
def test_a_search_from_three_lines(package: str, tmp_path: Path) -> None:
    task = from_module(module_class(package), data_class(package)())
    model = task.network()
    task.train(model, TrainingPlan(epochs=8, rate=0.1))
    found = autoprune.search(
        model, task, "flops=0.5", trials=3, output=tmp_path / "run", progress=False, track__enabled=False,
        evaluation__finetune={"epochs": 1, "rate": 0.02, "distill": 0.5},
    )  # fmt: skip
    assert task.name == "Quarters"
    assert isinstance(found.network, module_class(package))
    assert found.network.model[0].out_channels < 8 or found.network.model[3].out_channels < 8
    assert not {"log", "log_dict"} & {*vars(found.network)}


def test_it_trains_by_training_step_as_the_loop_would_by_the_same_loss() -> None:
    plan = TrainingPlan(epochs=2, rate=0.05, accumulate=2)
    found = []
    for task in (
        from_module(module_class(), data_class()),
        autoprune.SimpleTask(module_class(), _loader(), _loader()),
    ):
        model, losses = task.network(), []
        task.train(model, plan, [Hook(after_step=lambda *values, into=losses: into.append(values[-1]))])
        assert not model.training
        found.append((losses, [parameter.detach() for parameter in model.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(one, other) for one, other in zip(found[0][1], found[1][1], strict=True))


def _loader() -> DataLoader[Any]:
    return DataLoader(data(0, 65), 16, shuffle=True)


def test_a_trained_module_is_copied_wherever_a_network_is_built() -> None:
    module = module_class()()
    nn.init.ones_(module.model[7].bias)
    task = from_module(module, data_class())
    first, second = task.network(), task.network()
    assert first is not second
    assert first.model[7].bias.sum() == 4
    task.train(first, TrainingPlan(steps=1))
    assert module.model[7].bias.sum() == 4


def test_a_part_may_be_the_network() -> None:
    task = from_module(module_class(), data_class(), part="model")
    network = task.network()
    assert type(network) is nn.Sequential
    before = copy.deepcopy(network.state_dict())
    seen: list[Any] = []
    watch = Hook(loss_term=lambda network, inputs, outputs: seen.append(outputs.shape))
    task.train(network, TrainingPlan(steps=2), [watch, distillation(network, 4.0, 0.5)])
    assert seen == [(16, 4)] * 2
    assert not torch.equal(before["7.weight"], network.state_dict()["7.weight"])
    with pytest.raises(TaskError, match="Quarters has no network 'body'"):
        from_module(module_class(), data_class(), part="body")


def test_outputs_are_computed_for_loss_terms_where_training_step_goes_around_the_forward() -> None:
    class Around(module_class()):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0]), batch[1])

    task, seen = from_module(Around, data_class()), []
    task.train(task.network(), TrainingPlan(steps=1), [Hook(loss_term=lambda _, __, outputs: seen.append(outputs))])
    assert seen[0].shape == (16, 4)


def test_samples_are_judged_by_the_loss_of_training_step_or_by_one_that_is_given() -> None:
    twice = partial(module_class(), 2.0)
    with pytest.raises(
        TaskError, match=r"training_step gives \S+ for a batch for which the default loss is \S+; pass loss="
    ):
        from_module(twice, data_class())
    task = from_module(twice, data_class(), loss=F.cross_entropy, name="twice")
    assert (task.name, task.loss) == ("twice", F.cross_entropy)

    class Numbers(module_class()):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.mse_loss(self(batch[0]).sum(1), batch[1].float())

    with pytest.raises(TaskError, match="pass loss="):
        from_module(Numbers, data_class(), targets=lambda batch: batch[1].float())


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda self, batch, number: None, "training_step gives no loss for batch 0"),
        (lambda self, batch, number: self.trainer.world_size, "training_step uses self.trainer, and there is none"),
        (
            lambda self, batch, number: self(batch[0]),
            r"loss of \S+training_step should be a scalar, .* shape \[16, 4\]",
        ),
    ],
)
def test_a_training_step_that_cannot_be_trained_by_is_named(step: Any, message: str) -> None:
    kind = type("Other", (module_class(),), {"training_step": step})
    with pytest.raises(TaskError, match=message):
        from_module(kind, data_class())


def test_what_is_no_module_or_has_no_data_is_refused() -> None:
    lightning = library("lightning.pytorch")
    with pytest.raises(TaskError, match="takes a LightningModule, or its class, but was given a Linear"):
        from_module(nn.Linear(1, 1), data_class())
    with pytest.raises(TaskError, match="Quarters gives no train_data and no validation_data; write its"):
        from_module(module_class())
    with pytest.raises(TaskError, match="datamodule cannot be built without arguments"):
        from_module(module_class(), type("Wanting", (data_class(),), {"__init__": lambda self, folder: None}))
    several = type("Several", (data_class(),), {"val_dataloader": lambda self: [_loader(), _loader()]})
    with pytest.raises(TaskError, match=r"Several\.val_dataloader gives several loaders"):
        from_module(module_class(), several)
    manual = type("Manual", (module_class(),), {"automatic_optimization": property(lambda self: False)})
    with pytest.raises(TaskError, match="Manual optimizes by itself"):
        from_module(manual, data_class())
    sets = TensorDataset(*data(0, 16).tensors), TensorDataset(*data(1, 16).tensors)
    ready = lightning.LightningDataModule.from_datasets(*sets, batch_size=8)
    assert len(list(from_module(module_class(), ready).batches("validation", 1))) == 2


def test_the_example_is_searched_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library("lightning")
    monkeypatch.syspath_prepend(REPOSITORY / "examples")
    task = runpy.run_path(str(REPOSITORY / "examples" / "lightning_task.py"))["task"]
    model = task.network()
    task.train(model, TrainingPlan(epochs=2, rate=0.1))
    found = autoprune.search(
        model, task, "flops=0.5", trials=1, output=tmp_path / "run", progress=False, track__enabled=False
    )
    assert found.allocation

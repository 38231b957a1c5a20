"""Hugging Face's Trainer as the training of a task."""

from __future__ import annotations

import copy
import random
import runpy
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import autoprune
from autoprune.core.recipe import TrainingPlan
from autoprune.errors import Diverged
from autoprune.tasks.adapters.transformers_trainer import trainer_training
from autoprune.tasks.base import Hook
from autoprune.tasks.simple import SimpleTask
from autoprune.tasks.training.loop import seeded
from autoprune.tasks.training.optimizers import rate_of
from autoprune.tasks.training.snapshot import Snapshot, checkpointing, resume
from tests.repository import REPOSITORY
from tests.zoo.networks.libraries import library

pytestmark = pytest.mark.slow


@cache
def transformers() -> Any:
    return library("transformers")


class Texts(Dataset[dict[str, Any]]):
    """Sentences of 6 tokens; which of two tokens comes more often is the class."""

    def __init__(self, count: int, seed: int) -> None:
        self.tokens = torch.randint(2, 4, (count, 6), generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.tokens[index], "labels": int((self.tokens[index] == 2).sum() > 3)}


def network(dropout: float = 0.1) -> nn.Module:
    config = transformers().BertConfig(
        vocab_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=6, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    with seeded(0):
        return transformers().BertForSequenceClassification(config)  # type: ignore[no-any-return]


def task_of(make: Any = None, args: Any = None) -> SimpleTask:
    training = trainer_training(make or transformers().Trainer, args)
    return SimpleTask(network, Texts(44, 0), Texts(40, 1), training=training)


PLAN = TrainingPlan(epochs=2, rate=0.01, batch_size=8, optimizer="adamw")  # 6 batches a pass, the last of 4


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def events(into: list[object]) -> Hook:
    kept: list[torch.optim.Optimizer] = []

    def on_start(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        kept.append(optimizer)
        into.append(("start", steps))

    def after_step(network: nn.Module, step: int, steps: int, loss: float) -> None:
        assert network.training
        into.append(("step", step, steps, round(rate_of(kept[0]), 6)))

    return Hook(
        on_start=on_start,
        after_step=after_step,
        loss_term=lambda network, inputs, outputs: into.append(("term", inputs.samples, *outputs.logits.shape)),
        after_backward=lambda network, step: into.append(
            ("backward", step, network.classifier.weight.grad is not None)
        ),
        after_epoch=lambda network, epoch: into.append(("epoch", epoch)),
        at_rest=lambda network, step, steps: into.append(("rest", step)),
    )


@pytest.mark.parametrize("accumulate", [1, 4])
def test_events_steps_and_rates_are_those_of_the_plan(accumulate: int) -> None:
    found: list[Any] = []
    plan = TrainingPlan(epochs=1.5, rate=0.01, batch_size=8, schedule="steps", milestones=(0.5,), accumulate=accumulate)
    task_of().train(network(), plan, [events(found)])
    steps, sizes = (9, [[8]] * 5 + [[4]] + [[8]] * 3) if accumulate == 1 else (3, [[8] * 4, [8, 4], [8] * 4])
    expected: list[Any] = [("start", steps)]
    for step in range(1, steps + 1):
        expected += [("term", size, size, 2) for size in sizes[step - 1]]
        expected += [("backward", step, True), ("step", step, steps, 0.01 if 2 * (step - 1) < steps else 0.001)]
        expected += [("epoch", 1)] * (step == (6 if accumulate == 1 else 2)) + [("rest", step)]
    assert found == expected


def test_the_same_plan_trains_the_same_weights_and_touches_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        random.seed(noise)
        np.random.seed(noise)  # noqa: NPY002
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        made = network()
        with torch.no_grad():
            task_of().train(made, PLAN)
        after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        assert torch.equal(before[0], after[0])
        assert before[1:] == after[1:]
        assert not made.training
        assert "forward" not in vars(made)
        found.append(weights(made))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(found[0], weights(network()), strict=True))
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("killed_after", [2, 6, 7])
def test_training_that_is_resumed_ends_as_the_unbroken_one(killed_after: int) -> None:
    """Step 6 ends a pass; dropout draws at every step."""
    taken: list[Snapshot] = []
    whole = network()
    task_of().train(whole, PLAN, [checkpointing(taken.append, 1)])
    snapshot = taken[killed_after - 1]
    fresh = network().requires_grad_(True)
    torch.manual_seed(5)
    task_of().train(fresh, snapshot.remaining(PLAN), [resume(snapshot), checkpointing(taken.append, 1)])
    assert all(torch.equal(one, other) for one, other in zip(weights(fresh), weights(whole), strict=True))
    assert [each.step for each in taken[12:]] == list(range(killed_after + 1, 13))


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("counts_items", [False, True])
def test_a_loss_term_weighs_the_same_however_the_loss_is_averaged(accumulate: int, counts_items: bool) -> None:
    """The loss itself has no gradient by the classifier's bias, which moves by the term alone."""

    class Flat(transformers().Trainer):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.model_accepts_loss_kwargs = counts_items

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            outputs = model(input_ids=inputs["input_ids"])
            loss = 0 * outputs.logits.sum()
            return (loss, outputs) if return_outputs else loss

    made, losses = network(), []
    plan = TrainingPlan(steps=2, rate=0.1, schedule="constant", batch_size=8, momentum=0, accumulate=accumulate)
    before = made.classifier.bias.detach().clone()
    term = Hook(loss_term=lambda network, *_: 3 * network.classifier.bias.sum() + 1)
    task_of(Flat).train(made, plan, [term, Hook(after_step=lambda *values: losses.append(values[-1]))])
    torch.testing.assert_close(before - made.classifier.bias, torch.full((2,), 2 * 0.1 * 3.0))
    assert losses[0] == pytest.approx(1 + 3 * float(before.sum()), abs=1e-5)


def test_precision_and_clipping_are_those_of_the_plan() -> None:
    kinds: set[torch.dtype] = set()
    seen: list[float] = []

    def after_backward(network: nn.Module, step: int) -> None:
        seen.append(float(torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])))

    made = network()
    made.classifier.register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
    plan = TrainingPlan(steps=2, rate=0.01, batch_size=8, precision="bf16", clip_norm=0.001)
    task_of().train(made, plan, [Hook(after_backward=after_backward)])
    assert kinds == {torch.bfloat16}
    assert max(seen) == pytest.approx(0.001, rel=0.01)
    assert "forward" not in vars(made)
    copy.deepcopy(made)(torch.zeros(1, 6, dtype=torch.int64))


def test_a_trainer_of_ones_own_brings_collator_data_and_arguments(tmp_path: Path) -> None:
    seen: list[Any] = []

    def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        seen.append(len(samples))
        return {name: torch.stack([torch.as_tensor(each[name]) for each in samples]) for name in samples[0]}

    args = transformers().TrainingArguments(
        output_dir=tmp_path / "out", label_smoothing_factor=0.5, save_strategy="epoch", logging_steps=1
    )
    make = partial(transformers().Trainer, data_collator=collate, train_dataset=Texts(10, 3))
    losses: list[float] = []
    watch = Hook(after_step=lambda *values: losses.append(values[-1]))
    task_of(make, args).train(network(0.0), TrainingPlan(steps=2, batch_size=5), [watch])
    assert seen == [5, 5]
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    class Broken(transformers().Trainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
            outputs = model(**inputs)
            return (outputs.loss * float("nan"), outputs) if return_outputs else outputs.loss

    with pytest.raises(Diverged, match="the training loss is nan at step 1"):
        task_of(Broken).train(network(), PLAN)


def test_candidates_of_the_examples_search_are_trained_by_it_and_stay_pruned(tmp_path: Path) -> None:
    transformers()
    task = runpy.run_path(str(REPOSITORY / "examples" / "trainer_task.py"))["task"]
    model = task.network()
    task.train(model, TrainingPlan(epochs=4, rate=0.003, batch_size=32, optimizer="adamw"))
    found = autoprune.search(
        model, task, "params=0.7", trials=2, output=tmp_path / "run", progress=False, track__enabled=False,
        evaluation__finetune={"epochs": 1, "batch_size": 32, "distill": 0.5}, scoring__pattern="element",
    )  # fmt: skip
    zeros = sum(int((parameter == 0).sum()) for parameter in found.network.parameters())
    assert zeros > 0.2 * sum(parameter.numel() for parameter in found.network.parameters())

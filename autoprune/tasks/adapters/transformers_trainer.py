"""Hugging Face's `Trainer` as the training of a task."""

from __future__ import annotations

import contextlib
import json
import math
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.core.recipe import TrainingPlan
from autoprune.errors import Diverged
from autoprune.graph.inputs import ModelInputs
from autoprune.tasks.adapters.extras import import_extra
from autoprune.tasks.base import Hook, Task, together
from autoprune.tasks.training.computing import check_precision
from autoprune.tasks.training.loop import check_loss, device_of, seeded
from autoprune.tasks.training.optimizers import build_optimizer, rate_at, rate_of, set_rate, share_state
from autoprune.tasks.training.passes import count_steps

Training = Callable[[nn.Module, Task, TrainingPlan, Sequence[Hook]], None]
"""Trains a network in place by the plan, calling the hooks; see `SimpleTask`."""

_QUIET = {
    "save_strategy": "no", "eval_strategy": "no", "logging_strategy": "no", "report_to": [], "disable_tqdm": True,
    "load_best_model_at_end": False, "push_to_hub": False, "auto_find_batch_size": False,
}  # fmt: skip
"""What of a Trainer's own records and choices is off: they are autoprune's, one for each of many networks."""


def trainer_training(make_trainer: Callable[..., Any], args: Any = None) -> Training:
    """Returns the training of a task by a `Trainer`, for `SimpleTask(..., training=trainer_training(Trainer))`.

    Length, batch size, rate and its schedule, optimizer, accumulation, clipping, precision and seed are those of the
    plan; data, collator, loss and callbacks are the Trainer's. Hooks are called from a callback and inside
    `compute_loss`; they see gradients that are clipped already. Batches are not joined where one sample is left over.

    Args:
        make_trainer: `Trainer`, a subclass, or what else takes `model=` and `args=` and returns a Trainer
            (`functools.partial(Trainer, data_collator=collate)`). One without `train_dataset` trains on the task's
            `train_data`.
        args: `TrainingArguments` that say the rest; None for theirs.

    Raises:
        UserError: transformers or accelerate is not installed.
    """
    transformers = import_extra("transformers", "transformers")
    import_extra("accelerate", "transformers")

    def train(network: nn.Module, task: Task, plan: TrainingPlan, hooks: Sequence[Hook] = ()) -> None:
        device, steps = device_of(network), count_steps(task, plan, network)
        check_precision(plan, network, device)
        with _states_kept(plan.seed, device), _forward_kept(network), tempfile.TemporaryDirectory() as folder:
            base = transformers.TrainingArguments(output_dir=folder) if args is None else args
            arguments = replace(base, **_of_plan(plan, steps, device), **_QUIET, output_dir=folder)
            arguments._n_gpu = min(arguments.n_gpu, 1)  # else the network would be spread over all of them
            trainer = make_trainer(model=network, args=arguments)
            if trainer.train_dataset is None:
                trainer.train_dataset = getattr(task, "train_data", None)
            _Following(trainer, network, plan, steps, together(hooks)).train(Path(folder))
            network.to(device).eval()

    return train


def _of_plan(plan: TrainingPlan, steps: int, device: torch.device) -> dict[str, Any]:
    """Returns the `TrainingArguments` that say what the plan says; its optimizer is built apart."""
    return {
        "max_steps": steps,
        "per_device_train_batch_size": plan.batch_size,
        "gradient_accumulation_steps": plan.accumulate,
        "learning_rate": plan.rate,
        "max_grad_norm": plan.clip_norm or 0.0,
        "bf16": plan.precision == "bf16",
        "fp16": plan.precision == "fp16",
        "seed": plan.seed,
        "data_seed": plan.seed,
        "use_cpu": device.type == "cpu",
    }


class _Following:
    """A Trainer that follows a plan and calls hooks.

    Args:
        trainer: of the network.
        network: that is trained.
        plan: how.
        steps: the number of the last step.
        hook: that is called.
    """

    def __init__(self, trainer: Any, network: nn.Module, plan: TrainingPlan, steps: int, hook: Hook) -> None:
        self._trainer, self._network, self._plan, self._steps, self._hook = trainer, network, plan, steps, hook
        self._optimizer = build_optimizer(network, plan)
        self._loss = 0.0
        self._started = False
        trainer.optimizer = self._optimizer
        trainer.lr_scheduler = SimpleNamespace(step=lambda: None, get_last_lr=lambda: [rate_of(self._optimizer)])
        self._compute_loss, trainer.compute_loss = trainer.compute_loss, self._loss_with_terms
        self._training_step, trainer.training_step = trainer.training_step, self._step_noting_loss
        self._add_callback()

    def train(self, folder: Path) -> None:
        """Trains; a plan that begins later does so from a checkpoint that holds no more than the number of the step."""
        if self._plan.begin == 0:
            self._trainer.train()
            return
        state: dict[str, Any] = {
            "global_step": self._plan.begin,
            "max_steps": self._steps,
            "train_batch_size": self._plan.batch_size,
        }
        state |= dict.fromkeys(("logging_steps", "eval_steps", "save_steps"))  # they are compared unless they are null
        (folder / "trainer_state.json").write_text(json.dumps(state))
        self._trainer._load_from_checkpoint = lambda *_: None  # weights and all else come by the hooks
        self._trainer.train(resume_from_checkpoint=str(folder))

    def _add_callback(self) -> None:
        transformers = import_extra("transformers", "transformers")
        following = self

        class Calls(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
            """Calls the hooks."""

            def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                following.start(at_step=False)

            def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                following.start(at_step=True)
                following.begin_step(state.global_step + 1)

            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                following.end_backward(state.global_step + 1)

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                following.end_step(state.global_step, state.epoch)

        self._trainer.remove_callback(transformers.PrinterCallback)
        self._trainer.remove_callback(transformers.ProgressCallback)
        self._trainer.add_callback(Calls())

    def start(self, at_step: bool) -> None:
        """Calls on_start where an unbroken training would have the random states of that time.

        Inside a pass this is after the loader was begun, which draws a number.
        """
        if not self._started and (at_step or self._plan.begin == 0 or self._ends_epoch()):
            self._started = True
            share_state(self._optimizer, self._trainer.accelerator.scaler)
            self._hook.on_start(self._network, self._optimizer, self._steps)

    def begin_step(self, step: int) -> None:
        """Gives the optimizer the step's rate."""
        set_rate(self._optimizer, rate_at(self._plan, step, self._steps))

    def _ends_epoch(self) -> bool:
        length = math.ceil(len(self._trainer.callback_handler.train_dataloader) / self._plan.accumulate)
        return self._plan.begin % length == 0

    def _loss_with_terms(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        given = ModelInputs.of(dict(inputs)) if self._hook.acts_at("loss_term") else None
        loss, outputs = self._compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        check_loss(loss, f"the loss of {type(self._trainer).__name__}")
        term = None if given is None else self._hook.loss_term(self._network, given, outputs)
        if term is not None:
            check_loss(term, "a hook's loss term", needs_gradient=False)
            loss = loss + (
                term / self._trainer.current_gradient_accumulation_steps if self._scaled(num_items_in_batch) else term
            )
        return (loss, outputs) if return_outputs else loss

    def _scaled(self, num_items: Any) -> bool:
        """Returns whether the Trainer takes a loss as one that is averaged over the accumulated batches already."""
        said: bool | None = getattr(self._trainer, "loss_is_scaled_for_ga", None)
        by_items = self._trainer.model_accepts_loss_kwargs and num_items is not None
        return (by_items or self._trainer.compute_loss_func is not None) if said is None else said

    def _step_noting_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = self._training_step(*args, **kwargs)
        self._loss += float(loss)
        if not math.isfinite(self._loss):
            step = self._trainer.state.global_step + 1
            raise Diverged(f"the training loss is {self._loss} at step {step}; lower the rate, or check the data")
        return loss

    def end_backward(self, step: int) -> None:
        """Calls after_backward with gradients that are not scaled."""
        if self._plan.precision == "fp16" and self._plan.clip_norm is None:  # else clipping has done it
            self._trainer.accelerator.unscale_gradients()
        self._hook.after_backward(self._network, step)

    def end_step(self, step: int, epoch: float) -> None:
        """Calls the events after a step."""
        loss, self._loss = self._loss, 0.0
        self._hook.after_step(self._network, step, self._steps, loss)
        if abs(epoch - round(epoch)) < 1e-9:
            self._hook.after_epoch(self._network, round(epoch))
        self._hook.at_rest(self._network, step, self._steps)


@contextlib.contextmanager
def _states_kept(seed: int, device: torch.device) -> Iterator[None]:
    """Keeps the random states of Python, NumPy and torch, which a Trainer seeds."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  # it is the legacy one that is seeded
    try:
        with seeded(seed, device):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


@contextlib.contextmanager
def _forward_kept(network: nn.Module) -> Iterator[None]:
    """Takes off what mixed precision puts around the network's forward."""
    held = vars(network)
    before: dict[str, Any] = {name: held[name] for name in ("forward", "_original_forward") if name in held}
    try:
        yield
    finally:
        for name in ("forward", "_original_forward"):
            held.pop(name, None)
        held.update(before)

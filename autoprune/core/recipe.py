"""How networks are trained, and what is done to a candidate besides pruning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, ClassVar, Literal, Self

from autoprune.core.fields import Above0, AtLeast0, BelowOne, Checked, Fault, Positive, UpToOne, Whole, set_fields

FORWARDS_PER_STEP = 3
"""Forward passes that one sample in a training step is worth."""


@dataclass(frozen=True)
class Training(Checked):
    """How long and how fast a network trains: by default SGD with momentum, its rate falling along a cosine.

    Attributes:
        steps: optimizer steps; in their place `epochs`, passes over the training samples, not necessarily whole.
        rate: the highest learning rate; `autoprune.tasks.training.optimizers` says what it is at each step.
        schedule: `cosine` falls to 0 along half a cosine, `steps` falls at the milestones, `constant` does not fall.
        batch_size: samples a batch.
        momentum: of SGD; for Adam and AdamW how fast the mean of the gradients forgets (β₁).
        milestones: for `steps`, ascending: the parts of the run after which the rate is multiplied by `factor`.
        warmup: the part of the run in which the rate first rises linearly to `rate`.
        channels_last: computes with each pixel's channels side by side: a step of ResNet-20 on CIFAR-10 takes about a
            fifth less on one CPU core. The results differ by rounding, and a network that calls `view` on
            `[n, c, h, w]` activations fails.
        accumulate: batches a step, whose gradients are averaged by their samples; the last step of a pass may have
            fewer.
        clip_norm: to which the Euclidean norm of a step's gradient is clipped; None leaves it.
        precision: of the forward pass and the loss: `bf16` and `fp16` by torch's autocast, `fp16` with its scaler of
            gradients and not on a CPU. Weights, gradients and the optimizer stay as the network has them.

    Raises:
        FieldError: values out of range or that contradict each other, all of them named.
    """

    steps: Positive | None = None
    epochs: Above0 | None = None
    rate: Above0 = 0.02
    schedule: Literal["cosine", "constant", "steps"] = "cosine"
    batch_size: Positive = 128
    momentum: BelowOne = 0.9
    weight_decay: AtLeast0 = 5e-4
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    milestones: tuple[float, ...] = ()
    factor: UpToOne = 0.1
    warmup: BelowOne = 0.0
    channels_last: bool = False
    accumulate: Positive = 1
    clip_norm: Above0 | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    needs_length: ClassVar[bool] = True

    def _contradictions(self) -> Iterator[Fault]:
        if self.steps is not None and self.epochs is not None:
            yield (), f"should have steps or epochs but has both ({self.steps} and {self.epochs:g})"
        if self.steps is None and self.epochs is None and self.needs_length:
            yield (), "needs steps or epochs but has neither"
        marks = self.milestones
        if self.schedule == "steps" and not marks:
            yield ("schedule",), "'steps' needs milestones, such as 0.5 and 0.75"
        if self.schedule != "steps" and marks:
            yield ("milestones",), f"belong to the schedule 'steps', but it is {self.schedule!r}"
        if not all(0 < mark < 1 for mark in marks) or any(before >= after for before, after in pairwise(marks)):
            yield ("milestones",), f"should be ascending numbers between 0 and 1 but are {marks}"
        elif marks and marks[0] < self.warmup:
            yield ("milestones",), f"should come after the warm-up ({self.warmup} of the run) but begin at {marks[0]}"

    def in_steps(self, count: Callable[[Training], int]) -> Self:
        """Returns the same with steps in place of epochs.

        Args:
            count: how many steps a training takes whose length is in epochs.
        """
        return self if self.epochs is None else replace(self, steps=count(self), epochs=None)

    def plan(self, seed: int) -> TrainingPlan:
        """Returns the plan of this training for a task."""
        return TrainingPlan(**{each.name: getattr(self, each.name) for each in fields(Training)}, seed=seed)

    def __str__(self) -> str:
        """Returns its length and rate, and what differs from the defaults: `epochs=3.0 rate=0.02 momentum=0.8`."""
        said = [each for each in fields(self) if getattr(self, each.name) != each.default or each.name == "rate"]
        return " ".join(f"{each.name}={getattr(self, each.name)}" for each in said)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields that are set."""
        return asdict(self, dict_factory=set_fields)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Returns the training that `to_json` wrote."""
        return cls(**{**data, "milestones": tuple(data.get("milestones", ()))})


@dataclass(frozen=True)
class TrainingPlan(Training):
    """A training as a task is given it; without a length one pass over the training samples.

    Attributes:
        seed: draws the order and the augmentation of the samples.
        begin: steps that are done already: training goes on with the next one, its rate and its batch. What those steps
            left behind is the caller's to bring: weights, the optimizer's state, random states
            (`autoprune.tasks.training.snapshot` does).
    """

    seed: Whole = 0
    begin: Whole = 0

    needs_length: ClassVar[bool] = False


@dataclass(frozen=True)
class Finetune(Training):
    """A training of a candidate in which what is pruned stays pruned.

    Attributes:
        distill: weight of the divergence from the dense network's outputs beside the task's loss; 0 leaves it out.
        temperature: by which the logits of both are divided for it.
    """

    distill: AtLeast0 = 0.0
    temperature: Above0 = 4.0

    def work(self, macs: int, dense_macs: int) -> int:
        """Returns what the training costs, in multiply-adds.

        With distillation the dense network runs forward on every sample too.

        Args:
            macs: multiply-adds of the network that trains, for one sample.
            dense_macs: those of the dense network.
        """
        assert self.steps is not None, "how many steps they take is known once the task is"
        samples = self.steps * self.accumulate * self.batch_size
        return samples * (FORWARDS_PER_STEP * macs + (dense_macs if self.distill else 0))


@dataclass(frozen=True)
class AdmmTraining(Finetune):
    """A training before pruning that draws the weights to the candidate's allocation (`Admm`).

    It goes without momentum, at a rate that moves the weights as far as 0.02 does with a momentum of 0.9. Each step
    then takes away rho · rate of the distance to the projection, so that few steps between two projections suffice.
    With momentum the weights swing about it, unless 4 · rho · rate ≤ (1 − momentum)², and a projection may meet them on
    the far side; not to swing at 0.9 they would need about 60 steps from one projection to the next. (Digits pruned to
    15 % of the FLOPs, 200 steps: ‖W − Z‖ / ‖W‖ falls from 0.74 to 0.05; with momentum 0.9 to 0.11 at the best rho, to
    0.2 to 0.4 at most others, and at rho 0.01 it grows to 1.3. ResNet-20 to 40 %, 60 steps at rate 0.1: 0.54 to 0.07.)

    Attributes:
        rho: how strongly weights are drawn to their projection.
        frequency: steps between two projections.
    """

    rate: Above0 = 0.2
    momentum: BelowOne = 0.0
    rho: Above0 = 1.0
    frequency: Positive = 10


@dataclass(frozen=True)
class Recipe(Checked):
    """What is done to a candidate besides pruning, in this order: `admm` before it, all else after it.

    Attributes:
        recalibrate: how many training samples re-estimate the batch norm; 0 leaves the statistics as they are.
        augment: whether those samples are augmented as in training.
        reconstruct: how many training samples, not augmented, refit the layers behind what was removed by least
            squares; this takes the place of re-estimation. 0 refits nothing.
        finetune: how it is trained then; None is not at all.
        admm: how its weights are trained towards being pruned; None leaves them as they are.
        consumers_only: whether only the layers that lose inputs are refitted, as in a sweep of single groups.
    """

    recalibrate: Whole = 512
    augment: bool = True
    reconstruct: Whole = 0
    finetune: Finetune | None = None
    admm: AdmmTraining | None = None
    consumers_only: bool = False

    @property
    def trains(self) -> bool:
        """Whether a candidate's weights are trained."""
        return self.finetune is not None or self.admm is not None

    def work(self, macs: int, dense_macs: int, refit_macs: int = 0) -> int:
        """Returns what the recipe of a candidate costs, in multiply-adds.

        ADMM trains the network before it is thinned: in its dense shape also where it starts from a parent, whose lost
        channels are zeros then.

        Args:
            macs: multiply-adds of the candidate's network, for one sample.
            dense_macs: those of the dense network.
            refit_macs: those of reconstruction, for one sample: the dense network once, and the candidate's up to each
                layer that is refitted.
        """
        work = self.reconstruct * refit_macs if self.reconstruct else self.recalibrate * macs
        if self.admm is not None:
            work += self.admm.work(dense_macs, dense_macs)
        if self.finetune is not None:
            work += self.finetune.work(macs, dense_macs)
        return work

    def to_json(self) -> dict[str, Any]:
        """Returns what is done; what is left out is not done."""
        done = {name: value for name, value in vars(self).items() if value or name in ("recalibrate", "augment")}
        return {name: value.to_json() if isinstance(value, Training) else value for name, value in done.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        """Returns the recipe that `to_json` wrote."""
        kinds: dict[str, type[Training]] = {"finetune": Finetune, "admm": AdmmTraining}
        trainings = {name: kind.from_json(data[name]) for name, kind in kinds.items() if data.get(name)}
        return cls(**{**data, **trainings})


@dataclass(frozen=True)
class Rounds(Checked):
    """The settings of the searchers that work in rounds, each from the weights that the one before left.

    Attributes:
        count: rounds from the dense network to the budget; None leaves it to the searcher.
        by: how `netadapt` picks a round's winner: by the objective's rise per cost saved, or by the objective alone.
        probes: candidates that `autocompress` anneals over in a round.
        finetune: the short training that ends each step; None leaves every candidate with the experiment's own recipe.
        admm: the training by which `autocompress` draws the weights to the allocation that a round found.
    """

    count: Positive | None = None
    by: Literal["ratio", "value"] = "ratio"
    probes: Positive = 20
    finetune: Finetune | None = field(default_factory=lambda: Finetune(steps=50, rate=0.01))
    admm: AdmmTraining = field(default_factory=lambda: AdmmTraining(steps=100))

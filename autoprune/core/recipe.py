"""What is done to a candidate besides pruning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

FORWARDS_PER_STEP = 3
"""Forward passes that one sample in a training step is worth."""


@dataclass(frozen=True)
class Training:
    """A short training of a candidate, with the fields of the same names in `TrainingPlan`.

    Attributes:
        steps: optimizer steps.
        schedule: how the rate goes on from `rate`: `cosine` (down to 0) or `constant`.
        batch_size: samples a step.
        distill: weight of the divergence from the dense network's outputs beside the task's loss; 0 leaves it out.
        temperature: by which the logits of both are divided for it.
    """

    steps: int
    rate: float = 0.02
    schedule: Literal["cosine", "constant"] = "cosine"
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    distill: float = 0.0
    temperature: float = 4.0

    def work(self, macs: int, dense_macs: int) -> int:
        """Returns what the training costs, in multiply-adds.

        With distillation the dense network runs forward on every sample too.

        Args:
            macs: multiply-adds of the network that trains, for one sample.
            dense_macs: those of the dense network.
        """
        return self.steps * self.batch_size * (FORWARDS_PER_STEP * macs + (dense_macs if self.distill else 0))


DISTILLATION = ("distill", "temperature")
"""The fields of a training that no `TrainingPlan` has."""


@dataclass(frozen=True)
class Finetune(Training):
    """A training after pruning; what is pruned stays pruned."""


@dataclass(frozen=True)
class AdmmTraining(Training):
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

    rate: float = 0.2
    momentum: float = 0.0
    rho: float = 1.0
    frequency: int = 10


@dataclass(frozen=True)
class Recipe:
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

    recalibrate: int = 512
    augment: bool = True
    reconstruct: int = 0
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
        """Without what is not done and earlier releases did not know, so that their records compare equal."""
        later = ("reconstruct", "finetune", "admm", "consumers_only")
        return {name: setting for name, setting in asdict(self).items() if name not in later or setting}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Recipe:
        finetune, admm = data.get("finetune"), data.get("admm")
        trainings = {"finetune": finetune and Finetune(**finetune), "admm": admm and AdmmTraining(**admm)}
        return cls(**{**data, **trainings})


@dataclass(frozen=True)
class Rounds:
    """The settings of the searchers that work in rounds, each from the weights that the one before left.

    Attributes:
        count: rounds from the dense network to the budget; None leaves it to the searcher.
        by: how `netadapt` picks a round's winner: by the objective's rise per cost saved, or by the objective alone.
        probes: candidates that `autocompress` anneals over in a round.
        finetune: the short training that ends each step; None leaves every candidate with the experiment's own recipe.
        admm: the training by which `autocompress` draws the weights to the allocation that a round found.
    """

    count: int | None = None
    by: Literal["ratio", "value"] = "ratio"
    probes: int = 20
    finetune: Finetune | None = field(default_factory=lambda: Finetune(steps=50, rate=0.01))
    admm: AdmmTraining = field(default_factory=lambda: AdmmTraining(steps=100))

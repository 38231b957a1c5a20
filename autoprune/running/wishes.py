"""What is wanted of a network beyond what its search did to it, and doing it: refitting, training, judging."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autoprune.core.recipe import DISTILLATION, Recipe, Training
from autoprune.core.trial import Candidate
from autoprune.evaluation.building import Built
from autoprune.evaluation.evaluator import Evaluator
from autoprune.running.applied import Applied
from autoprune.running.progress import Display, training_progress
from autoprune.running.setup import Setup
from autoprune.tasks.base import TrainingPlan
from autoprune.tasks.distillation import distillation


@dataclass(frozen=True)
class Wishes:
    """What is wanted otherwise than the search had it.

    Attributes:
        plan: fields of a `TrainingPlan`, and of the distillation, by which the network is trained further; None leaves
            it.
        force: whether other weights than those that were searched on may be pruned.
        reconstruct: how many training images refit every layer behind what is removed, before any training; 0 leaves
            it to the recipe.
    """

    plan: Mapping[str, Any] | None = None
    force: bool = False
    reconstruct: int = 0

    def of(self, candidate: Candidate) -> Candidate:
        """A candidate with what is wanted otherwise of its recipe."""
        if not self.reconstruct:
            return candidate
        settings = {name: value for name, value in candidate.settings.items() if name != "reconstruct"}
        return replace(candidate, recipe=replace(candidate.recipe, reconstruct=self.reconstruct), settings=settings)


def made(evaluator: Evaluator, candidate: Candidate, wishes: Wishes) -> Built:
    """The candidate's network, as it is wanted.

    Raises:
        UserError: the data are missing or damaged, or its pruner leaves nothing to reconstruct.
    """
    wanted = wishes.of(candidate)
    evaluator.warm_up(wanted.recipe)
    return evaluator.make(wanted)


def how(evaluator: Evaluator, wishes: Wishes) -> str:
    """In words, how it was made."""
    if not wishes.reconstruct:
        return "pruned anew"
    images = evaluator.images.used(Recipe(reconstruct=wishes.reconstruct)).reconstruct
    return f"pruned anew, reconstructed on {images} training images"


def finished(setup: Setup, evaluator: Evaluator, built: Built, wishes: Wishes, origin: str) -> Applied:
    """A network that was made, trained further if that is wanted, and judged."""
    if wishes.plan is not None:
        return finetuned(setup, evaluator, built, wishes.plan, origin)
    return _judged(setup, evaluator, built, origin)


def finetuned(setup: Setup, evaluator: Evaluator, built: Built, plan: Mapping[str, Any], origin: str) -> Applied:
    """A network trained further, what is pruned of it staying so, and judged.

    Args:
        plan: fields of a `TrainingPlan`, and of the distillation from the dense network.
        origin: where it comes from.
    """
    hooks = [built.held_masks()]
    if "distill" in plan:
        temperature = plan.get("temperature", Training.temperature)
        hooks.insert(0, distillation(setup.subject.network, temperature, plan["distill"]))
    with training_progress(Display(), "fine-tuning") as hook:
        rest = {key: value for key, value in plan.items() if key not in DISTILLATION}
        setup.task.train(built.network, TrainingPlan(**rest), [*hooks, hook])
    settings = " ".join(f"{key}={value}" for key, value in plan.items())
    applied = _judged(setup, evaluator, built, f"{origin}, fine-tuned ({settings})")
    return replace(applied, change="in the search, before the fine-tuning")


def _judged(setup: Setup, evaluator: Evaluator, built: Built, origin: str) -> Applied:
    score = evaluator.judge(built.network, None)
    metrics = {"accuracy": score.accuracy, "loss": score.loss, "images": score.images}
    costs, table, dense = built.costs(), setup.subject.costs, setup.subject.network
    checkpoint = built.checkpoint(metrics, evaluator.judging.identity)
    return Applied(built.network.cpu(), dense, checkpoint, costs, dict(**table.dense()), origin, table.effective)

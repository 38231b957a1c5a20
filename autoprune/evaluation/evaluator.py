"""From a candidate to a trial: prune, thin, apply the recipe, judge."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import accumulate
from pathlib import Path

from torch import nn

from autoprune.core.recipe import Recipe, Training
from autoprune.core.settings import resolved
from autoprune.core.trial import Candidate, Failure, Outcome, Score, Setting, Stopped, Trial
from autoprune.core.work import macs_of, recipe_work
from autoprune.errors import AutopruneError, CheckpointError, TaskError, UserError
from autoprune.evaluation.checkpoint import PrunedCheckpoint, read_checkpoint, rebuild_from, write_checkpoint
from autoprune.evaluation.images import Images, Judging
from autoprune.evaluation.judging import judge, recalibrate
from autoprune.evaluation.outcomes import finite, outcome_of
from autoprune.evaluation.racing import race
from autoprune.evaluation.scoring import ScoringImages
from autoprune.evaluation.scorings import Scorings
from autoprune.evaluation.subject import Subject
from autoprune.graph.groups import Kept
from autoprune.graph.layers import Layer
from autoprune.pruning.masking import Masking
from autoprune.pruning.reconstruction import refit, refitted_layers
from autoprune.tasks.base import Batch, Hook, Split, Task, TrainingPlan
from autoprune.tasks.distillation import distillation

Watch = Callable[[Iterable[Batch]], Iterable[Batch]]
"""Passes batches on, and may show how far they are used."""


def unwatched(batches: Iterable[Batch]) -> Iterable[Batch]:
    """The batches, nothing shown."""
    return batches


class CostMismatch(AutopruneError):
    """The thinned network does not cost what was predicted; a fault of autoprune."""


class Evaluator:
    """Judges candidates of one dense network; data is read once and kept.

    Args:
        scoring: the images that score structures where settings choose another criterion than the subject's.
    """

    def __init__(self, subject: Subject, task: Task, judging: Judging, scoring: ScoringImages | None = None) -> None:
        images = scoring or ScoringImages(task, subject.inputs.device, seed=judging.seed)
        self.scorings = Scorings(subject, images, judging.seed)
        self.subject = subject
        self.task = task
        self.judging = judging
        self.images = Images(task, judging, subject.inputs.device)

    def under(self, settings: Mapping[str, Setting]) -> Evaluator:
        """The same with the scores of the structures that settings choose; itself where they choose its own."""
        subject = self.scorings.subject(settings)
        if subject is self.subject:
            return self
        other = copy.copy(self)
        other.subject = subject
        return other

    def make(self, candidate: Candidate) -> nn.Module:
        """The candidate's network after its recipe, both as its settings say."""
        recipe = resolved(candidate.recipe, candidate.settings)
        return self.under(candidate.settings).build(candidate.allocation, recipe)

    def evaluate(self, candidate: Candidate, keep: bool = True) -> Trial:
        """The candidate's trial. What goes wrong with it is its outcome, a failure; only a disk's trouble is raised.

        Args:
            keep: whether its network is written to the weights' folder.

        Raises:
            OSError: the network cannot be written, or data cannot be read.
        """
        start = time.perf_counter()
        costs: dict[str, int] = {}

        def score() -> Score | Stopped:
            network, chosen = self.make(candidate), self.under(candidate.settings)
            costs.update(chosen._checked_costs(network, candidate))
            found = self._judge(network, candidate)
            if keep and self.judging.weights is not None and isinstance(found, Score) and finite(found):
                chosen.write(network, candidate, found, self.judging.weights / f"{candidate.number}.pt")
            return found

        outcome = outcome_of(score)
        work = self.work(candidate, outcome) if costs else 0
        return Trial(candidate, outcome, costs, time.perf_counter() - start, work=work)

    def _judge(self, network: nn.Module, candidate: Candidate) -> Score | Stopped:
        """A finalist on all images, any other on those that judge candidates, rung by rung if there are any."""
        if candidate.role == "finalist":
            return self.judge(network, None)
        judging, rungs = self.judging, self.images.rungs()
        if not rungs:
            return self.judge(network, judging.images)
        batches = self.images.batches("validation", judging.images)
        taught = self.images.taught(self.subject.network, "validation", judging.images)
        return race(network, self.task, batches, rungs, candidate.bars, judging.objective, taught)

    def work(self, candidate: Candidate, outcome: Outcome) -> int:
        """What an evaluation cost, in multiply-adds; see `autoprune.core.work`."""
        judged = outcome.score if isinstance(outcome, Stopped) else outcome
        images = 0 if isinstance(judged, Failure) else judged.images
        recipe = resolved(candidate.recipe, candidate.settings)
        return self.recipe_work(candidate.allocation, recipe) + images * self.macs(candidate.allocation)

    def recipe_work(self, allocation: Mapping[str, int], recipe: Recipe) -> int:
        """What the recipe of an allocation costs, in multiply-adds."""
        refit_macs = self.refit_macs(allocation) if recipe.reconstruct else 0
        return recipe_work(self.images.used(recipe), self.macs(allocation), refit_macs)

    def refit_macs(self, allocation: Mapping[str, int]) -> int:
        """Multiply-adds of reconstruction for one image.

        The dense network once, and the thinned one up to each layer that is refitted; nothing where none is.
        """
        subject, refitted = self.subject, self._refitted(allocation)
        shares = subject.costs.by_layer("flops", allocation)
        names = [layer.name for layer in subject.graph.layers]
        up_to = dict(zip(names, accumulate(shares.get(name, 0) // 2 for name in names), strict=True))
        return self.macs({}) + sum(up_to[layer.name] for layer in refitted) if refitted else 0

    def count_refitted(self, allocation: Mapping[str, int]) -> int:
        """How many layers reconstruction refits."""
        return len(self._refitted(allocation))

    def _refitted(self, allocation: Mapping[str, int]) -> list[Layer]:
        subject = self.subject
        return refitted_layers(subject.graph, subject.structures.kept(subject.importance, allocation))

    def macs(self, allocation: Mapping[str, int]) -> int:
        """Multiply-adds of one image's forward pass."""
        return macs_of(self.subject.costs, allocation)

    def build(self, allocation: Mapping[str, int], recipe: Recipe) -> nn.Module:
        """The thinned network of an allocation after its recipe, compared with the masked one before that."""
        subject = self.subject
        network = subject.structures.realise(subject.network, subject.importance, allocation, check_on=subject.inputs)
        self._prepare(network, subject.structures.kept(subject.importance, allocation), recipe)
        if recipe.finetune is not None:
            self._train(network, recipe.finetune, [self.held_masks(network, allocation)])
        return network

    def _train(self, network: nn.Module, training: Training, hooks: Sequence[Hook]) -> None:
        """Trains a network in place, taught by the dense one if the training says so."""
        shared = {field.name for field in fields(TrainingPlan)}
        plan = TrainingPlan(**{n: v for n, v in asdict(training).items() if n in shared}, seed=self.judging.seed)
        if training.distill:
            hooks = [distillation(self.subject.network, training.temperature, training.distill), *hooks]
        self.task.train(network, plan, hooks)

    def _prepare(self, network: nn.Module, kept: Kept, recipe: Recipe) -> None:
        """Refits what lost inputs, else re-estimates the batch norm; in place.

        Both is worse than refitting alone: refitted layers give the dense network's outputs again, to which its own
        statistics belong, and weights fitted behind one set of statistics do not suit another. (ResNet-20 at half of
        its FLOPs: loss 0.98 refitted, 1.31 re-estimated after that, and far worse re-estimated before it.)
        """
        if recipe.reconstruct:
            refit(network, self.subject.network, self.subject.graph, kept, self.images.for_recipe(recipe))
        elif recipe.recalibrate:
            recalibrate(network, self.images.for_recipe(recipe))

    def warm_up(self, recipe: Recipe) -> None:
        """Reads the data that every candidate needs.

        Raises:
            UserError: they are missing or damaged, or the recipe does not suit the pruner.
        """
        pattern = self.subject.pruner.pattern
        if recipe.reconstruct and not pattern.coupled:
            raise UserError(
                f"evaluation.reconstruct refits the users of channels that were removed; pattern {pattern.name!r} "
                "removes none: leave it out"
            )
        self.images.batches("validation", self.judging.images)
        if recipe.reconstruct or recipe.recalibrate:
            self.images.for_recipe(recipe)

    def judge(
        self,
        network: nn.Module,
        images: int | None = None,
        split: Split = "validation",
        watch: Watch = unwatched,
    ) -> Score:
        """Loss and accuracy, and the divergence if it is the objective, on the first images of a split (None: all)."""
        batches = self.images.batches(split, images)
        return judge(network, self.task, watch(batches), taught=self.images.taught(self.subject.network, split, images))

    def write(self, network: nn.Module, candidate: Candidate, score: Score, path: Path) -> None:
        """Writes a trial's network as a pruned checkpoint."""
        metrics = {"accuracy": score.accuracy, "loss": score.loss, "images": score.images}
        write_checkpoint(path, self.pruned(network, candidate.allocation, metrics))

    def restore(self, path: Path) -> nn.Module:
        """The network that `write` wrote, on the device where candidates are judged.

        Raises:
            CheckpointError: the file is damaged or not of this network.
        """
        checkpoint = read_checkpoint(path)
        if checkpoint is None:
            raise CheckpointError(f"{path} is no pruned checkpoint of autoprune")
        return rebuild_from(self.subject.network, self.subject.graph, checkpoint)

    def pruned(
        self, network: nn.Module, allocation: Mapping[str, int], metrics: Mapping[str, float]
    ) -> PrunedCheckpoint:
        """What is written of a thinned network of this allocation."""
        return PrunedCheckpoint.of(network, self.subject, allocation, metrics, self.judging.identity)

    def measure(self, network: nn.Module, allocation: Mapping[str, int]) -> dict[str, int]:
        """What the network of an allocation costs, counted on itself; *effective* where weights were set to zero."""
        subject = self.subject
        return subject.structures.measure(network, subject.inputs, subject.importance, allocation)

    def held_masks(self, network: nn.Module, allocation: Mapping[str, int]) -> Hook:
        """Keeps the weights at zero that an allocation prunes while its network trains; a thinned one needs nothing."""
        subject = self.subject
        if not subject.costs.effective:
            return Hook()
        masking = Masking(network)
        masking.set("allocation", subject.structures.masks(network, subject.importance, allocation))
        return Hook(after_step=lambda *_: masking.hold())

    def _checked_costs(self, network: nn.Module, candidate: Candidate) -> dict[str, int]:
        counted = self.measure(network, candidate.allocation)
        predicted = self.subject.costs.costs(candidate.allocation)
        if counted != predicted:
            raise CostMismatch(f"the pruned network costs {counted} but {predicted} was predicted")
        return counted


def judge_dense(evaluator: Evaluator, watch: Watch = unwatched) -> Score:
    """The dense network as it is, on the images that judge candidates.

    Raises:
        TaskError: it cannot be judged, so that no candidate could be.
    """
    network, images = evaluator.subject.network, evaluator.judging.images
    outcome = outcome_of(lambda: evaluator.judge(network, images, watch=watch))
    if isinstance(outcome, Failure):
        raise TaskError(
            f"the dense network cannot be judged on the validation images ({outcome.reason}); "
            "check the checkpoint, the data, the loss and the metric"
        )
    return outcome

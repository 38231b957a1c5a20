"""From a candidate to a trial: prune, thin, apply the recipe, judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.core.trial import Candidate, Failure, Recipe, Score, Trial
from autoprune.errors import AutopruneError, CheckpointError, TaskError, UserError
from autoprune.evaluation.checkpoint import PrunedCheckpoint, read_checkpoint, rebuild_from, write_checkpoint
from autoprune.evaluation.judging import Batches, judge, recalibrate
from autoprune.evaluation.scoring import ScoringImages
from autoprune.evaluation.subject import Subject
from autoprune.graph.groups import Kept
from autoprune.pruning.masking import Masking
from autoprune.pruning.reconstruction import refit
from autoprune.tasks.base import Batch, Hook, Split, Task

RECALIBRATION_BATCH = 128

Watch = Callable[[Iterable[Batch]], Iterable[Batch]]
"""Passes batches on, and may show how far they are used."""


def unwatched(batches: Iterable[Batch]) -> Iterable[Batch]:
    """The batches, nothing shown."""
    return batches


class CostMismatch(AutopruneError):
    """The thinned network does not cost what was predicted; a fault of autoprune."""


@dataclass(frozen=True)
class Judging:
    """On what candidates are judged.

    Attributes:
        images: validation images; None is all.
        batch: images in one forward pass.
        seed: draws the images that re-estimate the batch norm, the same for every candidate.
        weights: folder where a trial's network is left as `<number>.pt`, or None.
        identity: what is written beside the weights: the model's and the task's name.
    """

    images: int | None = None
    batch: int = 128
    seed: int = 0
    weights: Path | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)


class Evaluator:
    """Judges candidates of one dense network; data is read once and kept."""

    def __init__(self, subject: Subject, task: Task, judging: Judging) -> None:
        self.subject = subject
        self.task = task
        self.judging = judging
        self._loaded: dict[tuple[object, ...], Iterable[Batch]] = {}

    def evaluate(self, candidate: Candidate, keep: bool = True) -> Trial:
        """The candidate's trial. What goes wrong with it is its outcome, a failure; only a disk's trouble is raised.

        Args:
            keep: whether its network is written to the weights' folder.

        Raises:
            OSError: the network cannot be written, or data cannot be read.
        """
        start = time.perf_counter()
        costs: dict[str, int] = {}

        def score() -> Score:
            network = self.build(candidate.allocation, candidate.recipe)
            costs.update(self._checked_costs(network, candidate))
            found = self.judge(network, self.judging.images)
            if keep and self.judging.weights is not None and _finite(found):
                self.write(network, candidate, found, self.judging.weights / f"{candidate.number}.pt")
            return found

        outcome = outcome_of(score)
        return Trial(candidate, outcome, costs, time.perf_counter() - start)

    def build(self, allocation: Mapping[str, int], recipe: Recipe) -> nn.Module:
        """The thinned network of an allocation after its recipe, compared with the masked one before that."""
        subject = self.subject
        network = subject.structures.realise(subject.network, subject.importance, allocation, check_on=subject.inputs)
        self._apply_recipe(network, subject.structures.kept(subject.importance, allocation), recipe)
        return network

    def _apply_recipe(self, network: nn.Module, kept: Kept, recipe: Recipe) -> None:
        """Refits what lost inputs, else re-estimates the batch norm; in place.

        Both is worse than refitting alone: refitted layers give the dense network's outputs again, to which its own
        statistics belong, and weights fitted behind one set of statistics do not suit another. (ResNet-20 at half of
        its FLOPs: loss 0.98 refitted, 1.31 re-estimated after that, and far worse re-estimated before it.)
        """
        if recipe.reconstruct:
            refit(network, self.subject.network, self.subject.graph, kept, self.recipe_batches(recipe))
        elif recipe.recalibrate:
            recalibrate(network, self.recipe_batches(recipe))

    def recipe_batches(self, recipe: Recipe) -> Iterable[Batch]:
        """The training images that the recipe uses: for refitting plain ones where there are any, like those judged."""
        if recipe.reconstruct:
            plain = ScoringImages(self.task, self.subject.inputs.device, seed=self.judging.seed).split
            return self.batches(plain, recipe.reconstruct, RECALIBRATION_BATCH)
        return self.batches("train" if recipe.augment else "plain", recipe.recalibrate, RECALIBRATION_BATCH)

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
        self.batches("validation", self.judging.images, self.judging.batch)
        if recipe.reconstruct or recipe.recalibrate:
            self.recipe_batches(recipe)

    def judges_all(self) -> bool:
        """Whether the images that judge candidates are all the validation images there are."""
        limit = self.judging.images
        if limit is None:
            return True
        more = Batches(self.task, "validation", limit + 1, self.judging.batch, 0, torch.device("cpu"))
        return sum(len(inputs) for inputs, _ in more) <= limit

    def judge(
        self,
        network: nn.Module,
        images: int | None = None,
        split: Split = "validation",
        watch: Watch = unwatched,
    ) -> Score:
        """Loss and accuracy on the first `images` of a split (None: all)."""
        return judge(network, self.task, watch(self.batches(split, images, self.judging.batch)))

    def batches(self, split: Split, images: int | None, batch: int) -> Iterable[Batch]:
        """The first images of a split, kept in memory where they fit."""
        key = (split, images, batch)
        if key not in self._loaded:
            device = self.subject.inputs.device
            self._loaded[key] = Batches(self.task, split, images, batch, self.judging.seed, device).load()
        return self._loaded[key]

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


def outcome_of(judge: Callable[[], Score]) -> Score | Failure:
    """The score that `judge` returns; a failure where it is not a number or something goes wrong.

    Raises:
        OSError: data cannot be read or a file not be written: the run's trouble, not the candidate's.
    """
    try:
        score = judge()
    except (torch.OutOfMemoryError, MemoryError) as fault:
        return Failure("out_of_memory", str(fault))
    except OSError:
        raise
    except Exception as fault:  # the user's network, loss or data may raise anything
        return Failure("exception", f"{type(fault).__name__}: {fault}")
    return score if _finite(score) else Failure("nan", f"loss {score.loss}, accuracy {score.accuracy}")


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


def _finite(score: Score) -> bool:
    return bool(torch.isfinite(torch.tensor([score.loss, score.accuracy])).all())

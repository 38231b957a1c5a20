"""From a candidate to a trial: prune, thin, apply the recipe, judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from pathlib import Path

from torch import nn

from autoprune.core.allocation import Allocation
from autoprune.core.recipe import Recipe
from autoprune.core.settings import resolved
from autoprune.core.trial import Candidate, Failure, Outcome, Score, Stopped, Trial
from autoprune.errors import AutopruneError, CheckpointError, TaskError, UserError
from autoprune.evaluation.candidate_builder import Builder, Built
from autoprune.evaluation.checkpoints.checkpoint import (
    PrunedCheckpoint,
    read_checkpoint,
    rebuild_from,
    write_checkpoint,
)
from autoprune.evaluation.data import EvaluationConfig, EvaluationData
from autoprune.evaluation.early_stopping import evaluate_with_early_stopping
from autoprune.evaluation.metrics import evaluate
from autoprune.evaluation.outcomes import finite, outcome_of
from autoprune.evaluation.parents import Parents, restore_parent
from autoprune.evaluation.prunable_model import PrunableModel, Scorings
from autoprune.evaluation.training_snapshots import Pauses, training_key
from autoprune.graph.layers import Layer
from autoprune.pruning.surgery.reconstruction import refitted_layers
from autoprune.tasks.base import Batch, Split, Task

Watch = Callable[[Iterable[Batch]], Iterable[Batch]]
"""Passes batches on, and may show how far they are used."""


def unwatched(batches: Iterable[Batch]) -> Iterable[Batch]:
    """The batches, nothing shown."""
    return batches


class CostMismatch(AutopruneError):
    """The thinned network does not cost what was predicted; a fault of autoprune."""


class Evaluator:
    """Judges candidates of one dense network; data is read once and kept."""

    def __init__(self, prunable: PrunableModel, task: Task, config: EvaluationConfig) -> None:
        self.prunable = prunable
        self.task = task
        self.config = config
        self.data = EvaluationData(task, config, prunable.inputs.device)
        self._builder = Builder(prunable.network, task, self.data, config.seed)
        self._parents = Parents(prunable, config.weights)
        self._scorings = self._of_parent = Scorings(prunable)

    def evaluate(self, candidate: Candidate, keep: bool = True) -> Trial:
        """The candidate's trial. What goes wrong with it is its outcome, a failure; only a disk's trouble is raised.

        Args:
            keep: whether its network is written to the weights' folder; until then its training leaves snapshots there.

        Raises:
            OSError: the network cannot be written, or data cannot be read.
        """
        start = time.perf_counter()
        costs: dict[str, int] = {}
        folder = self.config.weights if keep else None
        pauses = Pauses() if folder is None else self._pauses(candidate, folder)

        def score() -> Score | Stopped:
            built = self.make(candidate, pauses)
            costs.update(self._checked_costs(built))
            found = self._evaluate_built(built.network, candidate)
            if folder is not None and isinstance(found, Score) and finite(found):
                self._write(built, found, folder / f"{candidate.number}.pt")
            return found

        outcome = outcome_of(score)
        pauses.remove()
        work = self.work(candidate, outcome) if costs else 0
        return Trial(candidate, outcome, costs, time.perf_counter() - start, work=work)

    def _pauses(self, candidate: Candidate, folder: Path) -> Pauses:
        key = training_key(candidate, self.config.seed)
        return Pauses(folder / f"{candidate.number}.training", key, self.config.snapshot_seconds)

    def make(self, candidate: Candidate, pauses: Pauses | None = None) -> Built:
        """The candidate's network after its recipe.

        Raises:
            CheckpointError: its parent's weights are missing, damaged or of another network.
            Diverged: its training came to a loss or weights that are no numbers.
        """
        return self._builder.build(candidate, self._recipe(candidate), self._start(candidate), pauses or Pauses())

    def _recipe(self, candidate: Candidate) -> Recipe:
        """What is done to it besides pruning."""
        return resolved(candidate.recipe, candidate.settings)

    def _start(self, candidate: Candidate) -> PrunableModel:
        """The network that it starts from, with the scores by which it is pruned."""
        start = self._parents.start_of(candidate)
        if start is self.prunable:
            return self._scorings.prunable(candidate.settings)
        if start is not self._of_parent.base:
            self._of_parent = Scorings(start)
        return self._of_parent.prunable(candidate.settings)

    def _evaluate_built(self, network: nn.Module, candidate: Candidate) -> Score | Stopped:
        """A finalist on all samples, any other on those that judge candidates, rung by rung if there are any."""
        if candidate.role == "finalist":
            return self.evaluate_network(network, None)
        config, rungs = self.config, self.data.rungs()
        if not rungs:
            return self.evaluate_network(network, config.samples)
        batches = self.data.batches("validation", config.samples)
        teacher_logits = self.data.teacher_logits(self.prunable.network, "validation", config.samples)
        return evaluate_with_early_stopping(
            network, self.task, batches, rungs, candidate.stop_thresholds, config.objective, teacher_logits
        )

    def work(self, candidate: Candidate, outcome: Outcome) -> int:
        """What an evaluation cost, in multiply-adds."""
        score = outcome.score if isinstance(outcome, Stopped) else outcome
        samples = 0 if isinstance(score, Failure) else score.samples
        work = self.recipe_work(candidate.allocation, self._recipe(candidate))
        return work + samples * self.macs(candidate.allocation)

    def recipe_work(self, allocation: Mapping[str, int], recipe: Recipe) -> int:
        """What the recipe of an allocation costs, in multiply-adds."""
        refit_macs = self.refit_macs(allocation, recipe) if recipe.reconstruct else 0
        return self.data.used(recipe).work(self.macs(allocation), self.macs({}), refit_macs)

    def refit_macs(self, allocation: Mapping[str, int], recipe: Recipe) -> int:
        """Multiply-adds of a recipe's reconstruction for one image.

        The dense network once, and the thinned one up to each layer that is refitted; nothing where none is.
        """
        prunable, refitted = self.prunable, self._refitted(allocation, recipe)
        shares = prunable.costs.by_layer("flops", allocation)
        names = [layer.name for layer in prunable.graph.layers]
        up_to = dict(zip(names, accumulate(shares.get(name, 0) // 2 for name in names), strict=True))
        return self.macs({}) + sum(up_to[layer.name] for layer in refitted) if refitted else 0

    def count_refitted(self, allocation: Mapping[str, int], recipe: Recipe) -> int:
        """How many layers a recipe's reconstruction refits."""
        return len(self._refitted(allocation, recipe))

    def _refitted(self, allocation: Mapping[str, int], recipe: Recipe) -> list[Layer]:
        prunable = self.prunable
        kept = prunable.structures.kept_channels(prunable.importance, allocation)
        return refitted_layers(prunable.graph, kept, consumers_only=recipe.consumers_only)

    def macs(self, allocation: Mapping[str, int]) -> int:
        """Multiply-adds of one image's forward pass."""
        return self.prunable.costs.macs(allocation)

    def build(self, allocation: Mapping[str, int], recipe: Recipe) -> nn.Module:
        """The network of an allocation, pruned from the dense one, after a recipe."""
        return self.make(Candidate(-1, Allocation(allocation), recipe)).network

    def warm_up(self, recipe: Recipe) -> None:
        """Reads the data that every candidate needs.

        Raises:
            UserError: they are missing or damaged, or the recipe does not suit the pruner.
        """
        pattern = self.prunable.pruner.pattern
        if recipe.reconstruct and not pattern.coupled:
            raise UserError(
                f"evaluation.reconstruct refits the users of channels that were removed; pattern {pattern.name!r} "
                "removes none: leave it out"
            )
        self.data.batches("validation", self.config.samples)
        if recipe.reconstruct or recipe.recalibrate:
            self.data.for_recipe(recipe)

    def evaluate_network(
        self,
        network: nn.Module,
        samples: int | None = None,
        split: Split = "validation",
        watch: Watch = unwatched,
    ) -> Score:
        """Loss and accuracy, and the divergence if it is the objective, on the first samples of a split (None: all)."""
        batches = self.data.batches(split, samples)
        return evaluate(
            network,
            self.task,
            watch(batches),
            teacher_logits=self.data.teacher_logits(self.prunable.network, split, samples),
        )

    def _write(self, built: Built, score: Score, path: Path) -> None:
        metrics = {"accuracy": score.accuracy, "loss": score.loss, "samples": score.samples}
        write_checkpoint(path, built.checkpoint(metrics, self.config.identity))

    def network(self, candidate: Candidate) -> nn.Module:
        """The network of a trial's candidate: as it was judged if its weights are kept, else made anew in the same way.

        Raises:
            CheckpointError: its weights are damaged or not of this network.
        """
        path = None if self.config.weights is None else self.config.weights / f"{candidate.number}.pt"
        return self.restore(path) if path is not None and path.is_file() else self.make(candidate).network

    def restore(self, path: Path) -> nn.Module:
        """The network of a trial as it was written, on the device where candidates are judged.

        Raises:
            CheckpointError: the file is damaged or not of this network.
        """
        return rebuild_from(self.prunable.network, self.prunable.graph, _read(path))

    def restore_to_train(self, path: Path) -> Built:
        """The same with what was pruned, so that it can stay so in training.

        Raises:
            CheckpointError: as `restore`.
        """
        checkpoint = _read(path)
        network = rebuild_from(self.prunable.network, self.prunable.graph, checkpoint)
        return Built(network, restore_parent(self.prunable, checkpoint), checkpoint.widths)

    def _checked_costs(self, built: Built) -> dict[str, int]:
        counted = built.costs()
        predicted = self.prunable.costs.costs(built.allocation)
        if counted != predicted:
            raise CostMismatch(f"the pruned network costs {counted} but {predicted} was predicted")
        return counted


def _read(path: Path) -> PrunedCheckpoint:
    checkpoint = read_checkpoint(path)
    if checkpoint is None:
        raise CheckpointError(f"{path} is no pruned checkpoint of autoprune")
    return checkpoint


def evaluate_dense(evaluator: Evaluator, watch: Watch = unwatched) -> Score:
    """The dense network as it is, on the samples that judge candidates.

    Raises:
        TaskError: it cannot be judged, so that no candidate could be.
    """
    network, samples = evaluator.prunable.network, evaluator.config.samples
    outcome = outcome_of(lambda: evaluator.evaluate_network(network, samples, watch=watch))
    if isinstance(outcome, Failure):
        raise TaskError(
            f"the dense network cannot be evaluated on the validation samples ({outcome.reason}); "
            "check the checkpoint, the data, the loss and the metric"
        )
    return outcome

"""From a candidate to a trial: prune, thin, apply the recipe, evaluate."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import nn

from autoprune.core.allocation import Allocation
from autoprune.core.recipe import Recipe
from autoprune.core.settings import resolved
from autoprune.core.trial import Candidate, Failure, Outcome, Score, Stopped, Trial
from autoprune.errors import AutopruneError, CheckpointError, TaskError, UserError
from autoprune.evaluation.candidate_builder import CandidateBuilder, PrunedNetwork
from autoprune.evaluation.checkpoints.checkpoint import (
    PrunedCheckpoint,
    read_checkpoint,
    rebuild_from,
    write_checkpoint,
)
from autoprune.evaluation.data import EvaluationConfig, EvaluationData
from autoprune.evaluation.early_stopping import evaluate_with_early_stopping
from autoprune.evaluation.metrics import check_metrics, evaluate
from autoprune.evaluation.outcomes import is_finite, outcome_of
from autoprune.evaluation.parents import Parents, restore_parent
from autoprune.evaluation.prunable_model import PrunableModel
from autoprune.evaluation.recalibration import estimating_norms
from autoprune.evaluation.training_snapshots import TrainingSnapshots, training_key
from autoprune.evaluation.work_model import WorkModel
from autoprune.tasks.base import Batch, Split, Task

log = logging.getLogger(__name__)

Watch = Callable[[Iterable[Batch]], Iterable[Batch]]
"""Passes batches on, and may show how far they are used."""


class CostMismatch(AutopruneError):
    """A thinned network does not cost what was predicted: a fault of autoprune."""


class Evaluator:
    """Evaluates candidates of one dense network; data is read once and kept.

    Attributes:
        work: what evaluations cost.
    """

    def __init__(self, prunable: PrunableModel, task: Task, config: EvaluationConfig) -> None:
        self.prunable = prunable
        self.task = task
        self.config = config
        estimates = bool(estimating_norms(prunable.network))
        self.data = EvaluationData(task, config, prunable.inputs.device, prunable.channels_last, estimates)
        self.work = WorkModel(prunable, self.data)
        self._builder = CandidateBuilder(prunable.network, task, self.data, config.seed)
        self._parents = Parents(prunable, config.weights)

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

    def evaluate(self, candidate: Candidate, keep: bool = True) -> Trial:
        """Returns the candidate's trial; whatever goes wrong with the candidate is its outcome, a failure.

        Args:
            keep: whether its network is written to the folder of weights, where its training leaves snapshots before.

        Raises:
            OSError: the network cannot be written, or data cannot be read.
        """
        start = time.perf_counter()
        costs: dict[str, int] = {}
        folder = self.config.weights if keep else None
        snapshots = TrainingSnapshots() if folder is None else self._snapshots(candidate, folder)

        def score() -> Score | Stopped:
            built = self.build(candidate, snapshots)
            costs.update(self._checked_costs(built))
            found = self._evaluate_built(built.network, candidate)
            if folder is not None and isinstance(found, Score) and is_finite(found):
                self._write(built, found, folder / f"{candidate.number}.pt")
            return found

        outcome = outcome_of(score)
        snapshots.remove()
        work = self._work(candidate, outcome) if costs else 0
        return Trial(candidate, outcome, costs, time.perf_counter() - start, work=work)

    def evaluate_network(
        self,
        network: nn.Module,
        samples: int | None = None,
        split: Split = "validation",
        watch: Watch | None = None,
    ) -> Score:
        """Returns loss and metrics of a network, and its divergence from the dense one if that is the objective.

        Args:
            samples: the first so many of the split; None is all.
            watch: shows how far the batches are used.
        """
        batches = self.data.batches(split, samples)
        teacher_logits = self.data.teacher_logits(self.prunable.network, split, samples)
        return evaluate(network, self.task, watch(batches) if watch else batches, teacher_logits=teacher_logits)

    def build(self, candidate: Candidate, snapshots: TrainingSnapshots | None = None) -> PrunedNetwork:
        """Returns the candidate's network after its recipe.

        Raises:
            CheckpointError: its parent's weights are missing, damaged or of another network.
            Diverged: its training came to a loss or weights that are no numbers.
        """
        start = self._parents.start_of(candidate)
        return self._builder.build(candidate, _recipe(candidate), start, snapshots or TrainingSnapshots())

    def prune(self, allocation: Mapping[str, int], recipe: Recipe) -> nn.Module:
        """Returns the network of an allocation, pruned from the dense one, after a recipe."""
        return self.build(Candidate(-1, Allocation(allocation), recipe)).network

    def restore_or_build(self, candidate: Candidate) -> nn.Module:
        """Returns the network of a trial's candidate: as it was written if it was, else built anew in the same way.

        A file that is damaged is replaced.

        Raises:
            CheckpointError: it is damaged, and the candidate cannot be built any more.
        """
        path = None if self.config.weights is None else self.config.weights / f"{candidate.number}.pt"
        if path is None or not path.is_file():
            return self.build(candidate).network
        try:
            return self.restore(path)
        except CheckpointError as fault:
            log.warning("%s; trial %d is built anew", fault, candidate.number)
        path.unlink()
        self.evaluate(candidate)
        if not path.is_file():
            raise CheckpointError(f"the weights of trial {candidate.number} are lost, and it cannot be built anew")
        return self.restore(path)

    def restore(self, path: Path) -> nn.Module:
        """Returns the network of a trial as it was written, on the device where candidates are evaluated.

        Raises:
            CheckpointError: the file is damaged or not of this network.
        """
        return rebuild_from(self.prunable.network, self.prunable.source, _read(path))

    def restore_to_train(self, path: Path) -> PrunedNetwork:
        """Returns the same with what was pruned, so that it can stay so in training.

        Raises:
            CheckpointError: as `restore`.
        """
        checkpoint = _read(path)
        network = rebuild_from(self.prunable.network, self.prunable.source, checkpoint)
        return PrunedNetwork(network, restore_parent(self.prunable, checkpoint), checkpoint.widths)

    def _evaluate_built(self, network: nn.Module, candidate: Candidate) -> Score | Stopped:
        """Evaluates a finalist on all samples, others on those of the search, rung by rung if there are any."""
        if candidate.role == "finalist":
            return self.evaluate_network(network, None)
        samples, rungs = self.config.samples, self.data.rungs()
        if not rungs:
            return self.evaluate_network(network, samples)
        return evaluate_with_early_stopping(
            network,
            self.task,
            self.data.batches("validation", samples),
            rungs,
            candidate.stop_thresholds,
            self.config.objective,
            self.data.teacher_logits(self.prunable.network, "validation", samples),
        )

    def _snapshots(self, candidate: Candidate, folder: Path) -> TrainingSnapshots:
        key = training_key(candidate, self.config.seed)
        return TrainingSnapshots(folder / f"{candidate.number}.training", key, self.config.snapshot_seconds)

    def _checked_costs(self, built: PrunedNetwork) -> dict[str, int]:
        counted = built.costs()
        predicted = self.prunable.costs.costs(built.allocation)
        if counted != predicted:
            raise CostMismatch(f"the pruned network costs {counted} but {predicted} was predicted")
        return counted

    def _work(self, candidate: Candidate, outcome: Outcome) -> int:
        score = outcome.score if isinstance(outcome, Stopped) else outcome
        samples = score.samples if isinstance(score, Score) else 0
        return self.work.evaluation(candidate.allocation, _recipe(candidate), samples)

    def _write(self, built: PrunedNetwork, score: Score, path: Path) -> None:
        metrics = {**score.numbers(), "samples": score.samples}
        write_checkpoint(path, built.checkpoint(metrics, self.config.identity))


def _recipe(candidate: Candidate) -> Recipe:
    """Returns the candidate's recipe under its settings."""
    return resolved(candidate.recipe, candidate.settings)


def _read(path: Path) -> PrunedCheckpoint:
    checkpoint = read_checkpoint(path)
    if checkpoint is None:
        raise CheckpointError(f"{path} is no pruned checkpoint of autoprune")
    return checkpoint


def evaluate_dense(evaluator: Evaluator, watch: Watch | None = None) -> Score:
    """Returns the score of the dense network as it is, on the samples that candidates are evaluated on.

    Raises:
        TaskError: it cannot be evaluated, so that no candidate could be, or a metric is not what it is said to be.
    """
    network, samples = evaluator.prunable.network, evaluator.config.samples
    outcome = outcome_of(lambda: evaluator.evaluate_network(network, samples, watch=watch))
    if isinstance(outcome, Failure):
        raise TaskError(
            f"the dense network cannot be evaluated on the validation samples ({outcome.reason}); "
            "check the checkpoint, the data, the loss and the metrics"
        )
    check_metrics(evaluator.task, outcome, network, next(iter(evaluator.data.batches("validation", samples))))
    return outcome

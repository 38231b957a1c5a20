"""A smaller network on its way to a file, compared with what the search recorded of it and counted."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.core.ledger import History
from autoprune.core.metrics import MetricInfo
from autoprune.core.recipe import Finetune
from autoprune.core.trial import Candidate, Failure, Score, Stopped, Trial
from autoprune.errors import AutopruneError
from autoprune.evaluation.candidate_builder import PrunedNetwork, held_masks
from autoprune.evaluation.checkpoints.checkpoint import PrunedCheckpoint, read_checkpoint, rebuild
from autoprune.evaluation.evaluator import Evaluator
from autoprune.graph.costs import measure_costs
from autoprune.pruning.weight_uses import measure_effective
from autoprune.running.progress import Display, training_progress
from autoprune.running.setup import Setup
from autoprune.tasks.training.calls import train_with_hooks
from autoprune.tasks.training.distillation import distillation


@dataclass(frozen=True)
class RecordedResult:
    """What a search recorded of a trial, for comparison; a `best.yaml` written by hand may hold none of it.

    Attributes:
        score: on the most validation samples that it was evaluated on; 0 samples where their number is not recorded.
        costs: FLOPs, parameters and bytes, as they were counted then.
        digest: of the dense network's weights.
        dropped: whether its evaluation ended early.
        remark: what else to know of it.
        source: where it was recorded, in words.
        coverage: what the search reached of the network and what it passed over, a line each.
    """

    score: Score | None = None
    costs: Mapping[str, int] = field(default_factory=dict)
    digest: str | None = None
    dropped: bool = False
    remark: str = ""
    source: str = "the search"
    coverage: tuple[str, ...] = ()

    @classmethod
    def of_trial(cls, history: History, trial: Trial) -> RecordedResult:
        """Returns what a run's ledger says of one of its trials."""
        started = history.of("started")[0]
        digest, coverage = started["identity"]["checkpoint"], tuple(started.get("coverage", ()))
        outcome, remark = trial.outcome, ""
        assert not isinstance(outcome, Failure), "a failed trial has no result"
        if trial.candidate.role == "intermediate":
            remark = f"trial {trial.number} is a step of a round on the way: the run's budget was not its limit"
        if isinstance(outcome, Stopped):
            return cls(outcome.score, trial.costs, digest, True, remark, coverage=coverage)
        score = _on_all_samples(history, trial.number) or outcome
        return cls(score, trial.costs, digest, False, remark, coverage=coverage)

    @classmethod
    def of_best(cls, content: Mapping[str, Any]) -> RecordedResult:
        """Returns what a `best.yaml` says."""
        loss, samples, metrics = _number(content.get("loss")), _number(content.get("samples")), content.get("metrics")
        named = metrics if isinstance(metrics, Mapping) else {}
        known = {str(name): number for name, given in named.items() if (number := _number(given)) is not None}
        score = None if loss is None else Score(loss, known, int(samples or 0))
        found = content.get("costs")
        costs = {str(kind): cost for kind, cost in found.items()} if isinstance(found, dict) else {}
        digest = content.get("checkpoint_sha256")
        return cls(score, costs, None if digest is None else str(digest))

    def holds_for(self, digest: str) -> bool:
        """Returns whether the dense network's weights are those that were searched on, as far as that is recorded."""
        return self.digest in (None, digest)


def _on_all_samples(history: History, number: int) -> Score | None:
    """Returns the score at the end of a run, if the trial was among its best."""
    scores = {record["number"]: record["score"] for record in history.of("reevaluated")}
    scores |= {record["number"]: record["validation"] for record in history.of("result")}
    return Score.from_json(scores[number]) if number in scores else None


def score_in(checkpoint: PrunedCheckpoint) -> Score:
    """Returns the score of a pruned network that its file holds."""
    numbers = {name: value for name, value in checkpoint.metrics.items() if name != "samples"}
    return Score.of_numbers(numbers, int(checkpoint.metrics.get("samples", 0)))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class PrunedModel:
    """A smaller network, ready to be written.

    Attributes:
        dense: the network it was pruned from, or a function that builds that; any weights.
        origin: where it comes from, in words.
        effective: whether weights were set to zero and the costs leave out what is zero.
        recorded: what the search's records say of it.
        as_scored: whether it is the very network that the search scored.
        change: in words, with what or before what the recorded score was, if this network is meant to differ.
        coverage: what could be pruned of the dense network and what could not, a line each, where it was looked at.
        metrics: the task's.
    """

    network: nn.Module
    dense: nn.Module | Callable[[], nn.Module]
    checkpoint: PrunedCheckpoint
    costs: Mapping[str, int]
    dense_costs: Mapping[str, int]
    origin: str
    effective: bool = False
    recorded: RecordedResult = field(default_factory=RecordedResult)
    as_scored: bool = False
    change: str = ""
    coverage: tuple[str, ...] = ()
    metrics: tuple[MetricInfo, ...] = ()

    def measured(self) -> Score:
        """Returns the score of the network itself."""
        return score_in(self.checkpoint)

    def check_written(self, path: Path) -> None:
        """Builds the network again from the file, and checks that it costs what the search counted.

        Where that is not recorded it is compared with what was counted before writing.

        Raises:
            AutopruneError: it costs something else, or cannot be read back.
        """
        written = read_checkpoint(path)
        if written is None:
            raise AutopruneError(f"{path} was written but cannot be read back; write it to another disk")
        with _graph_log_muted():
            found, wanted = _count(rebuild(written, self.dense), written), self.recorded.costs or self.costs
        odd = [kind for kind, cost in found.items() if not self._agree(kind, cost, wanted.get(kind, cost))]
        if odd:
            said = ", ".join(f"{found[kind]:,} {kind} instead of {wanted[kind]:,}" for kind in odd)
            raise AutopruneError(f"{path} was written, but it is not what the search scored: it counts {said}")

    def _agree(self, kind: str, found: int, wanted: int) -> bool:
        # Where weights were set to zero there may be more zeros than asked for: those of the dense network.
        return found <= wanted if self.effective and kind != "size" else found == wanted


@contextlib.contextmanager
def _graph_log_muted() -> Iterator[None]:
    """Drops what is logged of a network's graph: that was logged when the network was first read."""
    log = logging.getLogger("autoprune.graph")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _count(network: nn.Module, checkpoint: PrunedCheckpoint) -> dict[str, int]:
    inputs = checkpoint.example_inputs()
    costs = measure_costs(network, inputs)
    if checkpoint.masked:
        costs |= measure_effective(network, inputs)
    return costs


@dataclass(frozen=True)
class ApplyOptions:
    """What is to be otherwise than in the search.

    Attributes:
        finetune: how the network is trained further; None leaves it as it is.
        seed: of that training.
        force: whether other weights than those that were searched on may be pruned.
        reconstruct: how many training samples refit every layer behind what is removed, before any training; 0 leaves
            it to the recipe.
    """

    finetune: Finetune | None = None
    seed: int = 0
    force: bool = False
    reconstruct: int = 0

    def of(self, candidate: Candidate) -> Candidate:
        """Returns a candidate with these options in its recipe."""
        if not self.reconstruct:
            return candidate
        settings = {name: value for name, value in candidate.settings.items() if name != "reconstruct"}
        return replace(candidate, recipe=replace(candidate.recipe, reconstruct=self.reconstruct), settings=settings)


def finalize(
    setup: Setup, evaluator: Evaluator, built: PrunedNetwork, options: ApplyOptions, origin: str
) -> PrunedModel:
    """Trains a network further if that is wanted, what is pruned of it staying so, and evaluates it.

    Args:
        setup: the dense network, which teaches where the training distils, and its task.
        evaluator: evaluates on all validation samples.
        built: the network; it is trained in place.
        options: with the training that is wanted.
        origin: where the network comes from, in words.
    """
    change, finetune = "", options.finetune
    if finetune is not None:
        hooks = [held_masks(built.network)]
        if finetune.distill:
            hooks.insert(0, distillation(setup.prunable.network, finetune.temperature, finetune.distill))
        with training_progress(Display(), "fine-tuning") as hook:
            train_with_hooks(setup.task, built.network, finetune.plan(options.seed), hooks, [hook])
        origin, change = f"{origin}, fine-tuned ({finetune})", "in the search, before the fine-tuning"
    score = evaluator.evaluate_network(built.network, None)
    metrics = {**score.numbers(), "samples": score.samples}
    checkpoint = built.checkpoint(metrics, evaluator.config.identity)
    costs, table, dense = built.costs(), setup.prunable.costs, setup.prunable.network
    coverage = tuple(setup.coverage.lines())
    return PrunedModel(
        built.network.cpu(), dense, checkpoint, costs, dict(**table.dense()), origin, table.effective, change=change,
        coverage=coverage, metrics=setup.metrics,
    )  # fmt: skip

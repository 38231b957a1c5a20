"""A smaller network on its way to a file, and the file compared with what the search counted."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from autoprune.core.recipe import Finetune, Recipe
from autoprune.core.trial import Candidate, Score
from autoprune.errors import AutopruneError
from autoprune.evaluation.candidate_builder import PrunedNetwork
from autoprune.evaluation.checkpoints.checkpoint import PrunedCheckpoint, read_checkpoint, rebuild, write_checkpoint
from autoprune.evaluation.checkpoints.export import export_network
from autoprune.evaluation.evaluator import Evaluator
from autoprune.graph.costs import measure_costs, measure_effective
from autoprune.graph.groups import find_groups
from autoprune.running.apply.recorded_result import RecordedResult
from autoprune.running.progress import Display, training_progress
from autoprune.running.setup import Setup
from autoprune.tasks.training.distillation import distillation


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

    def measured(self) -> Score:
        """Returns the score of the network itself."""
        found = self.checkpoint.metrics
        return Score(found["loss"], found["accuracy"], int(found["samples"]))

    def write(self, path: Path) -> None:
        """Writes the checkpoint.

        Raises:
            OSError: it cannot be written.
        """
        write_checkpoint(path, self.checkpoint)

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

    def export(self, path: Path, form: str) -> Path:
        """Writes the network beside `path` as `pt2` or `onnx`, and returns where it went.

        Raises:
            UserError: the network cannot be exported, or ONNX is not installed.
        """
        return export_network(self.network, self.checkpoint.example_inputs(), path, form)


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
        costs |= measure_effective(network, find_groups(network, inputs), inputs)
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


def build(evaluator: Evaluator, candidate: Candidate, options: ApplyOptions) -> PrunedNetwork:
    """Builds the candidate's network, as it is wanted.

    Raises:
        UserError: the data are missing or damaged, or its pruner leaves nothing to reconstruct.
    """
    wanted = options.of(candidate)
    evaluator.warm_up(wanted.recipe)
    return evaluator.build(wanted)


def describe_origin(evaluator: Evaluator, options: ApplyOptions) -> str:
    """Returns in words how `build` came to the network."""
    if not options.reconstruct:
        return "pruned anew"
    samples = evaluator.data.cap_samples(Recipe(reconstruct=options.reconstruct)).reconstruct
    return f"pruned anew, reconstructed on {samples} training samples"


def finalize(
    setup: Setup, evaluator: Evaluator, built: PrunedNetwork, options: ApplyOptions, origin: str
) -> PrunedModel:
    """Trains a network further if that is wanted, and evaluates it.

    Args:
        origin: where it comes from, in words.
    """
    if options.finetune is not None:
        return train_further(setup, evaluator, built, options, origin)
    return _evaluated(setup, evaluator, built, origin)


def train_further(
    setup: Setup, evaluator: Evaluator, built: PrunedNetwork, options: ApplyOptions, origin: str
) -> PrunedModel:
    """Trains a network further, what is pruned of it staying so, and evaluates it.

    Args:
        options: with the training that is wanted.
        origin: where it comes from, in words.
    """
    finetune, hooks = options.finetune, [built.held_masks()]
    assert finetune is not None
    if finetune.distill:
        hooks.insert(0, distillation(setup.prunable.network, finetune.temperature, finetune.distill))
    with training_progress(Display(), "fine-tuning") as hook:
        setup.task.train(built.network, finetune.plan(options.seed), [*hooks, hook])
    trained = _evaluated(setup, evaluator, built, f"{origin}, fine-tuned ({finetune})")
    return replace(trained, change="in the search, before the fine-tuning")


def _evaluated(setup: Setup, evaluator: Evaluator, built: PrunedNetwork, origin: str) -> PrunedModel:
    score = evaluator.evaluate_network(built.network, None)
    metrics = {"accuracy": score.accuracy, "loss": score.loss, "samples": score.samples}
    costs, table, dense = built.costs(), setup.prunable.costs, setup.prunable.network
    checkpoint = built.checkpoint(metrics, evaluator.config.identity)
    return PrunedModel(built.network.cpu(), dense, checkpoint, costs, dict(**table.dense()), origin, table.effective)

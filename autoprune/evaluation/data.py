"""The samples of a task that candidates are scored, prepared and evaluated on; what the dense network says of them."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoprune.core.metrics import KL, LOSS, Objective
from autoprune.core.recipe import Recipe
from autoprune.errors import DataError, TaskError
from autoprune.evaluation.training_snapshots import SNAPSHOT_SECONDS
from autoprune.graph.inputs import ModelInputs, call_network, network_inputs, to_device
from autoprune.graph.recording.randomness import seeded
from autoprune.graph.recording.running import mode
from autoprune.pruning.statistics.collection import CalibrationData
from autoprune.tasks.base import Batch, Split, Task
from autoprune.tasks.loading.drawing import draw
from autoprune.tasks.loading.samples import JoinedSingles, count_samples, same_class
from autoprune.tasks.training.distillation import logits

log = logging.getLogger(__name__)

# Batches up to this size are kept in memory; a larger split is read again each time.
CACHE_BYTES = 2**30


@dataclass(frozen=True)
class Batches:
    """Samples of a split, always the same ones in the same batches.

    Attributes:
        samples: so many at most, drawn once from the whole split, a smaller number from the larger; None is all of it,
            in its own order.
        channels_last: whether images on the CPU are laid so, a tenth faster in convolutions there; see
            `takes_channels_last`.
    """

    task: Task
    split: Split
    samples: int | None
    batch_size: int
    seed: int
    device: torch.device
    channels_last: bool = True

    def load(self) -> Sequence[Batch] | Iterable[Batch]:
        """Returns the batches on the device, in memory where they fit; an iterable that reads them anew otherwise.

        Raises:
            DataError: the split is empty.
        """
        kept: list[Batch] = []
        size = 0
        for inputs, targets in self:
            kept.append((inputs, targets))
            size += sum(tensor.numel() * tensor.element_size() for tensor in ModelInputs.of(inputs).tensors())
            if size > CACHE_BYTES:
                return self
        if not kept:
            raise DataError(f"task {self.task.name} has no samples in its {self.split} split")
        label = same_class(targets for _, targets in kept)
        if label is not None and sum(len(inputs) for inputs, _ in kept) > 1:
            log.warning(
                "task %s: all samples that are used of its %s split are of one class (%d); if the split has others, "
                "give a Dataset, or mix the classes",
                self.task.name,
                self.split,
                label,
            )
        return kept

    def __iter__(self) -> Iterator[Batch]:
        batches = self.task.batches(self.split, self.batch_size, self.seed)
        if self.samples is not None:
            batches = draw(batches, self.samples, self.batch_size, self.seed)
        for given, targets in batches:
            inputs = network_inputs(given, targets)
            if len(inputs):
                yield self._placed(inputs), to_device(targets, self.device)

    def _placed(self, inputs: Tensor | ModelInputs) -> Tensor | ModelInputs:
        if self.channels_last and self.device.type == "cpu" and isinstance(inputs, Tensor) and inputs.dim() == 4:
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs.to(self.device)


def takes_channels_last(network: nn.Module, inputs: ModelInputs) -> bool:
    """Tells whether a network gives the same for images laid with channels last; with `view` on them it does not run.

    Args:
        network: runs in evaluation mode, and is left in the mode it was in.
        inputs: samples that it takes.
    """
    images = inputs.tensor
    if images is None or images.dim() != 4:
        return True
    with mode(network, training=False), torch.inference_mode():
        try:
            laid = images.contiguous(memory_format=torch.channels_last)
            plain, last = (_outputs(network, each) for each in (images, laid))
        except Exception as fault:  # whatever the user's network raises
            log.info("the network gets images in plain memory: %s", fault)
            return False
    return all(torch.allclose(one, other, 1e-2, 1e-3, True) for one, other in zip(plain, last, strict=True))


def _outputs(network: nn.Module, inputs: Tensor) -> list[Tensor]:
    with seeded(0):
        return [leaf.float() for leaf in tree_leaves(network(inputs)) if isinstance(leaf, Tensor)]


@dataclass(frozen=True)
class ScoringSamples:
    """Training samples drawn once, read anew at each iteration and not before it.

    Attributes:
        samples: at most so many.
        batch_size: samples in one forward (and backward) pass.
        seed: draws them, and the augmentation where they are not plain.
        seen: called after each batch.
        channels_last: see `Batches`.
    """

    task: Task
    device: torch.device
    samples: int = 1024
    batch_size: int = 64
    seed: int = 0
    seen: Callable[[], None] = lambda: None
    channels_last: bool = True

    @property
    def split(self) -> Literal["plain", "train"]:
        """`plain`, or `train` (shuffled, augmented) where the task has no training samples without augmentation."""
        try:
            self.task.batches("plain", self.batch_size, self.seed)
        except TaskError:
            return "train"
        return "plain"

    def __iter__(self) -> Iterator[Batch]:
        values = (self.task, self.split, self.samples, self.batch_size, self.seed, self.device, self.channels_last)
        for batch in Batches(*values):
            yield batch
            self.seen()

    def calibration_data(self) -> CalibrationData:
        """Returns the samples with the task's loss."""
        return CalibrationData(self, self.task.loss)

    def describe(self) -> dict[str, Any]:
        """Returns what was chosen, for records."""
        return {"samples": self.samples, "batch_size": self.batch_size, "split": self.split, "seed": self.seed}


RECALIBRATION_BATCH = 128


@dataclass(frozen=True)
class EvaluationConfig:
    """On which samples candidates are evaluated, and by which objective.

    Attributes:
        samples: validation samples; None is all.
        batch_size: samples in one forward pass.
        seed: draws every subset of samples, and those that train, the same for every candidate.
        objective: what is minimised; the divergence from the dense network is measured only if it is that.
        rungs: ascending shares of the samples after which a candidate's evaluation may end.
        weights: folder where a trial's network is left as `<number>.pt`, and parents' are found; or None.
        snapshot_seconds: between two snapshots of a candidate's training, which lie there too.
        identity: what is written beside the weights: the model's and the task's name.
    """

    samples: int | None = None
    batch_size: int = 128
    seed: int = 0
    objective: Objective = LOSS
    rungs: tuple[float, ...] = ()
    weights: Path | None = None
    snapshot_seconds: float = SNAPSHOT_SECONDS
    identity: Mapping[str, Any] = field(default_factory=dict)


class EvaluationData:
    """Batches of a task, kept in memory where they fit.

    Args:
        task: whose they are.
        config: says how many at once, and how samples are drawn.
        device: where they are wanted.
        channels_last: whether images are laid so.
        estimates: whether there is anything to re-estimate: without batch norm a recipe reads no samples for that.
    """

    def __init__(
        self,
        task: Task,
        config: EvaluationConfig,
        device: torch.device,
        channels_last: bool = True,
        estimates: bool = True,
    ) -> None:
        self._task, self._config, self._device, self._channels_last = task, config, device, channels_last
        self.estimates = estimates
        self._loaded: dict[tuple[object, ...], Iterable[Batch]] = {}
        self._teacher_logits: dict[tuple[object, ...], Sequence[Tensor]] = {}

    def batches(self, split: Split, samples: int | None, batch_size: int | None = None) -> Iterable[Batch]:
        """Returns samples of a split, drawn from the whole of it.

        Args:
            samples: how many; None is all.
            batch_size: samples at once; None is as many as are evaluated at once.

        Raises:
            DataError: there are none, or they cannot be read.
        """
        key = (split, samples, batch_size)
        if key not in self._loaded:
            size = batch_size or self._config.batch_size
            place = self._device, self._channels_last
            if samples is None and split == "validation" and self._config.rungs:
                samples = sys.maxsize  # all in a drawn order, so that the first of them are like the rest
            self._loaded[key] = Batches(self._task, split, samples, size, self._config.seed, *place).load()
        return self._loaded[key]

    def for_recipe(self, recipe: Recipe) -> Iterable[Batch]:
        """Returns the training samples that a recipe uses; refitting takes plain ones, if any, as evaluation does.

        Those that re-estimate the batch norm are in batches of more than one, where shapes allow it.
        """
        if recipe.reconstruct:
            plain = ScoringSamples(self._task, self._device, seed=self._config.seed).split
            return self.batches(plain, recipe.reconstruct, RECALIBRATION_BATCH)
        if not self.estimates:
            return []
        split: Split = "train" if recipe.augment else "plain"
        key = ("estimates", split, recipe.recalibrate)
        if key not in self._loaded:
            drawn = self.batches(split, recipe.recalibrate, RECALIBRATION_BATCH)
            joined = JoinedSingles(drawn)
            self._loaded[key] = list(joined) if isinstance(drawn, Sequence) else joined
        return self._loaded[key]

    def cap_samples(self, recipe: Recipe) -> Recipe:
        """Returns the recipe with as many samples as there are, where it asks for more."""
        if not (recipe.reconstruct or recipe.recalibrate):
            return recipe
        samples = count_samples(self.for_recipe(recipe))
        return replace(recipe, reconstruct=samples) if recipe.reconstruct else replace(recipe, recalibrate=samples)

    def teacher_logits(self, dense: nn.Module, split: Split, samples: int | None) -> Sequence[Tensor] | None:
        """Returns the dense network's outputs of each batch, or None unless divergence from them is the objective.

        Args:
            dense: left in evaluation mode.
            split: whose batches.
            samples: how many of the split; None is all.

        Returns:
            `[batch, classes]` logits for each of `batches(split, samples)`.

        Raises:
            TaskError: they are not logits.
        """
        if self._config.objective != KL:
            return None
        key = (split, samples)
        if key not in self._teacher_logits:
            dense.eval()
            with torch.inference_mode(), seeded(0):
                outputs = (call_network(dense, inputs) for inputs, _ in self.batches(split, samples))
                self._teacher_logits[key] = [logits(each, "objective kl") for each in outputs]
        return self._teacher_logits[key]

    def sample_count(self) -> int:
        """Returns how many samples a candidate is evaluated on."""
        return self.count("validation", self._config.samples)

    def count(self, split: Split, most: int | None) -> int:
        """Returns how many samples of a split there are, at most `most`."""
        return count_samples(self.batches(split, most))

    def validation_samples(self) -> int:
        """Returns how many validation samples there are."""
        if self.uses_all_samples():
            return self.sample_count()
        return count_samples(self._task.batches("validation", self._config.batch_size))

    def rungs(self) -> tuple[int, ...]:
        """Returns the numbers of samples, at ends of batches, after which a candidate's evaluation may end.

        There are none where the samples do not fit in memory: the first of them may not be like the others.
        """
        if not isinstance(self.batches("validation", self._config.samples), Sequence):
            return ()
        total, batch_size = self.sample_count(), self._config.batch_size
        sizes = {math.ceil(share * total / batch_size) * batch_size for share in self._config.rungs}
        return tuple(sorted(size for size in sizes if size < total))

    def uses_all_samples(self) -> bool:
        """Returns whether candidates are evaluated on all validation samples."""
        limit = self._config.samples
        if limit is None:
            return True
        total = 0
        for inputs, targets in self._task.batches("validation", self._config.batch_size):
            total += len(network_inputs(inputs, targets))
            if total > limit:
                return False
        return True

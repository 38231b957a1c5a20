"""A criterion, a pattern, a searcher and a task of one's own, in one file: `docs/extending.md` explains them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import autoprune
from autoprune.graph.layers import Layer
from autoprune.pruning.criteria.base import Criterion, LayerStatistics
from autoprune.pruning.patterns import Pattern, filters
from autoprune.searchers.base.sequential import SequentialSearcher
from autoprune.tasks.base import Split
from autoprune.tasks.training.loop import train


# --8<-- [start:criterion]
def max_norm(statistics: LayerStatistics) -> Tensor:
    """Returns the largest absolute weight of each structure."""
    return statistics.weight.flatten(1).abs().amax(1)


MAX_NORM = Criterion("max_norm", max_norm)


# --8<-- [end:criterion]
# --8<-- [start:pattern]
def by_fibre(layer: Layer, weight: Tensor) -> Tensor:
    """Returns `[1, out · kernel positions, in]`: what one filter takes from all channels at one position."""
    rows = filters(layer, weight)  # [out, in, …]
    return rows.movedim(1, -1).reshape(1, -1, rows.shape[1])


FIBRE = Pattern("fibre", by_fibre, "what one filter takes from all channels at one kernel position")


# --8<-- [end:pattern]
# --8<-- [start:searcher]
class HillClimbing(SequentialSearcher):
    """Gives one group of the best allocation another width; what that costs or saves is shared by the others."""

    uses_curves = False
    handles_settings = False

    def _next(self) -> autoprune.Allocation | None:
        problem = self._history.problem
        rng = problem.generator(self._history.number)  # all draws come from here, so that a run can be replayed
        best = self._history.best()
        for _ in range(200):
            widths = dict(best.candidate.allocation) if best else dict(problem.space.dense())
            group = problem.space.names[rng.integers(len(problem.space.names))]
            widths[group] = int(rng.choice(problem.space.bounds[group].levels()))
            allocation = problem.project(widths)  # inside the space, on the budget
            if allocation not in self._history:
                return allocation
        return None  # nothing new near the best: the search ends


# --8<-- [end:searcher]
# --8<-- [start:task]
class Quadrants:
    """Which quarter of a noisy picture is brighter; drawn, not read from files."""

    name = "quadrants"
    metrics = (
        autoprune.Metric("accuracy", lambda outputs, targets: (outputs.argmax(1) == targets).float(), "maximize", "%"),
    )

    def network(self) -> nn.Module:
        with torch.random.fork_rng():  # the same initial weights at each call
            torch.manual_seed(0)
            layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU()]
            layers += [nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)]
        return nn.Sequential(*layers)

    def load(self, network: nn.Module, checkpoint: Path | None) -> None:
        if checkpoint is None:
            self.train(network, autoprune.TrainingPlan(steps=60, rate=0.05))
        else:
            network.load_state_dict(torch.load(checkpoint, weights_only=True))

    def batches(self, split: Split, batch_size: int, seed: int = 0) -> Sequence[tuple[Tensor, Tensor]]:
        first = {"train": 100 + seed, "plain": 0, "validation": 1, "test": 2}[split]
        samples, targets = draw(torch.Generator().manual_seed(first))
        return list(zip(samples.split(batch_size), targets.split(batch_size), strict=True))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def train(self, network: nn.Module, plan: autoprune.TrainingPlan, hooks: Sequence[autoprune.Hook] = ()) -> None:
        train(network, self, plan, hooks)


def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns `[400, 1, 8, 8]` samples and the `[400]` quarters that are brighter."""
    samples = torch.randn(400, 1, 8, 8, generator=generator)
    targets = torch.randint(4, (400,), generator=generator)
    quarters = torch.nn.functional.one_hot(targets, 4).view(400, 1, 2, 2)
    return samples + quarters.repeat_interleave(4, 2).repeat_interleave(4, 3), targets


task = Quadrants()
# --8<-- [end:task]

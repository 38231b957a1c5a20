"""What is compared: one network on one task, how it is trained, searched and fine-tuned."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import autoprune

DATA = Path(os.environ.get("AUTOPRUNE_DATA", "../shared/data"))
"""The folder with denoising/; ../checkpoints beside it holds the published network."""


@dataclass(frozen=True)
class Experiment:
    """One network on one task.

    Attributes:
        name: of the network.
        task: builds the task; its metrics are what is reported.
        budget: of the search and of the uniform allocation.
        finetuning: of copies of both.
        training: of the dense network; None where it comes from `weights`.
        weights: the checkpoint of a network that is trained already.
        search: settings of the search; those that do not say how long it goes on hold for the uniform one too.
    """

    name: str
    task: Callable[[], autoprune.SimpleTask]
    budget: str
    finetuning: autoprune.TrainingPlan
    training: autoprune.TrainingPlan | None = None
    weights: Path | None = None
    search: Mapping[str, Any] = field(default_factory=dict)

    def uniform(self) -> dict[str, Any]:
        """Returns the settings of the search whose only candidate has the same sparsity in every group."""
        length = ("evaluations", "trials", "seed", "search__")
        kept = {name: value for name, value in self.search.items() if not name.startswith(length)}
        return kept | {"searcher": "uniform", "trials": 1}

    def quick(self) -> Experiment:
        """Returns the same so short that it only shows that everything works."""
        length = ("evaluations", "trials", "sensitivity__")
        kept = {name: value for name, value in self.search.items() if not name.startswith(length)}
        small = {"trials": 3, "evaluation__samples": 32, "evaluation__recalibrate__samples": 32}
        small |= {"sensitivity__samples": 32, "sensitivity__levels": 2, "scoring__samples": 32}
        training = self.training and replace(self.training, steps=3, epochs=None, batch_size=8)
        finetuning = replace(self.finetuning, steps=2, epochs=None, batch_size=8)
        return replace(self, training=training, finetuning=finetuning, search=kept | small)

"""The side of a worker: what is sent to it, and how it uses its share of the hardware."""

from __future__ import annotations

import faulthandler
import math
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from autoprune.config import Experiment
from autoprune.core.costs import CostTable
from autoprune.evaluation.data import EvaluationConfig
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.prunable_model import PrunableModel
from autoprune.evaluation.sensitivity.sweep import Grid, SweepSettings
from autoprune.graph.inputs import ModelInputs
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.surgery.copying import copy_network
from autoprune.pruning.surgery.masks import Importance
from autoprune.pruning.surgery.provenance import provenance_of
from autoprune.running.execution.jobs import WorkerContext
from autoprune.running.setup import Setup, from_python, scoring_samples, task_of
from autoprune.tasks.base import Task


@dataclass(frozen=True)
class WorkerPayload:
    """A network and its task as they travel to a worker: on the CPU, without what follows from the rest.

    Scores and costs travel along, so that every worker removes the same structures whatever it computes on.

    Attributes:
        experiment: names the task, which each worker builds; one that was passed in from Python travels as `task`.
        config: of evaluations, with full paths.
        grid, sweep: the levels of the run's sweep, and how they are evaluated.
    """

    experiment: Experiment
    task: Task | None
    network: nn.Module
    inputs: ModelInputs
    pruner: Pruner
    costs: CostTable
    importance: Importance
    scoring: Mapping[str, Any]
    config: EvaluationConfig
    grid: Grid
    sweep: SweepSettings

    @classmethod
    def of(cls, setup: Setup, context: WorkerContext) -> WorkerPayload:
        """Returns what a run's workers need; the network is copied."""
        prunable, section, config = setup.prunable, setup.experiment.task, context.evaluator.config
        section = section.model_copy(update={"data": section.data and section.data.resolve()})
        return cls(
            setup.experiment.model_copy(update={"task": section}),
            setup.task if from_python(setup.experiment) else None,
            copy_network(prunable.network).cpu(),
            prunable.inputs.to("cpu"),
            prunable.pruner,
            prunable.costs,
            prunable.importance,
            prunable.scoring,
            replace(config, weights=config.weights and config.weights.resolve()),
            context.grid,
            context.sweep,
        )

    def unpack(self) -> WorkerContext:
        """Returns a context of the worker's own, on its share of the hardware, and sets the threads of its process."""
        run = self.experiment.run
        torch.set_num_threads(math.ceil(run.cpus_per_trial))
        device = torch.device("cuda" if run.gpus_per_trial and torch.cuda.is_available() else "cpu")
        network, inputs = copy_network(self.network).to(device).eval(), self.inputs.to(device)
        structures = self.pruner.find_structures(network, inputs, provenance_of(network).masks)
        task = self.task or task_of(self.experiment)
        prunable = PrunableModel(
            network,
            inputs,
            structures,
            self.costs,
            self.pruner,
            self.importance,
            self.scoring,
            samples=scoring_samples(self.experiment, task, network, inputs),
            seed=self.config.seed,
        )
        evaluator = Evaluator(prunable, task, self.config)
        return WorkerContext(evaluator, self.grid, self.sweep, run.retries, worker_name())


def worker_name() -> str:
    """Returns what records give as the worker: host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


@contextmanager
def ending_after(seconds: float | None) -> Iterator[None]:
    """Ends this process if what is inside takes longer, whatever it hangs in; the sender sees it die."""
    if seconds is not None:
        faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()

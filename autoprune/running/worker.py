"""What a worker needs to evaluate trials of a run, and how it does; knows nothing of who sends them."""

from __future__ import annotations

import faulthandler
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.config import Experiment
from autoprune.core.costs import CostTable
from autoprune.core.trial import Candidate, Failure, Trial
from autoprune.evaluation.evaluator import Evaluator
from autoprune.evaluation.images import Judging
from autoprune.evaluation.subject import Subject
from autoprune.graph.groups import find_groups
from autoprune.pruning.copying import copy_network
from autoprune.pruning.masks import Importance
from autoprune.pruning.pruner import Pruner
from autoprune.running.setup import FROM_PYTHON, Setup, scoring_images, task_of
from autoprune.tasks.base import Task


@dataclass(frozen=True)
class Parcel:
    """A subject and its task as they travel to a worker: on the CPU, without what follows from the rest.

    Scores and costs travel along, so that every worker removes the same structures whatever it computes on.

    Attributes:
        experiment: names the task, which each worker builds; one that was passed in from Python travels as `task`.
        judging: with full paths.
    """

    experiment: Experiment
    task: Task | None
    network: nn.Module
    inputs: Tensor
    pruner: Pruner
    costs: CostTable
    importance: Importance
    scoring: Mapping[str, Any]
    judging: Judging

    @classmethod
    def of(cls, setup: Setup, judging: Judging) -> Parcel:
        subject, section = setup.subject, setup.experiment.task
        section = section.model_copy(update={"data": section.data and section.data.resolve()})
        return cls(
            setup.experiment.model_copy(update={"task": section}),
            setup.task if section.name.startswith(FROM_PYTHON) else None,
            copy_network(subject.network).cpu(),
            subject.inputs.cpu(),
            subject.pruner,
            subject.costs,
            subject.importance,
            subject.scoring,
            replace(judging, weights=judging.weights and judging.weights.resolve()),
        )

    def unpack(self, device: torch.device) -> Evaluator:
        """An evaluator of its own."""
        network, inputs = copy_network(self.network).to(device).eval(), self.inputs.to(device)
        graph = find_groups(network, inputs)
        structures = self.pruner.structures(network, graph)
        task = self.task or task_of(self.experiment)
        subject = Subject(
            network,
            inputs,
            graph,
            structures,
            self.costs,
            self.pruner,
            self.importance,
            self.scoring,
            images=scoring_images(self.experiment, task, inputs),
            seed=self.judging.seed,
        )
        return Evaluator(subject, task, self.judging)


def settle(threads: int, gpus: float) -> torch.device:
    """Gives this process its threads; the device that its share of the hardware holds."""
    torch.set_num_threads(threads)
    return torch.device("cuda" if gpus and torch.cuda.is_available() else "cpu")


def worker_name() -> str:
    """What the records call this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def evaluate(evaluator: Evaluator, candidate: Candidate, retries: int, timeout: float | None) -> Trial:
    """The trial of a candidate, tried again where memory ran out: it may have been another process that took it.

    A trial that hangs ends this process after `timeout` seconds, whatever it hangs in; who sent it sees it die.

    Raises:
        OSError: the network cannot be written, or data cannot be read.
    """
    if timeout is not None:
        faulthandler.dump_traceback_later(timeout, exit=True)
    try:
        trial = evaluator.evaluate(candidate)
        for _ in range(retries):
            if not isinstance(trial.outcome, Failure) or trial.outcome.kind != "out_of_memory":
                break
            trial = evaluator.evaluate(candidate)
    finally:
        faulthandler.cancel_dump_traceback_later()
    return replace(trial, worker=worker_name())

"""The objects that every part of a run works with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from autoprune.core.budget import Limits
from autoprune.core.ledger import History, Ledger
from autoprune.core.trial import Trial
from autoprune.evaluation.evaluator import Evaluator
from autoprune.running.progress import Display
from autoprune.running.run_folder import RunFolder
from autoprune.running.search.compute_budget import ComputeBudget
from autoprune.running.setup import Setup
from autoprune.running.tracking.tracker import Tracking


@dataclass(frozen=True)
class RunContext:
    """A run in progress.

    Attributes:
        history: what the ledger said when the run was started or resumed.
        tracking: where it is mirrored; None where it is not.
    """

    setup: Setup
    folder: RunFolder
    ledger: Ledger
    history: History
    evaluator: Evaluator
    limits: Limits
    tracking: Tracking | None
    display: Display
    compute_budget: ComputeBudget

    def network(self, trial: Trial) -> nn.Module:
        """Returns the network of a trial, as it was evaluated."""
        return self.evaluator.restore_or_build(trial.candidate)

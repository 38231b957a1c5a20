"""The rounds of a lottery ticket inside a training by a schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from autoprune.config.schedule import RoundsSection
from autoprune.errors import UserError
from autoprune.pruning.schedules import Unit
from autoprune.pruning.training.gradual import Pruning
from autoprune.pruning.training.masking import Masking
from autoprune.tasks.training.snapshot import Snapshot, take_snapshot


class TicketRounds:
    """Counts the rounds, and keeps the state that they go back to.

    Args:
        section: what the schedule says; None: there is one training and no rounds.
        save: takes the early state when it is reached.

    Attributes:
        done: prunings between rounds so far.
        early: what rounds go back to, once it was reached in the first.
    """

    def __init__(self, section: RoundsSection | None, save: Callable[[Snapshot], None]) -> None:
        self._section, self._save = section, save
        self.done = 0
        self.early: Snapshot | None = None

    @property
    def over(self) -> bool:
        """Whether no further round follows."""
        return self._section is None or self.done >= self._section.count

    def keep_early(self, network: nn.Module, optimizer: torch.optim.Optimizer, passed: Mapping[Unit, int]) -> None:
        """Keeps the state as it is now, if this is the one to go back to."""
        if self._section is None or self.early is not None:
            return
        if passed["step"] == (0 if self._section.rewind == "initial" else self._section.rewind):
            self.early = take_snapshot(network, optimizer, passed["step"], {"epoch": passed["epoch"]})
            self._save(self.early)

    def begin(self, pruning: Pruning, masking: Masking) -> Snapshot:
        """Prunes for the next round; the snapshot that it starts from.

        Raises:
            UserError: the first round was too short to reach it.
        """
        assert self._section is not None  # else there is no next round
        if self.early is None:
            raise UserError(
                f"the first round ended before step {self._section.rewind}, to which the others should go back"
            )
        self.done += 1
        pruning.update(self.done / self._section.count)
        masking.remember(self.early.state_dict)
        return self.early

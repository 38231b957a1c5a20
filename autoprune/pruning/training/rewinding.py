"""What the rounds of a lottery ticket go back to."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from autoprune.errors import UserError


class Resettable(Protocol):
    """An optimizer, or its rate schedule."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


class EarlyState:
    """A network, with what is reset along with it, as they once were: at first the network as it was given.

    Attributes:
        kept: whether it was chosen by `keep`, rather than being the very start.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._states: tuple[dict[str, Any], ...] = (copy.deepcopy(network.state_dict()),)
        self.kept = False

    @property
    def weights(self) -> Mapping[str, Tensor]:
        return self._states[0]

    def start(self, *others: Resettable) -> None:
        """Optimizer and rate schedule as they are now belong to the very start, unless they are known already."""
        if len(self._states) == 1 and not self.kept:
            self._states += _states(*others)

    def keep(self, *others: Resettable) -> None:
        """The network and the others as they are now are the early state."""
        self._states = _states(self._network, *others)
        self.kept = True

    def restore(self, *others: Resettable) -> None:
        """Puts the network and the others back.

        Raises:
            UserError: there are not as many others as were kept.
        """
        if len(self._states) != 1 + len(others):
            raise UserError(
                f"{len(self._states) - 1} states were kept beside the network's but {len(others)} are given"
            )
        for each, state in zip((self._network, *others), self._states, strict=True):
            each.load_state_dict(copy.deepcopy(state))

    def state_dict(self) -> dict[str, Any]:
        return {"states": list(self._states), "kept": self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._states, self.kept = tuple(state["states"]), state["kept"]


def _states(*owners: Resettable) -> tuple[dict[str, Any], ...]:
    return tuple(copy.deepcopy(owner.state_dict()) for owner in owners)

"""Runs what was recorded of one network on the modules and parameters of another, of the same architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn


class Replay(fx.Interpreter):
    """Runs recorded operations; values are dropped as soon as they have been used.

    What a user's hooks do was recorded with all else, so modules run without their hooks.

    Args:
        network: its modules and parameters are used.
        traced: see `Recording.traced`; gives the operations, and the constants that the network made when it ran.

    Attributes:
        observer: called with each operation and its value; None: nobody looks.
    """

    observer: Callable[[fx.Node, Any], None] | None = None

    def __init__(self, network: nn.Module, traced: fx.GraphModule) -> None:
        super().__init__(network, graph=traced.graph)
        self._traced = traced

    def run_node(self, n: fx.Node) -> Any:
        """Runs one operation, and shows its value to the observer."""
        value = self.compute(n)
        if self.observer is not None:
            self.observer(n, value)
        return value

    def compute(self, n: fx.Node) -> Any:
        """Returns the value of one operation."""
        return super().run_node(n)

    def fetch_attr(self, target: str) -> Any:
        """Returns what the network holds, or a constant that was made when it was recorded."""
        return getattr(self._traced, target) if target.startswith("_constant_") else super().fetch_attr(target)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs a module without its hooks."""
        return self.fetch_attr(str(target)).forward(*args, **kwargs)

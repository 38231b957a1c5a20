"""The options of tasks: what their data are and how they are read, where the task's own choice is not wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from autoprune.config.messages import validated
from autoprune.errors import describe

Options = TypeVar("Options")


def read_options(kind: type[Options], given: Mapping[str, Any] | None) -> Options:
    """Returns `task.options` as a task's settings.

    Args:
        kind: a dataclass of settings.
        given: plain values; None for none.

    Raises:
        ConfigError: some are unknown or out of range; all are listed.
    """
    return validated(kind, dict(given or {}), lambda keys, _: ".".join(("task.options", *map(str, keys))))


def one_line(fault: BaseException) -> str:
    """Returns the kind of an error and its message in one line."""
    return " ".join(describe(fault).split())

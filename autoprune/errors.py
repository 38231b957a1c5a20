"""The errors that autoprune raises on purpose.

`UserError` and what descends from it mean that the input is at fault: the command line prints the message alone and
ends with exit code 2. Any other `AutopruneError` ends with exit code 1.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import os
import traceback
from collections.abc import Iterable, Iterator, Sequence


class AutopruneError(Exception):
    """Something went wrong that the message explains; no traceback helps."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """Returns what a notebook shows of the error; all lines where there is a cause."""
        return traceback.format_exception(self) if self.__cause__ else callers_traceback(self)


def callers_traceback(fault: BaseException) -> list[str]:
    """Returns a traceback that ends where autoprune was called, without the lines of the notebook's own machinery."""
    inside, notebook = os.path.dirname(__file__) + os.sep, f"{os.sep}IPython{os.sep}"
    frames = [frame for frame in traceback.extract_tb(fault.__traceback__) if notebook not in frame.filename]
    own = itertools.takewhile(lambda frame: not frame.filename.startswith(inside), frames)
    return [*traceback.format_list(own), f"{type(fault).__name__}: {fault}"]


class ForeignExit(Exception):
    """Code of the user's raised what no `except Exception` catches: `sys.exit()`, or an exception of its own kind."""


@contextlib.contextmanager
def foreign_code() -> Iterator[None]:
    """Runs code of the user's: whatever it raises, an interrupt excepted, is an `Exception`.

    Raises:
        ForeignExit: it raised something else.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as fault:
        raise ForeignExit(f"{type(fault).__name__}: {fault}") from fault


def ended_by_user_code(fault: BaseException) -> str:
    """Returns what is said where code of the user's ends the process or raises what is no `Exception`."""
    return f"the network, task or data ended the run: {type(fault).__name__}: {fault}"


def describe(fault: BaseException) -> str:
    """Returns the kind of an error and its message; of errors of this module the message, which says all."""
    return str(fault) if isinstance(fault, (ForeignExit, UserError)) else f"{type(fault).__name__}: {fault}"


class LedgerWriteError(AutopruneError):
    """A record could not be written; what was written before is whole and the run can be resumed."""


class AllTrialsFailed(AutopruneError):
    """Not one candidate could be scored."""


class UserError(AutopruneError, ValueError):
    """The user's input is at fault."""

    exit_code = 2


class ConfigError(UserError):
    """An experiment, option or search space is not valid; the message lists every fault found."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class UnknownName(UserError):
    """A name that is in no table, with the nearest one that is."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        names = sorted(known)
        super().__init__(f"unknown {kind} {name!r}{did_you_mean(name, names)}; known: {', '.join(names)}{hint}")


class PluginError(UserError):
    """The user's own code, named as `package.module:attribute`, cannot be imported or is not of the kind expected."""


class BudgetError(UserError):
    """A budget that cannot be read."""


class BudgetInfeasible(BudgetError):
    """A budget below what the search space can reach."""


class CheckpointError(UserError):
    """A checkpoint that cannot be loaded, or does not fit the network."""


class DataError(UserError):
    """Data that is missing, truncated or not in the layout expected."""


class TaskError(UserError):
    """The user's task or network cannot be built or used."""


class Diverged(TaskError):
    """A training whose loss or weights are no numbers any more."""


class RunFolderError(UserError):
    """A folder that is no run, already holds one, or is in use."""


class Interrupted(AutopruneError):
    """Somebody stopped a run that can be resumed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the nearest known name, or nothing when none is near.

    Of names equally near that which begins most alike wins: `resnet21` is rather `resnet20` than `resnet32`.
    """
    near = difflib.get_close_matches(name, list(known), n=5, cutoff=0.5)
    if not near:
        return ""
    best = max(near, key=lambda each: _likeness(name, each))
    return f"; did you mean {best!r}?"


def _likeness(name: str, other: str) -> tuple[float, int]:
    """Returns how alike two names are, and how many characters they begin with in common."""
    alike = next((i for i, (a, b) in enumerate(zip(name, other, strict=False)) if a != b), len(name))
    return difflib.SequenceMatcher(None, other, name).ratio(), alike


def printable(text: str) -> str:
    """Returns a text in which every sign that is not printable, a line's end excepted, is written as its escape."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)

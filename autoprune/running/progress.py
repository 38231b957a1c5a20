"""The progress of a run on the terminal."""

from __future__ import annotations

import importlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import ExitStack, contextmanager
from html import escape
from typing import Any, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from autoprune.errors import printable
from autoprune.reporting.terminal import plain_console
from autoprune.tasks.base import Hook

Advance = Callable[[str], None]
"""Called after each step, with a few words on it."""

# Without a terminal a line is printed this often, in seconds.
LINE_SECONDS = 30.0
# A notebook's line is replaced at most this often, in seconds.
NOTEBOOK_SECONDS = 0.2
# Items that are used up in less, in seconds, are not worth a line.
LEAST_SECONDS = 1.0

Item = TypeVar("Item")


class Display:
    """Progress of a run: bars on stderr with an estimate of the time left, or single lines where it is no terminal.

    In a notebook each stage has one line below the cell, which is replaced as it moves on.
    """

    def __init__(self, enabled: bool = True) -> None:
        self._console = plain_console(stderr=True)
        self._notebook = _notebook_display()
        self._enabled = enabled

    def say(self, text: str) -> None:
        """Prints one line."""
        if not self._enabled:
            return
        if self._notebook:
            self._notebook({"text/plain": printable(text)}, raw=True)
        else:
            self._console.print(printable(text))

    def watch(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """Yields the items; progress moves on as each has been used."""
        with self.stage(name, len(items) if isinstance(items, Sized) else None, unless_under=LEAST_SECONDS) as advance:
            for item in items:
                yield item
                advance("")

    @contextmanager
    def stage(self, name: str, total: int | None, done: int = 0, unless_under: float = 0.0) -> Iterator[Advance]:
        """Shows a stage of `total` steps (None: not known), `done` of which were done before.

        Args:
            unless_under: seconds; without a terminal nothing is said of the end of a stage that took less.
        """
        if not self._enabled:
            yield lambda _: None
        elif self._notebook:
            yield _notebook_line(self._notebook, name, total, done, unless_under)
        elif self._console.is_interactive and self._console.file.isatty():  # else control sequences are not understood
            before = SpinnerColumn(), TextColumn("{task.description}", markup=False)
            after = TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False)
            with Progress(*before, BarColumn(), MofNCompleteColumn(), *after, console=self._console) as progress:
                task = progress.add_task(printable(name), total=total, completed=done, note="")
                yield lambda note: progress.update(task, advance=1, note=printable(note))
        else:
            yield self._lines(name, total, done, unless_under)

    def _lines(self, name: str, total: int | None, done: int, unless_under: float) -> Advance:
        start = last = time.monotonic()
        count = done

        def advance(note: str) -> None:
            nonlocal count, last
            count += 1
            now = time.monotonic()
            if now - last < LINE_SECONDS and (count != total or now - start < unless_under):
                return
            last = now
            self.say(f"{name} {_outlook(count, done, total, now - start)}{', ' + note if note else ''}")

        return advance


def _notebook_display() -> Callable[..., Any] | None:
    """Returns IPython's function that shows something below a notebook's cell; None where this is no notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    if getattr(shell, "kernel", None) is None:  # IPython in a terminal has none
        return None
    display: Callable[..., Any] = importlib.import_module("IPython.display").display
    return display


def _notebook_line(
    display: Callable[..., Any], name: str, total: int | None, done: int, unless_under: float
) -> Advance:
    """Returns what moves on the line of a stage, which is shown once the stage takes `unless_under` seconds."""
    start, last, count = time.monotonic(), -math.inf, done
    handle: Any = None

    def advance(note: str) -> None:
        nonlocal count, last, handle
        count += 1
        now = time.monotonic()
        if now - start < unless_under or (now - last < NOTEBOOK_SECONDS and count != total):
            return
        last = now
        text = printable(f"{name} {_outlook(count, done, total, now - start)}{', ' + note if note else ''}")
        bar = "" if total is None else f'<progress value="{count}" max="{total}"></progress> '
        line = {"text/plain": text, "text/html": f"{bar}{escape(text)}"}
        if handle is None:
            handle = display(line, raw=True, display_id=True)
        else:
            handle.update(line, raw=True)

    return advance


def _outlook(count: int, done: int, total: int | None, seconds: float) -> str:
    if total is None:
        return f"{count}, {seconds:.0f} s so far"
    left = seconds / max(count - done, 1) * max(total - count, 0)
    return f"{count}/{total}, " + (f"about {left:.0f} s left" if count < total else f"done in {seconds:.0f} s")


@contextmanager
def training_progress(display: Display, name: str, note: Callable[[], str] = str) -> Iterator[Hook]:
    """Gives a hook that shows how far training has come; nothing is shown if no training takes place.

    Args:
        display: shows a bar for each training.
        name: of the bar.
        note: returns what is said beside the loss; nothing by default.
    """
    with ExitStack() as stack:
        bars: list[Advance] = []

        def after_step(network: object, step: int, steps: int, loss: float) -> None:
            if not bars:
                bars.append(stack.enter_context(display.stage(name, steps, step - 1)))
            bars[0](f"loss {loss:.3f}{note()}")
            if step == steps:  # what comes next may show a bar of its own, and there is but one at a time
                stack.close()
                bars.clear()

        yield Hook(after_step=after_step)

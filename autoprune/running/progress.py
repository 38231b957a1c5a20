"""The progress of a run on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from autoprune.errors import printable
from autoprune.reporting.terminal import plain_console
from autoprune.tasks.base import Hook

Advance = Callable[[str], None]
"""Called after each step, with a few words on it."""

# Without a terminal a line is printed this often, in seconds.
LINE_SECONDS = 30.0
# Items that are used up in less, in seconds, are not worth a line.
LEAST_SECONDS = 1.0

Item = TypeVar("Item")


class Display:
    """Progress bars on stderr, with an estimate of the time left; single lines where stderr is no terminal."""

    def __init__(self, enabled: bool = True) -> None:
        self._console = plain_console(stderr=True)
        self._enabled = enabled

    def say(self, text: str) -> None:
        """Prints one line."""
        if self._enabled:
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
        elif self._console.is_terminal:
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

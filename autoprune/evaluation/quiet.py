"""Keeps what torch's exporter says to itself: it prints whole graphs where it fails, and warns where it does not."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import textwrap
import threading
import warnings
from collections.abc import Iterator
from typing import TextIO

_LENGTH = 160


class _WithoutThisThread(io.TextIOBase):
    """A stream that drops what the thread that made it writes, and hands on what others do."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._thread = stream, threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Drops torch's warnings, its log, and what this thread prints to stderr."""
    log = logging.getLogger("torch")
    level = log.level
    with warnings.catch_warnings(), contextlib.redirect_stderr(_WithoutThisThread(sys.stderr)):
        warnings.simplefilter("ignore")
        log.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            log.setLevel(level)


def in_one_line(fault: BaseException) -> str:
    """The beginning of what a library says at length, of the first cause."""
    while fault.__cause__ is not None:
        fault = fault.__cause__
    return textwrap.shorten(str(fault), _LENGTH, placeholder="…")

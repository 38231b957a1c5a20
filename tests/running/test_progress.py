"""What a person sees while a run goes on, without a terminal."""

from __future__ import annotations

import pytest

from autoprune.running import progress
from autoprune.running.progress import Display


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the clock shows; a test moves it."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def used(display: Display, items: object, clock: list[float], seconds: float) -> list[object]:
    found = []
    for item in display.watch("samples", items):  # type: ignore[arg-type]
        clock[0] += seconds
        found.append(item)
    return found


def test_a_long_stage_says_now_and_then_how_long_is_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert used(Display(), ["a", "b", "c", "d"], clock, 20.0) == ["a", "b", "c", "d"]
    assert capsys.readouterr().err == "samples 2/4, about 40 s left\nsamples 4/4, done in 80 s\n"


def test_a_short_stage_says_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    used(Display(), ["a", "b"], clock, 0.1)
    assert capsys.readouterr().err == ""


def test_items_of_unknown_number_are_counted(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    used(Display(), iter(["a", "b"]), clock, 20.0)
    assert capsys.readouterr().err == "samples 2, 40 s so far\n"


def test_a_display_that_is_off_says_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    assert used(Display(enabled=False), ["a"], clock, 100.0) == ["a"]
    assert capsys.readouterr().err == ""

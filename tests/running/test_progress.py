"""What a person sees while a run goes on, without a terminal."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

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


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What a notebook shows below a cell: one entry for each thing shown, replaced where it is updated."""
    shown: list[dict[str, str]] = []

    def display(data: dict[str, str], raw: bool, display_id: bool = False) -> Any:
        index = len(shown)
        shown.append(data)
        return SimpleNamespace(update=lambda data, raw: shown.__setitem__(index, data))

    ipython, display_module = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    display_module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display_module)
    return shown


def test_a_stage_in_a_notebook_is_one_line_that_is_replaced(
    clock: list[float], cell: list[dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    display = Display()
    with display.stage("search <b>", 3, done=1) as advance:
        clock[0] += 2
        advance("loss 0.5\x1b[1m")
        assert cell[0]["text/plain"] == "search <b> 2/3, about 2 s left, loss 0.5\\x1b[1m"
        clock[0] += 2
        advance("")
    display.say("done")
    assert [line["text/plain"] for line in cell] == ["search <b> 3/3, done in 4 s", "done"]
    bar = '<progress value="3" max="3"></progress> '
    assert cell[0]["text/html"] == f"{bar}search &lt;b&gt; 3/3, done in 4 s"
    assert capsys.readouterr() == ("", "")


def test_a_short_stage_leaves_no_line_in_a_notebook(clock: list[float], cell: list[dict[str, str]]) -> None:
    used(Display(), ["a", "b"], clock, 0.1)
    used(Display(enabled=False), ["a", "b"], clock, 10.0)
    assert cell == []
    used(Display(), iter(["a", "b"]), clock, 10.0)
    assert cell == [{"text/plain": "samples 2, 20 s so far", "text/html": "samples 2, 20 s so far"}]


def test_output_that_is_no_terminal_gets_no_control_sequences_whatever_the_environment_says(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    used(Display(), ["a", "b"], clock, 20.0)
    assert capsys.readouterr().err == "samples 2/2, done in 40 s\n"

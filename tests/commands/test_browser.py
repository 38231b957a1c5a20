"""What a reader sees in a browser: MLflow's interface on a finished run, and the page of a report."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprune.core.ledger import read_history
from tests.browsers import Browser, browsing
from tests.journeys import Cli, DigitsRun

pytestmark = pytest.mark.browser

NAMES = "[...document.querySelectorAll('.ag-row a')].map(each => each.innerText)"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with browsing(tmp_path / "browser") as found:
        found("Emulation.setDeviceMetricsOverride", width=1700, height=1300, deviceScaleFactor=1, mobile=False)
        yield found


@pytest.fixture
def addresses(digits_run: DigitsRun) -> Iterator[dict[str, str]]:
    """What `autoprune ui` prints, while it runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "autoprune", "ui", str(digits_run.folder), "--port", str(port)]
    command += ["--tracking-uri", digits_run.store]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    found: dict[str, str] = {}
    for line in server.stdout:
        if named := re.match(r"(table|charts|all searches) +(http\S+)", line):
            found[named[1]] = named[2]
        if "Ctrl-C" in line:
            break
    yield found
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) is not None


def test_the_prepared_view_shows_trials_by_objective_and_charts_and_nothing_leaves_the_machine(
    browser: Browser, addresses: dict[str, str], digits_run: DigitsRun, tmp_path: Path
) -> None:
    trials = read_history(digits_run.folder).trials()
    ranked = sorted((trial for trial in trials if trial.score), key=lambda trial: trial.score.loss)
    browser.show(addresses["table"])
    browser.wait_until(f"{NAMES}.length >= {len(trials) + 1}")
    browser.picture(tmp_path / "table.png")
    names = list(dict.fromkeys(name for name in browser.value(NAMES) if name))
    assert [name for name in names if name.isdigit()] == [str(trial.number) for trial in ranked]
    assert "run" in names
    text = browser.text()
    assert "autoprune.role" in text
    assert "flops_kept" in text

    browser.show(addresses["charts"])
    browser.wait_until("document.querySelectorAll('.js-plotly-plot').length >= 3")
    browser.wait_until("document.body.innerText.includes('Widths')")
    browser.picture(tmp_path / "charts.png")
    text = browser.text()
    for drawn in ("flops_kept vs. accuracy", "params_kept vs. accuracy", "best_loss", "Search", "Widths", "Parallel"):
        assert drawn in text, drawn
    assert browser.left_the_machine() == []


def test_all_searches_are_listed_with_their_trials_folded_below_them(
    browser: Browser, addresses: dict[str, str], digits_run: DigitsRun, tmp_path: Path
) -> None:
    browser.show(addresses["all searches"])
    browser.wait_until(f"{NAMES}.includes('run')")
    browser.wait_until("document.body.innerText.includes('matching runs')")
    browser.picture(tmp_path / "all.png")
    assert [name for name in browser.value(NAMES) if name.isdigit()] == []  # the trials are folded into their search
    assert "5 matching runs" in browser.text()
    assert browser.left_the_machine() == []


def test_a_report_is_read_on_any_screen_and_asks_for_nothing(
    autoprune: Cli, workdir: Path, browser: Browser, digits_run: DigitsRun
) -> None:
    autoprune.succeed("report", digits_run.folder, "--format", "html", "--output", "page")
    browser.show((workdir / "page" / "index.html").as_uri())
    browser.wait_until("document.querySelectorAll('figure svg').length >= 7")
    light = browser.value("getComputedStyle(document.body).backgroundColor")
    browser("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    dark = browser.value("getComputedStyle(document.body).backgroundColor")
    assert light == "rgb(255, 255, 255)"
    assert dark != light
    browser("Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=False)
    assert browser.value("document.documentElement.scrollWidth") <= 400
    browser("Emulation.setEmulatedMedia", media="print", features=[])
    assert browser.value("getComputedStyle(document.body).backgroundColor") == light
    assert [address for address in browser.requests if not address.startswith(("file:", "about:"))] == []

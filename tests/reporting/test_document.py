from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from autoprune.core.trial import Failure, Score
from autoprune.reporting.document import write_page
from autoprune.reporting.record import read_record
from tests.reporting.ledgers import OUTCOMES, write_run
from tests.scores import scored

_VOID = {"meta", "br", "hr", "img", "link", "input"}


class _Nesting(HTMLParser):
    """Fails where an element is closed that is not the open one; keeps text and every address that is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: Path) -> _Nesting:
    parser = _Nesting()
    parser.feed(page.read_text())
    assert parser.open == []
    return parser


def test_a_page_loads_nothing_and_holds_everything(tmp_path: Path) -> None:
    page = write_page([read_record(write_run(tmp_path / "run"))], tmp_path / "page")
    parser, source = read(page), page.read_text()
    assert [address for address in parser.loaded if not address.startswith(("#", "data:"))] == []
    assert not re.search(r"url\((?!#)|@import|<script|<link", source)
    for text in ("89.00 %", "88.00 %", "trial 3 keeps 49.85 % of the FLOPs", "the loss is not finite", "c0ffee", "da7a",
                 "autoprune apply", "autoprune search --budget flops=0.5", "every setting"):  # fmt: skip
        assert text in parser.text, text
    assert source.count("<svg") == 7
    names = {path.name for path in (tmp_path / "page").iterdir()}
    assert {"index.html", "trials.csv", "report.json", "comparison.json", "cost-flops.png", "widths.png"} <= names


def test_a_page_takes_its_colours_from_the_reader(tmp_path: Path) -> None:
    source = write_page([read_record(write_run(tmp_path / "run"))], tmp_path / "page").read_text()
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source
    drawings = source[source.index("<svg") : source.rindex("</svg>")]
    assert "var(--best)" in drawings
    assert "#24292f" not in drawings


def test_names_and_reasons_are_text_and_not_markup(tmp_path: Path) -> None:
    outcomes = [scored(0.5, 0.8, 100), Failure("exception", "<script>alert(1)</script> & more")]
    folder = write_run(tmp_path / "<b>run</b>", outcomes, ended=False)
    parser = read(write_page([read_record(folder)], tmp_path / "page"))
    assert "<script>alert(1)</script> & more" in parser.text


@pytest.mark.parametrize("outcomes", [(), OUTCOMES[1:3], OUTCOMES[:1]], ids=["none", "no score", "one"])
def test_a_run_that_has_not_finished_has_a_page_too(outcomes: tuple[Score, ...], tmp_path: Path) -> None:
    parser = read(write_page([read_record(write_run(tmp_path / "run", outcomes, ended=False))], tmp_path / "page"))
    assert "interrupted" in parser.text
    assert f"{len(outcomes)} of 5 trials" in parser.text
    assert "--resume" in parser.text


def test_a_loss_of_zero_can_be_drawn(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [scored(0.0, 1.0, 100)], ended=False)
    assert "<svg" in write_page([read_record(folder)], tmp_path / "page").read_text()


def test_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    records = [read_record(write_run(tmp_path / "first")), read_record(write_run(tmp_path / "second", ended=False))]
    page = write_page(records, tmp_path / "page")
    parser = read(page)
    assert "2 runs side by side" in parser.text
    assert "interrupted, 5 of 5 trials" in parser.text
    assert page.read_text().count("<svg") == 4

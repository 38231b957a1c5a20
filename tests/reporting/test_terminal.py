from __future__ import annotations

import io

import pytest
from rich.table import Table

from autoprune.errors import printable
from autoprune.reporting.results import Result, results_table
from autoprune.reporting.terminal import plain_console
from tests.scores import ACCURACY, scored


@pytest.mark.parametrize(
    ("text", "shown"),
    [("layer1.0.conv1", "layer1.0.conv1"), ("Größe 大", "Größe 大"), ("a\nb", "a\nb"), ("\x1b[2J\r", r"\x1b[2J\r"),
     ("\x00\N{RIGHT-TO-LEFT OVERRIDE}", r"\x00\u202e")],
)  # fmt: skip
def test_signs_that_are_not_printable_are_written_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("name", ["[bold]x[/bold]", ":smile:", "[link=file:///x]y[/link]", "[/]", "\x1b[31mred"])
def test_what_users_name_is_no_markup(name: str) -> None:
    text = io.StringIO()
    table = Table(box=None)
    table.add_column("name", no_wrap=True)
    table.add_row(printable(name))
    plain_console(text, 100).print(table)
    assert text.getvalue().split() == ["name", *printable(name).split()]


def test_a_text_has_no_control_sequences_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    text, table = io.StringIO(), Table(box=None)
    table.add_column("name")
    plain_console(text, 100).print(table)
    assert "\x1b" not in text.getvalue()


def test_a_setting_in_the_final_table_is_text() -> None:
    costs = {"flops": 2000, "params": 400}
    dense = Result("dense", None, {}, scored(0.1, 0.95, 10), None, costs, 1.5)
    best = Result("best", 3, {}, scored(0.1, 0.95, 10), None, costs, 1.5, settings={"criterion.[red]": "my:[/red]"})
    text = io.StringIO()
    plain_console(text, 160).print(results_table([dense, best], [ACCURACY], ACCURACY))
    assert "criterion.[red]=my:[/red]" in text.getvalue()

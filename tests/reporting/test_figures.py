from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoprune.core.metrics import LOSS
from autoprune.core.sensitivity import SensitivityCurves
from autoprune.core.trial import Failure, Score
from autoprune.reporting.drawing import png, svg
from autoprune.reporting.figures import overview_figure, sensitivity_figure, widths_figure
from autoprune.reporting.record import read_record
from tests.reporting.ledgers import OUTCOMES, write_run
from tests.scores import ACCURACY, scored

DENSE = scored(0.1, 0.9, 10)


@pytest.mark.parametrize("limits", [{"flops": 1000}, {"flops": 1000, "params": 200, "size": 900}, {"size": 900}])
@pytest.mark.parametrize(
    "outcomes", [OUTCOMES, (scored(0.0, 1.0, 10), Failure("nan", "loss nan"))], ids=["all", "zero"]
)
def test_the_overview_has_a_panel_for_each_cost_and_one_legend(
    tmp_path: Path, outcomes: Any, limits: dict[str, int]
) -> None:
    record = read_record(write_run(tmp_path / "run", outcomes, ended=len(outcomes) == 5, limits=limits))
    figure = overview_figure(record)
    assert figure is not None
    names = [axes.get_xlabel() for axes in figure.axes]
    assert names == [
        "FLOPs kept (%)",
        "parameters kept (%)",
        *(["bytes kept (%)"] if "size" in limits else []),
        "trials",
    ]
    [legend] = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(texts) == len(set(texts))
    assert {"trials", "frontier", "limit", "dense", "best so far"} <= set(texts)
    png(figure, tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_score_there_is_nothing_to_draw(tmp_path: Path) -> None:
    record = read_record(write_run(tmp_path / "run", [Failure("nan", "loss nan")], ended=False))
    assert overview_figure(record) is None


@pytest.mark.parametrize("levels", [{"a": {1: DENSE}, "b": {}}, {}])
def test_curves_are_drawn_of_groups_without_levels_too(tmp_path: Path, levels: dict[str, dict[int, Score]]) -> None:
    png(sensitivity_figure(SensitivityCurves(DENSE, levels, {"a": 4, "b": 2}), LOSS, ACCURACY), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


NAMES = ("_hidden", "cost $x_1$", r"$\frac{1}{", "a\nb\x1b[2J", "<b>&amp;", "#24292f", "[bold]x[/]")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_text_in_figures(tmp_path: Path, name: str) -> None:
    curves = SensitivityCurves(DENSE, {name: {1: DENSE}}, {name: 4})
    [legend] = sensitivity_figure(curves, LOSS).legends
    [text] = legend.get_texts()
    shown = text.get_text().lstrip("\N{ZERO WIDTH SPACE}")
    assert shown == name.replace("\x1b", r"\x1b").replace("\n", r"\n")
    assert not text.get_parse_math()
    drawn = svg(sensitivity_figure(curves, LOSS), "curves")
    assert "\x1b" not in drawn
    assert "<b>" not in drawn


def test_a_colour_in_a_name_stays_a_name(tmp_path: Path) -> None:
    curves = SensitivityCurves(DENSE, {"#24292f": {1: DENSE}}, {"#24292f": 4})
    assert ">#24292f<" in svg(sensitivity_figure(curves, LOSS), "curves")


def test_groups_of_a_run_are_named_as_they_are(tmp_path: Path) -> None:
    figure = widths_figure(read_record(write_run(tmp_path / "run")))
    assert figure is not None
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["a", "b"]

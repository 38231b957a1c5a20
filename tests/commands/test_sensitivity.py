"""`autoprune sensitivity`: what it writes, says and keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from autoprune.core.sensitivity import SensitivityCurves, curves_from_json
from autoprune.tasks.models.digits_resnet import digits_resnet
from tests.journeys import TINY, UNTRACKED, Cli, history_of, left_behind

SMALL = ("--set", "sensitivity.levels=2", "--set", "sensitivity.samples=100")
SEARCH = ("search", "--budget", "flops=0.6", *TINY, *UNTRACKED)
FILE = "sensitivity.json"


def curves_in(folder: Path) -> tuple[SensitivityCurves, ...]:
    return curves_from_json(json.loads((folder / FILE).read_text()), FILE)


@pytest.mark.usefixtures("drawn")
def test_sensitivity_writes_three_files_and_names_them(autoprune: Cli, workdir: Path) -> None:
    levels = ("--set", "sensitivity.levels=2", "--set", "sensitivity.samples=100")
    out = autoprune.succeed("sensitivity", "--output", "curves", *levels).out
    assert out.split() == ["curves/sensitivity.json", "curves/sensitivity.csv", "curves/sensitivity.png"]
    assert (workdir / "curves" / "sensitivity.csv").read_text().startswith("group,width,kept,loss,accuracy,samples\n")
    assert (workdir / "curves" / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    curves = ("--set", "sensitivity.file=curves/sensitivity.json")
    autoprune.succeed("search", "--budget", "flops=0.6", *TINY, *UNTRACKED, *curves, "--output", "run")
    assert history_of(workdir / "run").of("level") == []


@pytest.mark.parametrize("pattern", ["element", "filter", "channel", "2:4", "block_1x1x4"])
def test_sensitivity_of_any_pattern(autoprune: Cli, workdir: Path, pattern: str) -> None:
    levels = ("--set", "sensitivity.levels=1", "--set", "sensitivity.samples=100")
    autoprune.succeed("sensitivity", "--pattern", pattern, *levels)
    curves = curves_in(workdir)[0]
    width = {"element": 2304, "filter": 16, "channel": 16, "2:4": 4, "block_1x1x4": 576}[pattern]
    assert curves.widths["stage1.conv1"] == width
    (kept,) = curves.levels["stage1.conv1"]
    assert kept < width
    assert pattern in json.dumps(dict(curves.fingerprint))
    assert any(score.loss > curves.dense.loss for levels in curves.levels.values() for score in levels.values())


def test_the_sweep_says_what_it_cost_and_what_it_saved(autoprune: Cli, workdir: Path) -> None:
    said = autoprune.succeed("sensitivity", *SMALL, "--set", "sensitivity.stop=null").err.splitlines()[-1]
    (curves,) = curves_in(workdir)
    unit = 100 * 1_527_040 // 2
    assert curves.work is not None
    assert curves.naive_work is not None
    assert said == (
        f"sweep: {curves.work / unit:.1f} dense evaluations of 100 samples instead of {curves.naive_work / unit:.1f}"
    )
    assert curves.work < 0.8 * curves.naive_work
    whole = ("--set", "sensitivity.stop=null", "--set", "sensitivity.reuse=false")
    autoprune.succeed("sensitivity", *SMALL, *whole, "--output", "naive")
    (naive,) = curves_in(workdir / "naive")
    assert naive.work == naive.naive_work == curves.naive_work
    for group, levels in naive.levels.items():
        for width, score in levels.items():
            assert curves.levels[group][width].loss == pytest.approx(score.loss, rel=1e-5)


@pytest.mark.slow
def test_one_file_holds_the_curves_of_several_criteria_and_a_search_finds_its_own(
    autoprune: Cli, workdir: Path
) -> None:
    for criterion in ("l1", "fpgm", "l1"):
        autoprune.succeed("sensitivity", *SMALL, "--set", f"scoring.criterion={criterion}", "--output", "curves")
    found = {curves.fingerprint["scoring"]["criterion"]: curves for curves in curves_in(workdir / "curves")}
    assert len(found) == len(curves_in(workdir / "curves")) == 2
    for criterion, curves in found.items():
        file = ("--set", f"sensitivity.file=curves/{FILE}", "--set", f"scoring.criterion={criterion}")
        autoprune.succeed(*SEARCH, *file, "--output", criterion)
        assert curves_in(workdir / criterion) == (curves,)
        assert history_of(workdir / criterion).of("level") == []
    message = autoprune.refused(*SEARCH, "--set", f"sensitivity.file=curves/{FILE}", "--set", "scoring.criterion=l2")
    assert f"curves/{FILE} was measured with another scoring (the nearest of 2 measurements)" in message


def test_curves_on_fewer_samples_than_were_asked_for_are_read_again(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed("sensitivity", "--set", "sensitivity.levels=1")  # on 1,000 samples, where there are 400
    autoprune.succeed(*SEARCH, "--set", f"sensitivity.file={FILE}", "--output", "run")


def test_curves_of_another_checkpoint_give_way(autoprune: Cli, workdir: Path) -> None:
    autoprune.succeed("sensitivity", *SMALL)
    (before,) = curves_in(workdir)
    torch.save(digits_resnet().state_dict(), "w.pt")
    autoprune.succeed("sensitivity", *SMALL, "--checkpoint", "w.pt")
    (after,) = curves_in(workdir)
    assert after.fingerprint["checkpoint"] != before.fingerprint["checkpoint"]


def test_a_file_of_something_else_is_not_written_over(autoprune: Cli, workdir: Path) -> None:
    (workdir / FILE).write_text("{}")
    assert "holds no sensitivity curves" in autoprune.refused("sensitivity", *SMALL)
    assert (workdir / FILE).read_text() == "{}"
    assert left_behind(workdir) == [FILE]

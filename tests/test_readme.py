"""The README's examples run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def _examples() -> dict[str, str]:
    """File name to text of the Python examples, named in their first line."""
    blocks = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", README.read_text(), re.DOTALL)
    return dict(blocks)


def test_the_python_examples_run_one_after_the_other_in_an_empty_folder(tmp_path: Path) -> None:
    examples = _examples()
    embedded = {path.name: path.read_text() for path in (Path(__file__).parent / "examples").glob("*.py")}
    assert set(examples) == {"my_task.py", "search.py", "prune_while_training.py", *embedded}
    for name, text in embedded.items():  # `test_embedding` runs these
        assert text.partition("\n")[2] == examples[name], name
    for name, text in examples.items():
        (tmp_path / name).write_text(text)
    assert _run("search.py", tmp_path).startswith("Allocation(")
    assert (tmp_path / "run" / "best.yaml").is_file()
    assert "'3.weight': 0.8" in _run("prune_while_training.py", tmp_path)


def _run(name: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, name],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_schedule_in_the_readme_is_one(tmp_path: Path) -> None:
    from autoprune.config.schedule import load_schedule

    [text] = re.findall(r"```yaml\n(train:.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "schedule.yaml").write_text(text)
    assert load_schedule(tmp_path / "schedule.yaml").pruners["classifier"].sparsity == 0.5


def test_every_option_named_in_the_readme_exists() -> None:
    from autoprune.cli import build_parser

    known = {"--dist"}  # of pytest
    for command in build_parser()._subparsers._group_actions[0].choices.values():  # type: ignore[union-attr]
        known.update(command.options())
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README.read_text()))
    assert named <= known, named - known

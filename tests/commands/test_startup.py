"""Help, and faults in options and YAML, answer before anything heavy is imported."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "numpy", "optuna", "mlflow", "ray", "matplotlib", "scipy", "sklearn", "pandas"}
COMMANDS = ("search", "sensitivity", "inspect", "apply", "evaluate", "report", "track", "list", "ui")
PROGRAM = """
import sys
from autoprune.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print("imported", *sorted({name.partition(".")[0] for name in sys.modules}))
sys.exit(code)
"""


def _processor_seconds() -> float:
    """Those of all children so far: other work on the machine does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(*arguments: str, folder: Path | None = None) -> tuple[int, str, set[str], float]:
    """Exit code, what was printed, what was imported, and how many seconds of the processor it took."""
    start = _processor_seconds()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=False, cwd=folder
    )
    seconds = _processor_seconds() - start
    printed, _, imported = done.stdout.rpartition("imported")
    return done.returncode, printed + done.stderr, set(imported.split()), seconds


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code, printed, imported, _ = run(*arguments)
    assert code == 0
    assert "autoprune" in printed
    assert imported & (HEAVY | {"pydantic", "yaml", "rich"}) == set()


def test_help_answers_at_once() -> None:
    assert min(run("search", "--help")[3] for _ in range(3)) < 0.3


@pytest.mark.parametrize(
    "arguments",
    [
        ["serch"],
        ["search", "--trails", "3"],
        ["search", "--budget", "flops=1.5"],
        ["search", "--budget", "flops=0.5", "--task", "digit"],
        ["search", "--budget", "flops=0.5", "--set", "evaluation.image=3"],
        ["search", "--budget", "flops=0.5", "--checkpoint", "missing.pt"],
        ["search", "broken.yaml", "--budget", "flops=0.5"],
        ["search", "--resume", "missing"],
        ["search", "--budget", "flops=0.5", "--output", "broken.yaml"],
        ["apply", "missing", "--output", "p.pt"],
        ["apply", "broken.yaml", "--output", "p.pt", "--finetune", "x"],
        ["sensitivity", "--output", "broken.yaml"],
        ["inspect", "--model", "resnet21"],
        ["evaluate", "p.pt", "--task", "digit"],
        ["ui", "missing"],
        ["track", "missing"],
        ["report", "missing"],
    ],
    ids=" ".join,
)
def test_faults_in_options_and_yaml_answer_before_torch_is_imported(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("search: [")
    code, printed, imported, _ = run(*arguments, folder=tmp_path)
    assert code == 2
    assert printed.startswith("autoprune: ")
    assert imported & (HEAVY - {"numpy"}) == set()


def test_importing_autoprune_imports_nothing_heavy() -> None:
    program = "import sys, autoprune; dir(autoprune); print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & HEAVY == set()

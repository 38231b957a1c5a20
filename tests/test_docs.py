"""The README and the documentation: commands and programs run, quoted figures are those of `experiments/`."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import autoprune
from autoprune import errors
from autoprune.cli import build_parser, main
from autoprune.commands.options import experiment_of
from tests.documents import PAGES, SNIPPET, Block, blocks, snippet
from tests.journeys import HALF, TINY, UNTRACKED, DigitsRun, in_child
from tests.repository import REPOSITORY
from tests.tiers import rest_slow

FIRST = ("README", "quickstart", "reviewing")
"""The pages whose commands the default tier runs."""
WITH_COMMANDS = [name for name, page in PAGES.items() if any(block.language == "sh" for block in blocks(page))]
WITH_COMMANDS.sort(key=lambda name: name not in FIRST)
TESTED_AS_EXAMPLES = {path.name for path in (REPOSITORY / "examples").glob("*.py")} | {"search.py"}
SEARCHED = ["autoprune", "search", *HALF, "--output", "run"]
"""What the fixture has typed already."""
SECONDS = 300


@pytest.fixture
def page_folder(workdir: Path, digits_run: DigitsRun, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder but for a finished search in `run`, which most pages are about."""
    digits_run.copy(workdir)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    return workdir


@pytest.mark.parametrize("name", rest_slow(WITH_COMMANDS, kept=3))
def test_the_commands_of_a_page_run_one_after_the_other(name: str, page_folder: Path) -> None:
    play(name, page_folder, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in WITH_COMMANDS if any(block.slow for block in blocks(PAGES[n]))])
def test_the_slow_commands_of_a_page_run_too(name: str, page_folder: Path) -> None:
    play(name, page_folder, slow=True)


def play(name: str, folder: Path, slow: bool) -> None:
    """Writes the files that a page shows and runs what it says to type, in order."""
    page = list(blocks(PAGES[name]))
    for block in page:
        if block.file is not None and block.needs is None:
            (folder / block.file).write_text(block.text)
    for command in [command for block in page if runs(block, slow) for command in block.commands]:
        if command == SEARCHED:
            continue
        assert in_child(lambda command=command: run(command), limit=SECONDS) == 0, " ".join(command)


def runs(block: Block, slow: bool) -> bool:
    return block.language == "sh" and block.needs is None and (slow or not block.slow)


def run(command: list[str]) -> int:
    """The exit code of a command, in a process of its own; a search is made small, and replaces what is there."""
    if command[0] == "python":
        sys.path.insert(0, os.getcwd())
        runpy.run_path(command[1], run_name="__main__")
        return 0
    if command[0] == "pytest":
        return int(pytest.main([*command[1:], "-q", "-p", "no:cacheprovider", "--rootdir", "."]))
    assert command[0] == "autoprune", f"{command[0]} is not run by tests; say what it needs in a comment before it"
    arguments = command[1:]
    if arguments[0] == "search" and "--resume" not in arguments:
        if "--output" in arguments:
            shutil.rmtree(arguments[arguments.index("--output") + 1], ignore_errors=True)
        small = TINY if "--evaluations" not in arguments else TINY[2:4]
        arguments = ["search", *UNTRACKED, *small, *arguments[1:]]
    if "--workers" in arguments:  # Ray does not outlive a fork
        return subprocess.run([sys.executable, "-m", "autoprune", *arguments], check=False).returncode
    return main(arguments)


def test_a_page_is_refused_whose_command_fails(page_folder: Path) -> None:
    assert in_child(lambda: run(["autoprune", "report", "no_such_run"])) == 2
    assert in_child(lambda: run(["tree", "run"])) == 70


EVERY_COMMAND = [
    pytest.param(command, id=f"{name}: {' '.join(command)}")
    for name, page in PAGES.items()
    for block in blocks(page)
    if block.language == "sh"
    for command in block.commands
    if command[0] == "autoprune"
]


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_every_command_of_a_page_is_one_of_autoprune(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for before, word in pairwise(command):  # files that are named have to be there
        word = word.removeprefix("hf:")
        if before in ("--data", "--model") or re.fullmatch(r"[\w/]+\.(pt|th|yaml)|DIR|run", word):
            (tmp_path / word).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / word).write_text("{}")
    arguments = build_parser().parse_args(command[1:])
    if arguments.command == "search" and arguments.resume is None:
        given = [text for text in arguments.set if not text.startswith("sensitivity.file=")]
        arguments.set = given
        experiment_of(arguments, arguments.experiment)


def test_every_program_of_a_page_has_a_name_and_is_run() -> None:
    for name, page in PAGES.items():
        typed = {word for block in blocks(page) if block.language == "sh" for words in block.commands for word in words}
        shown = [block for block in blocks(page) if block.language == "python"]
        whole = "\n".join(block.text for block in shown if block.file)
        for block in shown:
            if block.file is None:  # an excerpt of a program of the same page
                assert block.text.strip() in whole, f"{name}: {block.text}"
                continue
            module = block.file.removesuffix(".py")
            imported = re.search(rf"^(from|import) {module}\b", whole, re.MULTILINE) is not None
            named = block.file in typed or any(word.startswith(f"{module}:") for word in typed)
            assert named or imported or block.file in TESTED_AS_EXAMPLES, f"{name}: {block.file} is not run"


def test_schedules_and_spaces_of_a_page_are_used_by_its_commands() -> None:
    for name, page in PAGES.items():
        typed = {word for block in blocks(page) if block.language == "sh" for words in block.commands for word in words}
        for block in blocks(page):
            if block.language == "yaml" and block.file is not None:
                assert block.file in typed, f"{name}: {block.file}"


FIGURE = re.compile(r"\d+\.\d+|\d+(?= %)")
NO_FIGURE = re.compile(r"`[^`]*`|\]\([^)]*\)|(Python|License|ResNet-) ?[\d.]+|0\.1\.0")
"""Code, links, versions and names."""


def test_figures_in_the_text_are_those_of_the_file_that_a_comment_names() -> None:
    for name, page in PAGES.items():
        for paragraph, source in paragraphs(page):
            figures = set(FIGURE.findall(NO_FIGURE.sub("", paragraph)))
            if not figures:
                continue
            assert source, f"{name} quotes {sorted(figures)} without a comment that says from where: {paragraph[:80]}"
            known = set(FIGURE.findall((REPOSITORY / source).read_text()))
            assert figures <= known, f"{name}: {sorted(figures - known)} are not in {source}"
            for line in paragraph.splitlines() if paragraph.startswith("```") else []:
                assert line.startswith("```") or line in (REPOSITORY / source).read_text(), line


def paragraphs(page: Path) -> list[tuple[str, str | None]]:
    """Each paragraph, list, table or block of output of a page with the file that its figures are from."""
    found, source = [], None
    text = re.sub(r"^```(?!text)\w+\n.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for paragraph in text.split("\n\n"):
        lines = paragraph.strip("\n").splitlines()
        named = re.fullmatch(r"<!-- from: (experiments/\S+) -->", lines[0]) if lines else None
        source = named[1] if named else None
        found.append(("\n".join(line for line in lines if not line.startswith("<!--")), source))
    return found


def test_included_tables_are_there_and_come_from_experiments() -> None:
    included = [reference for page in PAGES.values() for reference in SNIPPET.findall(page.read_text())]
    assert sum(reference.startswith("experiments/") for reference in included) >= 8
    for reference in included:
        assert reference.startswith(("experiments/", "examples/", "search_spaces/")), reference
        assert snippet(reference).strip(), reference


def test_the_readme_is_short() -> None:
    assert len(PAGES["README"].read_text().split()) <= 1000


def test_the_api_reference_has_every_public_name() -> None:
    named = re.findall(r"^::: autoprune\.(\w+)$", PAGES["api"].read_text(), re.MULTILINE)
    assert "::: autoprune.errors\n" in PAGES["api"].read_text()  # with all classes in it
    assert sorted(named) == sorted(["errors", *(name for name in autoprune.__all__ if not hasattr(errors, name))])


def test_links_of_the_readme_lead_to_files() -> None:
    for page in (PAGES["README"], REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "examples" / "README.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_searcher_and_pruner_is_in_the_documentation() -> None:
    from autoprune.registry import PRUNERS, SEARCHERS

    text = PAGES["choosing"].read_text()
    assert [name for name in (*SEARCHERS, *PRUNERS) if f"`{name}`" not in text] == []

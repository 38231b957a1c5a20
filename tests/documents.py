"""The pages of the documentation: their blocks of code, and what a comment before a block says of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.repository import REPOSITORY

PAGES = {path.stem: path for path in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]}
SNIPPET = re.compile(r'^--8<-- "([^"]+)"$', re.MULTILINE)
_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^>]*) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        mark: the comment on the line before it: `slow`, or `needs: …`.
        text: with snippets put in.
    """

    language: str
    mark: str
    text: str

    @property
    def needs(self) -> str | None:
        """What it needs that tests do not have; None if it can be run."""
        return self.mark.removeprefix("needs: ") if self.mark.startswith("needs: ") else None

    @property
    def slow(self) -> bool:
        return self.mark == "slow"

    @cached_property
    def file(self) -> str | None:
        """The name of the file that it shows, in its first line."""
        found = re.match(r"# (\S+\.(?:py|yaml))\n", self.text)
        return found[1] if found else None

    @cached_property
    def commands(self) -> list[list[str]]:
        """The commands of a block for the shell, as words."""
        lines = self.text.replace("\\\n", " ").splitlines()
        found = (shlex.split(part, comments=True) for line in lines for part in line.split(" && "))
        return [command for command in found if command]


def blocks(page: Path) -> Iterator[Block]:
    """Yields the blocks of a page, in order."""
    for match in _BLOCK.finditer(page.read_text()):
        yield Block(match["language"], match["mark"] or "", SNIPPET.sub(lambda m: snippet(m[1]), match["text"]))


def snippet(reference: str) -> str:
    """Returns the text of `path`, `path:section` or `path:first:last`, as mkdocs's snippets do."""
    name, _, part = reference.partition(":")
    lines = (REPOSITORY / name).read_text().splitlines()
    if ":" in part:
        first, last = (int(number) for number in part.split(":"))
        return "\n".join(lines[first - 1 : last])
    marks = [n for n, line in enumerate(lines) if re.search(rf"--8<-- \[(start|end):{part}\]", line)] if part else []
    inside = lines[marks[0] + 1 : marks[1]] if part else lines
    return "\n".join(line for line in inside if "--8<-- [" not in line)

"""The parts that a page is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files

from autoprune.reporting.drawing import DARK, LIGHT


def page(title: str, body: Iterable[str]) -> str:
    """A whole page that reads nothing from anywhere."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            # A browser that reads this fetches nothing, whatever a name in a ledger may look like.
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
            'img-src data:">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{_style()}</style></head><body>",
            *body,
            "</body></html>\n",
        ]
    )


def _style() -> str:
    text = (files("autoprune.reporting") / "style.css").read_text(encoding="utf-8")
    for name, colours in (("LIGHT", LIGHT), ("DARK", DARK)):
        text = text.replace(name, "; ".join(f"--{role}: {colour}" for role, colour in colours.items()))
    return text


def section(title: str, *parts: str) -> str:
    """A heading with what stands below it; nothing if that is nothing."""
    content = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>\n{content}</section>" if content else ""


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[str] = (), marked: Sequence[int] = ()
) -> str:
    """A table.

    Args:
        words: the headings of words, flush left; all others are numbers.
        marked: rows that are emphasised.
    """
    kinds = [' class="word"' if heading in words else "" for heading in headings]
    head = "".join(f"<th{kind}>{escape(heading)}</th>" for heading, kind in zip(headings, kinds, strict=True))
    lines = []
    for i, row in enumerate(rows):
        cells = "".join(f"<td{kind}>{escape(text)}</td>" for text, kind in zip(row, kinds, strict=True))
        kind = ' class="best"' if i in marked else ""
        lines.append(f"<tr{kind}>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def facts(pairs: Mapping[str, str]) -> str:
    """Names and what they stand for."""
    rows = "".join(
        f'<tr><th class="word">{escape(name)}</th><td class="word long">{escape(text)}</td></tr>'
        for name, text in pairs.items()
    )
    return f"<table>{rows}</table>" if rows else ""


def code(*lines: str) -> str:
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if text else ""


def folded(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>\n{content}</details>" if content else ""


def numbers(pairs: Iterable[tuple[str, str, str]]) -> str:
    """Headline numbers: the number, what it is, and a word beside it."""
    boxes = "".join(
        f"<div><span>{escape(name)}</span><b>{escape(number)}</b><span>{escape(beside)}</span></div>"
        for name, number, beside in pairs
        if number
    )
    return f'<div class="numbers">{boxes}</div>' if boxes else ""


def figure(drawing: str, caption: str, wide: bool = False) -> str:
    kind = ' class="wide"' if wide else ""
    return f"<figure{kind}>{drawing}<figcaption>{escape(caption)}</figcaption></figure>"

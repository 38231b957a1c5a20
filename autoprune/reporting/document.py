"""One HTML page about a run, or about several side by side, with its pictures and numbers as files."""

from __future__ import annotations

import html
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from autoprune.core.budget import EFFECTIVE_KINDS
from autoprune.core.trial import Failure, Trial, ranked, winners
from autoprune.errors import printable
from autoprune.files import write_whole
from autoprune.reporting.comparison import comparison_json, nni_json
from autoprune.reporting.drawing import DARK, LIGHT, png, svg
from autoprune.reporting.figures import (
    anytime_figure,
    cost_figure,
    drawn_costs,
    frontiers_figure,
    sensitivity_figure,
    widths_figure,
)
from autoprune.reporting.record import RunRecord
from autoprune.reporting.results import cost_name, results_cells
from autoprune.reporting.tables import (
    LEFT,
    cells,
    counts,
    duration,
    headings_of,
    kept_shares,
    mixture,
    percent,
    progress,
    shared,
    trials_csv,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def escape(text: str) -> str:
    """Returns a text that a browser shows as it is."""
    return html.escape(printable(text))


def page(title: str, body: Iterable[str]) -> str:
    """Returns a whole page, which loads nothing from anywhere."""
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
    """Returns a heading with what stands below it, or nothing if that is empty."""
    content = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2>\n{content}</section>" if content else ""


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[str] = (), marked: Sequence[int] = ()
) -> str:
    """Returns a table.

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
    """Returns a table of names and values."""
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
    """Returns boxes of headline numbers.

    Args:
        pairs: of each number what it is called, the number, and a few words beside it.
    """
    boxes = "".join(
        f"<div><span>{escape(name)}</span><b>{escape(number)}</b><span>{escape(beside)}</span></div>"
        for name, number, beside in pairs
        if number
    )
    return f'<div class="numbers">{boxes}</div>' if boxes else ""


def figure(drawing: str, caption: str, wide: bool = False) -> str:
    kind = ' class="wide"' if wide else ""
    return f"<figure{kind}>{drawing}<figcaption>{escape(caption)}</figcaption></figure>"


_TOP = 20
Figures = Mapping[str, tuple["Figure", str]]
"""By name of the file: a figure and what it shows."""


def write_page(records: Sequence[RunRecord], folder: Path) -> Path:
    """Writes `index.html` with PNG, CSV and JSON files beside it; returns the page's path.

    Args:
        records: of the runs.
        folder: made if it is not there.

    Raises:
        OSError: they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = figures_of(records)
    for name, (drawn, _) in figures.items():
        png(drawn, folder / f"{name}.png")
    write_whole(folder / "trials.csv", trials_csv(records).encode())
    write_whole(folder / "report.json", comparison_json(records).encode())
    if len(records) == 1:
        write_whole(folder / "comparison.json", nni_json(records[0]).encode())
    path = folder / "index.html"
    write_whole(path, (_one(records[0], figures) if len(records) == 1 else _many(records, figures)).encode())
    return path


def figures_of(records: Sequence[RunRecord]) -> Figures:
    """Returns what can be drawn of the runs, by the name of its file."""
    drawn: dict[str, tuple[Figure | None, str]] = {}
    if len(records) == 1:
        (record,) = records
        for kind in drawn_costs(record):
            text = f"Accuracy of every trial against the {cost_name(kind, record.effective)} that it keeps."
            drawn[f"accuracy-{kind}"] = cost_figure(record, kind), f"{text} Numbers name trials of the frontier."
    else:
        for kind in EFFECTIVE_KINDS:
            text = (
                f"The frontier of each run in accuracy and {cost_name(kind, records[0].effective)}; a star is its best."
            )
            drawn[f"frontiers-{kind}"] = frontiers_figure(records, kind), text
    drawn["best-trials"] = anytime_figure(records, "trials"), "The best so far after each trial."
    work = "The best so far against all work that was done, the sweep and trials dropped early included."
    drawn["best-evaluations"] = anytime_figure(records, "evaluations"), work
    if len(records) == 1:
        widths = "Channels or weights that each group keeps in the best one, beside the dense network."
        drawn["widths"] = widths_figure(records[0]), widths
        if (curves := records[0].curves) is not None:
            for name in ("loss", "accuracy"):
                text = f"Validation {name} with one group pruned and all others dense."
                drawn[f"sensitivity-{name}"] = sensitivity_figure(curves, name), text
    return {name: (found, caption) for name, (found, caption) in drawn.items() if found is not None}


def _one(record: RunRecord, figures: Figures) -> str:
    body = [
        _heading(record),
        paragraph(_sentence(record), "lead"),
        numbers(_headline(record)),
        section("Dense, uniform, best", _results(record)),
        section("Accuracy against cost", _grid(figures, "accuracy-")),
        section("How the search went", _grid(figures, "best-")),
        section("What the best one keeps", _grid(figures, "widths", wide=True)),
        section("Sensitivity of each group", _grid(figures, "sensitivity-", wide=True)),
        section("Best trials", _top(record)),
        section("Failures", _failures(record)),
        section("To use it", _commands(record)),
        section("How it was made", _provenance(record)),
    ]
    return page(f"{record.name}: autoprune", [part for part in body if part])


def _heading(record: RunRecord) -> str:
    kind = record.state.split()[0]
    return f'<h1>{escape(record.name)} <span class="state {kind}">{escape(record.state)}</span></h1>'


def _sentence(record: RunRecord) -> str:
    """Returns the result in words, to be quoted."""
    setting = {
        "model": record.identity.get("model", "the network"),
        "task": record.identity.get("task", "its task"),
        "budget": record.setting("budget", "no known budget"),
    }
    opening = "{model} on {task} under {budget}: ".format(**setting)
    best, score, dense = record.best, record.best_validation, record.dense
    if best is None or score is None or dense is None:
        return f"{opening}no trial has a score yet ({progress(record)})."
    kept = kept_shares(record, best)
    flops, params = (f"{percent(kept[kind])} of the {cost_name(kind, record.effective)}" for kind in EFFECTIVE_KINDS)
    text = (
        f"{opening}trial {best.number} keeps {flops} and {params} at {percent(score.accuracy)} validation accuracy; "
        f"the dense network has {percent(dense.validation.accuracy)}"
    )
    uniform = next((result for result in record.results if result.name == "uniform"), None)
    text += f", uniform pruning to the same budget {percent(uniform.validation.accuracy)}" if uniform else ""
    return text + ("." if record.state == "finished" else f". The search has not finished ({progress(record)}).")


def _headline(record: RunRecord) -> list[tuple[str, str, str]]:
    result, score, dense = record.best_result, record.best_validation, record.dense
    kept = kept_shares(record, record.best)
    test = result.test.accuracy if result and result.test else None
    dense_test = f"dense {percent(dense.test.accuracy)}" if dense and dense.test else ""
    whole = f"dense {percent(dense.validation.accuracy)}" if dense else ""
    cost = {kind: cost_name(kind, record.effective) for kind in EFFECTIVE_KINDS}
    work = "" if record.evaluations is None else f", {record.evaluations:.0f} evaluations"
    return [
        ("validation accuracy", percent(score.accuracy if score else None), whole),
        ("test accuracy", percent(test), dense_test),
        *((f"{cost[kind]} kept", percent(kept.get(kind)), _limit(record, kind)) for kind in EFFECTIVE_KINDS),
        ("searched for", duration(record.seconds), progress(record) + work),
    ]


def _limit(record: RunRecord, kind: str) -> str:
    if kind not in record.limits or record.dense is None:
        return "not limited"
    return f"limit {percent(record.limits[kind] / record.dense.costs[kind])}"


def _results(record: RunRecord) -> str:
    if not record.results:
        return ""
    headings, rows = results_cells(record.results)
    return table(headings, rows, ["network"], [len(rows) - 1])


def _top(record: RunRecord) -> str:
    trials = winners(record.trials, record.objective)
    trials += [trial for trial in ranked(record.trials, record.objective) if trial not in trials]
    if not trials:
        return ""
    flops, params = (cost_name(kind, record.effective) for kind in EFFECTIVE_KINDS)
    headings = ["trial", "loss", "accuracy", f"{flops} kept", f"{params} kept", "samples", "seconds", "role", "worker"]
    rows = [_trial_cells(record, trial) for trial in trials[:_TOP]]
    number = record.best.number if record.best else -1
    marked = [i for i, trial in enumerate(trials[:_TOP]) if trial.number == number]
    text = f"{counts(record)}. All of them are in trials.csv beside this page."
    return table(headings, rows, ["role", "worker"], marked) + paragraph(text, "muted")


def _trial_cells(record: RunRecord, trial: Trial) -> list[str]:
    score, kept = trial.score, kept_shares(record, trial)
    assert score is not None  # it is ranked
    return [
        str(trial.number),
        f"{score.loss:.4f}",
        percent(score.accuracy),
        *(percent(kept.get(kind)) for kind in EFFECTIVE_KINDS),
        f"{score.samples:,}",
        f"{trial.seconds:.2f}",
        trial.candidate.role,
        trial.worker,
    ]


def _failures(record: RunRecord) -> str:
    found: dict[tuple[str, str], list[int]] = {}
    for trial in record.trials:
        if isinstance(trial.outcome, Failure):
            found.setdefault((trial.outcome.kind, trial.outcome.reason), []).append(trial.number)
    if not found:
        return ""
    headings = ["trials", "kind", "reason", "first"]
    rows = [
        [str(len(numbers_)), kind.replace("_", " "), reason, str(numbers_[0])]
        for (kind, reason), numbers_ in sorted(found.items(), key=lambda item: -len(item[1]))
    ]
    return table(headings, rows, ["kind", "reason"])


def _commands(record: RunRecord) -> str:
    folder = str(record.folder)
    if record.state != "finished":
        resume = shlex.join(["autoprune", "search", "--resume", folder])
        return paragraph("The search goes on with") + code(resume)
    task = record.setting("task", {})
    options = [("--task", task.get("name")), ("--data", task.get("data")), ("--model", task.get("model"))]
    given = [part for name, text in options if text is not None for part in (name, str(text))]
    return code(
        shlex.join(["autoprune", "apply", folder, "--output", "pruned.pt"]),
        shlex.join(["autoprune", "evaluate", "pruned.pt", *given, "--split", "test"]),
    )


def _provenance(record: RunRecord) -> str:
    command = record.started.get("command")
    digests = {
        f"{name} digest": str(record.identity[name]) for name in ("checkpoint", "data") if name in record.identity
    }
    environment = {name: str(text) for name, text in record.started.get("environment", {}).items()}
    settings = yaml.safe_dump(dict(record.settings), sort_keys=False, allow_unicode=True) if record.settings else ""
    return "\n".join(
        filter(
            None,
            [
                code(shlex.join(command)) if command else "",
                facts({**digests, **environment}),
                folded("every setting", code(settings.rstrip())) if settings else "",
            ],
        )
    )


def _many(records: Sequence[RunRecord], figures: Figures) -> str:
    lines = [cells(record) for record in records]
    same = shared(records)
    headings = [heading for heading in headings_of(lines) if heading not in same]
    rows = [[line.get(heading, "") for heading in headings] for line in lines]
    alike = ", ".join(f"{heading} {words}" for heading, words in same.items())
    body = [
        f"<h1>{len(records)} runs side by side</h1>",
        paragraph(mixture(records) or "", "lead"),
        section("Comparison", paragraph(alike, "muted"), table(headings, rows, LEFT)),
        section("The best so far", _grid(figures, "best-")),
        section("Frontiers", _grid(figures, "frontiers-")),
        section("Where they are", facts({record.name: str(record.folder) for record in records})),
    ]
    return page(f"{len(records)} runs: autoprune", [part for part in body if part])


def _grid(figures: Figures, beginning: str, wide: bool = False) -> str:
    drawn = [
        figure(svg(found, caption), caption, wide)
        for name, (found, caption) in figures.items()
        if name.startswith(beginning)
    ]
    kind = "column" if wide else "figures"
    return f'<div class="{kind}">{"".join(drawn)}</div>' if drawn else ""

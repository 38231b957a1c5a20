"""One HTML page about a run, or about several side by side, with its pictures and numbers as files."""

from __future__ import annotations

import html
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import yaml

from autoprune.config.sections import typed_task
from autoprune.core.budget import EFFECTIVE_KINDS
from autoprune.core.metrics import LOSS
from autoprune.core.trial import Failure, Score, Trial, ranked, winners
from autoprune.errors import printable
from autoprune.files import write_whole
from autoprune.reporting import tables
from autoprune.reporting.comparison import comparison_json, nni_json
from autoprune.reporting.drawing import DARK, LIGHT, png, svg
from autoprune.reporting.figures import Figures, figures_of
from autoprune.reporting.record import RunRecord
from autoprune.reporting.results import cost_name, heading, percent, results_cells


def escape(text: str) -> str:
    """Returns a text that a browser shows as it is."""
    return html.escape(printable(text))


# A browser that reads the policy fetches nothing, whatever a name in a ledger may look like.
_PAGE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>
{style}</style></head><body>
{body}
</body></html>
"""


def page(title: str, *parts: str) -> str:
    """Returns a whole page of those parts that are not empty; it loads nothing from anywhere."""
    return _PAGE.format(title=escape(title), style=_style(), body="\n".join(filter(None, parts)))


def _style() -> str:
    text = (files("autoprune.reporting") / "style.css").read_text(encoding="utf-8")
    for name, colours in (("LIGHT", LIGHT), ("DARK", DARK)):
        text = text.replace(name, "; ".join(f"--{role}: {colour}" for role, colour in colours.items()))
    return text


def section(title: str, *parts: str) -> str:
    """Returns a heading with what stands below it, or nothing if that is empty."""
    content = "\n".join(filter(None, parts))
    return f"<section><h2>{escape(title)}</h2>\n{content}</section>" if content else ""


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[str], marked: Sequence[int] = ()
) -> str:
    """Returns a table.

    Args:
        headings: one a column.
        rows: a cell for each heading.
        words: the headings of words, flush left; all others are numbers.
        marked: indices of the rows that are emphasised.
    """
    kinds = [' class="word"' if heading in words else "" for heading in headings]
    head = "".join(f"<th{kind}>{escape(heading)}</th>" for heading, kind in zip(headings, kinds, strict=True))
    lines = []
    for i, row in enumerate(rows):
        cells = "".join(f"<td{kind}>{escape(text)}</td>" for text, kind in zip(row, kinds, strict=True))
        kind = ' class="best"' if i in marked else ""
        lines.append(f"<tr{kind}>{cells}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def facts(pairs: Mapping[str, object]) -> str:
    """Returns a table of names and values."""
    rows = "".join(
        f'<tr><th class="word">{escape(name)}</th><td class="word long">{escape(str(value))}</td></tr>'
        for name, value in pairs.items()
    )
    return f"<table>{rows}</table>" if rows else ""


def code(*lines: str) -> str:
    """Returns lines as they are to be typed."""
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def paragraph(text: str, kind: str = "") -> str:
    """Returns a paragraph of a kind that the style sheet knows, or nothing if there is no text."""
    return f'<p class="{kind}">{escape(text)}</p>' if text else ""


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
    """Returns a drawing with its caption.

    Args:
        drawing: an element of SVG.
        caption: what it shows.
        wide: whether it takes the whole width of the page.
    """
    kind = ' class="wide"' if wide else ""
    return f"<figure{kind}>{drawing}<figcaption>{escape(caption)}</figcaption></figure>"


_TOP = 20


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
    write_whole(folder / "trials.csv", tables.trials_csv(records).encode())
    write_whole(folder / "report.json", comparison_json(records).encode())
    if len(records) == 1:
        write_whole(folder / "comparison.json", nni_json(records[0]).encode())
    path = folder / "index.html"
    write_whole(path, (_one(records[0], figures) if len(records) == 1 else _many(records, figures)).encode())
    return path


def _one(record: RunRecord, figures: Figures) -> str:
    state = f'<span class="state {record.state.split()[0]}">{escape(record.state)}</span>'
    return page(
        f"{record.name}: autoprune",
        f"<h1>{escape(record.name)} {state}</h1>",
        paragraph(_sentence(record), "lead"),
        numbers(_headline(record)),
        section("Dense, uniform, best", _results(record)),
        section(f"{heading(record.primary).capitalize()} against cost", _grid(figures, "cost-")),
        section("How the search went", _grid(figures, "best-")),
        section("What the best one keeps", _grid(figures, "widths", wide=True)),
        section("Sensitivity of each group", _grid(figures, "sensitivity-", wide=True)),
        section("Best trials", _top(record)),
        section("Failures", _failures(record)),
        section("To use it", _commands(record)),
        section("How it was made", *_provenance(record)),
    )


def _sentence(record: RunRecord) -> str:
    """Returns the result in words, to be quoted."""
    model, task = record.identity.get("model", "the network"), record.identity.get("task", "its task")
    opening = f"{model} on {task} under {record.setting('budget', 'no known budget')}: "
    best, score, dense = record.best, record.best_validation, record.dense
    if best is None or score is None or dense is None:
        return f"{opening}no trial has a score yet ({tables.progress(record)})."
    kept, name = record.kept(best), heading(record.primary)

    def shown(measured: Score) -> str:
        return record.primary.text(measured.get(record.primary.name))

    flops, params = (f"{percent(kept[kind])} of the {cost_name(kind, record.effective)}" for kind in EFFECTIVE_KINDS)
    text = (
        f"{opening}trial {best.number} keeps {flops} and {params} at {shown(score)} validation {name}; "
        f"the dense network has {shown(dense.validation)}"
    )
    if (uniform := record.result("uniform")) is not None:
        text += f", uniform pruning to the same budget {shown(uniform.validation)}"
    text += f" ({record.start})" if record.start else ""
    return text + ("." if record.state == "finished" else f". The search has not finished ({tables.progress(record)}).")


def _headline(record: RunRecord) -> list[tuple[str, str, str]]:
    score, dense, kept = record.best_validation, record.dense, record.kept(record.best)
    metric, name = record.primary, heading(record.primary)
    whole = f"dense {metric.text(dense.validation.get(metric.name))}" if dense else ""
    test = f"dense {metric.text(dense.test.get(metric.name))}" if dense and dense.test else ""
    work = "" if record.evaluations is None else f", {record.evaluations:.0f} evaluations"
    limits: dict[str, str] = dict.fromkeys(EFFECTIVE_KINDS, "not limited")
    if dense is not None:
        limits |= {kind: f"limit {percent(limit / dense.costs[kind])}" for kind, limit in record.limits.items()}
    return [
        (f"validation {name}", metric.text(score.get(metric.name) if score else None), whole),
        (f"test {name}", metric.text(record.tested("best")), test),
        *((f"{cost_name(k, record.effective)} kept", percent(kept.get(k)), limits[k]) for k in EFFECTIVE_KINDS),
        ("searched for", tables.duration(record.seconds), tables.progress(record) + work),
    ]


def _results(record: RunRecord) -> str:
    if not record.results:
        return ""
    headings, rows = results_cells(record.results, record.metrics, record.primary)
    return table(headings, rows, ["network"], [len(rows) - 1])


def _top(record: RunRecord) -> str:
    trials = winners(record.trials, record.objective)
    trials += [trial for trial in ranked(record.trials, record.objective) if trial not in trials]
    if not trials:
        return ""
    kept = [f"{cost_name(kind, record.effective)} kept" for kind in EFFECTIVE_KINDS]
    metrics = [heading(each) for each in record.metrics]
    headings = ["trial", "loss", *metrics, *kept, "samples", "seconds", "role", "worker"]
    rows = [_trial_cells(record, trial, trial.score) for trial in trials[:_TOP] if trial.score]
    number = record.best.number if record.best else -1
    marked = [i for i, trial in enumerate(trials[:_TOP]) if trial.number == number]
    text = f"{tables.counts(record)}. All of them are in trials.csv beside this page."
    return table(headings, rows, ["role", "worker"], marked) + paragraph(text, "muted")


def _trial_cells(record: RunRecord, trial: Trial, score: Score) -> list[str]:
    kept = record.kept(trial)
    cells = [str(trial.number), *(each.text(score.get(each.name)) for each in (LOSS, *record.metrics))]
    cells += [percent(kept.get(kind)) for kind in EFFECTIVE_KINDS]
    return [*cells, f"{score.samples:,}", f"{trial.seconds:.2f}", trial.candidate.role, trial.worker]


def _failures(record: RunRecord) -> str:
    found: dict[tuple[str, str], list[int]] = {}
    for trial in record.trials:
        if isinstance(trial.outcome, Failure):
            found.setdefault((trial.outcome.kind, trial.outcome.reason), []).append(trial.number)
    if not found:
        return ""
    headings = ["trials", "kind", "reason", "first"]
    rows = [
        [str(len(trials)), kind.replace("_", " "), reason, str(trials[0])]
        for (kind, reason), trials in sorted(found.items(), key=lambda item: -len(item[1]))
    ]
    return table(headings, rows, ["kind", "reason"])


def _commands(record: RunRecord) -> str:
    folder = str(record.folder)
    if record.state != "finished":
        resume = shlex.join(["autoprune", "search", "--resume", folder])
        return paragraph("The search goes on with") + code(resume)
    best = record.result("best")
    words = [*typed_task(record.setting("task", {})), *(("--split", "test") if best and best.test else ())]
    return code(
        shlex.join(["autoprune", "apply", folder, "--output", "pruned.pt"]),
        shlex.join(["autoprune", "evaluate", "pruned.pt", *words]),
    )


def _provenance(record: RunRecord) -> Iterator[str]:
    if command := record.started.get("command"):
        yield code(shlex.join(command))
    digests = {f"{name} digest": record.identity[name] for name in ("checkpoint", "data") if name in record.identity}
    yield facts({**digests, **record.started.get("environment", {})})
    if record.settings:
        settings = yaml.safe_dump(dict(record.settings), sort_keys=False, allow_unicode=True)
        yield f"<details><summary>every setting</summary>\n{code(settings.rstrip())}</details>"


def _many(records: Sequence[RunRecord], figures: Figures) -> str:
    headings, rows, same = tables.compared(records)
    return page(
        f"{len(records)} runs: autoprune",
        f"<h1>{len(records)} runs side by side</h1>",
        paragraph(tables.mixture(records) or "", "lead"),
        section("Comparison", paragraph(same, "muted"), table(headings, rows, tables.LEFT)),
        section("The best so far", _grid(figures, "best-")),
        section("Frontiers", _grid(figures, "frontiers-")),
        section("Where they are", facts({record.name: str(record.folder) for record in records})),
    )


def _grid(figures: Figures, beginning: str, wide: bool = False) -> str:
    drawn = "".join(
        figure(svg(found, caption), caption, wide)
        for name, (found, caption) in figures.items()
        if name.startswith(beginning)
    )
    return f'<div class="{"column" if wide else "figures"}">{drawn}</div>' if drawn else ""

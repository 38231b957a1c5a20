"""`autoprune inspect`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.commands.options import experiment_of
from autoprune.core.space import Group
from autoprune.errors import UserError

if TYPE_CHECKING:
    from autoprune.running.setup import Setup


def run(arguments: argparse.Namespace) -> None:
    """Prints the groups of a network: what they are, share of the costs, what is frozen and why; or draws them.

    Raises:
        UserError: an option, network or the data are at fault, or the picture cannot be written.
    """
    experiment = experiment_of(arguments)
    from autoprune.running.progress import Display
    from autoprune.running.setup import prepare

    setup = prepare(experiment, Display())
    if arguments.plot is not None:
        _plot(setup, arguments.plot)
    graph = setup.prunable.structures.graph
    groups = [_group(setup, group) for group in setup.prunable.structures.groups]
    staying = {**setup.prunable.structures.refused_branches, **setup.space.staying}
    if arguments.json:
        frozen = [vars(each) for each in graph.frozen] if graph is not None else []
        passed = [{**vars(each), "shares": dict(each.shares)} for each in setup.coverage.passed]
        found = {"costs": setup.prunable.costs.dense(), "groups": groups, "frozen": frozen, "staying": staying}
        found["uncounted"] = dict(setup.prunable.structures.uncounted)
        remarks = graph.remarks if graph is not None else ()
        print(json.dumps({**found, "passed_over": passed, "remarks": remarks}, indent=1))
    else:
        _print(setup, groups, staying)


def _plot(setup: Setup, path: Path) -> None:
    from autoprune.files import write_whole
    from autoprune.reporting.network_figure import draw_network
    from autoprune.reporting.results import short
    from autoprune.running.network_plan import plan_network

    if path.suffix not in (".svg", ".html"):
        raise UserError(f"--plot writes .svg or .html, not {path}")
    dense = setup.prunable.costs.dense()
    title = f"{setup.identity['model']}: {short(dense['flops'])}FLOPs, {short(dense['params'])} parameters"
    drawn = draw_network(title, plan_network(setup), page=path.suffix == ".html")
    try:
        write_whole(path, drawn.encode())
    except OSError as fault:
        raise UserError(f"{path} cannot be written ({fault.strerror}); choose another --plot") from fault


def _group(setup: Setup, group: Group) -> dict[str, Any]:
    """Returns what is shown of one group; `…_share` is what goes if it alone is pruned to one structure, or none."""
    name, costs, pattern = group.name, setup.prunable.costs, setup.prunable.structures.pattern
    dense, without = costs.dense(), costs.costs({name: 0 if group.removable else max(group.least, 1)})
    bounds = setup.space.bounds.get(name)
    return {
        "name": name,
        "width": group.width,
        "structures": group.structures if pattern.coupled else "branch" if group.removable else pattern.name,
        "kind": group.kind,
        "layers": list(group.producers),
        "flops_share": 1 - without["flops"] / dense["flops"] if dense["flops"] else 0.0,
        "params_share": 1 - without["params"] / dense["params"] if dense["params"] else 0.0,
        "floor": bounds.lowest if bounds else None,
        "ceiling": bounds.ceiling if bounds else None,
        "removable": bool(bounds and bounds.removable),
        "lead": group.lead,
        "pinned": setup.space.pinned.get(name),
    }


def _print(setup: Setup, groups: list[dict[str, Any]], staying: Mapping[str, str]) -> None:
    from rich.table import Table

    from autoprune.errors import printable
    from autoprune.graph.overview.frozen import group_reasons, shorten
    from autoprune.reporting.results import cost_name, short
    from autoprune.reporting.terminal import plain_console

    dense, graph, coverage = setup.prunable.costs.dense(), setup.prunable.structures.graph, setup.coverage
    console = plain_console()
    console.print(
        f"{setup.identity['model']}: {short(dense['flops'])}FLOPs ({short(dense['flops'] / 2)}MACs), "
        f"{short(dense['params'])} parameters, {short(dense['size'])}B"
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    flops, params = (cost_name(kind, setup.prunable.costs.effective) for kind in ("flops", "params"))
    headings = {"group": "left", "width": "right", "of": "left", flops: "right", params: "right"}
    for heading, justify in {**headings, "may keep": "left", "layers": "left"}.items():
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for group in groups:
        none = "0 or " if group["removable"] else ""
        may_keep = group["pinned"] or f"{none}{group['floor']} to {group['ceiling']}"
        shares = [f"{100 * group[share]:.1f} %" for share in ("flops_share", "params_share")]
        what = [str(group["width"]), group["structures"]]
        cells = [group["name"], *what, *shares, may_keep, shorten(group["layers"])]
        table.add_row(*map(printable, cells))
    console.print(table)
    shares_of = {(each.reason, each.line): each.shares["flops"] for each in coverage.passed if not each.groups}
    for reason in group_reasons(graph.frozen if graph is not None else ()):
        share = shares_of.get((reason.reason, reason.line))
        made = f"; the layers that make them have {100 * share:.1f} % of the FLOPs" if share is not None else ""
        console.print(printable(f"frozen: {reason}{made}"), soft_wrap=True)
    for name, why in staying.items():
        console.print(printable(f"no removal: the branch of {name}: {why}"), soft_wrap=True)
    for name, why in setup.prunable.structures.uncounted.items():
        console.print(
            printable(f"not known: the multiply-adds of {name}, which count as they are: {why}"), soft_wrap=True
        )
    for remark in graph.remarks if graph is not None else ():
        console.print(printable(f"note: {remark}"), soft_wrap=True)
    whole = ", or to none where it may go" if any(group["removable"] for group in groups) else ""
    print(f"\nShares of a group: what goes if it alone is pruned to one structure{whole}.")
    print("Shares below: of the layers that make the channels; frozen channels may still have fewer inputs.")
    for line in coverage.lines():
        print(printable(line))
    print(f"search space: {setup.space.source}")

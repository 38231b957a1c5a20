"""`autoprune inspect`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autoprune.commands.options import experiment_of
from autoprune.core.space import Group

if TYPE_CHECKING:
    from autoprune.running.setup import Setup


def run(arguments: argparse.Namespace) -> None:
    """Prints the groups of a network: width, layers, share of the costs, what is frozen and why."""
    experiment = experiment_of(arguments)
    from autoprune.running.progress import Display
    from autoprune.running.setup import prepare

    setup = prepare(experiment, Display())
    groups = [_group(setup, group) for group in setup.prunable.structures.groups]
    frozen = [vars(frozen) for frozen in setup.prunable.graph.frozen]
    staying = {**setup.prunable.structures.refused_branches, **setup.space.staying}
    if arguments.json:
        found = {"costs": setup.prunable.costs.dense(), "groups": groups, "frozen": frozen, "staying": staying}
        print(json.dumps(found, indent=1))
    else:
        _print(setup, groups, frozen, staying)


def _group(setup: Setup, group: Group) -> dict[str, Any]:
    """Returns what is shown of one group; its shares are what goes if it alone is pruned to one structure, or none."""
    name, costs = group.name, setup.prunable.costs
    dense, without = costs.dense(), costs.costs({name: 0 if group.removable else max(group.least, 1)})
    bounds = setup.space.bounds.get(name)
    return {
        "name": name,
        "width": group.width,
        "layers": list(group.producers),
        "flops_share": 1 - without["flops"] / dense["flops"],
        "params_share": 1 - without["params"] / dense["params"],
        "floor": bounds.lowest if bounds else None,
        "ceiling": bounds.ceiling if bounds else None,
        "removable": bool(bounds and bounds.removable),
        "lead": group.lead,
        "pinned": setup.space.pinned.get(name),
    }


def _print(
    setup: Setup, groups: list[dict[str, Any]], frozen: list[dict[str, Any]], staying: Mapping[str, str]
) -> None:
    from rich.table import Table

    from autoprune.errors import printable
    from autoprune.reporting.results import cost_name, short
    from autoprune.reporting.terminal import plain_console

    dense = setup.prunable.costs.dense()
    console = plain_console()
    console.print(
        f"{setup.identity['model']}: {short(dense['flops'])}FLOPs ({short(dense['flops'] / 2)}MACs), "
        f"{short(dense['params'])} parameters, {short(dense['size'])}B"
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    flops, params = (cost_name(kind, setup.prunable.costs.effective) for kind in ("flops", "params"))
    for heading in ("group", "width", flops, params, "may keep", "layers"):
        table.add_column(heading, justify="left" if heading in ("group", "layers", "may keep") else "right")
    for group in groups:
        none = "0 or " if group["removable"] else ""
        may_keep = group["pinned"] or f"{none}{group['floor']} to {group['ceiling']}"
        shares = [f"{100 * group[share]:.1f} %" for share in ("flops_share", "params_share")]
        cells = [group["name"], str(group["width"]), *shares, may_keep, _layers(group["layers"])]
        table.add_row(*map(printable, cells))
    console.print(table)
    for item in frozen:
        console.print(printable(f"frozen: {item['width']} channels of {item['layer']}: {item['reason']}"))
    for name, reason in staying.items():
        console.print(printable(f"no removal: the branch of {name}: {reason}"))
    whole = ", or to none where it may go" if any(group["removable"] for group in groups) else ""
    print(
        f"\nShares: what goes if the group alone is pruned to one structure{whole}. Search space: {setup.space.source}"
    )


def _layers(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])}, … {len(names) - 2} more"

"""Tries Torch-Pruning on the networks of the matrix.

    python -m experiments.peers.torch_pruning [NAMES…] --output FILE

It runs in the environment that `experiments/peers/environment.sh DIR torch-pruning` makes. MetaPruner is used as its
documentation says: magnitudes with p = 2, in one step, no rounding, the layers that make the outputs ignored, heads of
attention named where modules call their layers so. Each network is pruned twice: by half of the channels of each layer,
which tells whether it is done correctly, and by all but one, which tells how far it goes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from tests.zoo.counting import count_costs
from tests.zoo.matrix import Entry, run_matrix, share, short, show
from tests.zoo.networks import NETWORKS, ZooNetwork, call
from tests.zoo.reference import (
    ChannelList,
    default_double,
    in_double,
    masked,
    relative_difference,
    tensors_of,
    variation,
)
from tests.zoo.running import FRESH_SAMPLES, SAMPLES, explain, one_sample

_MAKERS = (nn.modules.conv._ConvNd, nn.Linear)
_DETECTOR_HEADS = ("Detect", "Segment", "v10Detect", "RegionProposalNetwork", "RoIHeads", "FeaturePyramidNetwork")
# Names of the layers that make queries, keys and values, and of the attributes that say how many heads they have.
_PROJECTIONS = ("qkv", "query", "key", "value", "q_proj", "k_proj", "v_proj", "q", "k", "v")
_HEADS = ("num_heads", "num_attention_heads", "n_heads")


def main() -> None:
    """Reads the command line."""
    run_matrix("experiments.peers.torch_pruning", __doc__, lambda name: _examine(NETWORKS[name]), table)


def _examine(zoo: ZooNetwork) -> Entry:
    row: Entry = {"network": zoo.name, "failure": None}
    network, inputs = zoo.build(torch.float64), zoo.inputs(SAMPLES, seed=10, dtype=torch.float64)
    with default_double(), torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):  # no number twice, so that it is known what stays
            if tensor.is_floating_point():
                tensor.mul_(1 + 1e-9 * torch.randn_like(tensor))
    dense = count_costs(network, one_sample(inputs, SAMPLES))["flops"]
    for name, structures in (("half", 0.5), ("most", None)):
        try:
            with default_double():
                row[name] = _prune(zoo, network, inputs, dense, structures)
        except Exception as error:  # whatever goes wrong is what is to be found out
            row[name] = {"failure": explain(error)}
        half = row["half"]
        row["correct"] = half.get("difference") is not None and half["difference"] <= 1e-9 and half["flops"] < 1
        print(json.dumps(row), flush=True)  # in case the rest takes too long
    return row


def _prune(zoo: ZooNetwork, network: nn.Module, inputs: Any, dense: int, structures: float | None) -> Entry:
    """Prunes a copy and returns the share of the FLOPs, whether it runs, how far it is from the masked network, …"""
    pruned = copy.deepcopy(network)
    _apply(pruned, inputs, structures)
    found: Entry = {}
    network = _untied(network, pruned)
    kept = _kept(network, pruned)
    found["changed"] = any(a.shape != b.shape for a, b in zip(network.parameters(), pruned.parameters(), strict=True))
    fresh = zoo.inputs(FRESH_SAMPLES, seed=11, dtype=torch.float64)
    try:
        found["flops"] = round(count_costs(pruned, one_sample(inputs, SAMPLES))["flops"] / dense, 4)
        twin = copy.deepcopy(pruned)
        with in_double(), torch.no_grad():
            output = call(twin, fresh)
    except Exception as error:  # as above
        return {**found, "failure": explain(error)}
    if kept is not None:
        try:
            expected = masked(network, kept, fresh)
            found |= {"difference": relative_difference(output, expected), "varies": variation(expected)}
        except AssertionError as error:
            found["failure"] = f"another output: {error}"
    return found


def _apply(network: nn.Module, inputs: Any, structures: float | None) -> None:
    """Prunes a network in place.

    Args:
        network: in evaluation mode.
        inputs: as the network takes them.
        structures: share of each layer's channels that go; None: all but one.
    """
    options: dict[str, Any] = {
        "example_inputs": inputs,
        "importance": tp.importance.MagnitudeImportance(p=2),
        "ignored_layers": _output_layers(network, inputs),
        "forward_fn": call,
        "output_transform": lambda output: [t for t in tensors_of(output) if t.requires_grad],
    }
    heads = {
        layer: count
        for module in network.modules()
        for name, layer in module.named_children()
        if name in _PROJECTIONS and isinstance(layer, nn.Linear) and (count := _heads_of(module, name)) is not None
    }
    if heads:
        ratios = {layer: structures or 1 - 1.001 / count for layer, count in heads.items()}
        options |= {"num_heads": dict(heads), "prune_num_heads": True, "prune_head_dims": False}
        options["head_pruning_ratio_dict"] = ratios
        options["head_pruning_ratio"] = structures or 1.0
    if structures is None:
        trial = tp.pruner.MetaPruner(network, **{**options, "num_heads": dict(heads)}, pruning_ratio=0.5)
        ratios = {}
        for group in trial.DG.get_all_groups(
            ignored_layers=trial.ignored_layers, root_module_types=trial.root_module_types
        ):
            root = group[0].dep.target.module
            width = trial.DG.get_out_channels(root) // trial._get_channel_groups(group)
            ratios[root] = max(0.0, 1 - 1.001 / width)  # rounded down: one stays
        options["pruning_ratio_dict"] = ratios
    pruner = tp.pruner.MetaPruner(network, **options, pruning_ratio=structures or 0.99)
    pruner.step()
    _correct_heads(network, pruner.num_heads)


def _heads_of(module: nn.Module, name: str) -> int | None:
    """Returns how many heads one of an attention's layers has."""
    config = getattr(module, "config", None)
    if name in ("k_proj", "v_proj") and getattr(config, "num_key_value_heads", None):
        return int(config.num_key_value_heads)
    counts = [getattr(owner, key, None) for owner in (module, config) for key in _HEADS]
    return next((count for count in counts if isinstance(count, int) and count > 1), None)


def _correct_heads(network: nn.Module, heads: dict[nn.Module, int]) -> None:
    """Writes the numbers of heads that are left into the attentions, as Torch-Pruning's examples do."""
    for module in network.modules():
        for name, layer in module.named_children():
            if layer in heads and name in ("qkv", "query", "q_proj", "q"):
                width = layer.out_features // (3 if name == "qkv" else 1)
                for key in _HEADS:
                    if isinstance(getattr(module, key, None), int):
                        setattr(module, key, heads[layer])
                for key, value in (("head_dim", width // heads[layer]), ("all_head_size", width), ("attn_dim", width)):
                    if isinstance(getattr(module, key, None), int):
                        setattr(module, key, value)


def _output_layers(network: nn.Module, inputs: Any) -> list[nn.Module]:
    """Lists what must not be pruned: heads of detectors, and the layers whose outputs are those of the network."""
    heads = [module for module in network.modules() if type(module).__name__ in _DETECTOR_HEADS]
    heads += [
        module for name, module in network.named_children() if name == "head" and hasattr(network, "anchor_generator")
    ]
    made: list[tuple[nn.Module, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, _, output: made.append((module, output)))
        for module in network.modules()
        if isinstance(module, _MAKERS)
    ]
    with torch.no_grad():
        outputs = tensors_of(call(network, inputs))
    for hook in hooks:
        hook.remove()
    places = {tensor.untyped_storage().data_ptr() for tensor in outputs}
    found = [module for module, output in made if output.untyped_storage().data_ptr() in places]
    for tensor in outputs:  # one that was resized or activated after its layer: the last with as many channels
        same = [
            m
            for m, output in made
            if output.ndim > 1 and output.shape[1] in tensor.shape and m.weight.shape[0] in tensor.shape
        ]
        found += same[-1:]
    return [*heads, *found]


def _untied(dense: nn.Module, pruned: nn.Module) -> nn.Module:
    """Returns a copy of the dense network with as many parameters as the pruned one, which may have untied some."""
    dense, seen = copy.deepcopy(dense), set[int]()
    apart = [name for name, _ in pruned.named_parameters()]
    for name, parameter in list(dense.named_parameters(remove_duplicate=False)):
        if name in apart and id(parameter) in seen:
            path, _, key = name.rpartition(".")
            setattr(dense.get_submodule(path), key, nn.Parameter(parameter.detach().clone()))
        seen.add(id(parameter))
    return dense


def _kept(dense: nn.Module, pruned: nn.Module) -> ChannelList | None:
    """Returns the channel list of what went, by looking up the numbers that stay; None where they are not found."""
    gone = []
    tensors = {**dict(pruned.named_parameters()), **dict(pruned.named_buffers())}
    for name, before in (*dense.named_parameters(), *dense.named_buffers()):
        after = tensors.get(name)
        if after is None or after.ndim != before.ndim:
            return None
        for dim in range(before.ndim):
            if after.shape[dim] != before.shape[dim]:
                stays = _positions(before.detach(), after.detach(), dim)
                if stays is None:
                    return None
                gone.append((name, dim, torch.tensor(sorted({*range(before.shape[dim])} - {*stays}))))
    return gone


def _positions(before: Tensor, after: Tensor, dim: int) -> list[int] | None:
    """Returns which entries of an axis stay: where the last number of each is found among the old ones."""
    ordered, order = before.flatten().sort()
    sought = after.movedim(dim, 0).reshape(after.shape[dim], -1)[:, -1].contiguous()
    at = torch.searchsorted(ordered, sought).clamp(max=len(ordered) - 1)
    if not torch.equal(ordered[at], sought):
        return None
    return torch.unravel_index(order[at], before.shape)[dim].tolist()


def table(rows: Sequence[Entry]) -> str:
    """Returns rows as a table in Markdown, and what they come to."""
    lines = [
        "| network | half of the channels | FLOPs | difference | all but one | FLOPs |",
        "| --- | --- | ---: | ---: | --- | ---: |",
    ]
    for row in rows:
        half, most = (row.get(key) or {"failure": row.get("failure")} for key in ("half", "most"))
        cells = [
            row["network"],
            short(half.get("failure") or ("runs" if half.get("changed") else "nothing pruned"), 70),
            show(half.get("flops")),
            show(half.get("difference")),
            short(most.get("failure") or ("runs" if most.get("changed") else "nothing pruned"), 70),
            show(most.get("flops")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    correct = [row for row in rows if row.get("correct")]
    narrow = [
        row for row in correct if row.get("most", {}).get("difference") is not None and row["most"]["flops"] <= 0.35
    ]
    ended = (
        f"Of {len(rows)} networks {share(correct, len(rows))} were pruned at half of the channels with the outputs of "
        f"the masked network; {share(narrow, len(rows))} also run at 0.35 of their FLOPs or less with all but one gone."
    )
    return "\n".join([*lines, "", ended, ""])


if __name__ == "__main__":
    main()

"""Measures what the analysis of large networks takes: `python -m experiments.analysis_cost.run`.

Needs the libraries of networks (experiments/peers/environment.sh DIR). Each network has a process of its own with one
thread: seconds of the processor for groups and costs, and the most memory that the process has held beyond what it held
before, against the network's own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.networks.libraries import library

PICTURES = (2, 3, 224, 224)


def _resnet152() -> tuple[nn.Module, Tensor]:
    return library("torchvision").models.resnet152(), torch.randn(PICTURES)


def _convnext_large() -> tuple[nn.Module, Tensor]:
    return library("torchvision").models.convnext_large(), torch.randn(PICTURES)


def _decoder() -> tuple[nn.Module, Tensor]:
    transformers = library("transformers")
    config = transformers.GPT2Config(n_layer=24, n_embd=1024, n_head=16)
    return transformers.GPT2LMHeadModel(config), torch.randint(0, config.vocab_size, (2, 128))


NETWORKS: dict[str, Callable[[], tuple[Any, Tensor]]] = {
    "ResNet-152, 224 × 224": _resnet152,
    "ConvNeXt-L, 224 × 224": _convnext_large,
    "GPT-2 of 24 layers of width 1024, 128 tokens": _decoder,
}


def _measure(name: str) -> dict[str, Any]:
    from autoprune.graph.costs import build_cost_table
    from autoprune.graph.groups import find_groups

    torch.set_num_threads(1)
    network, inputs = NETWORKS[name]()
    network.eval()
    tensors = (*network.parameters(), *network.buffers())
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    with torch.no_grad():
        began = time.process_time()
        network(inputs)
        forward = time.process_time() - began
    before, began = _peak(), time.process_time()
    graph = find_groups(network, inputs)
    build_cost_table(network, graph, inputs)
    seconds = time.process_time() - began
    return {
        "network": name, "groups": len(graph.groups), "seconds": seconds, "forward": forward,
        "size": size / 1e9, "more": (_peak() - before) / 1e9,
    }  # fmt: skip


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def main() -> None:
    """Prints a row for each network."""
    print("| network | groups | seconds | of one forward pass | memory, GB | network, GB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in NETWORKS:
        command = [sys.executable, "-W", "ignore", "-m", "experiments.analysis_cost.run", name]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        cells = [f"{found[key]:.1f}" for key in ("seconds", "forward", "more", "size")]
        print(f"| {name} | {found['groups']} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(_measure(sys.argv[1])))
    else:
        main()

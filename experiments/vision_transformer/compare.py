"""Compares pruned networks on the images that chose nothing, the second half of the test batch.

    python -m experiments.vision_transformer.compare runs/vit_best.pt runs/vit_uniform.pt [--dense network.pt]

Each file is one that `autoprune apply` wrote. The differences are those of the first to each of the others, image by
image, so that their standard error is that of the mean of the differences, not of two independent means.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autoprune
from autoprune.tasks.metrics import top_1
from experiments.vision_transformer.network import VisionTransformer
from experiments.vision_transformer.task import VisionTransformerTask, task


@torch.no_grad()
def evaluate(network: nn.Module, data: VisionTransformerTask, batch_size: int = 250) -> Tensor:
    """Returns `[2, n]`: for each test image whether the network is right, 1 or 0, and its cross-entropy."""
    network.eval()
    results = []
    for inputs, labels in data.batches("test", batch_size):
        outputs = network(inputs)
        results.append(torch.stack((top_1(outputs, labels), F.cross_entropy(outputs, labels, reduction="none"))))
    return torch.cat(results, dim=1).double()


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Returns the mean of `[n]` values and its standard error."""
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def row(name: str, results: Tensor, first: Tensor) -> str:
    """Returns a network's line of the table: its accuracy and loss, and the first network's accuracy above its own.

    Args:
        name: of its file.
        results: `[2, n]`, see `evaluate`.
        first: `[2, n]` of the network that it is compared with.
    """
    (accuracy, error), (loss, loss_error) = mean_and_error(results[0]), mean_and_error(results[1])
    ahead, ahead_error = mean_and_error(first[0] - results[0])
    apart = f"{100 * ahead:+.2f} ± {100 * ahead_error:.2f} ({ahead / ahead_error:+.1f})" if ahead_error else ""
    return f"| {name} | {100 * accuracy:.2f} ± {100 * error:.2f} | {loss:.4f} ± {loss_error:.4f} | {apart} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pruned", type=Path, nargs="+", help="files of `autoprune apply`")
    parser.add_argument("--dense", type=Path, help="the trained network's checkpoint")
    options = parser.parse_args(arguments)
    data = task()
    networks = {str(path): autoprune.load(path, VisionTransformer) for path in options.pruned}
    if options.dense:
        dense = data.network()
        data.load(dense, options.dense)
        networks["dense"] = dense
    results = {name: evaluate(network, data) for name, network in networks.items()}
    first = results[str(options.pruned[0])]
    print("| network | test accuracy, % | test loss | first above it, points (standard errors) |")
    print("| --- | ---: | ---: | ---: |")
    for name, each in results.items():
        print(row(name, each, first))


if __name__ == "__main__":
    main()

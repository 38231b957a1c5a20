"""Running the networks of the matrix: samples, a step of training, and what goes wrong in one line."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from tests.zoo.networks import ZooNetwork, call

SAMPLES, FRESH_SAMPLES = 2, 3


def one_sample(inputs: Any, samples: int) -> Any:
    """Returns the first sample of inputs, whose tensors have them along their first axis; a list holds one each."""
    if isinstance(inputs, list):
        return inputs[:1]
    return tree_map(lambda leaf: leaf[:1] if isinstance(leaf, Tensor) and len(leaf) == samples else leaf, inputs)


def loss_of(output: Any) -> Tensor:
    """Returns a number that all of an output's differentiable tensors have a part in."""
    found = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad and leaf.numel()]
    return torch.stack([leaf.square().mean() for leaf in found]).sum()


def train_once(network: nn.Module, zoo: ZooNetwork) -> str | None:
    """Takes one step of training in float32; returns what failed, or None."""
    network.train()
    try:
        torch.manual_seed(0)
        optimiser = torch.optim.SGD(network.parameters(), lr=1e-4)
        loss_of(call(network, zoo.inputs(FRESH_SAMPLES, seed=12, dtype=torch.float32, training=True))).backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        if not gradients or not all(bool(gradient.isfinite().all()) for gradient in gradients):
            return "no gradients" if not gradients else "infinite gradients"
        optimiser.step()
    except Exception as error:  # as in `examine`
        return explain(error)
    return None


def explain(error: Exception) -> str:
    """Returns an error in one line, with the place it comes from."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:300]} ({Path(frame.filename).name}:{frame.lineno})"

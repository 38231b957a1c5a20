"""Networks as users have them: taken out of what training wrapped around them, and copied."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_leaves

from autoprune.errors import TaskError

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
# By name, as timm need not be installed, and torch's compiler takes a second to import.
_NAMED_WRAPPERS = {"OptimizedModule": "_orig_mod"} | dict.fromkeys(("ModelEma", "ModelEmaV2", "ModelEmaV3"), "module")
_SHOWN = 3


def unwrap(network: nn.Module) -> nn.Module:
    """Returns the network inside `DataParallel`, `DistributedDataParallel`, `torch.compile` or a moving average.

    Of `AveragedModel` and timm's `ModelEma…` these are the averaged weights. A network without a wrapper is returned
    itself.

    Raises:
        TaskError: its weights are not all here, or are not what it computes with (sharded, scripted, or
            `torch.nn.utils.prune` is still on), or it is no module; the message says what to do.
    """
    if not isinstance(network, nn.Module):
        raise TaskError(f"the network should be a torch.nn.Module but is a {type(network).__name__}")
    while (inner := _inside(network)) is not None:
        network = inner
    _check_plain(network)
    return network


def _inside(network: nn.Module) -> nn.Module | None:
    attribute = "module" if isinstance(network, _WRAPPERS) else _NAMED_WRAPPERS.get(type(network).__name__)
    inner = None if attribute is None else getattr(network, attribute, None)
    return inner if isinstance(inner, nn.Module) else None


def _check_plain(network: nn.Module) -> None:
    kind = type(network).__name__
    if isinstance(network, torch.jit.ScriptModule):
        raise TaskError(f"{kind} is scripted, so that its layers cannot be changed; pass the network before torch.jit")
    # By name, as torch.distributed need not be built in.
    if any(base.__name__ in ("FullyShardedDataParallel", "FSDPModule") for base in type(network).__mro__):
        raise TaskError(
            f"{kind} is sharded over processes; gather its weights (torch.distributed.checkpoint.state_dict."
            "get_model_state_dict with full_state_dict=True), load them into the network without FSDP and pass that"
        )
    empty = [name for name, tensor in network.state_dict(keep_vars=True).items() if getattr(tensor, "is_meta", False)]
    if empty:
        raise TaskError(
            f"{kind} has weights without values, on the meta device ({empty[0]}); build it on the CPU, or fill it "
            "first: network.to_empty(device='cpu'), then load_state_dict"
        )
    masked = [f"{name}.{parameter}" for name, module in network.named_modules() for parameter in _masked(module)]
    if masked:
        shown = ", ".join(masked[:_SHOWN]) + (f" and {len(masked) - _SHOWN} more" if len(masked) > _SHOWN else "")
        owner, _, parameter = masked[0].rpartition(".")
        raise TaskError(
            f"torch.nn.utils.prune is still on in {shown}; make its masks permanent first, for each of them: "
            f"torch.nn.utils.prune.remove(network.get_submodule({owner!r}), {parameter!r})"
        )


def _masked(module: nn.Module) -> list[str]:
    hooks = module._forward_pre_hooks.values()
    return [str(hook._tensor_name) for hook in hooks if isinstance(hook, BasePruningMethod)]


def deep_copy(network: nn.Module, share_tensors: bool = False) -> nn.Module:
    """Returns a deep copy of a network, also where modules hold tensors that torch does not copy.

    Tensors that were computed from parameters (the weight of old-style weight and spectral norm, activations that a
    module keeps) are copied as plain values; what cannot be copied at all (locks, open files) is shared.

    Args:
        network: is left as it is.
        share_tensors: whether parameters and buffers of the copy are the network's own.

    Raises:
        RuntimeError, TypeError: it cannot be copied.
    """
    held = [leaf for module in network.modules() for leaf in tree_leaves(list(module.__dict__.values()))]
    memo = {id(leaf): leaf.detach().clone() for leaf in held if isinstance(leaf, Tensor) and not leaf.is_leaf}
    if share_tensors:
        memo |= {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    try:
        return copy.deepcopy(network, dict(memo))
    except (RuntimeError, TypeError):
        shared = {id(leaf): leaf for leaf in held if not isinstance(leaf, (Tensor, nn.Module)) and not _copies(leaf)}
        if not shared:
            raise
        return copy.deepcopy(network, memo | shared)


def _copies(value: Any) -> bool:
    try:
        copy.deepcopy(value)
    except (RuntimeError, TypeError):
        return False
    return True

"""Configurations from which classes build their networks, as those of Hugging Face do, made those of thinned ones."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.graph.inputs import ModelInputs
from autoprune.pruning.surgery.checking import ThinningError, compare_outputs
from autoprune.pruning.surgery.copying import copy_network

log = logging.getLogger(__name__)

_MOST_TRIED = 512
"""Configurations that are built, without memory for their weights."""

_MOST_SIZES = 8
"""Sizes that differ from those of the network that is built: of more, layers of one kind are unequally wide."""

_Path = tuple[str, ...]
"""The attributes that lead to a number of a configuration."""
_Axis = tuple[str, int]
"""A tensor's name and one of its axes."""


def follow_configuration(network: nn.Module, inputs: ModelInputs) -> bool:
    """Changes integers of a thinned network's `config`, in place, so that its class builds such a network from it.

    What they are called does not matter: those whose change brings sizes of a network that is built nearer to the
    thinned one's are tried together, and chosen is the first choice with which a network of the thinned one's weights
    has its outputs. Where none does (layers of one kind are unequally wide, say) the configuration stays as it is.

    Args:
        network: thinned, perhaps built from a configuration.
        inputs: samples that it takes.

    Returns:
        Whether the class builds the network from the configuration.
    """
    config = getattr(network, "config", None)
    built = None if config is None else _built_sizes(network, {})
    wanted = _sizes(network)
    if built is None or {name for name, _ in built} != {name for name, _ in wanted}:
        return False
    ratios = Counter((wanted[axis], size) for axis, size in built.items() if wanted.get(axis) != size)
    if not ratios or len(ratios) > _MOST_SIZES:
        return not ratios
    options = [_options(network, path, old, ratios) for path, old in _numbers(config)]
    # What by itself brings sizes nearer comes last, where it changes most often.
    choices = product(*sorted((each for each in options if each), key=lambda option: option[-1] is None))
    for choice in islice(choices, _MOST_TRIED):
        values = dict(each for each in choice if each is not None)
        if _built_sizes(network, values) == wanted and _has_outputs(network, values, inputs):
            for part in {id(found): found for m in network.modules() if (found := getattr(m, "config", None))}.values():
                _set(part, {path: value for path, value in values.items() if _get(part, path) == _get(config, path)})
            _set(config, values)
            return True
    log.info("%s cannot be built from its configuration with these widths", type(network).__name__)
    return False


def _sizes(network: nn.Module) -> dict[_Axis, int]:
    """Returns the size of every axis of the tensors that a checkpoint holds."""
    tensors = {name: found for name, found in network.state_dict().items() if isinstance(found, Tensor)}
    return {(name, dim): size for name, tensor in tensors.items() for dim, size in enumerate(tensor.shape)}


def _built_sizes(network: nn.Module, values: Mapping[_Path, int]) -> dict[_Axis, int] | None:
    """Returns the sizes of a network that is built with these values in the configuration; None where it cannot be."""
    try:
        with torch.device("meta"):
            return _sizes(_build(network, values))
    except Exception:  # whatever the user's class raises
        return None


def _build(network: nn.Module, values: Mapping[_Path, int]) -> nn.Module:
    config: Any = copy.deepcopy(network.config)
    _set(config, values)
    if hasattr(config, "from_dict"):  # which checks the values, as when it is read from a file
        config = config.from_dict(config.to_dict())
    return type(network)(config)


def _numbers(config: Any, before: _Path = ()) -> Iterator[tuple[_Path, int | None]]:
    """Yields the integers of a configuration, and None where one may be left to the class."""
    for key, value in vars(config).items():
        if value is None or (type(value) is int and value > 1):
            yield (*before, key), value
        elif not key.startswith("_") and hasattr(value, "to_dict"):
            yield from _numbers(value, (*before, key))


def _options(
    network: nn.Module, path: _Path, old: int | None, ratios: Counter[tuple[int, int]]
) -> list[tuple[_Path, int] | None]:
    """Returns values for a number, in the ratio of sizes before and now, and None for the number as it is.

    Those that alone bring most sizes right come first; None comes first where no value brings any, as with the number
    of heads where each is as many channels less. Values that alone do harm are left out.

    Args:
        network: the thinned one.
        path: to the number.
        old: the number; None where there is none, which a size itself may be put for.
        ratios: sizes now and before, with how often they occur.
    """
    wanted, total = _sizes(network), ratios.total()
    if old is None:
        values = {small for small, _ in ratios}
    else:
        values = {old * small // size for small, size in ratios if old * small % size == 0}
    off: dict[int, int] = {}
    for value in sorted(values):
        built = _built_sizes(network, {path: value})
        # What cannot be built alone may be built together with other values.
        off[value] = total if built is None else sum(built.get(axis) != size for axis, size in wanted.items())
    found = [(path, value) for value in sorted(off, key=off.__getitem__) if off[value] <= total - (old is None)]
    helps = any(off[value] < total for _, value in found)
    return [*found, None] if helps else [None, *found] if found else []


def _has_outputs(network: nn.Module, values: Mapping[_Path, int], inputs: ModelInputs) -> bool:
    """Tells whether the network that is built with these values has the outputs of this one, with its weights.

    In double precision: otherwise split heads differ little where all attend to everything, as before a training.
    """
    with torch.random.fork_rng(devices=[]):
        twin = _build(network, values).to(inputs.device)
    try:
        twin.load_state_dict(network.state_dict())
        pair = [each.double().eval() for each in (twin, copy_network(network))]
        given = inputs.map_tensors(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
        with torch.no_grad():
            compare_outputs(*(given.clone().call(each) for each in pair))
    except (ThinningError, RuntimeError, ValueError, TypeError):
        return False
    return True


def _get(config: Any, path: _Path) -> Any:
    for key in path:
        config = getattr(config, key, None)
    return config


def _set(config: Any, values: Mapping[_Path, int]) -> None:
    for path, value in values.items():
        setattr(_get(config, path[:-1]), path[-1], value)

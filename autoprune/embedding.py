"""An allocation inside a search of the user's own: a few lines in an Optuna objective or a Ray Tune `param_space`.

Neither library is imported: an Optuna trial is asked through its `suggest_float`, and Ray Tune's dimensions are plain
pairs of numbers. One number is proposed for each group, the share of its structures that is kept; whatever they are,
the allocation is projected onto the budget, so that no proposal is above it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from autoprune import registry
from autoprune.api import apply
from autoprune.config import load_experiment
from autoprune.core.allocation import Allocation
from autoprune.core.budget import Budget
from autoprune.core.costs import CostTable
from autoprune.core.projecting.projection import Projection
from autoprune.core.space import SearchSpace, build_space
from autoprune.errors import UserError
from autoprune.evaluation.checkpoints.checkpoint import PrunedCheckpoint, write_checkpoint
from autoprune.evaluation.checkpoints.example_inputs import describe_inputs
from autoprune.graph.costs import measure_costs
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.networks import unwrap
from autoprune.pruning.patterns import FILTER
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.surgery.copying import copy_network
from autoprune.pruning.surgery.masks import Masks
from autoprune.pruning.surgery.provenance import provenance_of
from autoprune.tasks.models.named import qualified_name
from autoprune.tasks.training.snapshot import copied

log = logging.getLogger(__name__)

PREFIX = "keep."
"""What the name of every dimension begins with."""

Limited = str | Budget | Mapping[str, float | str]
"""A budget: `"flops=0.5"` or `{"flops": 0.5, "params": "200k"}`."""


class Suggests(Protocol):
    """What is asked of an Optuna trial."""

    def suggest_float(self, name: str, low: float, high: float) -> float:
        """Returns a number from `low` to `high`.

        Args:
            name: of the trial's parameter.
            low: the least that is allowed.
            high: the greatest.
        """

    def set_user_attr(self, key: str, value: Any) -> None:
        """Keeps a plain value with the trial."""


@dataclass(frozen=True)
class NetworkSpace:
    """The prunable groups of one network and what their widths cost; it holds no weights, so it travels to workers.

    Attributes:
        costs: of the groups as they are searched: of those that are equally wide, one.
        inputs: two samples.
    """

    groups: SearchSpace
    costs: CostTable
    pruner: str
    inputs: ModelInputs

    def dimensions(self) -> dict[str, tuple[float, float]]:
        """Returns name to the least and greatest share of a group's structures that is kept; `uniform` between both.

        A group that has but one width is left out. Where a branch may be removed the least is 0, and less than half of
        its narrowest share means that.
        """
        found = {}
        for group in self.groups.groups:
            bounds = self.groups.bounds[group.name]
            if bounds.least < bounds.ceiling:
                found[f"{PREFIX}{group.name}"] = bounds.least / group.width, bounds.ceiling / group.width
        return found

    def allocation(self, shares: Mapping[str, Any], budget: Limited) -> Allocation:
        """Returns the allocation at a value of each dimension, moved onto the budget; other entries are passed over.

        Raises:
            UserError: a dimension has no value, or the budget cannot be met.
        """
        missing = [name for name in self.dimensions() if name not in shares]
        if missing:
            raise UserError(
                f"no value is given for {', '.join(missing)}; the names and ranges are those of `space.dimensions()`"
            )
        widths = dict(self.groups.narrowest())
        for group in self.groups.groups:
            name = f"{PREFIX}{group.name}"
            if name in shares:
                widths[group.name] = max(round(float(shares[name]) * group.width), 0)
        limits = Budget.of(budget).resolve(self.costs.dense(), self.costs.effective)
        return self.groups.expanded(Projection(self.groups, self.costs, limits).project(widths))

    def apply(self, model: nn.Module, allocation: Mapping[str, int]) -> nn.Module:
        """Returns a smaller network: `model`, which is not changed, with each group at its kept width.

        Its batch norm is not re-estimated: train it, or use `autoprune.apply` with a task.
        """
        return apply(model, allocation, inputs=self.inputs, pruner=self.pruner)


def search_space(
    model: nn.Module, inputs: Any, rules: str | Path | Mapping[str, Any] | None = None, pruner: str = "l1_filter"
) -> NetworkSpace:
    """Returns the groups of a network that may be pruned, as a dimension each of any search.

    Args:
        model: trained or not; it is not changed. Wrappers such as `DataParallel` are taken off.
        inputs: samples as it takes them: a tensor, a tuple of positional or a mapping of keyword arguments, or whatever
            else is one argument (see `autoprune.ModelInputs.of`).
        rules: a search space: a file, a shipped name (`"inner_only"`), or what such a file holds (`{"min_keep": 0.25}`)
            but settings, which are the user's own; None is the default one.
        pruner: a name (`autoprune list pruners`): what is removed, and by which score `apply` chooses it.

    Raises:
        UserError: the network cannot run on the inputs, or the rules or the pruner are at fault.
    """
    chosen: Pruner = registry.resolve("pruner", pruner)
    given = dict(rules) if isinstance(rules, Mapping) else None if rules is None else str(rules)
    found_rules = load_experiment(None, {"space": given, "evaluation.finetune": {"steps": 1}}).space_rules()
    if found_rules.settings:
        raise UserError(
            f"{found_rules.source} has settings ({', '.join(found_rules.settings)}), which a search of your own "
            "suggests itself; leave them out"
        )
    chosen = chosen.within(found_rules)
    network, samples = copy_network(unwrap(model)).eval(), ModelInputs.of(inputs).take(2)
    structures = chosen.find_structures(network, samples, provenance_of(network).masks)
    groups = build_space(found_rules, structures.groups, structures.reasons)
    return NetworkSpace(groups, structures.cost_table(network, samples), pruner, samples)


def suggest_allocation(trial: Suggests, space: NetworkSpace, budget: Limited) -> Allocation:
    """Returns an allocation that an Optuna trial suggests, always within the budget.

    The trial gets one parameter for each group (`keep.<group>`), and the widths that came of them as its user attribute
    `widths`, as those are what was tried.

    Args:
        trial: an Optuna trial, beside whose other parameters these stand.
        space: the network's.
        budget: what the allocation may cost.

    Raises:
        UserError: the budget cannot be met.
    """
    shares = {name: trial.suggest_float(name, low, high) for name, (low, high) in space.dimensions().items()}
    allocation = space.allocation(shares, budget)
    trial.set_user_attr("widths", allocation.to_json())
    return allocation


def allocation_from(config: Mapping[str, Any], space: NetworkSpace, budget: Limited) -> Allocation:
    """Returns the allocation in a configuration of Ray Tune, or of any search over `space.dimensions()`.

    Args:
        config: name of a dimension (`keep.<group>`) to the share that is kept; other entries are passed over.
        space: the network's.
        budget: what the allocation may cost; it is always within that.

    Raises:
        UserError: a dimension has no value, or the budget cannot be met.
    """
    return space.allocation(config, budget)


def save(
    network: nn.Module,
    path: str | Path,
    inputs: Any,
    *,
    masks: Masks | None = None,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Writes a network that a loop of your own has pruned to a file that `load` and every command read.

    What was removed of it is noted on the network by what removed it: `Pruning.finish`, `apply`, `space.apply`, `load`
    or a search. Training does not change that, nor does copying.

    Args:
        network: pruned, perhaps trained further. Wrappers such as `DataParallel` are taken off.
        path: of the file, which is replaced if it is there.
        inputs: samples as it takes them, see `autoprune.ModelInputs.of`.
        masks: parameter name to a boolean mask of its shape, e.g. `[out, in, kh, kw]`, true where it stays; None: those
            that `Pruning.finish` or the file that it was loaded from left.
        metrics: what was measured of it, by name.

    Raises:
        UserError: a mask does not fit the network, or what it holds is not zero.
        OSError: the file cannot be written.
    """
    network, given = unwrap(network), ModelInputs.of(inputs).take(2)
    provenance = provenance_of(network)
    first = provenance.first if provenance.shapes or provenance.first else measure_costs(network, given)
    held = provenance.masks if masks is None else {name: mask.bool() for name, mask in masks.items()}
    _check_masks(network, held)
    if masks is None and (zeros := _not_held(network, held)):
        log.warning(
            "%s: many weights are zero and no mask holds them, so that training brings them back (%s); "
            "give masks={name: weight != 0}", path, ", ".join(zeros),
        )  # fmt: skip
    write_checkpoint(
        Path(path),
        PrunedCheckpoint(
            copied(network.state_dict(), "state_dict"), {}, provenance.shapes, qualified_name(network),
            describe_inputs(given), dict(metrics or {}), "", "masked" if held else FILTER.name, held, first,
            provenance.others,
        ),
    )  # fmt: skip


def _not_held(network: nn.Module, held: Masks) -> list[str]:
    """Returns the names of weights that look pruned without a mask: a tenth of them is zero, and not all."""
    weights = {name: weight for name, weight in network.named_parameters() if weight.dim() > 1 and name not in held}
    return [name for name, weight in weights.items() if 0.1 <= float((weight == 0).float().mean()) < 1]


def _check_masks(network: nn.Module, masks: Masks) -> None:
    """Checks that masks are of a network's parameters, and hold.

    Raises:
        UserError: they are not, or do not.
    """
    parameters = dict(network.named_parameters())
    if odd := [name for name, mask in masks.items() if name not in parameters or parameters[name].shape != mask.shape]:
        raise UserError(f"a mask does not fit the network's parameter {odd[0]!r}; give those that `finish()` returned")
    loose = [
        name for name, mask in masks.items() if bool(parameters[name].detach()[~mask.to(parameters[name].device)].any())
    ]
    if loose:
        raise UserError(
            f"weights of {loose[0]!r} that were pruned are not zero any more: hold them while you train (call `step()` "
            "of the pruning after the optimizer's), or give masks={} to write the weights as they are"
        )

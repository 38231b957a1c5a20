"""Pruning a network while it trains, in a user's own loop or in ours."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoprune import registry
from autoprune.core.allocation import Allocation
from autoprune.core.space import nothing_to_prune
from autoprune.errors import UserError
from autoprune.graph.costs import measure_costs
from autoprune.graph.groups import Kept
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.networks import unwrap
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.schedules import Timing, Unit, default_timing
from autoprune.pruning.statistics.collection import CalibrationData
from autoprune.pruning.statistics.gradients import Loss
from autoprune.pruning.surgery.configuration import follow_configuration
from autoprune.pruning.surgery.masks import Importance, Masks, Widths, top_k_mask
from autoprune.pruning.surgery.provenance import joined_masks, note_first, note_provenance, provenance_of
from autoprune.pruning.training.masking import Masking
from autoprune.pruning.training.targets import matching_groups, resolve_target


class Stateful(Protocol):
    """An optimizer, a rate schedule, or whatever else gives its state and takes it back."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


class Pruning:
    """Prunes a network while it trains.

    Call `step()` after every step of the optimizer and `epoch()` after every epoch: masks are updated when the timing
    says so and hold in between. `finish()` gives the masks, or a thinned network. A lottery ticket is drawn in
    `rounds()`.

    Args:
        network: pruned in place: weights become zero; shapes stay. Of one in a wrapper (`DataParallel`,
            `torch.compile`) the network inside is meant, and `finish()` gives a bare one.
        pruner: a name (`autoprune list pruners`), or a composition of your own.
        amount: what the pruner's allocator takes: a sparsity, or a threshold. A mapping gives numbers to shell patterns
            of groups or layers (`layer1.*`); later ones win, and groups that match none stay whole.
        inputs: samples as the network takes them (see `ModelInputs.of`), to trace it.
        widths: group → kept width to prune to, as a search found it, instead of `amount`.
        layers: shell patterns of the groups to prune.
        initial: the amount at the first update of a gradual schedule.
        timing: when masks are updated; a schedule that prunes once does so at its start, a gradual one needs a timing.
        statistics_batches: `(inputs, targets)` on the network's device, for criteria that read data; gone through anew
            at every update.
        loss: `(outputs, targets)` to the mean loss of a batch, for criteria that differentiate it; cross entropy if
            None.
        seed: of random draws.
        passed: steps and epochs that have passed already, of which no update is made up for; None: none has.
        masking: shared by several prunings of one network (filters in some layers, elements in others).

    Attributes:
        groups: those that are pruned.
        allocation: group → kept width by now.

    Raises:
        UserError: a name matches no group, an amount is out of range, a gradual schedule has no timing, or the
            criterion needs data and there are no `statistics_batches`.
        TaskError: the network cannot run on the inputs.
    """

    def __init__(
        self,
        network: nn.Module,
        pruner: str | Pruner,
        amount: float | Mapping[str, float] | None = None,
        *,
        inputs: Any,
        widths: Widths | None = None,
        layers: Sequence[str] = ("*",),
        initial: float = 0.0,
        timing: Timing | None = None,
        statistics_batches: Iterable[tuple[Any, Tensor]] | None = None,
        loss: Loss | None = None,
        seed: int = 0,
        masking: Masking | None = None,
        passed: Mapping[Unit, int] | None = None,
    ) -> None:
        self.network = network = unwrap(network)
        self.pruner: Pruner = registry.resolve("pruner", pruner) if isinstance(pruner, str) else pruner
        self.timing = timing or default_timing(self.pruner.schedule)
        self.masking = masking or Masking(network)
        if masks := provenance_of(network).masks:  # of a file that it was loaded from, say
            self.masking.set("held", masks)
        loss = loss or nn.functional.cross_entropy
        self._calibration = None if statistics_batches is None else CalibrationData(statistics_batches, loss)
        self._seed = seed
        self._inputs = inputs
        self._structures = self.pruner.find_structures(network, inputs)
        if not self._structures.groups:
            raise UserError(nothing_to_prune(self._structures.reasons))
        groups = matching_groups(self._structures.groups, layers)
        self.groups, self._target = resolve_target(groups, self.pruner, amount, widths, initial)
        self.allocation = Allocation({group.name: group.width for group in self.groups})
        self._gone: dict[str, NDArray[np.bool_]] = {}
        self._importance: Importance = {}
        self._passed: dict[str, int] = {"step": 0, "epoch": 0, "round": 0}
        self._passed.update({str(unit): count for unit, count in (passed or {}).items()})
        self._early = _EarlyState(network) if self.pruner.schedule.rewinds else None
        if passed is None:
            self.update_if_due()

    @property
    def masks(self) -> Masks:
        """Parameter name to a mask of its shape, true where it stays, of all prunings on one masking."""
        return self.masking.masks

    def step(self) -> None:
        """Follows a step of the optimizer: zeroes pruned weights again, and updates the masks if it is time."""
        self._pass("step")

    def epoch(self) -> None:
        """Follows the end of an epoch: updates the masks if it is time."""
        self._pass("epoch")

    def _pass(self, unit: Literal["step", "epoch"]) -> None:
        self.masking.hold()
        self._passed[unit] += 1
        if unit == self.timing.unit:
            self.update_if_due()

    def update_if_due(self) -> None:
        """Updates the masks if it is time."""
        progress = self.timing.progress(self._passed[self.timing.unit])
        if progress is None or self.pruner.schedule.rewinds or (self.pruner.schedule.once and self._gone):
            return
        self._update(1.0 if self.pruner.schedule.once else progress)

    def _update(self, progress: float) -> None:
        """Scores the network as it is and masks what goes at this progress, in [0, 1], of the schedule."""
        importance = self._score()
        self.allocation = self._target.widths(importance, progress)
        self._importance = importance
        self._mask()

    def _mask(self, recover: bool = True) -> None:
        widths = self.allocation if self._importance else {}  # nothing is scored before the first update
        self._gone = {name: ~top_k_mask(self._importance[name], keep, least=0) for name, keep in widths.items()}
        self.masking.set(self, self._structures.masks(self.network, self._importance, widths), recover)
        if self._structures.graph is not None:
            self.masking.normalise_over(self, self._structures.graph, self.kept_channels())

    def _score(self) -> Importance:
        """Scores the groups; what is masked stays lowest unless the schedule lets it recover by its old weights."""
        recovers = self.pruner.schedule.recovers and not self.pruner.criterion.reads_data
        if recovers:
            self.masking.restore()
        try:
            scores = self.pruner.estimate_importance(
                self.network, self._inputs, self._calibration, self._seed, self._structures, self.kept_channels()
            )
        finally:
            self.masking.hold()
        found = {group.name: scores[group.name].copy() for group in self.groups}
        for name, gone in self._gone.items() if not self.pruner.schedule.recovers else ():
            found[name][gone] = -1.0
        for name, gone in self._structures.absent(self.masking.others(self)).items():
            if name in found:
                found[name][gone] = -1.0  # what others hold at zero goes first
        return found

    def rounds(self, count: int, *states: Stateful, early: bool = False) -> Iterator[int]:
        """Yields the rounds of a lottery ticket, 0 (dense) to `count`, each of which is to be trained in turn.

        Before each but the first a share is pruned, and the network and the given states go back to where they were at
        the start. After `load_state_dict` the rounds go on with the one that was under way.

        Source: Frankle and Carbin 2019, arXiv:1803.03635; an early state after some steps instead of the very start
        (`keep_early`) after Frankle et al. 2020, arXiv:1912.05671.

        Args:
            count: rounds of pruning.
            states: what is reset along with the network: optimizer, rate schedule.
            early: whether rounds start from where `keep_early` was called, instead of the network as it was given.

        Raises:
            UserError: the schedule does not rewind, or the early state was never kept.
        """
        if self._early is None or count < 1:
            raise UserError(
                f"rounds are of a schedule that rewinds, such as 'lottery_ticket', and at least 1 in number; here are "
                f"{count} of {self.pruner.schedule.name!r}"
            )
        if not early:
            self._early.start(*states)
        yield self._passed["round"]
        for number in range(self._passed["round"] + 1, count + 1):
            if early and not self._early.kept:
                raise UserError("the early state to go back to was never kept: call keep_early() in the first round")
            self._update(number / count)
            self._passed["round"] = number
            self._early.restore(*states)
            self.masking.remember(self._early.weights)
            self.masking.hold()
            yield number

    def keep_early(self, *states: Stateful) -> None:
        """Keeps the network and the given states as they are now: later rounds start from them.

        Raises:
            UserError: the schedule does not rewind.
        """
        if self._early is None:
            raise UserError(f"schedule {self.pruner.schedule.name!r} never goes back to an early state")
        self._early.keep(*states)

    @overload
    def finish(self) -> Masks: ...

    @overload
    def finish(self, thin: Literal[True]) -> nn.Module: ...

    def finish(self, thin: bool = False) -> Masks | nn.Module:
        """Ends the pruning: masked weights are zero now but no longer held there.

        What was pruned is noted on the network, for `autoprune.save`. While channels are masked, layer, RMS and group
        norms are taken over those that stay, as in the thinned network. From here on they are not, so a network with
        such norms is to be thinned.

        Args:
            thin: whether to return a copy without the pruned channels or layers, compared with the masked network.

        Returns:
            This pruning's masks, parameter name to a boolean mask of the shape of its parameter, e.g.
            `[out, in, kh, kw]`, true where it stays; or the thinned copy.

        Raises:
            UserError: a thinned copy is wanted of a pattern that only zeroes weights.
        """
        pattern = self.pruner.pattern
        if thin and not pattern.thins:
            raise UserError(
                f"pattern {pattern.name!r} sets weights to zero and leaves all layers' shapes; only whole "
                "channels and layers can be thinned away: prune by pattern 'filter' or 'layer'"
            )
        note_first(self.network, measure_costs(self.network, self._inputs))
        masks = self.masking.release(self)
        provenance = provenance_of(self.network)
        held = joined_masks(provenance.masks, self.masking.masks, {} if thin else masks)
        note_provenance(self.network, replace(provenance, masks=held))
        if not thin:
            return masks
        self.masking.plain_norms()
        widths = self.allocation if self._importance else {}  # nothing is scored before the first update
        self._structures.check_on_fresh_inputs(self.network, self._importance, widths, self._inputs)
        thinned = self._structures.prune(self.network, self._importance, widths, check_on=self._inputs)
        follow_configuration(thinned, ModelInputs.of(self._inputs))
        return thinned

    def kept_channels(self) -> Kept:
        """Returns group → the channels that stay; nothing for a pattern that only zeroes weights."""
        return self._structures.kept_channels(self._importance, self.allocation) if self._importance else {}

    def removed_branches(self) -> tuple[str, ...]:
        """Returns the residual branches that go whole; none for any pattern but `layer`."""
        return self._structures.removed_branches(self.allocation)

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint must hold beside the network's and the optimizer's state: tensors, plain values.

        The early state is part of it where the schedule rewinds.
        """
        return {
            "passed": dict(self._passed),
            "allocation": self.allocation.to_json(),
            "importance": {name: torch.from_numpy(scores) for name, scores in self._importance.items()},
            "remembered": self.masking.state_dict(),
            "early": None if self._early is None else self._early.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` gave, on a network into which the weights of that time have been loaded."""
        self._passed = dict(state["passed"])
        self.allocation = Allocation.from_json(state["allocation"])
        self._importance = {name: scores.cpu().numpy() for name, scores in state["importance"].items()}
        if self._early is not None:
            self._early.load_state_dict(state["early"])
        self._mask(recover=False)
        self.masking.remember(state["remembered"])


class _EarlyState:
    """The state that the rounds of a lottery ticket go back to; at first that of the network as it was given.

    Attributes:
        kept: whether it was chosen by `keep`, rather than being the very start.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._states: tuple[dict[str, Any], ...] = (copy.deepcopy(network.state_dict()),)
        self.kept = False

    @property
    def weights(self) -> Mapping[str, Tensor]:
        return self._states[0]

    def start(self, *others: Stateful) -> None:
        """Adds the others as they are now to the very start, unless they are known already."""
        if len(self._states) == 1 and not self.kept:
            self._states += _copied_states(*others)

    def keep(self, *others: Stateful) -> None:
        """Makes the network and the others as they are now the early state."""
        self._states, self.kept = _copied_states(self._network, *others), True

    def restore(self, *others: Stateful) -> None:
        """Puts the network and the others back.

        Raises:
            UserError: there are not as many others as were kept.
        """
        if len(self._states) != 1 + len(others):
            raise UserError(
                f"{len(self._states) - 1} states were kept beside the network's but {len(others)} are given"
            )
        for owner, state in zip((self._network, *others), self._states, strict=True):
            owner.load_state_dict(copy.deepcopy(state))

    def state_dict(self) -> dict[str, Any]:
        return {"states": list(self._states), "kept": self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._states, self.kept = tuple(state["states"]), state["kept"]


def _copied_states(*owners: Stateful) -> tuple[dict[str, Any], ...]:
    return tuple(copy.deepcopy(owner.state_dict()) for owner in owners)

"""Importance of a network's structures, by each layer that a criterion can score."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from autoprune.errors import UserError
from autoprune.graph.channel_locations import find_batch_norm
from autoprune.graph.groups import Kept
from autoprune.graph.layers import Layer, qualified_name
from autoprune.graph.modules.weight_norm import WeightNorm, find_weight_norms
from autoprune.pruning.criteria.base import Criterion, Gradients, LayerStatistics
from autoprune.pruning.statistics.collection import CalibrationData, NetworkStatistics, collect_statistics
from autoprune.pruning.structures import Structures
from autoprune.pruning.surgery.masked_run import MaskedRun, masked_network


@dataclass(frozen=True)
class ImportanceEstimator:
    """Scores structures layer by layer, from the weights and from what was collected from data.

    Attributes:
        structures: the network's groups under a pattern.
        statistics: what was collected; empty for criteria that go by weights alone.
        seed: of random draws.
    """

    network: nn.Module
    structures: Structures
    statistics: NetworkStatistics
    seed: int

    def layer_scores(self, group: str, criterion: Criterion) -> list[Tensor]:
        """Returns `[structures]` scores of a group by each of its layers that the criterion can score.

        A criterion that needs consumers scores by each layer that uses the structures instead.
        """
        if "consumers" not in criterion.needs:
            return self.structures.layer_scores(group, criterion, lambda layer: self._of_layer(layer, criterion))
        scores = (
            criterion.score(LayerStatistics(layer, consumer.weight, contributions=consumer.gram, seed=self.seed))
            for layer, consumer in self.statistics.consumers.get(group, {}).items()
        )
        return [found.double() for found in scores if found is not None]

    @cached_property
    def _weight_norms(self) -> list[WeightNorm]:
        return find_weight_norms(self.network)

    def _of_layer(self, layer: Layer, criterion: Criterion) -> LayerStatistics:
        gradients = self.statistics.gradients.get(layer.name)
        weight: Tensor = self.network.get_parameter(layer.weight_name)
        computed = next((norm for norm in self._weight_norms if norm.direction == layer.weight_name), None)
        if computed is not None and gradients is None:  # which are those by the direction
            weight = computed.weight(self.network)
        weight = weight.detach().double()
        return LayerStatistics(
            layer.name,
            self._arrange(layer, weight),
            self._batch_norm_scale(layer) if "norm" in criterion.needs else None,
            self.statistics.activations.get(layer.name),
            gradients
            and Gradients(*(self._arrange(layer, part.double()) for part in (gradients.magnitude, gradients.square))),
            self.statistics.gates.get(layer.name),
            float(weight.std(correction=0)),
            seed=self.seed,
        )

    def _arrange(self, layer: Layer, weight: Tensor) -> Tensor:
        """Returns the weight as `[structures, entries]`, those of one choice after those of another."""
        return self.structures.pattern.arrange(layer, weight).flatten(0, 1)

    def _batch_norm_scale(self, layer: Layer) -> Tensor | None:
        graph = self.structures.graph
        found = None if graph is None else find_batch_norm(graph, layer)
        if found is None:
            return None
        scale = self.network.get_parameter(qualified_name(found[0], "weight")).detach().double().abs()
        return found[1].mean_per_channel(scale)


def make_estimator(
    network: nn.Module,
    structures: Structures,
    criterion: Criterion,
    calibration: CalibrationData | None,
    seed: int,
    kept: Kept,
) -> ImportanceEstimator:
    """Returns an estimator that has collected what the criterion needs.

    Args:
        network: left as it is.
        structures: the network's groups under a pattern.
        criterion: says what it needs.
        calibration: samples and loss; not read where the criterion goes by the weights alone.
        seed: of random draws.
        kept: by group, the channels that the network has not lost yet: norms are over these when it reads samples.

    Raises:
        UserError: samples are needed and there are none, or the criterion cannot score such structures.
    """
    if criterion.per_channel and not structures.pattern.coupled:
        raise UserError(
            f"criterion {criterion.name!r} scores whole output channels, which pattern {structures.pattern.name!r} is "
            "not made of; choose pattern 'filter', or a criterion that goes by weights or gradients, such as "
            "'magnitude'"
        )
    statistics = NetworkStatistics()
    if criterion.reads_data:
        if calibration is None:
            raise UserError(
                f"criterion {criterion.name!r} needs training samples and a loss to score by; give a task, or choose "
                "one that goes by the weights, such as 'l1'"
            )
        layers, graph, needs = structures.scored_layers, structures.graph, criterion.needs
        if kept and graph is not None:
            masked = masked_network(network, graph, kept)
            replay = MaskedRun(masked, graph.flow.run, graph.keep_mask(kept))
            statistics = collect_statistics(masked, graph, layers, needs, calibration, replay)
        else:
            statistics = collect_statistics(network, graph, layers, needs, calibration)
    return ImportanceEstimator(network, structures, statistics, seed)

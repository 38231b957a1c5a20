from __future__ import annotations

import torch

from autoprune.graph.groups import find_groups
from autoprune.pruning.patterns import LAYER
from autoprune.pruning.pruner import LEVEL, Pruner, find_structures
from tests.graph.unusual_networks import UNUSUAL


def test_whole_layers_that_go_cost_what_was_predicted_and_those_that_cannot_be_scored_stay() -> None:
    network, inputs = UNUSUAL["vit_module"].build(), torch.randn(2, *UNUSUAL["vit_module"].shape)
    graph = find_groups(network, inputs)
    found = find_structures(network, graph, LAYER)
    names = ["blocks.0.attention", "blocks.0.mlp.0", "blocks.1.attention", "blocks.1.mlp.0"]
    assert [(group.name, group.width, group.least) for group in found.groups] == [(name, 1, 0) for name in names]
    scores = Pruner("x", LEVEL.criterion, LAYER).estimate_importance(network, graph)
    for widths in ({}, {names[0]: 0}, {names[0]: 1, names[1]: 0}, dict.fromkeys(names, 0)):
        pruned = found.prune(network, scores, widths, check_on=inputs)
        assert found.measure(pruned, inputs, scores, widths) == found.cost_table(network, inputs).costs(widths)
        gone = [name for name in names if widths.get(name) == 0]
        assert list(found.removed_branches(widths)) == gone
        masks = found.masks(network, scores, widths)
        assert all(any(mask.startswith(name) for mask in masks) for name in gone)
        assert not set(masks) & set(dict(pruned.named_parameters()))

"""Every network of the matrix: captured, thinned at random, equal to the masked one, costed exactly, still its own.

The slow tier needs the libraries of networks, which `experiments/peers/environment.sh DIR` installs. Where one is
missing that is a failure.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.zoo.examination import TOLERANCE, examine
from tests.zoo.networks import NETWORKS

QUICK = (
    "own/LSTM language model", "own/packed LSTM", "own/siamese", "own/dictionary", "own/weight-standardised",
    "own/tied decoder", "own/nn.TransformerEncoder", "own/auxiliary head", "own/own parameters",
)  # fmt: skip
LEAST = {"torchvision": 30, "timm": 30, "transformers": 25, "ultralytics": 5, "smp": 1}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def test_thinned_at_random_it_is_the_masked_network_costs_what_was_predicted_and_trains(name: str) -> None:
    row = examine(NETWORKS[name])
    assert row.failure is None
    assert row.difference is not None
    assert row.noticed is not None
    assert row.varies is not None
    assert row.difference <= TOLERANCE
    assert min(row.noticed, row.varies) > 1000 * TOLERANCE, "the masks change nothing, or the network is dead"
    assert row.costs is None
    assert row.trains is None
    assert row.own_class
    assert row.untouched


def test_the_matrix_has_as_many_networks_of_each_library_as_were_set() -> None:
    counts = Counter(name.partition("/")[0] for name in NETWORKS)
    assert all(counts[library] >= least for library, least in LEAST.items())
    assert counts["own"] <= 15
    assert sum("rcnn" in name or "retinanet" in name or "fcos" in name or "/ssd" in name for name in NETWORKS) >= 5
    assert len(NETWORKS) >= 120

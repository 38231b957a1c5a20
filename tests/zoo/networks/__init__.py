"""The networks that autoprune is tried on, chosen by what people use before any of them was tried."""

from __future__ import annotations

from collections.abc import Mapping

from tests.zoo.networks import image_models, own, transformers, vision
from tests.zoo.networks.entry import ZooNetwork, call

__all__ = ["NETWORKS", "ZooNetwork", "call"]

NETWORKS: Mapping[str, ZooNetwork] = {
    network.name: network for part in (vision, image_models, transformers, own) for network in part.networks()
}

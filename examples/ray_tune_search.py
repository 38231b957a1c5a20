"""A search of your own with Ray Tune: one more dimension for each group of channels."""

from digits_network import network, pixels, train
from ray import tune

import autoprune

space = autoprune.search_space(network, pixels[:2], {"protect": []})
widths = {name: tune.uniform(low, high) for name, (low, high) in space.dimensions().items()}


def trainable(config: dict[str, float]) -> dict[str, float]:
    allocation = autoprune.allocation_from(config, space, "flops=0.3")
    return {"loss": train(space.apply(network, allocation), config["rate"], steps=20)}


tuner = tune.Tuner(
    trainable,
    param_space={"rate": tune.loguniform(0.003, 0.3), **widths},
    tune_config=tune.TuneConfig(metric="loss", mode="min", num_samples=4, reuse_actors=True),
)
best = tuner.fit().get_best_result()
print(best.metrics["loss"], best.config["rate"], autoprune.allocation_from(best.config, space, "flops=0.3"))

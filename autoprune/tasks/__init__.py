"""Floor 2: the user's side: networks, weights, data, loss, metric, training."""

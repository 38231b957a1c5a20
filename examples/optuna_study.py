"""A study of your own with Optuna: the learning rate and an allocation within the budget are suggested together."""

import optuna
from digits_network import network, pixels, train

import autoprune

space = autoprune.search_space(network, pixels[:2], {"protect": []})


def objective(trial: optuna.Trial) -> float:
    rate = trial.suggest_float("rate", 0.003, 0.3, log=True)
    allocation = autoprune.suggest_allocation(trial, space, "flops=0.3")
    return train(space.apply(network, allocation), rate, steps=20)


study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
study.optimize(objective, n_trials=10)
print(study.best_value, study.best_params["rate"], study.best_trial.user_attrs["widths"])

# optuna_objective.py
import optuna
from digits_network import images, network, train

import autoprune

space = autoprune.search_space(network, images[:2], {"protect": []})


def objective(trial: optuna.Trial) -> float:
    rate = trial.suggest_float("rate", 0.003, 0.3, log=True)
    allocation = autoprune.suggest_allocation(trial, space, "flops=0.3")
    return train(space.apply(network, allocation), rate, steps=20)


study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
study.optimize(objective, n_trials=10)
print(study.best_value, study.best_params["rate"], study.best_trial.user_attrs["widths"])

"""Floor 1: YAML and options to a frozen, validated experiment; loads neither torch nor numpy."""

from autoprune.config.experiment import Experiment
from autoprune.config.loading import dump_experiment, load_experiment, shipped_spaces

__all__ = ["Experiment", "dump_experiment", "load_experiment", "shipped_spaces"]

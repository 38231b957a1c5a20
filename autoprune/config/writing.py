"""Writes an experiment so that it reads back as it is."""

from __future__ import annotations

import re

import yaml

from autoprune.config.credentials import mask
from autoprune.config.documents import FLOAT
from autoprune.config.experiment import Experiment


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or our own reader would take for a number."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{FLOAT.pattern})\\Z"), list("-+.0123456789"))


def dump_experiment(experiment: Experiment) -> str:
    """Every setting as YAML, the search space inlined, that loads back to an equal experiment.

    Credentials in the tracking URI are the exception: they are never written, and `Experiment.tracking_uri` asks for
    them again.
    """
    settings = experiment.model_dump(mode="json")
    if experiment.track.uri is not None:
        settings["track"]["uri"] = mask(experiment.track.uri)
    return yaml.dump(settings, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)

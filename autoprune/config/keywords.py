"""Settings as keywords of `autoprune.search`: `search__trials=60`, or `trials=60` for short."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from autoprune.config.experiment import Experiment
from autoprune.config.loading import OPTIONS
from autoprune.errors import ConfigError, did_you_mean

_SHORT = {
    "trials": "search.trials",
    "evaluations": "search.evaluations",
    "seed": "search.seed",
    "searcher": "search.searcher",
    "device": "run.device",
}
_KEYWORDS = {key: keyword for keyword, key in _SHORT.items()}
_RUN_OPTIONS = ("workers", "cpus-per-trial", "gpus-per-trial", "retries", "trial-timeout", "ray-address")
_KEYS = {
    **{option: key for key, option in OPTIONS.items()},
    **{f"--{name}": f"run.{name.replace('-', '_')}" for name in _RUN_OPTIONS},
}
_OPTION = re.compile(r"(--[a-z-]*[a-z])(?: (?!(?:or|and|of|to|with|for|too|is|names)\b)([\w.=]*\w))?(:?)")


def settings_of(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Returns dotted keys of an experiment file and their values; a keyword that is None is one not given.

    Raises:
        ConfigError: a keyword is unknown; all are listed. What stands behind `__` is checked with the values.
    """
    sections = list(Experiment.model_fields)
    faults = []
    for keyword in keywords:
        first, separator, _ = keyword.partition("__")
        known = sections if separator else [*_SHORT, *sections]
        if separator and first == "task":
            faults.append(f"keyword {keyword!r} is for runs of the command line: network and task are arguments here")
        elif first not in known:
            near = did_you_mean(first, known) or f"; known: {', '.join(known)}"
            faults.append(f"unknown keyword {keyword!r}{near}")
    if faults:
        raise ConfigError(faults)
    given = {keyword: value for keyword, value in keywords.items() if value is not None}
    return {_SHORT.get(keyword, keyword.replace("__", ".")): value for keyword, value in given.items()}


def _keyword_of(key: str) -> str:
    return _KEYWORDS.get(key, key.replace(".", "__"))


def in_keywords(message: str) -> str:
    """Returns a message with keywords in place of the command line's options for the same."""
    message = re.sub(r"--resume .+?(?= or |;|,|$)", "resume=True", message)
    message = re.sub(r"--set ([\w.]+)", lambda found: _keyword_of(found[1]), message)
    return _OPTION.sub(_in_keyword, message)


def _in_keyword(found: re.Match[str]) -> str:
    option, value, colon = found.groups()
    if option not in _KEYS:
        return found[0]
    keyword = _keyword_of(_KEYS[option])
    if value is None:
        return keyword + (colon or "=")
    return f"{keyword}={value if re.fullmatch('[0-9.]+', value) else repr(value)}{colon}"

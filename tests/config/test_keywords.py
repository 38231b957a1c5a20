"""Settings as keywords, and messages in which options become keywords."""

from __future__ import annotations

import pytest

from autoprune.config.keywords import in_keywords, settings_of
from autoprune.errors import ConfigError


def test_keywords_are_keys_with_short_names_for_the_usual_ones() -> None:
    given = settings_of({"trials": 3, "run__workers": 2, "pruner": "l1_filter", "seed": None})
    assert given == {"search.trials": 3, "run.workers": 2, "pruner": "l1_filter"}


def test_unknown_keywords_are_all_named_with_the_nearest_ones() -> None:
    with pytest.raises(ConfigError) as raised:
        settings_of({"trails": 3, "serach__seed": 1, "task__model": "x", "trials": 3})
    assert list(raised.value.faults) == [
        "unknown keyword 'trails'; did you mean 'trials'?",
        "unknown keyword 'serach__seed'; did you mean 'search'?",
        "keyword 'task__model' is for runs of the command line: network and task are arguments here",
    ]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            "my run already holds a run; continue it with --resume my run or choose another folder with --output",
            "my run already holds a run; continue it with resume=True or choose another folder with output=",
        ),
        ("make room, then continue with --resume a b", "make room, then continue with resume=True"),
        ("--trials: should be at least 1 but is 0", "trials: should be at least 1 but is 0"),
        ("--device cuda: no CUDA here; use --device cpu", "device='cuda': no CUDA here; use device='cpu'"),
        ("lower --workers or --gpus-per-trial", "lower run__workers= or run__gpus_per_trial="),
        ("--set track.model=false leaves it out", "track__model=false leaves it out"),
        ("restore it with mlflow experiments restore --experiment-id 2", None),
        ("start one with `ray start --head`", None),
    ],
)
def test_messages_name_keywords_in_place_of_options(typed: str, said: str | None) -> None:
    assert in_keywords(typed) == (typed if said is None else said)

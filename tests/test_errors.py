from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import autoprune
from autoprune.core.trial import Failure
from autoprune.errors import ForeignExit, TaskError, UserError, describe, foreign_code
from autoprune.evaluation.outcomes import outcome_of
from autoprune.evaluation.prunable_model import analyze
from autoprune.pruning.pruner import L1_FILTER


class Odd(BaseException):
    """Of a module of the user's."""


@pytest.mark.parametrize("fault", [SystemExit(0), GeneratorExit(), Odd("x")])
def test_whatever_users_code_raises_is_an_exception(fault: BaseException) -> None:
    with pytest.raises(ForeignExit) as raised, foreign_code():
        raise fault
    assert describe(raised.value) == f"{type(fault).__name__}: {fault}"


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), ValueError("x"), UserError("y")])
def test_interrupts_and_exceptions_stay_what_they_are(fault: BaseException) -> None:
    with pytest.raises(type(fault)) as raised, foreign_code():
        raise fault
    assert raised.value is fault


def leave(*_: object) -> None:
    sys.exit(3)


def test_a_candidate_that_ends_the_process_fails() -> None:
    assert outcome_of(leave) == Failure("exception", "SystemExit: 3")


@pytest.mark.parametrize("fault", [SystemExit(0), Odd("x")])
def test_a_network_that_ends_the_process_is_refused(fault: BaseException) -> None:
    class Leaving(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            raise fault

    network = nn.Sequential(nn.Linear(4, 4), Leaving())
    with pytest.raises(TaskError, match=type(fault).__name__):
        analyze(network, torch.zeros(2, 4), L1_FILTER)


def test_a_notebook_shows_the_callers_lines_and_the_message_alone() -> None:
    with pytest.raises(UserError) as raised:
        autoprune.apply(nn.Linear(2, 2), {})
    lines = "".join(raised.value._render_traceback_())
    assert "autoprune.apply(nn.Linear(2, 2), {})" in lines
    assert lines.endswith(f"UserError: {raised.value}")
    assert "autoprune/api.py" not in lines
    with pytest.raises(TaskError) as caused:
        raise TaskError("broken") from ValueError("x")
    assert "ValueError: x" in "".join(caused.value._render_traceback_())

"""What torch's exporter prints stays away from whoever exports, and from nobody else."""

from __future__ import annotations

import logging
import sys
import threading

import pytest
import torch
from torch import nn

from autoprune.evaluation.checkpoints.export import in_one_line, suppress_export_output


class Odd(nn.Module):
    """Its control flow depends on values, so that it cannot be exported."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * 2 if inputs.sum() > 0 else inputs


def test_an_export_that_fails_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError) as fault, suppress_export_output():
        torch.export.export(Odd(), (torch.zeros(2, 3),))
    assert capfd.readouterr() == ("", "")
    said = in_one_line(fault.value)
    assert said.startswith("Could not guard on data-dependent expression")
    assert len(said) <= 160
    assert "\n" not in said


def test_other_threads_are_heard_and_all_is_as_before_afterwards(capfd: pytest.CaptureFixture[str]) -> None:
    level = logging.getLogger("torch").level
    with suppress_export_output():
        print("mine", file=sys.stderr)
        other = threading.Thread(target=lambda: print("another's", file=sys.stderr, flush=True))
        other.start()
        other.join()
    print("after", file=sys.stderr)
    assert capfd.readouterr().err == "another's\nafter\n"
    assert logging.getLogger("torch").level == level


def test_the_first_cause_is_what_is_said() -> None:
    fault = ValueError("outside")
    fault.__cause__ = KeyError("inside")
    assert in_one_line(fault) == "'inside'"

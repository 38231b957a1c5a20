from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch

from autoprune.errors import CheckpointError
from autoprune.evaluation.checkpoints.example_inputs import build_inputs, describe_inputs
from autoprune.graph.inputs import ModelInputs


def stored(value: Any, path: Path, **settings: Any) -> ModelInputs:
    """What a file gives back of inputs that were described in it."""
    torch.save(describe_inputs(ModelInputs.of(value, **settings)), path)
    return build_inputs(torch.load(path, weights_only=True))


def test_inputs_come_back_in_shape_and_type_but_without_the_data(tmp_path: Path) -> None:
    ids, mask = torch.randint(3, 9, (2, 40)), torch.tensor([[True, False], [True, True]])
    value = {"pixels": [torch.rand(3, 4, 4), torch.rand(3, 5, 5)], "ids": ids, "mask": mask, "scale": 0.5, "past": None}
    found = stored({**value, "pair": (ids, {"x": torch.rand(2, 3, dtype=torch.float64)})}, tmp_path / "inputs.pt")
    assert len(found) == 2
    assert [pixels.shape for pixels in found.kwargs["pixels"]] == [(3, 4, 4), (3, 5, 5)]
    assert not found.kwargs["pixels"][0].any()
    assert found.kwargs["ids"].shape == (2, 40)
    assert (found.kwargs["ids"].min(), found.kwargs["ids"].max()) == (ids.min(), ids.max())
    assert not torch.equal(found.kwargs["ids"], ids)
    assert torch.equal(found.kwargs["mask"], mask)
    assert (found.kwargs["scale"], found.kwargs["past"]) == (0.5, None)
    assert found.kwargs["pair"][1]["x"].dtype is torch.float64


def test_the_axis_of_the_samples_comes_back(tmp_path: Path) -> None:
    found = stored(torch.rand(10, 2, 6), tmp_path / "inputs.pt", axis=1)
    assert (found.samples, found.axis, found.args[0].shape) == (2, 1, (10, 2, 6))


def test_arguments_of_own_classes_have_to_be_passed_again(tmp_path: Path) -> None:
    pair = namedtuple("Pair", "x y")(torch.rand(2, 3), torch.rand(2, 4))
    with pytest.raises(CheckpointError, match=r"takes a Pair.*inputs="):
        stored(pair, tmp_path / "inputs.pt")

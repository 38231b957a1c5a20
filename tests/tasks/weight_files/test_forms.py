from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoprune.errors import CheckpointError
from tests.repository import REPOSITORY
from tests.tasks.weight_files.forms import (
    LOADING,
    REFUSED,
    Form,
    build,
    inner,
    load,
    row,
)

PAGE = (REPOSITORY / "docs" / "checkpoints.md").read_text().splitlines()


def _needs(form: Form) -> None:
    if form.needs == "safetensors" and importlib.util.find_spec("safetensors") is None:
        pytest.skip("safetensors is not installed")


def _tensors(network: nn.Module) -> list[Tensor]:
    return [value for value in inner(network).state_dict().values() if isinstance(value, Tensor)]


@pytest.mark.parametrize("form", LOADING, ids=lambda form: form.name)
def test_forms_that_people_have_are_loaded_and_what_they_should_know_is_said(form: Form, tmp_path: Path) -> None:
    _needs(form)
    network = build(form.kind, 1)
    trained, weights = load(form, tmp_path, network)
    exact = not form.name.startswith(("float16", "bfloat16"))
    for given, loaded in zip(_tensors(trained), _tensors(network), strict=True):
        torch.testing.assert_close(loaded, given, rtol=0 if exact else 1e-2, atol=0)
    assert form.said in "; ".join(weights.remarks)
    assert bool(form.said) == bool(weights.remarks)
    assert row(form, "; ".join(weights.remarks), tmp_path) in PAGE


@pytest.mark.parametrize("form", REFUSED, ids=lambda form: form.name)
def test_what_is_no_weights_of_it_is_refused_in_words_and_the_network_stays(form: Form, tmp_path: Path) -> None:
    network = build(form.kind, 1)
    with pytest.raises(CheckpointError) as caught:
        load(form, tmp_path, network)
    assert form.said in str(caught.value)
    assert row(form, str(caught.value), tmp_path) in PAGE
    assert all(map(torch.equal, _tensors(network), _tensors(build(form.kind, 1))))

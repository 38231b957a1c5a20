"""Thinned networks of the libraries in use: saved, loaded, generating, training, copied and exported."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import autoprune
from autoprune.core.allocation import Allocation
from autoprune.evaluation.candidate_builder import PrunedNetwork
from autoprune.evaluation.checkpoints.checkpoint import write_checkpoint
from autoprune.evaluation.prunable_model import analyze
from autoprune.graph.costs import measure_costs
from autoprune.pruning.pruner import L1_FILTER
from tests.zoo.networks import NETWORKS, call
from tests.zoo.networks.libraries import library
from tests.zoo.running import FRESH_SAMPLES

pytestmark = pytest.mark.slow

KINDS = ["kind:heads", "kind:hidden"]


def dense_and_inputs(name: str) -> tuple[nn.Module, Any]:
    zoo = NETWORKS[name]
    return zoo.build(), zoo.inputs(2, seed=1)


def outputs(network: nn.Module, name: str) -> list[Tensor]:
    with torch.no_grad():
        found = call(network.eval(), NETWORKS[name].inputs(FRESH_SAMPLES, seed=5))
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]


def same(one: nn.Module, other: nn.Module, name: str) -> None:
    for found, expected in zip(outputs(one, name), outputs(other, name), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def halved(name: str, **rules: Any) -> nn.Module:
    """The network with all that the rules allow at about half of what they may save."""
    network, inputs = dense_and_inputs(name)
    space = autoprune.search_space(network, inputs, {"protect": [], **rules})
    shares = dict.fromkeys(space.dimensions(), 0.5)
    least = space.costs.costs(space.groups.narrowest())["flops"] / space.costs.dense()["flops"]
    return space.apply(network, space.allocation(shares, f"flops={(1 + least) / 2}"))


TRANSFORMERS = (
    "own/nn.TransformerEncoder", "timm/vit_tiny_patch16_224", "transformers/BertForSequenceClassification",
    "transformers/LlamaForCausalLM", "transformers/GPT2LMHeadModel", "transformers/T5ForConditionalGeneration",
)  # fmt: skip


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_space_of_transformers_leaves_all_but_heads_and_hidden_units(name: str) -> None:
    network, inputs = dense_and_inputs(name)
    space = autoprune.search_space(network, inputs, "transformer")
    kinds = {group.name: group.kind for group in space.groups.groups}
    assert set(kinds.values()) == {"heads", "hidden"}
    small = space.apply(network, space.allocation(dict.fromkeys(space.dimensions(), 0.5), "flops=0.99"))
    assert measure_costs(small, inputs)["flops"] < measure_costs(network, inputs)["flops"]
    for found, expected in zip(outputs(small, name), outputs(network, name), strict=True):
        if found.dim() < 4:  # in a cache are as many heads as stay
            assert found.shape == expected.shape


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_widths_in_multiples_of_8_leave_heads_single(name: str) -> None:
    space = autoprune.search_space(*dense_and_inputs(name), "hardware_8").groups
    steps = {group.kind: space.bounds[group.name].step for group in space.groups}
    assert steps["heads"] == 1
    assert {step for kind, step in steps.items() if kind != "heads"} == {8}


@pytest.mark.parametrize(
    ("name", "rules", "changed"),
    [
        ("BertForSequenceClassification", {"include": KINDS[1:], "equal": KINDS[1:]}, {"intermediate_size"}),
        (
            "LlamaForCausalLM",
            {"include": KINDS[:1], "equal": KINDS[:1]},
            {"num_attention_heads", "num_key_value_heads"},
        ),
        ("LlamaForCausalLM", {"include": KINDS[1:], "equal": KINDS[1:]}, {"intermediate_size"}),
        ("LlamaForCausalLM", {"include": ["kind:stream"], "multiple_of": 4}, {"hidden_size"}),
        (
            "LlamaForCausalLM",
            {"equal": KINDS, "groups": {"kind:stream": {"multiple_of": 4}}},
            {"hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"},
        ),
        ("GPT2LMHeadModel", {"include": KINDS[1:], "equal": KINDS[1:]}, {"n_inner"}),
        ("T5ForConditionalGeneration", {"include": KINDS, "equal": KINDS}, {"d_ff", "num_heads"}),
        (
            "BartForConditionalGeneration",
            {"include": KINDS[1:], "equal": KINDS[1:]},
            {"encoder_ffn_dim", "decoder_ffn_dim"},
        ),
    ],
)  # fmt: skip
def test_equal_widths_are_in_the_configuration_and_come_back_from_pretrained(
    name: str, rules: dict[str, Any], changed: set[str], tmp_path: Path
) -> None:
    dense, _ = dense_and_inputs(f"transformers/{name}")
    small = halved(f"transformers/{name}", **rules)
    before, after = dense.config.to_dict(), small.config.to_dict()
    assert {key for key in before if before[key] != after[key]} == changed
    small.save_pretrained(tmp_path)
    again = type(dense).from_pretrained(tmp_path)
    assert type(small) is type(dense) is type(again)
    same(again, small, f"transformers/{name}")


def test_heads_and_the_stream_of_bert_in_proportion_are_in_the_configuration(tmp_path: Path) -> None:
    name = "transformers/BertForSequenceClassification"
    network, inputs = dense_and_inputs(name)
    heads = {f"bert.encoder.layer.{i}.attention.self.query": 3 for i in (0, 1)}
    widths = {**heads, "bert.embeddings.word_embeddings": 48, "bert.pooler.dense": 48}
    small = autoprune.apply(network, widths, inputs=inputs)
    assert (small.config.hidden_size, small.config.num_attention_heads) == (48, 3)
    assert network.config.hidden_size == 64
    small.save_pretrained(tmp_path)
    same(type(small).from_pretrained(tmp_path), small, name)


@pytest.mark.parametrize("name", ["transformers/BertForSequenceClassification", "transformers/LlamaForCausalLM"])
def test_unequal_widths_leave_the_configuration_and_come_back_by_autoprune_load(name: str, tmp_path: Path) -> None:
    network, inputs = dense_and_inputs(name)
    prunable = analyze(copy.deepcopy(network), inputs, L1_FILTER)
    widths = Allocation({group.name: max(1, group.width - 1 - i) for i, group in enumerate(prunable.structures.groups)})
    small = prunable.structures.prune(prunable.network, prunable.importance, widths, prunable.inputs)
    write_checkpoint(tmp_path / "small.pt", PrunedNetwork(small, prunable, widths).checkpoint({}, {}))
    again = autoprune.load(tmp_path / "small.pt", NETWORKS[name].build())
    assert type(again) is type(network)
    assert again.config.to_dict() == network.config.to_dict()
    same(again, small, name)


@pytest.mark.parametrize(
    "name", ["LlamaForCausalLM", "GPT2LMHeadModel", "T5ForConditionalGeneration", "BartForConditionalGeneration"]
)
@pytest.mark.parametrize("equal", [True, False])
def test_a_thinned_decoder_generates_with_its_cache(name: str, equal: bool) -> None:
    rules = {"equal": KINDS} if equal else {"groups": {"*.0.*": {"max_keep": 0.5}}}
    small = halved(f"transformers/{name}", include=KINDS, **rules)
    prompt = torch.randint(3, 99, (3, 6), generator=torch.Generator().manual_seed(0))
    options = {"max_new_tokens": 10, "min_new_tokens": 10}
    for sampled in (False, True):  # networks of random weights repeat themselves where nothing is drawn
        found = []
        for cache in (True, False):
            torch.manual_seed(0)
            found.append(small.generate(prompt, use_cache=cache, do_sample=sampled, **options))
        assert found[0].shape[1] >= 10
        assert torch.equal(*found)
    assert len(found[0].unique()) > 5


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("ultralytics")][:2])
def test_a_thinned_detector_trains_by_its_own_loss_and_is_copied_and_exported(name: str) -> None:
    small = halved(name)
    images = NETWORKS[name].inputs(2, seed=3)
    images = images[0] if isinstance(images, tuple) else images
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.3, 0.6, 0.2, 0.2]])
    batch = {"img": images, "cls": torch.zeros(2, 1), "bboxes": boxes, "batch_idx": torch.arange(2.0)}
    same(copy.deepcopy(small), small, name)
    same(pickle.loads(pickle.dumps(small)), small, name)
    file = io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    same(torch.load(file, weights_only=False), small, name)
    exported = copy.deepcopy(small)
    exported.model[-1].export, exported.model[-1].format = True, "torchscript"
    with torch.no_grad():
        found, expected = torch.jit.trace(exported, images, strict=False, check_trace=False)(images), exported(images)
    torch.testing.assert_close(found, expected)
    small.train().args = library("ultralytics.cfg").get_cfg()
    optimiser = torch.optim.SGD(small.parameters(), lr=1e-5)
    loss = small(batch)[0].sum()
    loss.backward()
    gradients = [parameter.grad for parameter in small.parameters() if parameter.grad is not None]
    assert len(gradients) > 50
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    optimiser.step()
    assert bool(small(batch)[0].isfinite().all())

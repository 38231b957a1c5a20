"""Thinned networks written and read, pruned again, copied, traced and exported, as far as the dense ones can be."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
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
from autoprune.evaluation.prunable_model import PrunableModel, analyze
from autoprune.graph.costs import measure_costs
from autoprune.graph.inputs import ModelInputs
from autoprune.graph.modules.recurrent import PrunableLSTM
from autoprune.pruning.pruner import L1_FILTER
from autoprune.pruning.surgery.written_forward import WrittenForward
from tests.graph.contract import batch, randomise
from tests.graph.test_branches import CASES
from tests.journeys import fresh_process
from tests.repository import REPOSITORY


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 12)
        self.recurrent = nn.LSTM(12, 16, 2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embed(x))[0])


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.Sequential(
        nn.Linear(6, 32), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(32, 4)
    )


OWN: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "tagger": (Tagger, lambda: torch.randint(20, (2, 7))),
    "encoder": (encoder, lambda: torch.randn(2, 5, 6)),
}
QUICK = ("tagger", "encoder", "resnet20", "shufflenet_v1", "vit_module", "functional_norm", "shared_modules")
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in (*OWN, *CASES)]


def build(name: str) -> tuple[nn.Module, ModelInputs]:
    torch.manual_seed(0)
    if name in OWN:
        network, inputs = (make() for make in OWN[name])
        return network.eval(), ModelInputs.of(inputs)
    case = CASES[name]
    return randomise(case.build()).eval(), ModelInputs.of(batch(case.shape, case.integers, torch.float32))


def uneven(prunable: PrunableModel) -> Allocation:
    """Keeps 3 of 5 of every other group, of the rest 4."""
    groups = prunable.structures.groups
    return Allocation({group.name: max(1, group.width * (3 + i % 2) // 5) for i, group in enumerate(groups)})


def pruned(network: nn.Module, inputs: ModelInputs, path: Path) -> nn.Module:
    """Returns a thinned network, and writes it."""
    prunable = analyze(copy.deepcopy(network), inputs, L1_FILTER)
    widths = uneven(prunable)
    small = prunable.structures.prune(prunable.network, prunable.importance, widths, prunable.inputs)
    assert measure_costs(small, inputs) == prunable.costs.costs(widths)
    write_checkpoint(path, PrunedNetwork(small, prunable, widths).checkpoint({}, {}))
    return small


def outputs(network: Any, inputs: ModelInputs) -> list[Tensor]:
    with torch.no_grad():
        return [leaf for leaf in tree_leaves(inputs.clone().call(network)) if isinstance(leaf, Tensor)]


def has_groups(name: str) -> bool:
    network, inputs = build(name)
    return bool(analyze(network, inputs, L1_FILTER).structures.groups)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_read_as_it_was_written_and_pruned_again_before_and_after(name: str, tmp_path: Path) -> None:
    network, inputs = build(name)
    if not has_groups(name):
        pytest.skip("nothing can be pruned")
    small = pruned(network, inputs, tmp_path / "once.pt")
    again = autoprune.load(tmp_path / "once.pt", copy.deepcopy(network), inputs=inputs)
    for each in (small, again):
        assert [tensor.dtype for tensor in each.state_dict().values()] == [
            tensor.dtype for tensor in network.state_dict().values()
        ]
        torch.testing.assert_close(outputs(each, inputs), outputs(small, inputs), rtol=0, atol=0)
        torch.testing.assert_close(outputs(copy.deepcopy(each), inputs), outputs(small, inputs), rtol=0, atol=0)
        if analyze(copy.deepcopy(each), inputs, L1_FILTER).structures.groups:
            twice = pruned(each, inputs, tmp_path / "twice.pt")
            found = autoprune.load(tmp_path / "twice.pt", copy.deepcopy(each), inputs=inputs)
            torch.testing.assert_close(outputs(found, inputs), outputs(twice, inputs), rtol=0, atol=0)


def traced(network: nn.Module, inputs: ModelInputs) -> Any:
    return torch.jit.trace(network, inputs.args, check_trace=False)


def scripted(network: nn.Module, inputs: ModelInputs) -> Any:
    return torch.jit.script(network)


def exported(network: nn.Module, inputs: ModelInputs) -> Any:
    return torch.export.export(network, inputs.args, strict=False).module()


@pytest.mark.parametrize("convert", [traced, scripted, exported])
@pytest.mark.parametrize("name", NAMES)
def test_it_is_traced_scripted_and_exported_where_the_dense_network_is(
    name: str, convert: Callable[[nn.Module, ModelInputs], Any], tmp_path: Path
) -> None:
    network, inputs = build(name)
    try:
        convert(copy.deepcopy(network), inputs)
    except Exception:  # whatever torch raises
        pytest.skip("the dense network cannot be converted")
    if not has_groups(name):
        pytest.skip("nothing can be pruned")
    small = pruned(network, inputs, tmp_path / "small.pt")
    if convert is scripted and any(isinstance(module, WrittenForward) for module in small.modules()):
        pytest.skip("a written forward is Python made at run time, which a script cannot hold")
    torch.testing.assert_close(outputs(convert(small, inputs), inputs), outputs(small, inputs))


@pytest.mark.parametrize("name", ["tagger", "shufflenet_v1", "functional_norm"])
def test_another_process_unpickles_it_whole_and_reads_the_file(name: str, tmp_path: Path) -> None:
    network, inputs = build(name)
    small = pruned(network, inputs, tmp_path / "small.pt")
    torch.save({"network": small, "inputs": inputs, "outputs": outputs(small, inputs)}, tmp_path / "whole.pt")
    program = f"""
import torch, autoprune
from tests.evaluation.checkpoints.test_round_trips import build, outputs
found = torch.load("whole.pt", weights_only=False)
loaded = autoprune.load("small.pt", build({name!r})[0])
for network in (found["network"], loaded):
    torch.testing.assert_close(outputs(network, found["inputs"]), found["outputs"], rtol=0, atol=0)
"""
    fresh_process(program, tmp_path, {"PYTHONPATH": str(REPOSITORY)})


def test_a_pruned_recurrent_layer_loses_units_again_unless_its_states_are_used(tmp_path: Path) -> None:
    network, inputs = build("tagger")
    small = pruned(network, inputs, tmp_path / "small.pt")
    assert isinstance(small.recurrent, PrunableLSTM)
    before = len(small.recurrent.kept_units)
    twice = pruned(small, inputs, tmp_path / "twice.pt")
    assert len(twice.recurrent.kept_units) < before
    assert set(twice.recurrent.kept_units.tolist()) < set(small.recurrent.kept_units.tolist())

    class Last(Tagger):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.recurrent(self.embed(x))[1][0][-2:].transpose(0, 1).flatten(1))

    last = Last()
    last.load_state_dict(network.state_dict())
    last.recurrent = small.recurrent
    last.embed = small.embed
    frozen = analyze(last.eval(), inputs, L1_FILTER).graph.frozen
    assert any("states that are used at the width of the layer before pruning" in each.reason for each in frozen)


class Kept(nn.Module):
    """What a user may have put on a network: shared weights, hooks, extra state, frozen parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.back = nn.Embedding(11, 8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.out = nn.Linear(8, 11, bias=False)
        self.out.weight = self.embed.weight
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)
        self.inner.bias.requires_grad_(False)
        self.seen = 3
        self.inner.train(False)
        self.back.register_forward_hook(_doubled)

    def get_extra_state(self) -> Any:
        return {"seen": torch.tensor(self.seen)}

    def set_extra_state(self, state: Any) -> None:
        self.seen = int(state["seen"])

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        return self.out(h + self.back(self.inner(h).relu()) * self.scale)


def _doubled(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return 2 * output


def test_what_the_user_put_on_the_network_stays(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = nn.DataParallel(Kept()), torch.randint(11, (2, 5))
    whole = network.module
    whole.seen = 7
    whole.embed.train(True)
    widths = {"embed": 5, "inner": 7}
    small = autoprune.apply(network, widths, inputs=x)
    assert type(small) is Kept
    assert small.out.weight is small.embed.weight
    assert small.embed.weight.shape == (11, 5)
    assert (small.seen, len(small.back._forward_hooks)) == (7, 1)
    assert {n: p.requires_grad for n, p in small.named_parameters()} == {
        n: p.requires_grad for n, p in whole.named_parameters()
    }
    assert torch.equal(small.scale, whole.scale)
    prunable = analyze(copy.deepcopy(whole), ModelInputs.of(x), L1_FILTER)
    found = prunable.structures.prune(prunable.network, prunable.importance, widths, prunable.inputs)
    write_checkpoint(tmp_path / "small.pt", PrunedNetwork(found, prunable, Allocation(widths)).checkpoint({}, {}))
    again = autoprune.load(tmp_path / "small.pt", Kept())
    assert again.seen == 7
    assert again.out.weight is again.embed.weight
    torch.testing.assert_close(again(x), small(x), rtol=0, atol=0)


def test_a_compiled_thinned_network_gives_the_same(tmp_path: Path) -> None:
    network, inputs = build("resnet20")
    small = pruned(network, inputs, tmp_path / "small.pt")
    compiled = torch.compile(small, backend="eager", fullgraph=True)
    torch.testing.assert_close(outputs(compiled, inputs), outputs(small, inputs))
    file = io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    torch.testing.assert_close(outputs(torch.load(file, weights_only=False), inputs), outputs(small, inputs))

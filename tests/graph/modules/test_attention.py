from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autoprune.graph.modules.attention import (
    PrunableMultiheadAttention,
    make_prunable,
    restore_class,
    slice_attention,
)

WIDTH, HEADS, HEAD_DIM, BATCH, LENGTH, SOURCE = 12, 4, 3, 2, 5, 7
pytestmark = pytest.mark.filterwarnings(
    "ignore:The PyTorch API of nested tensors", "ignore:enable_nested_tensor is True"
)


@dataclass
class Kept:
    """What stays of an attention, as indices; None keeps all."""

    heads: Tensor | None = None
    query: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    outputs: Tensor | None = None


def attention(seed: int = 0, heads: int = HEADS, **options: object) -> nn.MultiheadAttention:
    """Builds an attention with random biases too, in double precision."""
    torch.manual_seed(seed)
    module = nn.MultiheadAttention(WIDTH, heads, dtype=torch.float64, **options).eval()  # type: ignore[arg-type]
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    return module


def masked(module: nn.MultiheadAttention, kept: Kept) -> nn.MultiheadAttention:
    """Zeroes, in a copy, what makes removed heads and outputs and what uses removed heads and inputs."""
    module = copy.deepcopy(module)

    def gone(whole: int, stays: Tensor | None) -> list[int]:
        return [] if stays is None else sorted(set(range(whole)) - set(stays.tolist()))

    with torch.no_grad():
        for head in gone(module.num_heads, kept.heads):
            for row in range(head * HEAD_DIM, (head + 1) * HEAD_DIM):
                for part in range(3):
                    if module.in_proj_weight is None:
                        (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)[part][row] = 0
                    else:
                        module.in_proj_weight[part * WIDTH + row] = 0
                    if module.in_proj_bias is not None:
                        module.in_proj_bias[part * WIDTH + row] = 0
                if module.bias_k is not None and module.bias_v is not None:
                    module.bias_k[..., row] = 0
                    module.bias_v[..., row] = 0
                module.out_proj.weight[:, row] = 0
        for row in gone(WIDTH, kept.outputs):
            module.out_proj.weight[row] = 0
            if module.out_proj.bias is not None:
                module.out_proj.bias[row] = 0
        if module.in_proj_weight is not None:
            module.in_proj_weight[:, gone(WIDTH, kept.query)] = 0
        else:
            module.q_proj_weight[:, gone(WIDTH, kept.query)] = 0
            module.k_proj_weight[:, gone(module.kdim, kept.key)] = 0
            module.v_proj_weight[:, gone(module.vdim, kept.value)] = 0
    return module


def sliced(module: nn.MultiheadAttention, kept: Kept) -> nn.MultiheadAttention:
    """Returns a copy that has only what stays."""
    module = copy.deepcopy(module)
    slice_attention(module, kept.heads, query=kept.query, key=kept.key, value=kept.value, outputs=kept.outputs)
    return module


def take(tensor: Tensor, kept: Tensor | None) -> Tensor:
    """Returns the channels `[…, kept]` of `[…, channels]`."""
    return tensor if kept is None else tensor[..., kept]


def some(draw: Callable[..., object], count: int) -> Tensor | None:
    """Draws indices that stay, in any number but none, or all."""
    drawn = draw(st.none() | st.sets(st.integers(0, count - 1), min_size=1))
    return None if drawn is None else torch.tensor(sorted(drawn))  # type: ignore[call-overload, no-any-return]


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_sliced_attention_computes_what_the_masked_one_does_whatever_the_options(data: st.DataObject) -> None:
    draw = data.draw
    apart, batch_first, batched, causal = (draw(st.booleans()) for _ in range(4))
    module = attention(
        bias=draw(st.booleans()), add_bias_kv=draw(st.booleans()), add_zero_attn=draw(st.booleans()),
        batch_first=batch_first, **({"kdim": 6, "vdim": 8} if apart else {}),
    )  # fmt: skip
    stays = some(draw, WIDTH)
    kept = Kept(some(draw, HEADS), stays, stays, stays, some(draw, WIDTH))
    if apart:
        kept.key, kept.value = some(draw, 6), some(draw, 8)
    own = not apart and draw(st.booleans())
    source = LENGTH if own or causal else SOURCE
    batch = BATCH if batched else 1
    query, key, value = (
        torch.randn(batch, length, width, dtype=torch.float64)
        for length, width in ((LENGTH, WIDTH), (source, module.kdim), (source, module.vdim))
    )
    arranged = [
        x if batch_first else x.transpose(0, 1) for x in (query, query if own else key, query if own else value)
    ]
    if not batched:
        arranged = [x.squeeze(0 if batch_first else 1) for x in arranged]
    if own:
        arranged = [arranged[0]] * 3
    floats = draw(st.booleans())
    per_head = torch.rand(batch, HEADS, LENGTH, source).sub(0.3).double()
    per_head[..., 0] = 1  # every query looks at one key

    def hiding(numbers: Tensor) -> Tensor:
        return torch.where(numbers < -0.2, -torch.inf, numbers) if floats else numbers < 0

    kind = "plane" if causal else draw(st.sampled_from(["none", "plane", "heads"]))
    mask = mask_kept = None
    if kind == "plane":
        causing = torch.ones(LENGTH, source).double().tril() - 0.5
        mask = mask_kept = hiding(causing if causal else per_head[0, 0])
    elif kind == "heads":
        mask = hiding(per_head).flatten(0, 1)
        staying = per_head if kept.heads is None else per_head[:, kept.heads]
        mask_kept = hiding(staying).flatten(0, 1)
    padding = hiding(per_head[:, 0, 0]) if draw(st.booleans()) else None
    padding = padding if padding is None or batched else padding[0]
    options = {"need_weights": draw(st.booleans()), "average_attn_weights": draw(st.booleans()), "is_causal": causal}

    reference = masked(module, kept)
    expected, dense_weights = reference(
        *arranged, key_padding_mask=padding, attn_mask=mask, **{**options, "average_attn_weights": False}
    )
    pruned = sliced(module, kept)
    given_inputs = [take(x, k) for x, k in zip(arranged, (kept.query, kept.key, kept.value), strict=True)]
    if own:
        given_inputs = [given_inputs[0]] * 3
    output, weights = pruned(*given_inputs, key_padding_mask=padding, attn_mask=mask_kept, **options)
    torch.testing.assert_close(output, take(expected, kept.outputs), rtol=1e-12, atol=1e-12)
    assert (weights is None) == (not options["need_weights"])
    if weights is not None:
        heads = dense_weights if kept.heads is None else dense_weights.index_select(-3, kept.heads)
        wanted = heads.mean(-3) if options["average_attn_weights"] else heads
        torch.testing.assert_close(weights, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_dropout_in_training_draws_what_the_original_draws(need_weights: bool, batch_first: bool) -> None:
    module = attention(dropout=0.4, batch_first=batch_first).train()
    prunable = copy.deepcopy(module)
    make_prunable(prunable)
    x = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64)
    results = []
    for each in (module, prunable):
        torch.manual_seed(3)
        results.append(each(x, x, x, need_weights=need_weights))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(results[1][0], prunable(x, x, x, need_weights=need_weights)[0])


def test_a_causal_hint_needs_its_mask() -> None:
    module = sliced(attention(), Kept())
    x = torch.randn(LENGTH, BATCH, WIDTH, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="Need attn_mask"):
        module(x, x, x, is_causal=True)


def transformer(kind: str, heads: int = HEADS) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """Builds a stack of two layers and how it is called, with padding in the middle or at the end of some sample."""
    torch.manual_seed(1)
    options = {"dim_feedforward": 8, "batch_first": True, "dtype": torch.float64, "norm_first": kind == "norm_first"}
    x, memory = torch.randn(2, BATCH, LENGTH, WIDTH, dtype=torch.float64)
    end = torch.tensor([[False] * LENGTH, [False] * 3 + [True] * 2])
    middle = torch.tensor([[False] * LENGTH, [False, True, False, True, False]])
    if kind == "decoder":
        layers: nn.Module = nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, heads, **options), 2)  # type: ignore
        return layers.eval(), lambda net: net(x, memory, memory_key_padding_mask=middle)  # type: ignore[no-any-return]
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, heads, **options), 2)  # type: ignore[arg-type]
    padding = {"padded": end, "scattered": middle}.get(kind)
    return layers.eval(), lambda net: net(x, src_key_padding_mask=padding)  # type: ignore[no-any-return]


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("kind", ["plain", "padded", "scattered", "norm_first", "decoder"])
@pytest.mark.parametrize("heads", [[0, 1, 3], [1, 2], [0, 1, 2, 3]])
def test_transformer_layers_around_it_take_no_fused_path_with_its_weights(
    kind: str, grad: bool, heads: list[int]
) -> None:
    network, call = transformer(kind)
    pruned, reference = copy.deepcopy(network), copy.deepcopy(network)
    for index, layer in enumerate(pruned.layers):  # type: ignore[arg-type]
        for name in ("self_attn", "multihead_attn") if kind == "decoder" else ("self_attn",):
            kept = Kept(torch.tensor(heads) if index == 0 else None)  # odd, even and all numbers of heads are mixed
            slice_attention(getattr(layer, name), kept.heads)
            setattr(reference.layers[index], name, masked(getattr(network.layers[index], name), kept))  # type: ignore
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(call(pruned), call(reference), rtol=1e-10, atol=1e-10)
        if kind == "padded" and not grad:  # by way of nested tensors, which leave zeros
            assert call(pruned)[1, -1].abs().max() == 0


@pytest.mark.parametrize("copied", ["deepcopy", "saved"])
def test_copies_and_saved_modules_stay_what_they_are(copied: str) -> None:
    pruned = sliced(attention(add_bias_kv=True), Kept(torch.tensor([0, 2]), outputs=torch.tensor([1, 5])))
    if copied == "saved":
        file = io.BytesIO()
        torch.save(pruned, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    else:
        other = copy.deepcopy(pruned)
    assert type(other) is PrunableMultiheadAttention
    x = torch.randn(LENGTH, BATCH, WIDTH, dtype=torch.float64)
    assert torch.equal(other(x, x, x)[0], pruned(x, x, x)[0])
    other.load_state_dict(pruned.state_dict())


@pytest.mark.parametrize("options", [{}, {"kdim": 5, "bias": False, "add_bias_kv": True}])
def test_the_state_dict_keeps_its_keys_and_attributes_state_the_new_widths(options: dict[str, int]) -> None:
    module = attention(**options)
    pruned = sliced(module, Kept(torch.tensor([0, 2, 3]), query=torch.arange(7), outputs=torch.arange(2)))
    assert list(pruned.state_dict()) == list(module.state_dict())
    assert (pruned.num_heads, pruned.head_dim, pruned.embed_dim, pruned.vdim) == (3, 3, 2, 12 if options else 7)
    assert pruned.kdim == options.get("kdim", 7)
    assert (pruned.out_proj.in_features, pruned.out_proj.out_features) == (9, 2)
    assert "inputs=7, outputs=2, num_heads=3, head_dim=3" in repr(pruned)


@pytest.mark.parametrize("kind", ["plain", "padded", "decoder"])
def test_it_is_scripted_where_the_original_is(kind: str) -> None:
    network, call = transformer(kind)
    for layer in network.layers:  # type: ignore[union-attr]
        slice_attention(layer.self_attn, torch.tensor([0, 1, 3]))
    with torch.no_grad():
        torch.testing.assert_close(call(torch.jit.script(network)), call(network), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": WIDTH, "vdim": 4, "add_bias_kv": True}])
def test_it_is_exported_where_the_original_is(options: dict[str, object]) -> None:
    pruned = sliced(attention(batch_first=True, **options), Kept(torch.tensor([1, 2])))
    x = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64)
    inputs = (x, x, x[..., : pruned.vdim])
    exported = torch.export.export(pruned, inputs).module()
    torch.testing.assert_close(exported(*inputs), pruned(*inputs), rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_the_masked_attention() -> None:
    module, kept = attention(), Kept(torch.tensor([0, 3]))
    module.in_proj_bias.requires_grad_(False)
    reference, pruned = masked(module, kept), sliced(module, kept)
    x = torch.randn(LENGTH, BATCH, WIDTH, dtype=torch.float64)
    for each in (reference, pruned):
        each(x, x, x)[0].square().sum().backward()
    columns = torch.arange(WIDTH).view(HEADS, HEAD_DIM)[kept.heads].flatten()
    wanted = reference.out_proj.weight.grad
    assert wanted is not None
    torch.testing.assert_close(pruned.out_proj.weight.grad, wanted[:, columns], rtol=1e-10, atol=1e-10)
    assert not pruned.in_proj_bias.requires_grad


def test_its_forward_is_recorded_as_plain_operations() -> None:
    class Recorder(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            names.append(func.__name__)
            return func(*args, **(kwargs or {}))

    names: list[str] = []
    module = attention()
    make_prunable(module)
    x = torch.randn(LENGTH, BATCH, WIDTH, dtype=torch.float64)
    with Recorder():
        module(x, x, x, need_weights=False)
    assert "multi_head_attention_forward" not in names
    assert names.count("linear") == 4
    assert names.count("scaled_dot_product_attention") == 1


def test_a_subclass_with_a_forward_of_its_own_is_left_alone() -> None:
    class Doubling(nn.MultiheadAttention):
        def forward(self, *inputs, **options):  # type: ignore[no-untyped-def]
            output, weights = super().forward(*inputs, **options)
            return 2 * output, weights

    with pytest.raises(TypeError, match="Doubling is not"):
        make_prunable(Doubling(4, 2))


@pytest.mark.parametrize(
    ("options", "kept", "regular"),
    [
        ({}, Kept(torch.arange(2), *[torch.arange(6)] * 4), True),
        ({}, Kept(torch.arange(2)), False),
        ({}, Kept(torch.arange(2), *[torch.arange(6)] * 3), False),
        ({"kdim": 5}, Kept(torch.arange(2), torch.arange(6), None, torch.arange(3), torch.arange(6)), True),
        ({"kdim": 5}, Kept(torch.arange(2), None, None, None, torch.arange(6)), False),
    ],
)
def test_where_heads_and_stream_go_in_proportion_the_own_class_comes_back(
    options: dict[str, int], kept: Kept, regular: bool
) -> None:
    pruned = sliced(attention(batch_first=True, **options), kept)
    assert isinstance(pruned, PrunableMultiheadAttention)
    wanted = copy.deepcopy(pruned)
    assert restore_class(pruned) == regular
    assert type(pruned) is (nn.MultiheadAttention if regular else PrunableMultiheadAttention)
    query, key, value = (
        torch.randn(BATCH, LENGTH, width, dtype=torch.float64)
        for width in (12 if kept.query is None else len(kept.query), pruned.kdim, pruned.vdim)
    )
    inputs = (query, query, query) if not options else (query, key, value)
    for grad, need_weights in itertools.product([True, False], repeat=2):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(
                pruned(*inputs, need_weights=need_weights), wanted(*inputs, need_weights=need_weights)
            )

"""Multi-head attention that follows the widths of its weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoprune.graph.modules.slicing import keep_entries


class PrunableMultiheadAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` whose heads, inputs and outputs may be fewer than its constructor allows.

    It computes what `nn.MultiheadAttention` does (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2), with the same
    parameters under the same names and all of its options, but in plain operations that a recorder sees one by one and
    with sizes that are those of the weights:

    - `in_proj_weight` `[3 · heads · head_dim, inputs]` holds the rows of the queries, keys and values, equally many of
      each; or `q_proj_weight`, `k_proj_weight` and `v_proj_weight` are `[heads · head_dim, their inputs]`;
    - `in_proj_bias` is `[3 · heads · head_dim]`, `bias_k` and `bias_v` are `[1, 1, heads · head_dim]`;
    - `out_proj.weight` is `[outputs, heads · head_dim]`.

    A head whose rows and whose columns of `out_proj` are zero adds nothing to the output, so leaving it out is exact
    (Michel et al. 2019, arXiv:1905.10650). What is given or returned per head is that of the heads that stay: an
    `attn_mask` of three dimensions, `[batch · heads, length, source]`, and the attention weights, which are averaged
    over these heads.

    torch's fused kernels for attention and for encoder layers need regular widths and are never taken.

    Attributes:
        embed_dim: how many outputs there are.
        kdim: how many inputs the keys have.
        vdim: how many inputs the values have.
        num_heads: how many heads there are.
        head_dim: channels of one head; pruning does not change it.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the outputs and, if asked for, the attention weights; all shapes are `nn.MultiheadAttention`'s."""
        if query.is_nested:
            if query is not key or key is not value or key_padding_mask is not None or attn_mask is not None:
                raise AssertionError("nested tensors are only taken by self attention without masks")
            return self._attend_nested(query, need_weights, average_attn_weights)
        batched = query.dim() == 3
        if not batched:
            query, key, value = query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0)
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        output, weights = self._attend(
            query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
        )
        if not batched:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        need_weights: bool,
        attn_mask: Tensor | None,
        average_attn_weights: bool,
        is_causal: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns the outputs `[batch, length, outputs]` and the attention weights.

        Args:
            query: `[batch, length, inputs]`.
            key: `[batch, source, kdim]`.
            value: `[batch, source, vdim]`.
            key_padding_mask: `[batch, source]`, True or -inf where a key is not looked at.
            need_weights: whether the attention weights are returned.
            attn_mask: `[length, source]` or `[batch · heads, length, source]`, as well.
            average_attn_weights: whether the attention weights are averaged over the heads, `[batch, length, source]`,
                or `[batch, heads, length, source]`.
            is_causal: a hint that `attn_mask` is the causal one, which a fused kernel then need not read.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        if is_causal and key_padding_mask is None and not need_weights:
            attn_mask = None
        else:
            is_causal = False
        q, k, v = self._project(query, key, value)
        batch, length = q.shape[0], q.shape[1]
        bias_k, bias_v = self.bias_k, self.bias_v
        more_keys = 0
        if bias_k is not None and bias_v is not None:
            k = torch.cat([k, bias_k.expand(batch, -1, -1)], dim=1)
            v = torch.cat([v, bias_v.expand(batch, -1, -1)], dim=1)
            more_keys += 1
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
            more_keys += 1
        q = q.view(batch, length, self.num_heads, self.head_dim).transpose(1, 2)
        k = k.view(batch, k.shape[1], self.num_heads, self.head_dim).transpose(1, 2)
        v = v.view(batch, v.shape[1], self.num_heads, self.head_dim).transpose(1, 2)
        mask = self._mask(attn_mask, key_padding_mask, q, k.shape[2], more_keys)
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
            if mask is not None:
                scores = scores + mask
            weights = F.dropout(F.softmax(scores, dim=-1), dropout)
            heads = weights @ v
        else:
            weights = None
            heads = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)
        output = F.linear(heads.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        return output, weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries, keys and values, each `[batch, its length, heads · head_dim]`."""
        if self.in_proj_weight is not None:
            of_q, of_k, of_v = self.in_proj_weight.chunk(3)
        else:
            of_q, of_k, of_v = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        if self.in_proj_bias is None:
            return F.linear(query, of_q), F.linear(key, of_k), F.linear(value, of_v)
        bias_q, bias_k, bias_v = self.in_proj_bias.chunk(3)
        return F.linear(query, of_q, bias_q), F.linear(key, of_k, bias_k), F.linear(value, of_v, bias_v)

    def _mask(
        self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor, source: int, more_keys: int
    ) -> Tensor | None:
        """Returns what is added to the scores, `[length, source]` or `[batch, heads or 1, length or 1, source]`.

        Args:
            attn_mask: `[length, keys]` or `[batch · heads, length, keys]`.
            key_padding_mask: `[batch, keys]`.
            q: `[batch, heads, length, head_dim]`.
            source: how many keys there are with those that biases and zeros add.
            more_keys: how many those are; every query looks at them.
        """
        if attn_mask is not None:
            attn_mask = _additive(attn_mask, q, more_keys)
            if attn_mask.dim() == 3:
                attn_mask = attn_mask.reshape(q.shape[0], self.num_heads, q.shape[2], source)
        if key_padding_mask is None:
            return attn_mask
        padding = _additive(key_padding_mask, q, more_keys).reshape(q.shape[0], 1, 1, source)
        return padding if attn_mask is None else attn_mask + padding

    def _attend_nested(
        self, query: Tensor, need_weights: bool, average_attn_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Does self attention on a nested tensor, to which `nn.TransformerEncoder` turns padded input in evaluation."""
        padded = query.to_padded_tensor(0.0)
        real = torch.ones_like(query).to_padded_tensor(0.0)[:, :, 0] > 0
        output, weights = self._attend(
            padded, padded, padded, real.logical_not(), need_weights, None, average_attn_weights, False
        )
        return torch._nested_tensor_from_mask(output, real, mask_check=False), weights

    def extra_repr(self) -> str:
        """Returns the widths."""
        return (
            f"inputs={_projections(self)[0].shape[1]}, outputs={self.embed_dim}, num_heads={self.num_heads}, "
            f"head_dim={self.head_dim}, kdim={self.kdim}, vdim={self.vdim}"
        )


def _additive(mask: Tensor, q: Tensor, more_keys: int) -> Tensor:
    """Returns the mask `[…, keys + more_keys]` that is added to scores, for one that may be True at what it hides.

    Args:
        mask: `[…, keys]`, of bools or already added.
        q: whose dtype scores have.
        more_keys: how many keys follow that are never hidden.
    """
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, float("-inf"))
    return F.pad(mask, (0, more_keys)) if more_keys > 0 else mask


def make_prunable(module: nn.MultiheadAttention) -> None:
    """Makes an `nn.MultiheadAttention` a `PrunableMultiheadAttention`, in place; nothing is copied.

    Raises:
        TypeError: it is of another class, whose own `forward` must not be lost.
    """
    if type(module) not in (nn.MultiheadAttention, PrunableMultiheadAttention):
        raise TypeError(f"{type(module).__name__} is not nn.MultiheadAttention itself")
    module.__class__ = PrunableMultiheadAttention
    # The fused path of nn.TransformerEncoderLayer asks for this; nothing else does, other than the replaced forward.
    module._qkv_same_embed_dim = False


def restore_class(module: PrunableMultiheadAttention) -> bool:
    """Makes the module an `nn.MultiheadAttention` again if its widths allow it, and tells whether they do.

    They do where inputs and outputs are as wide as all heads together; with weights apart, keys and values need not be.
    """
    width = module.num_heads * module.head_dim
    inputs = [weight.shape[1] for weight in _projections(module)]
    packed = module.in_proj_weight is not None
    regular = width == module.embed_dim == inputs[0] and (not packed or module.kdim == module.vdim == width)
    if regular:
        module._qkv_same_embed_dim = packed
        module.__class__ = nn.MultiheadAttention  # type: ignore[assignment]
    return regular


def update_sizes(module: nn.MultiheadAttention) -> None:
    """Sets the attributes that state sizes to those of the weights, after these have been sliced."""
    of_q, of_k, of_v = _projections(module)
    out = module.out_proj
    out.out_features, out.in_features = out.weight.shape
    module.embed_dim = out.out_features
    module.num_heads = max(len(of_q) // module.head_dim, 1)  # of one head, single channels may go
    module.kdim, module.vdim = of_k.shape[1], of_v.shape[1]


def slice_attention(
    module: nn.MultiheadAttention,
    heads: Tensor | None = None,
    *,
    query: Tensor | None = None,
    key: Tensor | None = None,
    value: Tensor | None = None,
    outputs: Tensor | None = None,
) -> None:
    """Keeps only some heads and channels of an attention, in place, as a `PrunableMultiheadAttention`.

    Args:
        module: an `nn.MultiheadAttention` or `PrunableMultiheadAttention`.
        heads: `[kept heads]` indices; None keeps all, here and below.
        query: `[kept inputs]` of the queries, with a packed weight those of the keys and values as well.
        key: `[kept inputs]` of the keys; only with weights apart.
        value: `[kept inputs]` of the values; only with weights apart.
        outputs: `[kept outputs]`.
    """
    make_prunable(module)
    width = module.num_heads * module.head_dim
    rows = None if heads is None else torch.arange(width).view(-1, module.head_dim)[heads].flatten()
    packed = None if rows is None else torch.cat([rows + part * width for part in range(3)])
    for owner, name, kept in (
        (module, "in_proj_weight", (packed, query)),
        (module, "q_proj_weight", (rows, query)),
        (module, "k_proj_weight", (rows, key)),
        (module, "v_proj_weight", (rows, value)),
        (module, "in_proj_bias", (packed,)),
        (module, "bias_k", (None, None, rows)),
        (module, "bias_v", (None, None, rows)),
        (module.out_proj, "weight", (outputs, rows)),
        (module.out_proj, "bias", (outputs,)),
    ):
        keep_entries(owner, name, kept)
    update_sizes(module)


def _projections(module: nn.MultiheadAttention) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the weights of queries, keys and values, each `[heads · head_dim, its inputs]`."""
    if module.in_proj_weight is not None:
        of_q, of_k, of_v = module.in_proj_weight.chunk(3)
        return of_q, of_k, of_v
    return module.q_proj_weight, module.k_proj_weight, module.v_proj_weight

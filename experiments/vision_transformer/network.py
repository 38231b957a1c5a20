"""A small vision transformer for images of 32 × 32, written as its users write theirs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Self-attention over tokens with query, key and value of all heads in one linear layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.head_dim = width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[batch, tokens, width]` of `[batch, tokens, width]`."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.projection(attended.transpose(1, 2).reshape(batch, tokens, self.num_heads * self.head_dim))


class Block(nn.Module):
    """Attention and a perceptron, each a residual branch that normalises what it reads."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[batch, tokens, width]` of `[batch, tokens, width]`."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """A stem that makes a token of each 4 × 4 pixels, blocks of attention, and the mean of the tokens classified.

    Sources: Dosovitskiy et al. 2021, arXiv:2010.11929; its patches are embedded by two 3 × 3 convolutions of stride 2
    instead of one of 4 × 4 (Xiao et al. 2021, arXiv:2106.14881), and there is no class token.
    """

    def __init__(
        self, width: int = 128, depth: int = 6, heads: int = 4, hidden: int = 256, stem: int = 64, classes: int = 10
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(),
            nn.Conv2d(stem, width, 3, stride=2, padding=1),
        )
        self.position = nn.Parameter(torch.empty(1, 64, width))
        self.blocks = nn.Sequential(*[Block(width, heads, hidden) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.position, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns `[batch, classes]` logits of `[batch, 3, 32, 32]` images."""
        tokens = self.stem(pixels).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(tokens + self.position)).mean(1))

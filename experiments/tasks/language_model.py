"""Language models: a small decoder and an LSTM, one character after the other, by perplexity.

The text is the docstrings of the standard library; no file of it is in two splits. Samples are stretches of 96
characters.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import autoprune
from experiments.tasks.docstrings import docstrings
from experiments.tasks.estimates import Accumulated, Statistic
from experiments.tasks.experiment import Experiment

CHARACTERS = string.printable[:-3]
"""All others are left out."""
LENGTH = 96
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
"""Of the files."""


class Block(nn.Module):
    """Attention to what came before, and a perceptron."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[batch, time, width]` of `[batch, time, width]`."""
        batch, time, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, time, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.projection(attended.transpose(1, 2).reshape(batch, time, width))
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """A transformer that reads from left to right; its embedding is its output layer too."""

    def __init__(self, width: int = 128, depth: int = 4, heads: int = 4, hidden: int = 384) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(CHARACTERS), width)
        self.position = nn.Embedding(LENGTH, width)
        self.blocks = nn.Sequential(*[Block(width, heads, hidden) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(CHARACTERS), bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        self.head.weight = self.embedding.weight

    def forward(self, characters: Tensor) -> Tensor:
        """Returns `[batch, time, characters]` logits of the next one, of `[batch, time]` characters."""
        time = torch.arange(characters.shape[1], device=characters.device)
        x = self.embedding(characters) + self.position(time)
        return self.head(self.norm(self.blocks(x)))


class Lstm(nn.Module):
    """Two layers of LSTM over embedded characters."""

    def __init__(self, width: int = 96, hidden: int = 224, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(CHARACTERS), width)
        self.lstm = nn.LSTM(width, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, len(CHARACTERS))

    def forward(self, characters: Tensor) -> Tensor:
        """Returns `[batch, time, characters]` logits of the next one, of `[batch, time]` characters."""
        outputs, _ = self.lstm(self.embedding(characters))
        return self.head(outputs)


def next_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns `[batch]` mean cross-entropies, in nats a character.

    Args:
        outputs: `[batch, time, characters]` logits.
        targets: `[batch, time]` what came.
    """
    return F.cross_entropy(outputs.transpose(1, 2), targets, reduction="none").mean(1)


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean of `next_losses`."""
    return next_losses(outputs, targets).mean()


PERPLEXITY = Statistic(next_losses, lambda means: means[0].exp())


def stretches() -> list[TensorDataset]:
    """Returns the `[n, LENGTH]` characters and the `[n, LENGTH]` that follow each, of every split."""
    texts: dict[str, str] = {}
    for each in docstrings():
        texts[each.file] = texts.get(each.file, "") + each.text + "\n\n"
    files = sorted(texts)
    order = [files[index] for index in torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()]
    found, begin, end = [], 0, 0.0
    for share in SHARES.values():
        end += share * len(order)
        text = "".join(texts[file] for file in order[begin : round(end)])
        numbers = torch.tensor([CHARACTERS.index(character) for character in text if character in CHARACTERS])
        whole = (len(numbers) - 1) // LENGTH * LENGTH
        read, next_ = (numbers[shift : shift + whole].view(-1, LENGTH) for shift in (0, 1))
        found.append(TensorDataset(read, next_))
        begin = round(end)
    return found


def task(network: Callable[[], nn.Module] = Decoder) -> autoprune.SimpleTask:
    """Returns the task with one of the networks."""
    train, validation, test = stretches()
    return autoprune.SimpleTask(
        network,
        train_data=train,
        validation_data=validation,
        test_data=test,
        plain_data=train,
        loss=loss,
        metrics=autoprune.Metric("perplexity", Accumulated(PERPLEXITY), "minimize"),
        name="language_model",
    )


TRAINING = autoprune.TrainingPlan(
    epochs=5, rate=2e-3, optimizer="adamw", weight_decay=0.05, batch_size=32, warmup=0.05, clip_norm=1.0
)
FINETUNING = autoprune.TrainingPlan(
    steps=200, rate=5e-4, optimizer="adamw", weight_decay=0.05, batch_size=32, warmup=0.1, clip_norm=1.0
)
SEARCH = {
    "evaluations": 100,
    "space__protect": [],
    "space__depth": True,
    "pruner": "taylor",
    "scoring__samples": 512,
    "evaluation__samples": 500,
}

EXPERIMENTS: Sequence[Experiment] = (
    Experiment("decoder", task, "flops=0.5", FINETUNING, TRAINING, search=SEARCH),
    Experiment("lstm", partial(task, Lstm), "flops=0.5", FINETUNING, TRAINING, search=SEARCH),
)

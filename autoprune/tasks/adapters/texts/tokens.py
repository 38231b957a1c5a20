"""Texts as tokens of one length: padded and cut, or packed into blocks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from autoprune.errors import DataError, TaskError
from autoprune.graph.inputs import call_network
from autoprune.tasks.adapters.options import one_line

log = logging.getLogger(__name__)

USUAL_LENGTH = 128


class Sequences(Dataset[tuple[dict[str, Tensor], Tensor]]):
    """Sequences of tokens, the keyword inputs of a network of transformers, with their labels.

    Labels are not among the inputs: what is pruned, timed and exported is the network without its loss.

    Args:
        tokens: `[samples, length]`.
        mask: `[samples, length]`, 1 where there is a token, 0 where it is padding.
        labels: `[samples]` classes, or `[samples, length]` tokens.

    Attributes:
        labels: the same.
    """

    def __init__(self, tokens: Tensor, mask: Tensor, labels: Tensor) -> None:
        self._tokens, self._mask, self.labels = tokens, mask, labels

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        return {"input_ids": self._tokens[index], "attention_mask": self._mask[index]}, self.labels[index]


def longest(tokenizer: Any, config: Any, wanted: int | None) -> int:
    """Returns how many tokens a sequence has at most.

    Args:
        tokenizer: knows how many the network takes, if it was told.
        config: of the network, likewise.
        wanted: what the user says; None: as many as it takes, but not more than 128.

    Raises:
        TaskError: it takes fewer than are wanted.
    """
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    most = min(int(positions), int(tokenizer.model_max_length))
    if wanted is not None and wanted > most:
        raise TaskError(f"task.options.length: the network takes at most {most} tokens, but {wanted} are asked for")
    return min(most, USUAL_LENGTH) if wanted is None else wanted


def encode(texts: Sequence[str], tokenizer: Any, length: int) -> list[list[int]]:
    """Returns the tokens of each text, cut at a length.

    Raises:
        DataError: a text has none.
    """
    found: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=length)["input_ids"]
    for text, tokens in zip(texts, found, strict=True):
        if not tokens:
            raise DataError(f"the tokenizer makes no tokens of the text {text[:40]!r}; leave it out")
    return found


def padded(rows: Sequence[Sequence[int]], length: int, padding: int) -> tuple[Tensor, Tensor]:
    """Returns tokens and mask, both `[rows, length]`, padded at the end.

    Args:
        rows: tokens, at most `length` each.
        length: of all rows.
        padding: the token that stands where there is none.
    """
    tokens = torch.full((len(rows), length), padding)
    mask = torch.zeros(len(rows), length, dtype=torch.int64)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return tokens, mask


def packed(documents: Sequence[str], tokenizer: Any, length: int) -> Tensor:
    """Returns the tokens of documents one after the other, in blocks `[blocks, length]`; a rest is left out.

    Between documents stands the tokenizer's token for the end, where it has one.
    """
    rows = tokenizer(list(documents), add_special_tokens=False, verbose=False)["input_ids"]
    between = [tokenizer.eos_token_id] if len(documents) > 1 and tokenizer.eos_token_id is not None else []
    tokens = torch.tensor([token for row in rows for token in [*row, *between]], dtype=torch.int64)
    return tokens[: len(tokens) // length * length].reshape(-1, length)


def check_tokens(network: nn.Module, name: str, sequences: Sequence[Sequences]) -> None:
    """Checks that a network takes the tokens.

    Args:
        network: with any weights.
        name: what it is called.
        sequences: of all parts.

    Raises:
        TaskError: there are tokens that it does not know, or it cannot be run on a sequence.
    """
    known: int = network.get_input_embeddings().num_embeddings  # type: ignore[operator]  # transformers' networks have it
    greatest = max(int(each[index][0]["input_ids"].max()) for each in sequences for index in range(len(each)))
    if greatest >= known:
        raise TaskError(
            f"the tokenizer makes tokens up to {greatest}, but {name} knows {known}; give the tokenizer that it was "
            "trained with"
        )
    inputs = {key: value[None] for key, value in sequences[0][0][0].items()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            call_network(network.eval(), inputs)
    except Exception as fault:  # whatever the network raises
        shape = list(inputs["input_ids"].shape)
        raise TaskError(f"{name} cannot be run on tokens {shape} ({one_line(fault)})") from fault

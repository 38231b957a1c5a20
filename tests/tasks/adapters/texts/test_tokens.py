from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from autoprune.errors import DataError, TaskError
from autoprune.tasks.adapters.texts.tokens import Sequences, encode, longest, packed, padded


class Letters:
    """A tokenizer whose tokens are letters, from 1 on; 0 stands at the end."""

    eos_token_id = 0
    model_max_length = 20

    def __call__(self, texts: Sequence[str], max_length: int | None = None, **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) - 96 for letter in text if letter != " "][:max_length] for text in texts]}


def test_texts_are_cut_and_padded_to_one_length() -> None:
    tokens, mask = padded(encode(["abc", "a"], Letters(), 2), 2, padding=9)
    assert tokens.tolist() == [[1, 2], [1, 9]]
    assert mask.tolist() == [[1, 1], [1, 0]]
    inputs, label = Sequences(tokens, mask, tokens[:, 0])[1]
    assert {name: value.tolist() for name, value in inputs.items()} == {"input_ids": [1, 9], "attention_mask": [1, 0]}
    assert label == 1


def test_documents_are_packed_into_blocks_with_the_end_between() -> None:
    assert packed(["abc", "de"], Letters(), 3).tolist() == [[1, 2, 3], [0, 4, 5]]
    assert packed(["abcdefgh"], Letters(), 3).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert packed(["ab"], Letters(), 3).shape == (0, 3)


def test_a_text_without_tokens_is_named() -> None:
    with pytest.raises(DataError, match="makes no tokens of the text '  '"):
        encode(["a", "  "], Letters(), 3)


@pytest.mark.parametrize(("positions", "wanted", "length"), [(None, None, 20), (12, None, 12), (500, 15, 15)])
def test_sequences_are_no_longer_than_network_and_tokenizer_take(
    positions: int | None, wanted: int | None, length: int
) -> None:
    config = SimpleNamespace() if positions is None else SimpleNamespace(max_position_embeddings=positions)
    assert longest(Letters(), config, wanted) == length


def test_a_length_beyond_that_is_refused() -> None:
    with pytest.raises(TaskError, match="takes at most 20 tokens, but 21 are asked for"):
        longest(Letters(), SimpleNamespace(), 21)

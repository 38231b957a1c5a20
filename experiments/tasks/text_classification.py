"""Text classification: of which package of the standard library a docstring is, by a small BERT of Hugging Face.

The tokenizer is made here too, of the docstrings that train. A tenth of the docstrings chooses, three tenths are
reported; all of them are different texts, but those of one file resemble each other. Needs `transformers` and
`tokenizers`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, random_split

import autoprune
from autoprune.tasks.adapters.extras import import_extra
from experiments.tasks.docstrings import docstrings
from experiments.tasks.estimates import Accumulated, Statistic
from experiments.tasks.experiment import Experiment

CLASSES = 16
LENGTH = 64
"""Tokens of a text; what is longer is cut."""
VOCABULARY = 4000
SHARES = (0.6, 0.1, 0.3)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def network() -> nn.Module:
    """Builds the network, not yet trained."""
    transformers = import_extra("transformers", "transformers")
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=LENGTH,
            num_labels=CLASSES,
            pad_token_id=SPECIAL.index("[PAD]"),
        )
    )


def tokenizer(texts: Sequence[str]) -> Any:
    """Returns a WordPiece tokenizer of the letters and the most common words of texts, as transformers use them.

    The library's own trainer breaks ties by chance, so that a run that is gone on with would read other numbers.
    """
    transformers = import_extra("transformers", "transformers")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    letters = sorted({letter for word in words for letter in word})
    common = sorted(words, key=lambda word: (-words[word], word))
    names = dict.fromkeys((*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *common))
    vocabulary = {name: number for number, name in enumerate(islice(names, VOCABULARY))}
    pieces = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = normalizer, splitter
    ends = [(name, pieces.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    pieces.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=pieces, unk_token="[UNK]", pad_token="[PAD]")


class Encoded(Dataset[dict[str, Tensor]]):
    """Texts and their classes, as the network takes them by keywords."""

    def __init__(self, encoding: Any, labels: Sequence[int]) -> None:
        names = ("input_ids", "attention_mask")
        self.columns = {name: encoding[name] for name in names} | {"labels": torch.tensor(labels)}

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


def split() -> tuple[tuple[str, ...], list[list[tuple[str, int]]]]:
    """Returns the classes, and the texts with their classes that train, choose and are reported."""
    counts = Counter(each.package for each in docstrings())
    classes = tuple(name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:CLASSES])
    labelled = [(each.text, classes.index(each.package)) for each in docstrings() if each.package in classes]
    generator = torch.Generator().manual_seed(0)
    return classes, [list(part) for part in random_split(labelled, SHARES, generator)]  # type: ignore[arg-type]


def encoded(texts: Sequence[tuple[str, int]], pieces: Any) -> Encoded:
    """Returns texts with their classes as the network takes them."""
    plain, labels = zip(*texts, strict=True)
    return Encoded(
        pieces(list(plain), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"), labels
    )


def right(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns `[batch]`: 1 where the class is right, else 0."""
    return (logits.argmax(1) == targets).float()


def confusion(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns `[batch, 3 * classes]`: for each class whether a sample is rightly of it, is said to be, and is."""
    said, true = (F.one_hot(each, CLASSES) for each in (logits.argmax(1), targets))
    return torch.cat((said * true, said, true), dim=1).double()


def macro_f1(means: Tensor) -> Tensor:
    """Returns the mean of the F1 of the classes that there are, of the means of `confusion`."""
    right, said, true = means.view(3, CLASSES)
    there = said + true > 0
    return (2 * right[there] / (said + true)[there]).mean()


def task() -> autoprune.SimpleTask:
    """Returns the task."""
    _, parts = split()
    pieces = tokenizer([text for text, _ in parts[0]])
    train, validation, test = (encoded(part, pieces) for part in parts)
    return autoprune.SimpleTask(
        network,
        train_data=train,
        validation_data=validation,
        test_data=test,
        plain_data=train,
        metrics=(
            autoprune.Metric("accuracy", right, "maximize", "%"),
            autoprune.Metric("f1_macro", Accumulated(Statistic(confusion, macro_f1)), "maximize", "%"),
        ),
        name="text_classification",
    )


EXPERIMENTS: Sequence[Experiment] = (
    Experiment(
        "bert",
        task,
        "flops=0.25",
        training=autoprune.TrainingPlan(
            epochs=16, rate=1e-3, optimizer="adamw", weight_decay=0.05, batch_size=32, warmup=0.1, clip_norm=1.0
        ),
        finetuning=autoprune.TrainingPlan(
            epochs=1, rate=3e-4, optimizer="adamw", weight_decay=0.05, batch_size=32, warmup=0.1, clip_norm=1.0
        ),
        search={"evaluations": 100, "space__depth": True, "pruner": "taylor", "scoring__samples": 512},
    ),
)

"""Texts as tasks for networks of transformers: to classify them, or to predict their next tokens."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.core.fields import Checked, Positive
from autoprune.errors import DataError, TaskError
from autoprune.registry import library_of
from autoprune.tasks.adapters.networks.huggingface import HfFolder, class_order
from autoprune.tasks.adapters.options import read_options
from autoprune.tasks.adapters.parts import complete_parts
from autoprune.tasks.adapters.texts.files import LabelledText, read_documents, read_labelled, text_parts
from autoprune.tasks.adapters.texts.metrics import F1, PERPLEXITY
from autoprune.tasks.adapters.texts.tokens import Sequences, check_tokens, encode, longest, packed, padded
from autoprune.tasks.base import Hook, Split, Task
from autoprune.tasks.metrics import ACCURACY, Metric
from autoprune.tasks.models.named import ModelChoice, NamedModel
from autoprune.tasks.outputs import default_loss, logits_of
from autoprune.tasks.simple import SimpleTask, with_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextOptions(Checked):
    """What can be said of the texts.

    Attributes:
        text: the column of the texts; None: the one that is called text or as such columns are.
        label: that of the labels, likewise.
        length: of a sequence in tokens; None: as many as the network takes, but at most 128.
    """

    text: str | None = None
    label: str | None = None
    length: Positive | None = None


def text_classification(
    model: ModelChoice | None = None,
    data: Path | None = None,
    progress: Hook | None = None,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """Labelled texts of a CSV, TSV or JSONL file (--data FILE), and a network that classifies them (--model hf:FOLDER).

    Args:
        model: `hf:FOLDER`.
        data: a file with columns of texts and labels, or a folder with one for each part.
        progress: not used: nothing is trained on first use.
        options: see `TextOptions`.

    Raises:
        UserError: data, model or options are missing or at fault.
    """
    name = "text_classification"
    folder, source = _folder_and_data(name, model, data, "with columns of texts and labels")
    folder.check_kind("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", name, "AutoModelForSequenceClassification")
    said, tokenizer = read_options(TextOptions, options), folder.tokenizer()
    given = {split: read_labelled(path, said.text, said.label) for split, path in text_parts(source).items()}
    classes = _classes(given, source)
    if folder.config.problem_type not in (None, "single_label_classification"):
        raise TaskError(
            f"task {name!r} has one label for each text, but {folder.path} is for {folder.config.problem_type}"
        )
    if folder.config.pad_token_id is None:  # without it decoders do not find the last token
        folder.config.pad_token_id = _padding(tokenizer)
    chosen = folder.model(len(classes))
    network = chosen.build()
    order = dict(zip(classes, class_order(network, classes), strict=True))
    numbers = [classes.index(each.label) for each in given["train"]]
    parts = complete_parts(given, numbers, source)
    rows = _encode_parts(parts, tokenizer, longest(tokenizer, folder.config, said.length), said.length is not None)
    length = max(len(row) for each in rows.values() for row in each)
    sequences = {
        split: Sequences(
            *padded(rows[split], length, _padding(tokenizer)), torch.tensor([order[each.label] for each in items])
        )
        for split, items in parts.items()
    }
    check_tokens(network, chosen.name, list(sequences.values()))
    return _task(name, chosen, sequences, default_loss, [ACCURACY, F1])


def language_model(
    model: ModelChoice | None = None,
    data: Path | None = None,
    progress: Hook | None = None,
    options: Mapping[str, Any] | None = None,
) -> Task:
    """Text (--data FILE) and a network that predicts each next token of it (--model hf:FOLDER).

    Args:
        model: `hf:FOLDER`.
        data: a file of plain text, or a CSV, TSV or JSONL file with a column of texts; or a folder with one for each
            part.
        progress: not used: nothing is trained on first use.
        options: see `TextOptions`.

    Raises:
        UserError: data, model or options are missing or at fault.
    """
    name = "language_model"
    folder, source = _folder_and_data(name, model, data, "of text")
    folder.check_kind("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", name, "AutoModelForCausalLM")
    said, tokenizer = read_options(TextOptions, options), folder.tokenizer()
    length = longest(tokenizer, folder.config, said.length)
    if length < 2:
        raise TaskError("task.options.length should be at least 2: each token is predicted from those before it")
    given: dict[Split, Tensor] = {}
    for split, path in text_parts(source).items():
        given[split] = packed(read_documents(path, said.text), tokenizer, length)
        if not len(given[split]):
            raise DataError(f"{path} has less than {length} tokens; give more text, or say --set task.options.length=N")
    blocks = complete_parts({split: list(each) for split, each in given.items()}, [0] * len(given["train"]), source)
    chosen = folder.model()
    sequences: dict[Split, Sequences] = {}
    for split, items in blocks.items():
        tokens = torch.stack(items)
        sequences[split] = Sequences(tokens, torch.ones_like(tokens), tokens)
    check_tokens(chosen.build(), chosen.name, list(sequences.values()))
    return _task(name, chosen, sequences, _next_token_loss, [PERPLEXITY])


def _folder_and_data(name: str, model: ModelChoice | None, data: Path | None, kind: str) -> tuple[HfFolder, Path]:
    """Returns the network's folder and the data.

    Args:
        name: of the task.
        model: that was chosen.
        data: that were named.
        kind: of the file that is expected.

    Raises:
        TaskError: one is missing, or the model is no folder of Hugging Face's.
    """
    if data is None:
        raise TaskError(f"task {name!r} needs --data FILE, a file {kind}")
    if not isinstance(model, str) or library_of(model) != "hf":
        raise TaskError(
            f"task {name!r} takes --model hf:FOLDER, a folder with network and tokenizer that save_pretrained wrote, "
            f"but has {'none' if model is None else repr(model)}"
        )
    return HfFolder.open(Path(model.partition(":")[2])), data


def _classes(parts: Mapping[Split, Sequence[LabelledText]], source: Path) -> list[str]:
    """Returns the names of the classes to train, sorted, as numbers where they are such.

    Raises:
        DataError: there is one only, or another part has others.
    """
    found = {each.label for each in parts["train"]}
    for split, texts in parts.items():
        for each in texts:
            if each.label not in found:
                raise DataError(
                    f"{source}: the {split} part has label {each.label!r} (line {each.line}), train has not"
                )
    if len(found) < 2:
        raise DataError(f"{source} has one class only, {found.pop()!r}; expected at least two")
    numbers = all(label.lstrip("-").isdecimal() for label in found)
    return sorted(found, key=lambda label: (int(label), label) if numbers else (0, label))


def _padding(tokenizer: Any) -> int:
    """Returns the token that stands where there is none; it is masked, so that any does."""
    return next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)


def _encode_parts(
    parts: Mapping[Split, Sequence[LabelledText]], tokenizer: Any, length: int, wanted: bool
) -> dict[Split, list[list[int]]]:
    """Returns the tokens of each part's texts; where texts are cut and nobody said how long they are, it is said.

    Args:
        parts: the texts.
        tokenizer: of the network.
        length: at which they are cut.
        wanted: whether the user said so.
    """
    rows = {split: encode([each.text for each in items], tokenizer, length) for split, items in parts.items()}
    cut = sum(len(row) == length for each in rows.values() for row in each)
    if cut and not wanted:
        total = sum(map(len, rows.values()))
        log.warning(
            "%d of %d texts fill %d tokens, at which they are cut; --set task.options.length=N", cut, total, length
        )
    return rows


def _task(
    name: str,
    model: NamedModel,
    sequences: Mapping[Split, Sequences],
    loss: Callable[[Any, Tensor], Tensor],
    metrics: list[Metric],
) -> Task:
    task = SimpleTask(
        model.build,
        train_data=sequences["train"],
        validation_data=sequences["validation"],
        test_data=sequences.get("test"),
        plain_data=sequences["train"],
        loss=loss,
        metrics=metrics,
        name=name,
    )
    return with_model(task, model)


def _next_token_loss(outputs: Any, targets: Tensor) -> Tensor:
    """Returns the mean over the tokens that have one before them, as transformers compute it from labels."""
    return F.cross_entropy(logits_of(outputs)[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten())

"""Metrics of texts, accumulated over all batches: F1 of classes, perplexity of a language model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.core.metrics import SHARE
from autoprune.tasks.metrics import Metric

_NO_TOKEN = -100
"""The target of what is not predicted, as transformers have it."""


class MacroF1:
    """The mean over classes of 2·TP / (2·TP + FP + FN); classes that neither occur nor are predicted do not count."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        self._confusion = torch.zeros(0, 0, dtype=torch.int64)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Takes `[batch, classes]` outputs and `[batch]` classes."""
        classes = outputs.shape[1]
        pairs = (targets * classes + outputs.argmax(dim=1)).cpu()
        found = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        self._confusion = found if self._confusion.numel() == 0 else self._confusion + found

    def compute(self) -> float:
        """Returns the mean, in [0, 1]."""
        hits = self._confusion.diagonal().double()
        counted = (self._confusion.sum(0) + self._confusion.sum(1)).double()
        return float((2 * hits / counted)[counted > 0].mean())


class Perplexity:
    """exp of the mean cross-entropy of the tokens, each predicted from those before it in its sequence."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        self._total, self._tokens = 0.0, 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Takes `[batch, length, vocabulary]` outputs and `[batch, length]` tokens; -100 is not predicted."""
        predicted, following = outputs[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten()
        self._total += float(F.cross_entropy(predicted, following, ignore_index=_NO_TOKEN, reduction="sum"))
        self._tokens += int((following != _NO_TOKEN).sum())

    def compute(self) -> float:
        """Returns the perplexity, at least 1."""
        return float(torch.tensor(self._total / max(self._tokens, 1), dtype=torch.float64).exp())


F1 = Metric("f1", MacroF1(), "maximize", SHARE)
PERPLEXITY = Metric("perplexity", Perplexity(), "minimize", range=(1.0, None))

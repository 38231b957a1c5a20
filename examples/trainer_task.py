"""A Hugging Face network that a `Trainer` trains, as a task: what `--task trainer_task:task` names."""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer

import autoprune
from autoprune.tasks.adapters.transformers_trainer import trainer_training


class Words(Dataset[dict[str, Tensor]]):
    """Texts of seven words, drawn from two; the class is the word that comes more often."""

    def __init__(self, count: int, seed: int) -> None:
        self.words = torch.randint(2, (count, 7), generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.words[index], "labels": (self.words[index].sum() > 3).long()}


def network() -> nn.Module:
    """Builds the network, not yet trained."""
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return BertForSequenceClassification(BertConfig(vocab_size=2, max_position_embeddings=7, **size))


# --8<-- [start:task]
training = trainer_training(
    Trainer
)  # or functools.partial(Trainer, data_collator=…, callbacks=…), args=TrainingArguments(…)
task = autoprune.SimpleTask(network, train_data=Words(400, 0), validation_data=Words(200, 1), training=training)
# --8<-- [end:task]

"""A `LightningModule` with its data module as a task: what `--task lightning_task:task` names."""

import lightning
import my_task
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from autoprune.tasks.adapters.lightning import from_module


class Digits(lightning.LightningModule):
    """Classifies handwritten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = my_task.network()

    def forward(self, samples: Tensor) -> Tensor:
        return self.layers(samples)

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        samples, labels = batch
        loss = nn.functional.cross_entropy(self(samples), labels)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class DigitsData(lightning.LightningDataModule):
    """scikit-learn's handwritten digits."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(my_task.train, 64, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(my_task.validation, 300)


# --8<-- [start:task]
task = from_module(Digits, DigitsData())
# --8<-- [end:task]

"""A network that removes noise, judged by two metrics of its own: what `--task denoise_task:task` names."""

import my_task
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import autoprune


class Denoiser(nn.Sequential):
    """Finds the noise, and takes it away."""

    def __init__(self) -> None:
        layers = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()]
        for _ in range(3):
            layers += [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
        super().__init__(*layers, nn.Conv2d(32, 1, 3, padding=1))

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy - super().forward(noisy)


def pairs(samples: torch.utils.data.Subset) -> TensorDataset:
    """Returns images with noise and without, both `[n, 1, 8, 8]`."""
    clean = torch.stack([image for image, _ in samples])
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return TensorDataset(clean + 0.2 * noise, clean)


def psnr(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the peak signal-to-noise ratio of each image, `[batch]`, in decibels."""
    return -10 * (outputs - targets).square().flatten(1).mean(1).log10()


def mae(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean absolute error of each image, `[batch]`."""
    return (outputs - targets).abs().flatten(1).mean(1)


task = autoprune.SimpleTask(
    Denoiser,
    train_data=pairs(my_task.train),
    validation_data=pairs(my_task.validation),
    test_data=pairs(my_task.test),
    loss=nn.functional.mse_loss,
    metrics=[autoprune.Metric("psnr", psnr, "maximize", unit="dB"), autoprune.Metric("mae", mae, "minimize")],
)


if __name__ == "__main__":
    torch.manual_seed(0)
    network = Denoiser()
    task.train(network, autoprune.TrainingPlan(epochs=8, rate=5e-3, optimizer="adamw"))
    print(autoprune.search(network, task, "flops=0.5", trials=20, track__enabled=False, evaluation__objective="psnr"))

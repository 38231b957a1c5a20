"""Trains the vision transformer on CIFAR-10 from scratch, on two cores in half an hour (torch 2.9 or later).

    python -m experiments.vision_transformer.train [--resume]

Stop it at any time (Ctrl-C): `--resume` goes on after the last whole epoch, to the very weights that an unbroken run
ends with. The checkpoint holds the weights, what continues the training, and how it was made. Each process has one
thread and half of each batch: oneDNN's convolutions wait busily for threads that other programs keep from running.
The last epoch's weights stay, whatever the accuracy that is printed, on training images that are held out.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Muon, Optimizer
from torch.overrides import TorchFunctionMode

from autoprune.tasks.base import Batch
from autoprune.tasks.datasets.images import ImageBatches, Images
from autoprune.tasks.training.loop import derive_seed
from autoprune.tasks.weight_files.pickled import read_checkpoint, write_tensors
from experiments.vision_transformer.network import VisionTransformer
from experiments.vision_transformer.task import DATA, VisionTransformerTask

OUTPUT = Path("runs/vision_transformer/network.pt")
WARMUP = 0.1
SMOOTHING = 0.1


@dataclass(frozen=True)
class Settings:
    """What determines the weights, together with the images.

    Attributes:
        processes: among which each batch is divided.
        rate: the highest learning rate of the blocks' matrices.
        other_rate: that of all other parameters.
        weight_decay: of the blocks' matrices, and of other tensors of two or more dimensions.
    """

    epochs: int
    seed: int
    processes: int = 1
    batch_size: int = 128
    rate: float = 3e-3
    other_rate: float = 1e-3
    weight_decay: tuple[float, float] = (0.1, 0.05)


class PlainAttention(TorchFunctionMode):
    """Computes attention by two products and a softmax: in bfloat16 on a CPU six times as fast as torch's own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        return scores.softmax(-1) @ value


def build_optimizers(network: nn.Module, settings: Settings) -> list[Optimizer]:
    """Returns Muon (Jordan et al. 2024) for the matrices of the blocks and AdamW for all else.

    Muon's updates are scaled to the size of AdamW's (Liu et al. 2025, arXiv:2502.16982, section 2.2).
    """
    inner = [(name.startswith("blocks.") and p.dim() == 2, p) for name, p in network.named_parameters()]
    matrices, others = [p for is_inner, p in inner if is_inner], [p for is_inner, p in inner if not is_inner]
    decay, other_decay = settings.weight_decay
    groups = [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": other_decay},
        {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return [
        Muon(matrices, lr=settings.rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        AdamW(groups, lr=settings.other_rate, fused=True),
    ]


def relative_rate(step: int, steps: int) -> float:
    """Returns what the rates are multiplied by at a step, from 1 up to `steps`: linearly up, and down towards 0."""
    return min(step / (WARMUP * steps), (steps + 1 - step) / ((1 - WARMUP) * steps), 1.0)


class Training:
    """A network between two epochs, and what continues its training; one of several processes where there is a group.

    Attributes:
        history: for each whole epoch its number, mean loss and held-out accuracy, and the wall and processor seconds
            of all processes since the beginning, summed over interruptions.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = VisionTransformer().to(memory_format=torch.channels_last)
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self._shared: nn.Module = DistributedDataParallel(self.network) if dist.is_initialized() else self.network
        self.optimizers = build_optimizers(self.network, settings)
        self.history: list[dict[str, float]] = []

    def run(self, learned: Images, held_out: Images, save: Callable[[Training], None]) -> None:
        """Trains the epochs that are left.

        Args:
            learned: the images to learn from.
            held_out: those on which the accuracy is measured.
            save: called after each epoch.
        """
        past = self.history[-1] if self.history else {"seconds": 0.0, "cpu_seconds": 0.0}
        begun, cpu_begun = time.perf_counter(), time.process_time()
        size, seed = self.settings.batch_size, self.settings.seed
        normalise, augmentation = VisionTransformerTask.normalise, VisionTransformerTask.augmentation
        for epoch in range(len(self.history) + 1, self.settings.epochs + 1):
            batches = ImageBatches(learned, normalise, size, augmentation, derive_seed(seed, epoch))
            loss = self._epoch(epoch, batches)
            right = self._right(ImageBatches(held_out, normalise, size))
            sums = torch.tensor([loss, right, time.process_time() - cpu_begun], dtype=torch.float64)
            if dist.is_initialized():
                dist.all_reduce(sums)
            self.history.append(
                {
                    "epoch": epoch,
                    "loss": sums[0].item() / self.settings.processes,
                    "accuracy": sums[1].item() / len(held_out),
                    "seconds": past["seconds"] + time.perf_counter() - begun,
                    "cpu_seconds": past["cpu_seconds"] + sums[2].item(),
                }
            )
            if self.rank == 0:
                save(self)

    def _epoch(self, epoch: int, batches: ImageBatches) -> float:
        """Trains one epoch and returns the mean loss in this process."""
        self.network.train()
        total, steps = 0.0, self.settings.epochs * len(batches)
        for step, batch in enumerate(batches, start=1 + (epoch - 1) * len(batches)):
            self._set_rates(relative_rate(step, steps))
            loss = self._loss(self._part(batch))
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            for optimizer in self.optimizers:
                optimizer.step()
            total += loss.item()
        return total / len(batches)

    def _set_rates(self, relative: float) -> None:
        highest = (self.settings.rate, self.settings.other_rate)
        for optimizer, rate in zip(self.optimizers, highest, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * relative

    def _part(self, batch: Batch) -> Batch:
        """Returns what this process has of a batch."""
        inputs, labels = (part[self.rank :: self.settings.processes] for part in batch)
        return inputs.contiguous(memory_format=torch.channels_last), labels

    def _loss(self, batch: Batch) -> Tensor:
        with PlainAttention(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            outputs = self._shared(batch[0])
        return F.cross_entropy(outputs.float(), batch[1], label_smoothing=SMOOTHING)

    @torch.no_grad()
    def _right(self, batches: ImageBatches) -> int:
        """Returns how many of this process's images the network, in single precision, tells right."""
        self.network.eval()
        parts = map(self._part, batches)
        return sum(int((self.network(inputs).argmax(1) == labels).sum()) for inputs, labels in parts)

    def state(self) -> dict[str, Any]:
        """Returns the weights as other programs read them, and what `load` needs."""
        weights = {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()}
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return {
            "state_dict": weights,
            "optimizers": optimizers,
            "history": self.history,
            "settings": vars(self.settings),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes up where `state` was called."""
        self.network.load_state_dict(state["state_dict"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.history = list(state["history"])


def train(rank: int, options: argparse.Namespace, meeting: str) -> None:
    """Trains as one of the processes.

    Args:
        rank: its number, from 0.
        options: of the command line.
        meeting: a file, not there yet, through which the processes find each other.
    """
    torch.set_num_threads(1)
    settings = Settings(options.epochs, options.seed, options.processes)
    if options.processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=options.processes)
    training = Training(settings)
    if options.resume and options.output.exists():
        training.load(read_checkpoint(options.output))
    task = VisionTransformerTask(options.data)
    learned, held_out = (part.part(0, options.samples or len(part)) for part in (task.images("train"), task.held_out()))

    def save(training: Training) -> None:
        write_tensors(options.output, training.state() | {"command": options.command})
        said = training.history[-1]
        print(
            f"epoch {said['epoch']:2}  loss {said['loss']:.4f}  held-out accuracy {100 * said['accuracy']:.2f} %  "
            f"{said['seconds']:.0f} s, of the processor {said['cpu_seconds']:.0f} s",
            flush=True,
        )

    training.run(learned, held_out, save)
    if dist.is_initialized():
        dist.destroy_process_group()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder with cifar-10-batches-bin")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint, if there is one")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="another number trains other weights")
    parser.add_argument("--samples", type=int, help="learn from only so many images, to try it")
    options = parser.parse_args(arguments)
    options.command = shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]])
    if options.output.exists():
        made = read_checkpoint(options.output)
        if not options.resume:
            parser.error(f"{options.output} exists; go on from it with --resume, or name another --output")
        if made["settings"] != vars(Settings(options.epochs, options.seed, options.processes)):
            parser.error(f"{options.output} was made by `{made['command']}`; resume with the same settings")
    with tempfile.TemporaryDirectory() as folder:
        arguments_of_each = (options, str(Path(folder) / "meeting"))
        if options.processes == 1:
            train(0, *arguments_of_each)
        else:
            mp.spawn(train, arguments_of_each, options.processes)


if __name__ == "__main__":
    main()

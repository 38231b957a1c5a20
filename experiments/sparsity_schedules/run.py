"""When to prune: one-shot, gradual and lottery ticket after the same number of training steps.

    python -m experiments.sparsity_schedules.run --data DIR --checkpoint resnet20_cifar10.th [--quick]

Every cell of the matrix is one training; its result is a line of `results.jsonl`. Stop it at any time (Ctrl-C): the
same command goes on with the cells that are missing. `--report` writes the tables and the picture from what is there.
"""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune import registry
from autoprune.evaluation.metrics import evaluate
from autoprune.pruning.pruner import Pruner
from autoprune.pruning.schedules import Timing
from autoprune.pruning.training.gradual import Pruning
from autoprune.tasks.base import Task
from autoprune.tasks.datasets.cifar10 import Cifar10Task
from autoprune.tasks.datasets.digits import DigitsTask
from autoprune.tasks.training.loop import derive_seed
from experiments.cells import append, missing, plain_options, read
from experiments.sparsity_schedules.report import write_report

HERE = Path(__file__).parent
SPARSITIES = (0.5, 0.8, 0.9, 0.95)
BATCH = 64


@dataclass(frozen=True)
class Cell:
    """One training of the matrix.

    Attributes:
        part: `methods`, `prunings` or `frequency`.
        network: `resnet20`, from its checkpoint, or `digits`, from its true initialisation.
        method: `dense`, or a schedule of `autoprune list schedules`.
        steps: training steps in all, whatever the method does with them.
        prunings: how often something is pruned.
        frequency: steps between two prunings.
    """

    part: str
    network: str
    method: str
    sparsity: float
    seed: int
    steps: int
    prunings: int = 1
    frequency: int = 0


def matrix(quick: bool) -> list[Cell]:
    """All trainings, the cheap and the most telling first."""
    seeds, steps = (range(1), 60) if quick else (range(3), 960)
    cells = [
        Cell("methods", "digits", method, sparsity, seed, 200 if quick else 2000, prunings)
        for seed, sparsity, (method, prunings) in product(range(1 if quick else 5), SPARSITIES, METHODS.items())
    ]
    cells += [
        Cell("methods", "resnet20", method, sparsity, seed, steps, prunings)
        for seed, sparsity, (method, prunings) in product(seeds, SPARSITIES, METHODS.items())
    ]
    cells += [
        Cell("prunings", "resnet20", "iterative", sparsity, seed, 48 if quick else 480, prunings)
        for seed, sparsity, prunings in product(range(1 if quick else 5), SPARSITIES, (1, 2, 4, 8))
    ]
    span, last = (80, 20) if quick else (2000, 1000)
    cells += [
        Cell("frequency", "resnet20", "agp", 0.9, seed, span + last, span // frequency, frequency)
        for seed, frequency in product(range(1 if quick else 3), (4, 10, 20, 40) if quick else (100, 250, 500, 1000))
    ]
    return cells


# The methods compared, and how often each prunes.
METHODS = {"one_shot": 1, "agp": 12, "lottery_ticket": 4}


def main() -> None:
    arguments = _arguments()
    folder = HERE / ("quick" if arguments.quick else "full")
    results = folder / "results.jsonl"
    folder.mkdir(exist_ok=True)
    if not arguments.report:
        append(results, _train_all(missing(matrix(arguments.quick), results), arguments))
    write_report(read(results), folder)


def _arguments() -> argparse.Namespace:
    parser = plain_options(__doc__, "minutes instead of hours, one seed, few steps", "trainings")
    parser.add_argument("--data", type=Path, help="CIFAR-10")
    parser.add_argument("--checkpoint", type=Path, help="a trained ResNet-20")
    found = parser.parse_args()
    if not found.report and not (found.data and found.checkpoint):
        parser.error("--data and --checkpoint are needed")
    return found


def _train_all(cells: Sequence[Cell], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.processes, _start_worker, (arguments.data, arguments.checkpoint)) as pool:
        try:
            yield from pool.imap_unordered(_run, cells)
        except KeyboardInterrupt:
            pool.terminate()
            sys.exit("interrupted; the same command goes on with what is missing")


_FILES: list[Path] = []


def _start_worker(data: Path, checkpoint: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _FILES[:] = [data, checkpoint]


def _run(cell: Cell) -> dict[str, Any]:
    start = time.perf_counter()
    task: Task = DigitsTask() if cell.network == "digits" else Cifar10Task("resnet20", _FILES[0])
    with torch.random.fork_rng():
        torch.manual_seed(cell.seed)
        network = task.network()
    if cell.network == "resnet20":
        task.load(network, _FILES[1])
    network.to(memory_format=torch.channels_last)
    _train(network, task, cell)
    found = {split: asdict(evaluate(network, task, task.batches(split, 250))) for split in ("validation", "test")}
    return {"cell": asdict(cell), **found, "sparsity": _sparsity(network), "seconds": time.perf_counter() - start}


def _train(network: nn.Module, task: Task, cell: Cell) -> None:
    level: Pruner = registry.resolve("pruner", "level")
    pruner = replace(level, schedule=registry.resolve("schedule", cell.method))
    inputs = next(iter(task.batches("validation", 2)))[0]
    if cell.method == "lottery_ticket":
        _draw_ticket(network, task, cell, Pruning(network, pruner, cell.sparsity, inputs=inputs))
        return
    first, timing, dense_steps = 0.0, Timing(unit="step"), cell.steps // 5 if cell.network == "digits" else 0
    if cell.method == "agp":
        frequency = cell.frequency or cell.steps // 20
        timing = Timing(dense_steps, dense_steps + frequency * cell.prunings, frequency, "step")
    elif cell.method == "one_shot":
        timing = Timing(dense_steps, dense_steps, 1, "step")
    else:  # every one of n prunings leaves the same share of what survives, the first at once
        first, frequency = 1 - (1 - cell.sparsity) ** (1 / cell.prunings), cell.steps // cell.prunings
        timing = Timing(0, frequency * (cell.prunings - 1), frequency, "step")
    pruning = Pruning(network, pruner, cell.sparsity, inputs=inputs, initial=first, timing=timing)
    _steps(network, task, cell, cell.steps, pruning, constant=cell.part == "prunings")
    pruning.finish()


def _draw_ticket(network: nn.Module, task: Task, cell: Cell, pruning: Pruning) -> None:
    """Rounds of equal length; on ResNet-20 the first only reaches the early step that the others go back to."""
    trained = cell.network == "resnet20"
    early = cell.steps // 40 if trained else 0
    length = (cell.steps - early) // cell.prunings if trained else cell.steps // (cell.prunings + 1)
    for number in pruning.rounds(cell.prunings, early=trained):
        if number == 0 and trained:
            _steps(network, task, cell, early, pruning, constant=True)
            pruning.keep_early()
        else:
            _steps(network, task, cell, length, pruning, round_number=number)
    pruning.finish()


def _steps(
    network: nn.Module,
    task: Task,
    cell: Cell,
    steps: int,
    pruning: Pruning,
    constant: bool = False,
    round_number: int = 0,
) -> None:
    """SGD with momentum; the rate falls along half a cosine, or stays."""
    rate = 0.1 if cell.network == "digits" else 0.01
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for _, (inputs, targets) in zip(range(steps), _endless(task, cell.seed, round_number), strict=False):
        loss = task.loss(network(inputs.contiguous(memory_format=torch.channels_last)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruning.step()
        if not constant:
            falling.step()
    network.eval()


def _endless(task: Task, *seeds: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    epoch = 0
    while True:
        yield from task.batches("train", BATCH, derive_seed(*seeds, epoch))
        epoch += 1


def _sparsity(network: nn.Module) -> float:
    weights = [p for p in network.parameters() if p.dim() > 1]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


if __name__ == "__main__":
    main()

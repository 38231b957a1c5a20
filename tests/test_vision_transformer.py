"""The vision transformer of `experiments/`: its training, its splits and its comparison."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autoprune.tasks.datasets.images import Images
from autoprune.tasks.weight_files.pickled import read_checkpoint, write_tensors
from autoprune.tasks.weights import load_weights
from experiments.vision_transformer.compare import row
from experiments.vision_transformer.network import VisionTransformer
from experiments.vision_transformer.task import VisionTransformerTask
from experiments.vision_transformer.train import PlainAttention, Settings, Training

SETTINGS = Settings(epochs=2, seed=1, batch_size=8)


def _pictures(count: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, 32, 32), generator=generator).to(torch.uint8)
    return Images(pixels, torch.randint(10, (count,), generator=generator))


def _trained(path: Path, stop_after: int | None = None) -> Training:
    """A training of two epochs, or what is left of it, that writes itself to a file after each."""

    def save(training: Training) -> None:
        write_tensors(path, training.state())
        if len(training.history) == stop_after:
            raise KeyboardInterrupt

    training = Training(SETTINGS)
    if path.exists():
        training.load(read_checkpoint(path))
    training.run(_pictures(20, 2), _pictures(10, 3), save)
    return training


def test_training_that_was_stopped_ends_with_the_weights_of_an_unbroken_run(tmp_path: Path) -> None:
    unbroken = _trained(tmp_path / "unbroken.pt").network.state_dict()
    with pytest.raises(KeyboardInterrupt):
        _trained(tmp_path / "stopped.pt", stop_after=1)
    resumed = _trained(tmp_path / "stopped.pt")
    assert [epoch["epoch"] for epoch in resumed.history] == [1, 2]
    for name, tensor in resumed.network.state_dict().items():
        assert torch.equal(tensor, unbroken[name]), name


def test_the_checkpoint_of_a_training_holds_the_weights_for_a_task(tmp_path: Path) -> None:
    training, network = _trained(tmp_path / "network.pt"), VisionTransformer().eval()
    load_weights(network, tmp_path / "network.pt")
    inputs = VisionTransformerTask.normalise(_pictures(2, 4).pixels)
    with torch.no_grad():
        torch.testing.assert_close(network(inputs), training.network.eval()(inputs))


def test_attention_by_two_products_is_torchs_own() -> None:
    query, key, value = torch.randn(3, 2, 4, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = F.scaled_dot_product_attention(query, key, value)
    with PlainAttention():
        computed: Tensor = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(computed, expected)
    assert not torch.equal(computed, expected)  # else torch's own was called, which rounds otherwise


def test_no_image_is_both_learned_from_and_held_out(cifar_root: Path) -> None:
    task = VisionTransformerTask(cifar_root)
    learned, held_out = task.images("train"), task.held_out()
    assert (len(learned), len(held_out), task.training_images) == (45_000, 5_000, 45_000)
    seen = {image.numpy().tobytes() for image in learned.pixels}
    assert sum(image.numpy().tobytes() in seen for image in held_out.pixels) == 0
    assert [len(task.images(split)) for split in ("validation", "test")] == [5_000, 5_000]


def test_a_difference_has_the_error_of_the_images_on_which_two_networks_differ() -> None:
    first = torch.tensor([[1.0, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.float64)
    other = torch.tensor([[1.0, 1, 0, 0], [1, 1, 2, 2]], dtype=torch.float64)
    # accuracy: mean 1/2, deviation √(1/3); loss: mean 3/2, the same; difference: mean 1/4, deviation 1/2; √4 images
    assert row("other", other, first) == "| other | 50.00 ± 28.87 | 1.5000 ± 0.2887 | +25.00 ± 25.00 (+1.0) |"
    assert row("first", first, first).endswith("|  |")

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from autoprune.tasks.adapters.images.preprocessing import Preprocessing

PLAIN = Preprocessing(size=(4, 4), resized=(4, 4), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def stripes(width: int, height: int) -> Image.Image:
    """An image whose columns are 0, 10, 20, …"""
    return Image.fromarray(np.tile(np.arange(width, dtype=np.uint8) * 10, (height, 1))).convert("RGB")


@pytest.mark.parametrize(("width", "height", "first"), [(4, 4, 0), (10, 4, 3), (4, 10, 0)])
def test_the_middle_of_an_image_is_taken(width: int, height: int, first: int) -> None:
    found = PLAIN.apply(stripes(width, height))
    assert found.shape == (3, 4, 4)
    expected = torch.arange(first, first + 4) * 10 / 255
    torch.testing.assert_close(found, expected.expand(3, 4, 4))


def test_squashed_images_are_taken_whole() -> None:
    squashed = Preprocessing(size=(4, 4), resized=(4, 4), squash=True, mean=(0.0,) * 3, std=(1.0,) * 3)
    found = squashed.apply(stripes(8, 4))
    assert float(found[0, 0, 0]) < 10 / 255
    assert float(found[0, 0, -1]) > 60 / 255


def test_values_are_normalised_by_channel() -> None:
    image = Image.new("RGB", (5, 5), (255, 0, 51))
    found = Preprocessing(size=(2, 2), resized=(2, 2), mean=(0.5, 0.5, 0.2), std=(0.5, 0.25, 1.0)).apply(image)
    torch.testing.assert_close(found[:, 0, 0], torch.tensor([1.0, -2.0, 0.0]))


def test_grey_images_have_one_channel() -> None:
    grey = Preprocessing(size=(2, 2), resized=(2, 2), mean=(0.0,), std=(1.0,))
    assert grey.mode == "L"
    assert grey.apply(Image.new("L", (3, 3), 255)).tolist() == [[[1, 1], [1, 1]]]


def test_another_size_keeps_the_share_that_is_cut_off() -> None:
    assert Preprocessing().of_size(112).resized == (128, 128)
    assert Preprocessing().of_size(112).size == (112, 112)


def test_random_parts_are_those_of_torchs_seed_and_cover_the_image() -> None:
    image, seen = stripes(12, 12), []
    for seed in range(40):
        found = []
        for _ in range(2):
            torch.manual_seed(seed)
            found.append(PLAIN.apply_randomly(image, 0.2, flip=True))
        assert torch.equal(*found)
        seen.append(found[0])
    means = torch.stack(seen)[:, 0].mean((1, 2)) * 255
    assert means.min() < 45 < 65 < means.max()
    rising = torch.stack([part[0, 0, -1] > part[0, 0, 0] for part in seen])
    assert 10 <= int(rising.sum()) <= 30


def test_the_whole_image_is_taken_where_nothing_smaller_may_be() -> None:
    image = stripes(4, 4)
    torch.manual_seed(0)
    torch.testing.assert_close(PLAIN.apply_randomly(image, 1.0, flip=False), PLAIN.apply(image))

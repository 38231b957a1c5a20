from __future__ import annotations

import torch
from torch import Tensor

from autoprune.tasks.datasets.images import Augmentation, ImageBatches, Images, Normalisation

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = Images(torch.randint(1, 256, (10, 3, 6, 5), generator=GENERATOR, dtype=torch.uint8), torch.arange(10))
NORMALISE = Normalisation((0.1, 0.2, 0.3), (0.5, 0.4, 0.3))


def _all(batches: ImageBatches) -> tuple[Tensor, Tensor]:
    inputs, labels = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(labels)


def test_crop_equals_padding_cutting_and_mirroring_one_by_one() -> None:
    top = torch.tensor([0, 4, 2, 1, 3, 0, 4, 2, 1, 0])
    left = torch.tensor([4, 0, 2, 3, 1, 0, 4, 2, 0, 1])
    mirrored = torch.arange(10) % 2 == 1
    out = Augmentation(padding=2).apply(IMAGES.pixels, torch.stack((top, left, mirrored)))
    for i in range(10):
        framed = torch.zeros(3, 10, 9, dtype=torch.uint8)
        framed[:, 2:8, 2:7] = IMAGES.pixels[i]
        cut = framed[:, top[i] : top[i] + 6, left[i] : left[i] + 5]
        assert torch.equal(out[i], cut.flip(2) if mirrored[i] else cut)


def test_normalisation_equals_the_formula() -> None:
    mean, deviation = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    torch.testing.assert_close(NORMALISE(IMAGES.pixels), (IMAGES.pixels / 255 - mean) / deviation)


def test_frame_is_black_before_normalisation_not_the_mean_colour() -> None:
    batches = ImageBatches(IMAGES, NORMALISE, 10, Augmentation(padding=2), seed=0)
    black = NORMALISE(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))
    inputs, _ = _all(batches)
    assert (inputs == black).all(dim=1).any()
    assert not (inputs == 0).all(dim=1).any()


def test_without_augmentation_images_come_as_they_are_and_in_order() -> None:
    batches = ImageBatches(IMAGES, NORMALISE, 4)
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert len(batches) == 3
    inputs, labels = _all(batches)
    assert torch.equal(inputs, NORMALISE(IMAGES.pixels))
    assert torch.equal(labels, IMAGES.labels)


def test_same_seed_gives_the_same_images_at_any_batch_size_and_another_seed_others() -> None:
    def images(size: int, seed: int) -> tuple[Tensor, Tensor]:
        return _all(ImageBatches(IMAGES, NORMALISE, size, Augmentation(2, flip=True), seed))

    inputs, labels = images(4, seed=3)
    for again in (images(4, seed=3), images(3, seed=3)):
        assert torch.equal(again[0], inputs)
        assert torch.equal(again[1], labels)
    assert not torch.equal(images(4, seed=4)[1], labels)


def test_shuffling_loses_no_image_and_keeps_each_with_its_label() -> None:
    inputs, labels = _all(ImageBatches(IMAGES, NORMALISE, 4, Augmentation(padding=0), seed=1))
    assert labels.tolist() != list(range(10))
    assert sorted(labels.tolist()) == list(range(10))
    assert torch.equal(inputs, NORMALISE(IMAGES.pixels[labels]))


def test_a_draw_holds_each_class_and_is_a_part_of_a_larger_one() -> None:
    by_class = Images(IMAGES.pixels, torch.arange(10) // 5)
    for augmentation in (None, Augmentation(padding=1)):
        batches = ImageBatches(by_class, NORMALISE, 4, augmentation, seed=3)
        few, many = batches.draw(4), batches.draw(8)
        assert (len(few), len(many)) == (1, 2)
        assert _all(few)[1].bincount().tolist() == [2, 2]
        for one, other in zip(_all(few), _all(many), strict=True):
            assert torch.equal(one, other[:4])
    assert len(_all(ImageBatches(by_class, NORMALISE, 4).draw(99))[1]) == 10


def test_each_place_and_mirroring_is_drawn_about_equally_often() -> None:
    ramp = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5)
    many = Images(ramp.expand(6000, 1, 5, 5), torch.zeros(6000, dtype=torch.int64))
    for flip, kinds in ((False, 9), (True, 18)):
        batches = ImageBatches(many, lambda pixels: pixels, 6000, Augmentation(1, flip), seed=0)
        counts = torch.unique(_all(batches)[0].flatten(1), dim=0, return_counts=True)[1]
        assert len(counts) == kinds
        assert abs(counts * kinds / 6000 - 1).max() < 0.2


def test_batches_leave_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    _all(ImageBatches(IMAGES, NORMALISE, 4, Augmentation(2, flip=True), seed=1))
    assert torch.equal(torch.get_rng_state(), before)

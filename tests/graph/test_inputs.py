from __future__ import annotations

from collections import OrderedDict, UserDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from autoprune.errors import TaskError
from autoprune.graph.inputs import ModelInputs, call_network, network_inputs


class Images(NamedTuple):
    pixels: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class Text:
    ids: Tensor
    length: int


class Recording(nn.Module):
    """Returns the arguments that it is called with."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


PIXELS, IDS = torch.rand(4, 3, 8, 8), torch.arange(20).view(4, 5)


@pytest.mark.parametrize(
    ("value", "args", "kwargs"),
    [
        (PIXELS, (PIXELS,), {}),
        ((PIXELS, IDS), (PIXELS, IDS), {}),
        ({"ids": IDS}, (), {"ids": IDS}),
        (UserDict(ids=IDS), (), {"ids": IDS}),
        (OrderedDict(ids=IDS), (), {"ids": IDS}),
        ([PIXELS[0], PIXELS[1]], ([PIXELS[0], PIXELS[1]],), {}),
        (Images(PIXELS, IDS), (Images(PIXELS, IDS),), {}),
        (Text(IDS, 5), (Text(IDS, 5),), {}),
        ({0: PIXELS}, ({0: PIXELS},), {}),
        (ModelInputs((IDS,), {"mask": None}), (IDS,), {"mask": None}),
    ],
)
def test_a_value_is_called_by_position_by_name_or_as_one_argument(value: Any, args: Any, kwargs: Any) -> None:
    for found in (ModelInputs.of(value).call(Recording()), call_network(Recording(), value)):
        assert repr(found) == repr((args, kwargs))


@pytest.mark.parametrize(
    ("value", "samples"),
    [
        (PIXELS, 4),
        ((PIXELS, IDS), 4),
        ((PIXELS, torch.tensor(2.0), None, 7), 4),  # a scalar holds no samples
        ((PIXELS, torch.rand(1, 8)), 4),  # an axis of one broadcasts
        ((torch.rand(1, 3, 8, 8), torch.rand(1, 5)), 1),
        ((PIXELS, IDS, torch.arange(5)), 4),  # most of them
        ([torch.rand(3, 8, 8), torch.rand(3, 9, 9)], 2),  # images of a detector
        (([torch.rand(3, 8, 8)], [{"boxes": torch.rand(7, 4)}]), 1),
        ((PIXELS, [torch.rand(4, 8), torch.rand(4, 6)]), 4),  # feature maps: the list's length disagrees
        ({"ids": IDS, "past": ((PIXELS, PIXELS), (PIXELS, PIXELS))}, 4),
        (Images(PIXELS, torch.rand(4, 2)), 4),
        ((Text(IDS, 5),), 4),
        ((pack_sequence([torch.rand(5, 2), torch.rand(3, 2)]),), 2),
        ((), 1),
        ((3, "word"), 1),
    ],
)
def test_samples_are_counted_by_what_the_tensors_share(value: Any, samples: int) -> None:
    assert len(ModelInputs.of(value)) == samples


@pytest.mark.parametrize(
    "value", [(PIXELS, torch.arange(5)), (torch.rand(10, 2, 6), torch.rand(12, 2, 6)), (object(),)]
)
def test_a_number_of_samples_that_cannot_be_told_is_refused(value: Any) -> None:
    with pytest.raises(TaskError, match=r"cannot be told.*samples=…"):
        ModelInputs.of(value)


def test_samples_and_their_axis_can_be_said() -> None:
    assert ModelInputs.of((PIXELS, torch.arange(5)), samples=4).take(2).args[1].tolist() == [0, 1, 2, 3, 4]
    time_first = (torch.rand(10, 2, 6), torch.rand(12, 2, 6))
    for found in (ModelInputs.of(time_first, samples=2), ModelInputs.of(time_first, axis=1)):
        assert (found.samples, found.axis) == (2, 1)
        assert [tensor.shape for tensor in found.take(3).args] == [(10, 3, 6), (12, 3, 6)]
    with pytest.raises(TaskError, match="none is 7"):
        ModelInputs.of(time_first, samples=7)
    assert ModelInputs.of(PIXELS, {"scale": 2}).call(Recording()) == ((PIXELS,), {"scale": 2})


def test_samples_are_taken_and_repeated_wherever_they_are() -> None:
    mask = torch.ones(5, 5)
    value = {"ids": IDS, "text": Text(IDS, 5), "pictures": list(PIXELS), "mask": mask, "past": ((IDS,),), "scale": 0.5}
    inputs = ModelInputs.of(value, samples=4)
    for count, rows in ((2, [0, 1]), (4, [0, 1, 2, 3]), (6, [0, 1, 2, 3, 0, 1])):
        taken = inputs.take(count)
        assert len(taken) == count
        assert torch.equal(taken.kwargs["ids"], IDS[rows])
        assert torch.equal(taken.kwargs["text"].ids, IDS[rows])
        assert torch.equal(torch.stack(taken.kwargs["pictures"]), PIXELS[rows])
        assert torch.equal(taken.kwargs["past"][0][0], IDS[rows])
        assert taken.kwargs["mask"] is mask
        assert taken.kwargs["scale"] == 0.5
    assert value["text"] == Text(IDS, 5), "what was given is not changed"


def test_packed_sequences_are_taken_by_sample() -> None:
    sequences = [torch.rand(5, 2), torch.rand(3, 2), torch.rand(2, 2)]
    taken = ModelInputs.of(pack_sequence(sequences)).take(2)
    padded, lengths = pad_packed_sequence(taken.args[0], batch_first=True)
    assert lengths.tolist() == [5, 3]
    assert torch.equal(padded[1, :3], sequences[1])


def test_floating_tensors_alone_change_their_type() -> None:
    moved = ModelInputs.of((PIXELS, IDS, None)).to(torch.float64)
    assert [tensor.dtype for tensor in moved.tensors()] == [torch.float64, torch.int64]
    assert moved.to("cpu").device.type == "cpu"


def test_fresh_inputs_lie_in_the_observed_range() -> None:
    mask, causal = torch.tensor([[1, 1, 0], [1, 0, 0]]), torch.full((2, 2), -torch.inf).triu(1)
    value = {"x": torch.rand(2, 50) + 3, "ids": torch.randint(2, 9, (2, 50)), "mask": mask, "causal": causal}
    value |= {"padding": mask.bool(), "pictures": [torch.rand(3, 4, 4), torch.rand(3, 5, 5)]}
    value["zeros"] = torch.zeros(2, 9)
    inputs = ModelInputs.of(value)
    drawn = inputs.random_like(3, generator())
    found = drawn.kwargs
    assert len(drawn) == 3
    assert found["x"].shape == (3, 50)
    assert 3 <= found["x"].min() < found["x"].max() <= 4
    assert found["ids"].dtype is torch.int64
    assert 2 <= found["ids"].min() < found["ids"].max() <= 8
    assert found["mask"].tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 0]], "a drawn mask may leave nothing"
    assert torch.equal(found["padding"], found["mask"].bool())
    assert torch.equal(found["causal"][:2], causal)
    assert [image.shape for image in found["pictures"]] == [(3, 4, 4), (3, 5, 5), (3, 4, 4)]
    assert not torch.equal(found["pictures"][0], value["pictures"][0])
    assert found["zeros"].std() > 0.5
    again = inputs.random_like(3, generator()).kwargs
    assert all(torch.equal(again[name], found[name]) for name in ("x", "ids", "zeros"))
    highest = inputs.random_like(3, generator(), (0.9, 1.0)).kwargs
    assert 3.8 < highest["x"].min() < highest["x"].max() <= 4
    assert highest["ids"].unique().tolist() == [8]


def test_inputs_are_described_in_messages() -> None:
    assert str(ModelInputs.of(PIXELS)) == "a batch of shape [4, 3, 8, 8]"
    assert str(ModelInputs.of((PIXELS, 3), {"mask": [IDS]})) == "(float32 [4, 3, 8, 8], 3, mask=[int64 [4, 5]])"


def test_targets_tell_samples_from_steps_of_time() -> None:
    targets = torch.zeros(8)
    assert network_inputs(plain := torch.rand(8, 10), targets) is plain
    time_first = network_inputs(torch.rand(10, 8, 6), targets)
    assert isinstance(time_first, ModelInputs)
    assert (len(time_first), time_first.axis) == (8, 1)
    for value in ((torch.rand(10, 8, 6), torch.rand(12, 8, 6)), {"x": torch.rand(8, 3), "order": torch.arange(5)}):
        assert len(network_inputs(value, targets)) == 8
    assert len(network_inputs({"x": torch.rand(8, 3)}, {"class": targets, "box": torch.rand(8, 4)})) == 8
    assert len(network_inputs(torch.rand(8, 3), [targets, targets])) == 8
    assert len(network_inputs([torch.rand(3, 9), torch.rand(3, 7)], [{"boxes": torch.rand(5, 4)}, {}])) == 2


@pytest.mark.parametrize("inputs", [torch.rand(10, 5), {"x": torch.rand(10, 5)}], ids=["tensor", "mapping"])
def test_another_number_of_targets_is_refused_unless_the_task_says_how_many_samples_there_are(inputs: Any) -> None:
    flat = torch.zeros(50)  # a target for each word: of 10 sentences or of 5
    with pytest.raises(TaskError, match=r"hold 10 samples, .*\[10, 5\].*, but the targets 50; .*axis=…"):
        network_inputs(inputs, flat)
    assert len(network_inputs(ModelInputs.of(inputs, axis=1), flat)) == 5


def test_samples_are_chosen_and_joined_whatever_holds_them() -> None:
    inputs = ModelInputs.of({"x": torch.arange(12).view(2, 6), "boxes": [IDS, IDS, IDS]}, samples=6, axis=1)
    assert inputs.select([4, 0]).kwargs["x"].tolist() == [[4, 0], [10, 6]]
    named = ModelInputs.of((PIXELS, torch.ones(1), Images(PIXELS, IDS)))
    again = named.select([0]).join([named.select([1, 2, 3])])
    assert len(again) == 4
    assert torch.equal(again.args[0], PIXELS)
    assert torch.equal(again.args[2].sizes, IDS)
    assert again.args[1].shape == (1,)
    sequences = [torch.rand(n, 3) for n in (5, 2, 4)]
    packed = ModelInputs.of(pack_sequence(sequences, enforce_sorted=False))
    joined = packed.select([1]).join([packed.select([2, 0])]).args[0]
    assert pad_packed_sequence(joined, batch_first=True)[1].tolist() == [2, 4, 5]
    with pytest.raises(ValueError, match="shapes differ"):
        ModelInputs.of(torch.rand(2, 3)).join([ModelInputs.of(torch.rand(2, 4))])
    with pytest.raises(ValueError, match="what holds no samples differs"):
        named.join([ModelInputs.of((PIXELS, torch.zeros(1), Images(PIXELS, IDS)))])

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from autoprune.errors import DataError
from autoprune.tasks.datasets.cifar10 import find_cifar10, read_binary, read_python

RECORDS = 6


def _records(seed: int, count: int = RECORDS) -> NDArray[np.uint8]:
    records = np.random.default_rng(seed).integers(0, 256, (count, 3073), dtype=np.uint8)
    records[:, 0] %= 10
    return records


def _write_binary(folder: Path, batches: tuple[int, ...] = (1, 2)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in [("test_batch", 0), *((f"data_batch_{number}", number) for number in batches)]:
        _records(seed).tofile(folder / f"{name}.bin")
    return folder


def _python_content(seed: int, count: int = RECORDS) -> dict[Any, Any]:
    records = _records(seed, count)
    return {
        b"batch_label": b"testing batch 1 of 1",
        b"labels": records[:, 0].tolist(),
        b"data": np.ascontiguousarray(records[:, 1:]),
        b"filenames": [b"a.png"] * count,
    }


def _write_python(folder: Path, batches: tuple[int, ...] = (1, 2)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in [("test_batch", 0), *((f"data_batch_{number}", number) for number in batches)]:
        (folder / name).write_bytes(pickle.dumps(_python_content(seed), protocol=2))
    return folder


def _as_python_2(content: NDArray[np.uint8], labels: list[int]) -> bytes:
    """A pickle as Python 2 and numpy 1 wrote the original files, opcode by opcode."""
    data = content.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
        b"(K\x01" + b"M" + len(content).to_bytes(2, "little") + b"M\x00\x0c\x86"
        b"cnumpy\ndtype\nq\x04U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + len(data).to_bytes(4, "little") + data + b"tb"
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + numbers + b"u."


@pytest.mark.parametrize("write", [_write_binary, _write_python])
def test_both_layouts_give_the_records_as_written(write: Any, tmp_path: Path) -> None:
    found = find_cifar10(write(tmp_path), RECORDS)
    test, training = found.test_images, found.training_images
    assert test.pixels.shape == (RECORDS, 3, 32, 32)
    np.testing.assert_array_equal(test.pixels.numpy().reshape(RECORDS, -1), _records(0)[:, 1:])
    expected = np.concatenate([_records(1), _records(2)])
    np.testing.assert_array_equal(training.pixels.numpy().reshape(2 * RECORDS, -1), expected[:, 1:])
    np.testing.assert_array_equal(training.labels.numpy(), expected[:, 0])


def test_pickle_as_python_2_wrote_it_is_read(tmp_path: Path) -> None:
    records = _records(3)
    (tmp_path / "batch").write_bytes(_as_python_2(records[:, 1:], records[:, 0].tolist()))
    images = read_python(tmp_path / "batch")
    np.testing.assert_array_equal(images.pixels.numpy().reshape(RECORDS, -1), records[:, 1:])
    assert images.labels.tolist() == records[:, 0].tolist()


def test_first_byte_is_the_label_and_planes_are_red_green_blue(tmp_path: Path) -> None:
    record = np.concatenate([[7], np.full(1024, 1), np.full(1024, 2), np.arange(1024) % 256]).astype(np.uint8)
    record.tofile(tmp_path / "one.bin")
    images = read_binary(tmp_path / "one.bin")
    assert images.labels.tolist() == [7]
    assert images.pixels[0, :2, 0, 0].tolist() == [1, 2]
    assert images.pixels[0, 2, 1, :3].tolist() == [32, 33, 34]


@pytest.mark.parametrize(("write", "inside"), [(_write_binary, "bin"), (_write_python, "py")])
def test_folder_around_the_canonical_one_is_descended_into(write: Any, inside: str, tmp_path: Path) -> None:
    write(tmp_path / f"cifar-10-batches-{inside}")
    assert find_cifar10(tmp_path, RECORDS).test.parent.name == f"cifar-10-batches-{inside}"


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    content = {**_python_content(0), b"extra": Evil(tmp_path / "made")}
    (tmp_path / "batch").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(DataError, match=r"posix\.mkdir.*refused"):
        read_python(tmp_path / "batch")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "data",
    [np.zeros((RECORDS, 3072)), np.array([[None] * 3072] * RECORDS), np.zeros((RECORDS, 9), np.uint8), "text", None],
)
def test_data_that_is_no_table_of_bytes_is_refused(data: Any, tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(pickle.dumps({**_python_content(0), b"data": data}, protocol=2))
    with pytest.raises(DataError, match="batch"):
        read_python(tmp_path / "batch")


@pytest.mark.parametrize("labels", [None, "0123456789", [0] * (RECORDS - 1), [0.5] * RECORDS, [0, 1, 2, 3, 4, 10]])
def test_labels_that_are_not_one_digit_a_record_are_refused(labels: Any, tmp_path: Path) -> None:
    (tmp_path / "batch").write_bytes(pickle.dumps({**_python_content(0), b"labels": labels}, protocol=2))
    with pytest.raises(DataError, match="label"):
        read_python(tmp_path / "batch")


def test_truncated_and_foreign_pickles_are_refused(tmp_path: Path) -> None:
    whole = pickle.dumps(_python_content(0), protocol=2)
    for content in (whole[:-100], whole[:200], b"", b"hello", pickle.dumps([1])):
        (tmp_path / "batch").write_bytes(content)
        with pytest.raises(DataError, match="batch"):
            read_python(tmp_path / "batch")


def test_label_above_nine_names_the_record(tmp_path: Path) -> None:
    records = _records(0)
    records[4, 0] = 10
    records.tofile(tmp_path / "test.bin")
    with pytest.raises(DataError, match="label of record 4 should be 0 to 9 but is 10"):
        read_binary(tmp_path / "test.bin")


def test_binary_file_that_is_no_whole_number_of_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test.bin").write_bytes(_records(0).tobytes()[:-1])
    with pytest.raises(DataError, match=r"multiple of 3,073 bytes, found 18,437"):
        read_binary(tmp_path / "test.bin")


def test_binary_file_of_another_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    folder = _write_binary(tmp_path)
    _records(2, RECORDS - 1).tofile(folder / "data_batch_2.bin")
    with pytest.raises(DataError, match=r"data_batch_2\.bin .*expected 18,438 bytes .* found 15,365"):
        find_cifar10(folder, RECORDS)


def test_python_file_with_fewer_records_is_refused_when_it_is_read(tmp_path: Path) -> None:
    folder = _write_python(tmp_path)
    (folder / "test_batch").write_bytes(pickle.dumps(_python_content(0, 4), protocol=2))
    with pytest.raises(DataError, match="expected 6 records, found 4"):
        _ = find_cifar10(folder, RECORDS).test_images


def test_missing_folder_empty_folder_and_missing_batches_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        find_cifar10(tmp_path / "gone", RECORDS)
    with pytest.raises(DataError, match="holds no CIFAR-10"):
        find_cifar10(tmp_path, RECORDS)
    with pytest.raises(DataError, match="holds no training batch"):
        find_cifar10(_write_binary(tmp_path / "a", ()), RECORDS)
    (_write_binary(tmp_path / "b") / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"test_batch\.bin is missing"):
        find_cifar10(tmp_path / "b", RECORDS)

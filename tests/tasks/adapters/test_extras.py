from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autoprune.errors import UserError
from autoprune.tasks.adapters.extras import import_extra


def _module(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_library_that_is_not_installed_is_named_with_its_extra() -> None:
    with pytest.raises(
        UserError, match=r"^no_such_library is not installed; pip install 'autoprune\[lightning\]' inst"
    ):
        import_extra("no_such_library.parts", "lightning")


def test_a_library_that_lacks_something_says_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _module(tmp_path, "half_a_library", "import no_such_need", monkeypatch)
    with pytest.raises(UserError, match=r"cannot be imported \(No module named 'no_such_need'\); pip install 'auto"):
        import_extra("half_a_library", "lightning")


def test_a_torchvision_of_another_torch_is_said_to_be_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
try:
    raise RuntimeError("operator torchvision::nms does not exist")
except RuntimeError as fault:
    raise ImportError("lazily: something else") from fault
"""
    _module(tmp_path, "lazy_library", text, monkeypatch)
    with pytest.raises(
        UserError, match=r"operator torchvision::nms .* install the torchvision that is built for torch"
    ):
        import_extra("lazy_library", "transformers")


def test_what_is_there_is_imported() -> None:
    assert import_extra("torch.nn", "transformers").__name__ == "torch.nn"

"""What is said of libraries that are not installed; what they do is in `tests/zoo`."""

from __future__ import annotations

import sys

import pytest

from autoprune.errors import UserError
from autoprune.tasks.models.named import named_model


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_library_that_is_not_installed_is_named_with_its_extra(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        UserError, match=rf"^{library} is not installed; pip install 'autoprune\[{library}\]'"
    ) as raised:
        named_model(f"{library}:resnet18")
    assert "\n" not in str(raised.value)

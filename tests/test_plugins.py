from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoprune import torchvision_operators
from autoprune.errors import PluginError
from autoprune.plugins import call, load

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules into the current folder; forgets them afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write_module(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    yield write_module
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_attribute_is_found_in_the_current_folder_in_packages_and_inside_classes(write: Write) -> None:
    write("ap_flowers.py", "class Holder:\n    value = 3\n")
    write("ap_package/__init__.py", "")
    write("ap_package/inner.py", "from ap_flowers import Holder\nvalue = Holder.value + 1\n")
    assert load("ap_flowers:Holder.value") == 3
    assert load("ap_package.inner:value") == 4


@pytest.mark.parametrize("text", ["ap_flowers", ":x", "ap_flowers:", ""])
def test_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(PluginError, match=r"should read package\.module:attribute"):
        load(text)


@pytest.mark.parametrize("name", ["ap_gone", "ap_gone.inner", "ap_flowers.inner"])
def test_missing_module_is_named(name: str, write: Write) -> None:
    write("ap_flowers.py", "")
    missing = "ap_gone" if name.startswith("ap_gone") else name
    with pytest.raises(PluginError, match=f"there is no module '{missing}'"):
        load(f"{name}:x")


def test_module_that_the_users_module_lacks_is_not_called_the_users(write: Write) -> None:
    write("ap_flowers.py", "\nimport ap_not_installed\n")
    with pytest.raises(
        PluginError,
        match=r"'ap_flowers' failed while it was imported: ModuleNotFoundError.*'ap_not_installed'.*line 2\)",
    ):
        load("ap_flowers:x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = 1 / 0\n", r"ZeroDivisionError: division by zero \(.*ap_broken\.py, line 2\)"),
        ("def f():\n    raise OSError('no disk')\nf()\n", r"OSError: no disk \(.*ap_broken\.py, line 2\)"),
        ("\n\nx = (1\n", r"SyntaxError: .*ap_broken\.py, line 3\)"),
        ("raise SystemExit(3)\n", r"SystemExit: 3 \(.*ap_broken\.py, line 1\)"),
    ],
)
def test_error_while_importing_tells_type_message_file_and_line(text: str, said: str, write: Write) -> None:
    write("ap_broken.py", text)
    with pytest.raises(PluginError, match=said):
        load("ap_broken:x")


def test_missing_attribute_comes_with_the_nearest(write: Write) -> None:
    write("ap_flowers.py", "def tulip_task(): ...\n")
    with pytest.raises(PluginError, match="no attribute 'tulip_tsak'; did you mean 'tulip_task'"):
        load("ap_flowers:tulip_tsak")


def test_what_is_said_of_a_failing_call_is_one_line(write: Write) -> None:
    write("ap_flowers.py", "def build():\n    raise ValueError('no\\n\\ntulip')\n")
    with pytest.raises(PluginError, match=r"^'it' failed when it was called: ValueError: no tulip \(.*, line 2\)$"):
        call(load("ap_flowers:build"), "it")


def test_failing_call_tells_type_message_file_and_line(write: Write) -> None:
    write("ap_flowers.py", "def build():\n    return {}['tulip']\n")
    with pytest.raises(
        PluginError, match=r"'it' failed when it was called: KeyError: 'tulip' \(.*ap_flowers\.py, line 2\)"
    ):
        call(load("ap_flowers:build"), "it")


def test_a_module_that_imports_a_torchvision_of_another_build_is_imported_once_that_is_mended(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("seeing.py", "import torchvision\nfound = 3\n")
    write(
        "torchvision.py",
        "import torch\nif not hasattr(torch.ops.torchvision, 'of_test'):\n"
        "    raise RuntimeError('operator torchvision::of_test does not exist')\n",
    )
    monkeypatch.setattr(torchvision_operators, "_OPERATORS", ("of_test(Tensor a) -> Tensor",))
    for module in ("torchvision", "seeing"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    torchvision_operators.complete_torchvision.cache_clear()
    assert load("seeing:found") == 3
    torchvision_operators.complete_torchvision.cache_clear()


def test_another_fault_of_a_module_is_raised_as_it_is(write: Write) -> None:
    write("failing.py", "raise RuntimeError('no luck')")
    with pytest.raises(PluginError, match="RuntimeError: no luck"):
        load("failing:found")

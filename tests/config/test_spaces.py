import re
from dataclasses import fields
from pathlib import Path

import pytest

from autoprune.config import load_experiment, shipped_spaces
from autoprune.config.loading import _folder
from autoprune.core.space import SpaceRules


def test_the_shipped_spaces_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped_spaces() == ["filters", "hardware_8", "inner_only", "transformer"]


@pytest.mark.parametrize("name", ["inner_only", "inner_only.yaml", "search_spaces/inner_only.yaml"])
def test_a_shipped_space_goes_by_its_name_file_or_path(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    rules = load_experiment(overrides={"space": name}).space_rules()
    assert rules == SpaceRules(coupled=False, source="search_spaces/inner_only.yaml")


def test_a_file_of_the_users_wins_over_a_shipped_one_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("filters").write_text("min_keep: 0.7", encoding="utf-8")
    assert load_experiment(overrides={"space": "filters"}).space.min_keep == 0.7


@pytest.mark.parametrize("name", shipped_spaces())
def test_a_shipped_space_explains_every_key(name):
    text = (_folder() / f"{name}.yaml").read_text(encoding="utf-8")
    for key in {each.name for each in fields(SpaceRules)} - {"source"}:
        assert re.search(rf"(?m)^#.*(\n#.*)*(\n[a-z_]+: .*)?\n{key}: ", text), key


def test_the_example_rules_of_the_default_space_are_valid(tmp_path):
    text = (_folder() / "filters.yaml").read_text(encoding="utf-8")
    example = re.search(r"(?m)^# groups:\n(#   .*\n)+", text)
    copied = tmp_path / "copied.yaml"
    copied.write_text(re.sub(r"(?m)^# ", "", example[0]), encoding="utf-8")
    assert list(load_experiment(overrides={"space": str(copied)}).space.groups) == [
        "layer1.*",
        "layer3.*",
        "layer2.0.conv1",
    ]

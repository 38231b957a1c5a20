"""What a run's `best.yaml` says: the widths that were found, and how they are pruned from the dense network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autoprune import registry
from autoprune.config import Experiment, load_experiment
from autoprune.core.settings import criterion_pattern
from autoprune.errors import UserError

_NEEDED = ("widths", "task", "model", "pruner")
# Settings that may name the user's own code, with what kind of it.
_OWN_CODE = {"task.name": "task", "pruner": "pruner", "scoring.criterion": "criterion", "scoring.pattern": "pattern"}


@dataclass(frozen=True)
class BestFile:
    """The content of a `best.yaml`; one written by hand may hold no more than what pruning needs."""

    path: Path
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> BestFile:
        """Reads a file.

        Raises:
            UserError: it is another file, lacks what pruning needs, or its widths were pruned from other weights than
                the dense network's, which lie in the run's folder alone.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as fault:
            raise UserError(f"{path} cannot be read as YAML: {fault}") from fault
        missing = [key for key in _NEEDED if not isinstance(content, dict) or key not in content]
        if missing:
            raise UserError(f"{path} is no best.yaml of autoprune: it lacks {', '.join(missing)}")
        best = cls(path, content)
        best._refuse_trained()
        return best

    def experiment(self, given: Mapping[str, Any], sets: Sequence[str]) -> Experiment:
        """Returns the experiment of the file's task, model, pruner and recipe, with what is given otherwise.

        A file never names code to run: the user's own code is imported only if what is given names it.

        Args:
            given: dotted keys to values that win over the file.
            sets: texts `key=value`, which win over both.

        Raises:
            UserError: the file alone names the user's own code, or something in it is no setting.
        """
        recipe, scoring = self._mapping("recipe"), self._mapping("scoring")
        own = {
            "task.name": self.content["task"],
            "task.model": self.content["model"],
            "pruner": self.content["pruner"],
            "evaluation.recalibrate.samples": recipe.get("recalibrate"),
            "evaluation.recalibrate.augment": recipe.get("augment"),
            "evaluation.reconstruct": recipe.get("reconstruct"),
            "evaluation.finetune": recipe.get("finetune"),
            "search.seed": scoring.pop("seed", None),
            **{f"scoring.{key}": value for key, value in scoring.items()},
        }
        named = {*given, *(text.partition("=")[0].strip() for text in sets)}
        for key, kind in _OWN_CODE.items():
            value = own.get(key)
            if key not in named and isinstance(value, str) and _is_code(kind, value):
                option = "--task" if kind == "task" else f"--set {key}="
                raise UserError(f"{self.path} was made with {kind} {value!r}; name it with {option} to import it")
        if _is_code("model", str(own["task.model"])):  # a model of the user's own belongs to the task
            del own["task.model"]
        return load_experiment(None, {**own, **given}, sets)

    def criteria(self) -> dict[str, Any]:
        """Returns the criteria of single groups; all other settings are in scoring and recipe, which options change.

        Raises:
            UserError: one is unknown, or the user's own code.
        """
        chosen = {name: value for name, value in self._mapping("settings").items() if criterion_pattern(str(name))}
        for value in chosen.values():
            if registry.is_own("criterion", registry.check("criterion", str(value))):
                raise UserError(
                    f"{self.path} names criterion {value!r}, and no code is imported because a file names it; apply "
                    "the run's folder: autoprune apply RUN"
                )
        return chosen

    def _refuse_trained(self) -> None:
        parent = self.content.get("parent")
        if parent is None and not self._mapping("recipe").get("admm"):
            return
        why = "were trained before they were pruned" if parent is None else f"are those that trial {parent} left"
        raise UserError(
            f"{self.path} holds the widths, but not the weights that go with them, which {why}; "
            "apply the run's folder: autoprune apply RUN"
        )

    def _mapping(self, key: str) -> dict[str, Any]:
        found = self.content.get(key, {})
        if not isinstance(found, dict):
            raise UserError(f"{self.path}: {key} should be a mapping but is {found!r}")
        return dict(found)


def _is_code(kind: str, name: str) -> bool:
    return registry.is_own(kind, name) or (kind in ("task", "model") and ":" in name)

"""What `apply` is given: a run's folder, a `best.yaml`, or a run in MLflow, which leads to a folder."""

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
from autoprune.running.run_folder import EXPERIMENT, FINAL
from autoprune.running.tracking.mlflow_runs import TRAINING

# What torch.save has begun its files with.
_CHECKPOINTS = (b"PK", b"\x80\x02")
_NEEDED = ("widths", "task", "model", "pruner")
# Settings that may name the user's own code, with what kind of it.
_OWN_CODE = {"task.name": "task", "pruner": "pruner", "scoring.criterion": "criterion", "scoring.pattern": "pattern"}


@dataclass(frozen=True)
class TrialSource:
    """A trial of a run.

    Attributes:
        path: the run's folder.
        trial: the trial's number; None is the best.
    """

    path: Path
    trial: int | None = None


@dataclass(frozen=True)
class CheckpointFile:
    """A pruned file of autoprune's, of whatever it came from.

    Attributes:
        experiment: the settings of the training in whose folder it lies, where that is named; None for a file alone.
    """

    path: Path
    experiment: Path | None = None


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
        parent = content.get("parent")
        if parent is not None or best._mapping("recipe").get("admm"):
            why = "were trained before they were pruned" if parent is None else f"are those that trial {parent} left"
            raise UserError(
                f"{path} holds the widths, but not the weights that go with them, which {why}; "
                "apply the run's folder: autoprune apply RUN"
            )
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

    def _mapping(self, key: str) -> dict[str, Any]:
        found = self.content.get(key, {})
        if not isinstance(found, dict):
            raise UserError(f"{self.path}: {key} should be a mapping but is {found!r}")
        return dict(found)


def _is_code(kind: str, name: str) -> bool:
    named = kind in ("task", "model") and ":" in name and not registry.is_bundled(kind, name)
    return registry.is_own(kind, name) or named


def find_source(text: str, trial: int | None, tracking_uri: str | None) -> TrialSource | BestFile | CheckpointFile:
    """Returns what a text names; a file is read.

    Args:
        text: a path, or `mlflow:RUN_ID`.
        trial: the trial that is asked for; it wins over the one that a child run in MLflow stands for.
        tracking_uri: MLflow's store; None is MLflow's own choice.

    Raises:
        UserError: there is no such thing, a trial is asked of a file, or the file is not what pruning needs.
        AutopruneError: the store does not answer.
    """
    if text.startswith("mlflow:"):
        from autoprune.running.tracking.sync import find_run

        folder, number = find_run(text.removeprefix("mlflow:"), tracking_uri)
        return TrialSource(folder, number if trial is None else trial)
    path = Path(text)
    if path.is_dir() and not (path / EXPERIMENT).is_file():
        raise UserError(f"{path} is no run of autoprune: it has no {EXPERIMENT}; name a folder that a search wrote")
    if not path.exists():
        raise UserError(
            f"no such run or file: {path}; give a run's folder, a best.yaml, a pruned file or mlflow:RUN_ID"
        )
    is_training = path.is_dir() and (path / TRAINING).is_file()
    if path.is_dir() and not is_training:
        return TrialSource(path, trial)
    if trial is not None:
        raise UserError("--trial picks from a search's folder; a training and a file hold one network")
    if is_training and not (path / FINAL).is_file():
        raise UserError(f"{path} is a training that has not ended; go on with: autoprune train --resume {path}")
    if is_training:
        return CheckpointFile(path / FINAL, path / EXPERIMENT)
    with path.open("rb") as file:
        begins = file.read(2)
    return CheckpointFile(path) if begins in _CHECKPOINTS else BestFile.read(path)

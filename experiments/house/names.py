"""Checks that no name remains that was replaced by the field's own: `python -m experiments.house.names [FOLDER]`.

Looked at are classes, functions, parameters, attributes and fields, module-level names, modules, options of the command
line, keys of dictionaries (ledger, files, records) and of YAML files. Prose, local variables and what other libraries
call their own are not.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import yaml

THIS = "experiments/house/names.py"
"""This file, which names them all."""
ROOMS = ("autoprune", "tests", "experiments", "examples", "search_spaces")

REPLACED = {
    "Subject": "PrunableModel",
    "study": "analyze",
    "Witness": "ImportanceEstimator",
    "call_witness": "make_estimator",
    "Evidence": "LayerStatistics",
    "Ask": "StatisticsFn",
    "Course": "SearchLoop",
    "Wishes": "ApplyOptions",
    "made": "build",
    "how": "describe_origin",
    "finished": "finalize",
    "Promise": "RecordedResult (netadapt: expected_degradation)",
    "Account": "ComputeBudget",
    "Allowance": "RoundBudget",
    "Bench": "WorkerContext",
    "Parcel": "WorkerPayload",
    "Doing": "RunningJob",
    "Descent": "GroupSweep",
    "Descending": "SweepJob",
    "descend": "restore_parent",
    "Opened": "WarmStartedSearcher",
    "Sampled": "ModelBasedSearcher",
    "Remembering": "BaseSearcher",
    "OneByOne": "SequentialSearcher",
    "Given": "FixedListSearcher",
    "InRounds": "IterativeSearcher",
    "Room": "Slack",
    "Couplings": "CostCurvature",
    "silence": "zero_output",
    "is_silent": "outputs_zero",
    "Sums": "AdditionInfo",
    "places": "channel_locations",
    "Place": "ChannelLocation",
    "Match": "ChannelMap",
    "carrier": "per_channel",
    "through": "passthrough",
    "judge": "evaluate",
    "Judging": "EvaluationConfig",
    "Tally": "MetricAccumulator",
    "taught": "teacher_logits",
    "bars": "stop_thresholds",
    "race": "evaluate_with_early_stopping",
    "quiet": "suppress_export_output",
    "mirrored*": "in tracking/",
    "completing": "in tracking/",
    "earlier": "nothing: there are no earlier releases",
    "images": "samples",
    "*_images": "*_samples",
    "images_*": "samples_*",
}
"""Old name to new; a class's stands for parameters, attributes and modules in its lower-case spelling too."""

CLASSES_ONLY = {
    "Ask": "a searcher's method, as in Optuna",
    "Given": "hypothesis's decorator",
    "Match": "of regular expressions",
}
"""Names whose lower-case spelling is an ordinary word of this field, with the reason."""

NOT_AS_KEYS = {"finished": "the ledger's event at the end of a run"}
"""Names that stay as keys, with the reason."""

EXEMPT = {
    "autoprune/searchers/base/optuna_studies.py": ("study",),  # Optuna's own word
    "autoprune/searchers/optuna_samplers.py": ("study",),
    "examples/optuna_study.py": ("study",),
    "autoprune/tasks/datasets/cifar10.py": ("images", "*_images"),  # pictures, decoded
    "autoprune/tasks/datasets/digits.py": ("images", "*_images"),  # scikit-learn's pictures
    "autoprune/tasks/datasets/images.py": ("images", "mirrored*"),  # pictures, flipped and cropped
    "experiments/vision_transformer/task.py": ("images", "*_images"),  # as in cifar10.py
    "autoprune/tasks/adapters/images/files.py": ("*_images",),  # pictures in folders
    "autoprune/tasks/adapters/images/image_folder.py": ("images",),
    "examples/digits_images.py": ("*_images",),
    "tests/tasks/adapters/images/folders.py": ("*_images",),
    "tests/tasks/adapters/images/test_image_folder.py": ("*_images",),
    "tests/tasks/datasets/test_images.py": ("images",),
    "tests/zoo/test_adapters.py": ("images", "*_images"),
}
"""File to the old names that are other things there."""


@dataclass(frozen=True)
class Name:
    """A name that code gives to something, or writes as a key.

    Attributes:
        kind: class, function, parameter, attribute, name, module, option or key.
        counts: whether it is annotated as an integer.
    """

    kind: str
    text: str
    line: int
    counts: bool = False


def remaining(root: Path) -> list[str]:
    """Returns one line for each old name in use: file, line, kind, name and what replaced it."""
    found = []
    for path in sorted(path for room in ROOMS for path in (root / room).rglob("*") if path.is_file()):
        file = path.relative_to(root).as_posix()
        if file == THIS:
            continue
        for name in _names(path):
            old = _replaced(name)
            if old is not None and old not in EXEMPT.get(file, ()):
                new = "batch_size" if old == "batch" else REPLACED[old]
                found.append(f"{file}:{name.line}: {name.kind} {name.text!r} is now {new}")
    return found


def _names(path: Path) -> Iterator[Name]:
    if path.suffix == ".py":
        yield Name("module", path.stem.removeprefix("test_"), 1)
        tree = ast.parse(path.read_text(), str(path))
        yield from _module_level(tree)
        for node in ast.walk(tree):
            yield from _of_node(node)
    elif path.suffix in (".yaml", ".yml"):
        yield from (Name("key", key, 1, counts=True) for key in _keys(yaml.safe_load(path.read_text())))


def _module_level(tree: ast.Module) -> Iterator[Name]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name):
                yield Name("name", target.id, node.lineno)


def _of_node(node: ast.AST) -> Iterator[Name]:
    match node:
        case ast.ClassDef(name=name, body=body):
            yield Name("class", name, node.lineno)
            for line in body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    yield Name("attribute", line.target.id, line.lineno, _is_count(line.annotation))
                elif isinstance(line, ast.Assign):
                    yield from (Name("attribute", x.id, line.lineno) for x in line.targets if isinstance(x, ast.Name))
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield Name("function", name, node.lineno)
        case ast.arg(arg=name, annotation=annotation):
            yield Name("parameter", name, node.lineno, _is_count(annotation))
        case ast.Attribute(attr=name, ctx=ast.Store(), value=ast.Name(id="self" | "cls")):
            yield Name("attribute", name, node.lineno)
        case ast.Dict(keys=keys):
            yield from (Name("key", k.value, k.lineno) for k in keys if _is_text(k))
        case ast.Subscript(slice=ast.Constant(value=str(text))):
            yield Name("key", text, node.lineno)
        case ast.Call(func=ast.Attribute(attr="add_argument"), args=arguments):
            for argument in arguments:
                if _is_text(argument) and argument.value.startswith("--"):
                    text = argument.value.removeprefix("--").replace("-", "_")
                    yield Name("option", text, node.lineno, counts=True)
        case ast.Call(func=ast.Attribute(attr="get" | "pop"), args=[ast.Constant(value=str(text)), *_]):
            yield Name("key", text, node.lineno)


def _is_text(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_count(annotation: ast.expr | None) -> bool:
    return annotation is not None and "int" in ast.unparse(annotation).replace("|", " ").split()


def _keys(document: object) -> Iterator[str]:
    if isinstance(document, dict):
        for key, value in document.items():
            yield str(key)
            yield from _keys(value)
    elif isinstance(document, list):
        for value in document:
            yield from _keys(value)


def _replaced(name: Name) -> str | None:
    """Returns the entry of the table that a name falls under."""
    text = name.text.strip("_")
    if text == "batch" and name.counts:  # a tensor of samples is a batch, their number is not
        return "batch"
    return _entry(text, name.kind == "key")


@cache
def _entry(text: str, is_key: bool) -> str | None:
    for old in REPLACED:
        if is_key and old in NOT_AS_KEYS:
            continue
        spelled = {old} if old in CLASSES_ONLY else {old, _lower(old)}
        if any(fnmatchcase(text, spelling) for spelling in spelled):
            return old
    return None


def _lower(name: str) -> str:
    """Returns the name of a class as an attribute would spell it: OneByOne, one_by_one."""
    return "".join(f"_{x.lower()}" if x.isupper() else x for x in name).removeprefix("_")


def main() -> int:
    """Prints what remains; 1 if anything does."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2]
    found = remaining(root)
    print(*found, f"{len(found)} old names remain", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

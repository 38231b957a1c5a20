"""Counts what a reader meets: `python -m experiments.house.measure [FOLDER | REVISION] [FOLDER | REVISION]`.

With two, folders or git revisions of this repository, before and after stand side by side. Only the package is counted
(`autoprune/`), and the README's words. Code lines are those without docstrings, comments and blank lines.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = "autoprune"
ARRAYS = {"Tensor", "NDArray", "Floats", "Ints", "Bools", "Importance", "Masks"}
"""Types of tensors and arrays, with the package's names for them."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One file of the package.

    Attributes:
        name: dotted, as it is imported.
        package: whether it is a folder's `__init__.py`.
    """

    name: str
    package: bool
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The file's syntax tree."""
        return ast.parse(self.text)

    @cached_property
    def lines(self) -> int:
        """All lines, as `wc -l` counts them."""
        return self.text.count("\n")

    @cached_property
    def code_lines(self) -> int:
        """Lines on which code stands."""
        ignored = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        lines: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type not in (*ignored, tokenize.ENDMARKER):
                lines.update(range(token.start[0], token.end[0] + 1))
        for text in _free_standing_texts(self.tree):
            lines.difference_update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
        return len(lines)


def _free_standing_texts(tree: ast.Module) -> Iterator[ast.Expr]:
    """Yields docstrings, those of fields and constants too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node


def read_modules(root: Path) -> dict[str, Module]:
    """Returns the package's modules by dotted name."""
    modules = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        package = path.name == "__init__.py"
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if package else parts)
        modules[name] = Module(name, package, path.read_text())
    return modules


def imports(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """Returns the modules that each module imports, wherever in the file that stands, also for types only."""
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, module in modules.items():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                graph[name].update(alias.name for alias in node.names if alias.name in modules)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                targets = (f"{node.module}.{alias.name}" for alias in node.names)
                found = {target if target in modules else node.module for target in targets}
                graph[name].update(found & set(modules))
        graph[name].discard(name)
    return graph


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Returns the groups of modules that import each other over any number of steps (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for name in graph:
        if name not in index:
            visit(name)
    return found


def longest_inheritance(modules: Mapping[str, Module]) -> list[str]:
    """Returns the longest chain of the package's own classes, the base last; exceptions are left out."""
    bases: dict[str, set[str]] = defaultdict(set)
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name].update(ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases)

    def chain(name: str, seen: tuple[str, ...] = ()) -> list[str]:
        above = [chain(base, (*seen, name)) for base in sorted(bases[name]) if base in bases and base not in seen]
        return [name, *max(above, key=len, default=[])]

    longest = [chain(name) for name in sorted(bases) if not name.endswith(("Error", "Infeasible"))]
    return max((found for found in longest if "AutopruneError" not in found), key=len, default=[])


def public_functions(modules: Mapping[str, Module]) -> Iterator[Function]:
    """Yields functions and methods that no leading underscore hides; properties and nested functions are left out."""
    for module in modules.values():
        for node in module.tree.body:
            if isinstance(node, Function):
                yield from [node] * (not node.name.startswith("_"))
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                for method in node.body:
                    if isinstance(method, Function) and not (method.name.startswith("_") or _is_property(method)):
                        yield method


def _is_property(function: Function) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in function.decorator_list)


def _annotations(function: Function) -> list[str]:
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    found = [given.annotation for given in given] + [function.returns]
    return [ast.unparse(annotation) for annotation in found if annotation is not None]


def _parameters(function: Function) -> int:
    given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in given)


def _raises(function: Function) -> bool:
    """Returns whether the function itself raises something new (not the bare `raise` that passes on)."""
    nested = {id(x) for f in ast.walk(function) if isinstance(f, Function) and f is not function for x in ast.walk(f)}
    return any(isinstance(x, ast.Raise) and x.exc is not None and id(x) not in nested for x in ast.walk(function))


def _takes_tensors(function: Function) -> bool:
    words = set(re.findall(r"\w+", " ".join(_annotations(function))))
    return not words.isdisjoint(ARRAYS)


def _share(functions: list[Function], sign: str) -> str:
    stated = sum(sign in (ast.get_docstring(function) or "") for function in functions)
    return f"{100 * stated / len(functions):.0f} % of {len(functions)}" if functions else "none"


def figures(root: Path) -> dict[str, str]:
    """Returns each figure by what it counts."""
    modules = read_modules(root)
    graph = imports(modules)
    importers = Counter(target for targets in graph.values() for target in targets)
    files = [module for module in modules.values() if not module.package]
    sizes = [(node.end_lineno or 0) - node.lineno + 1 for m in files for node in ast.walk(m.tree) if _is_function(node)]
    folders = Counter(module.name.rpartition(".")[0] for module in files)
    widest, most = folders.most_common(1)[0]
    homes: dict[str, set[str]] = defaultdict(set)
    for module in modules.values():
        for name in _public_names(module):
            homes[name].add(module.name)
    functions = list(public_functions(modules))
    longest = longest_inheritance(modules)
    found = circles(graph)
    return {
        "files": f"{len(modules):,}",
        "files without the folders' `__init__`": f"{len(files):,}",
        "lines": f"{sum(module.lines for module in modules.values()):,}",
        "lines of code": f"{sum(module.code_lines for module in modules.values()):,}",
        "median lines of a file": f"{statistics.median(module.lines for module in files):g}",
        "longest file": f"{max(module.lines for module in files):,}",
        "median lines of a function": f"{statistics.median(sizes):g}",
        "modules with at most one importer": f"{sum(importers[module.name] <= 1 for module in files):,}",
        "public names with two homes": f"{sum(len(where) > 1 for where in homes.values()):,}",
        "circles of imports": str(len(found)),
        "modules in circles": str(sum(map(len, found))),
        "longest inheritance": f"{len(longest)} ({' < '.join(longest)})",
        "most modules in a folder": f"{most} ({widest})",
        "public functions of tensors that state shapes": _share([f for f in functions if _takes_tensors(f)], "`["),
        "public functions of three or more parameters with Args": _share(
            [f for f in functions if _parameters(f) >= 3], "Args:"
        ),
        "public functions that raise with Raises": _share([f for f in functions if _raises(f)], "Raises:"),
        "words of the README": f"{len((root / 'README.md').read_text().split()):,}",
    }


def _public_names(module: Module) -> Iterator[str]:
    """Yields what a module defines, or passes on in `__all__` (the package's own front left out)."""
    for node in module.tree.body:
        if isinstance(node, Function | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if names == ["__all__"] and module.name != PACKAGE:
                names = list(ast.literal_eval(node.value))
        else:
            names = []
        yield from (name for name in names if not name.startswith("_"))


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, Function)


def _checkout(text: str, into: Path) -> Path:
    """Returns the folder itself, or one into which a git revision was written."""
    if Path(text).is_dir():
        return Path(text)
    archive = subprocess.run(["git", "archive", text], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(into, filter="data")
    return into


def main() -> None:
    """Prints a table."""
    given = sys.argv[1:3] or [str(Path(__file__).resolve().parents[2])]
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        columns = [figures(_checkout(text, Path(into))) for text, into in zip(given, (first, second), strict=False)]
    names = ["now"] if len(columns) == 1 else ["before", "after"]
    rows = [["", *names], ["---", *["---:"] * len(columns)]]
    rows += [[name, *(column[name] for column in columns)] for name in columns[0]]
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()

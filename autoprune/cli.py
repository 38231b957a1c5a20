"""The command line: arguments in, exit code out; everything heavy is imported by the command that needs it."""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from autoprune import registry
from autoprune.commands.interruption import interrupts
from autoprune.errors import AutopruneError, UserError, did_you_mean, ended_by_user_code, printable
from autoprune.files import is_full


class _Parser(argparse.ArgumentParser):
    """Reports a fault as a `UserError`, with the nearest name where a name is unknown."""

    def error(self, message: str) -> NoReturn:
        found = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if found:
            message += did_you_mean(found[1], re.findall(r"[\w-]+", found[2]))
        raise UserError(f"{message} ({self.prog} --help)")

    def options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code: 0 done, 2 the user's input is at fault, 1 anything else."""
    _open_streams()
    try:
        arguments = _parse(sys.argv[1:] if argv is None else argv)
        _configure_log(arguments.verbose)
        _run(arguments)
        sys.stdout.flush()
    except AutopruneError as fault:
        return _fail(str(fault), fault.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # who read our output has left; nothing is wrong
        return 1
    except OSError as fault:
        return _fail(f"the disk is full ({fault}); make room and try again" if is_full(fault) else str(fault), 1)
    except KeyboardInterrupt:
        return _fail("interrupted; a search continues with: autoprune search --resume RUN_FOLDER", 1)
    return 0


def _open_streams() -> None:
    """Gives output that is closed somewhere to go, and writes signs that it cannot encode as their escapes."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open as long as the process
        elif isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(arguments: argparse.Namespace) -> None:
    """Runs the command that was parsed.

    Raises:
        AutopruneError: besides the command's own errors, code of the user's ends the process or raises what is no
            `Exception`.
    """
    with interrupts(lambda: "interrupted"):
        try:
            importlib.import_module(f"autoprune.commands.{arguments.command}").run(arguments)
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as fault:
            raise AutopruneError(ended_by_user_code(fault)) from fault


def _fail(message: str, code: int) -> int:
    from autoprune.config.credentials import redact

    print(f"autoprune: {printable(redact(message))}", file=sys.stderr)
    return code


class _Formatter(logging.Formatter):
    """Names and reasons from outside are text on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _configure_log(verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("autoprune: %(message)s"))
    log = logging.getLogger("autoprune")
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO if verbose else logging.WARNING)
    log.propagate = False


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = build_parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        known: list[str] = arguments.parser.options()
        hint = did_you_mean(unknown[0].partition("=")[0], known) if unknown[0].startswith("-") else ""
        raise UserError(f"unknown option or argument {unknown[0]!r}{hint} ({arguments.parser.prog} --help)")
    arguments.typed = list(argv)
    return arguments


class _Setting(argparse.Action):
    """Puts an option's value into `settings`, by its key in an experiment file."""

    def __call__(self, parser: object, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        namespace.settings = {**namespace.settings, self.dest: values}


def _whole(text: str) -> int | str:
    """Returns a whole number; any other text is reported with all other faults."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text


def _amount(text: str) -> float | str:
    """Returns a number; any other text is reported with all other faults."""
    try:
        return float(text)
    except ValueError:
        return text


_TYPES = {"N": _whole, "X": _amount, "S": _amount}

_SETTINGS = {
    "--task": ("task.name", "NAME", "a built-in task, or package.module:attribute (default: digits)"),
    "--model": (
        "task.model",
        "NAME",
        "a bundled network, timm:NAME, torchvision:NAME, hf:FOLDER, or package.module:callable",
    ),
    "--checkpoint": ("task.checkpoint", "FILE", "the network's weights, or a file of autoprune's to go on from"),
    "--masks": ("task.masks", "MODE", "hold (default) or drop what such a file holds at zero"),
    "--relative-to": ("search.relative_to", "NETWORK", "what fractions are of: given (default) or first (see docs)"),
    "--data": ("task.data", "PATH", "where a built-in task finds its data"),
    "--device": ("run.device", "NAME", "auto, cpu or cuda (default: auto)"),
    "--budget": ("budget", "LIMITS", "flops=0.5 or flops=20M,params=0.6 (also: size)"),
    "--searcher": ("search.searcher", "NAME", "default: auto; `autoprune list searchers`, or package.module:Class"),
    "--pruner": ("pruner", "NAME", "default: l1_filter; `autoprune list pruners`, or package.module:attribute"),
    "--pattern": ("scoring.pattern", "NAME", "default: the pruner's; `autoprune list patterns`"),
    "--space": ("space", "FILE", "a search space (default: filters)"),
    "--trials": (
        "search.trials",
        "N",
        "candidates to evaluate, the sweep not counted (default: 100, or as many as --evaluations pays for)",
    ),
    "--evaluations": (
        "search.evaluations",
        "N",
        "cap on the cost of all, the sweep too, in evaluations of the dense network",
    ),
    "--seed": ("search.seed", "N", "default: 0"),
    "--tracking-uri": ("track.uri", "URI", "MLflow's store (default: as MLflow does)"),
    "--workers": ("run.workers", "N", "trials at once, by Ray Tune (default: 0, in this process)"),
    "--cpus-per-trial": ("run.cpus_per_trial", "X", "CPUs of a worker, and its threads (default: 1)"),
    "--gpus-per-trial": ("run.gpus_per_trial", "X", "GPUs of a worker; 0.25 shares one (default: 0)"),
    "--retries": ("run.retries", "N", "further tries where a worker dies or hangs (default: 2)"),
    "--trial-timeout": ("run.trial_timeout", "S", "seconds after which a trial counts as hung"),
    "--ray-address": ("run.ray_address", "A", "a running cluster (default: RAY_ADDRESS, else none)"),
}
"""Options that say what an experiment file can say: their keys there, what they take, and the line of help."""


def _add_settings(group: argparse._ActionsContainer, *options: str) -> None:
    for option in options:
        key, value, text = _SETTINGS[option]
        group.add_argument(option, action=_Setting, dest=key, metavar=value, type=_TYPES.get(value, str), help=text)


def _add_task(command: _Parser) -> None:
    group = command.add_argument_group("network and data")
    _add_settings(group, "--task", "--model", "--checkpoint", "--masks", "--data", "--device")
    group.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="any key of an experiment file")


def _add_search(command: _Parser) -> None:
    command.add_argument("experiment", nargs="?", type=Path, metavar="EXPERIMENT.yaml")
    _add_settings(command, "--budget", "--relative-to")
    _add_task(command)
    group = command.add_argument_group("search")
    _add_settings(group, "--searcher", "--pruner", "--pattern", "--space", "--trials", "--evaluations", "--seed")
    group.add_argument("--output", metavar="DIR", help="the run's folder (default: a new one under runs/)")
    group.add_argument("--resume", metavar="DIR", type=Path, help="continue a run; all settings come from its folder")
    _add_settings(group, "--tracking-uri")
    group = command.add_argument_group("where trials are evaluated (see docs/cluster.md)")
    _add_settings(group, "--workers", "--cpus-per-trial", "--gpus-per-trial")
    _add_settings(group, "--retries", "--trial-timeout", "--ray-address")


def _add_sensitivity(command: _Parser) -> None:
    _add_task(command)
    _add_settings(command, "--pruner", "--pattern", "--space")
    command.add_argument("--output", metavar="DIR", help="where sensitivity.csv, .json and .png go (default: here)")


def _add_inspect(command: _Parser) -> None:
    _add_task(command)
    _add_settings(command, "--pattern", "--space")
    command.add_argument("--json", action="store_true")
    command.add_argument(
        "--plot", metavar="FILE", type=Path, help="also draw the network and its groups: .svg or .html"
    )


def _samples(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes a number of training samples, 512 say, not {text!r}")
    return int(text)


def _add_apply(command: _Parser) -> None:
    command.add_argument("source", metavar="RUN", help="a run's folder, a best.yaml, or mlflow:RUN_ID")
    command.add_argument("--output", metavar="FILE", type=Path, required=True)
    command.add_argument("--overwrite", action="store_true", help="replace the output if it is there already")
    command.add_argument("--trial", metavar="N", type=int, help="another trial than the best")
    forced = "prune a checkpoint other than the one searched on, to the same widths"
    command.add_argument("--force", action="store_true", help=forced)
    refitted = "refit every layer behind what is removed, by least squares on so many training samples, 512 say"
    command.add_argument("--reconstruct", metavar="SAMPLES", type=_samples, default=0, help=refitted)
    trained = "train afterwards: epochs=1,rate=0.02 (steps=500,distill=1,…)"
    command.add_argument("--finetune", metavar="PLAN", help=trained)
    command.add_argument("--export", choices=("onnx", "pt2"), help="also write a file that needs no autoprune")
    _add_settings(command, "--tracking-uri")
    _add_task(command)


def _add_train(command: _Parser) -> None:
    command.add_argument("--schedule", metavar="FILE", type=Path, help="what is pruned, by which pruner, and when")
    _add_task(command)
    command.add_argument("--scratch", action="store_true", help="start from initial weights, not from a checkpoint")
    _add_settings(command, "--seed")
    command.add_argument("--output", metavar="DIR", help="the training's folder (default: a new one under runs/)")
    command.add_argument("--resume", metavar="DIR", type=Path, help="continue; all settings come from its folder")
    _add_settings(command, "--tracking-uri")


def _add_evaluate(command: _Parser) -> None:
    command.add_argument("file", metavar="FILE", type=Path, help="dense or pruned")
    command.add_argument("--split", choices=("validation", "test", "all"), default="validation")
    command.add_argument("--json", action="store_true")
    command.add_argument(
        "--sparsity-table",
        nargs="?",
        choices=("text", "csv", "json"),
        const="text",
        metavar="FORMAT",
        help="instead, after FILE: zeros in each weight tensor, as text, csv or json; needs neither task nor data",
    )
    _add_task(command)


def _add_report(command: _Parser) -> None:
    command.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run's folder, finished or not")
    command.add_argument("--format", choices=("table", "json", "csv", "html"), default="table", help="default: table")
    written = "where html goes (default: report/ in the run's folder), or the others"
    command.add_argument("--output", metavar="DIR", type=Path, help=written)


def _add_track(command: _Parser) -> None:
    command.add_argument("folder", type=Path, metavar="RUN", help="a run's folder, finished or interrupted")
    command.add_argument("--tracking-uri", metavar="URI", help="MLflow's store (default: the run's own)")
    command.add_argument("--experiment", metavar="NAME", help="MLflow's experiment (default: the run's own)")


def _add_list(command: _Parser) -> None:
    command.add_argument("what", choices=tuple(registry.TABLES))
    command.add_argument("--json", action="store_true")


def _add_ui(command: _Parser) -> None:
    shown = "a run to show, from its store (default: all of MLflow's)"
    command.add_argument("folder", nargs="?", type=Path, metavar="RUN", help=shown)
    command.add_argument("--tracking-uri", metavar="URI")
    command.add_argument("--experiment", metavar="NAME", help="default: the run's own, or autoprune")
    command.add_argument("--host", default="127.0.0.1")
    command.add_argument("--port", type=int, default=5000)


_COMMANDS: dict[str, tuple[Callable[[_Parser], None], str]] = {
    "search": (_add_search, "search for the allocation that loses least under a budget"),
    "sensitivity": (_add_sensitivity, "loss and accuracy of each group against its kept width"),
    "inspect": (_add_inspect, "the groups of a network, what they cost, what is frozen and why"),
    "apply": (_add_apply, "write the smaller network that a search found"),
    "train": (_add_train, "train with a pruning schedule: gradual, lottery ticket, group lasso, …"),
    "evaluate": (_add_evaluate, "accuracy, loss, parameters, FLOPs and latency of a checkpoint"),
    "report": (_add_report, "what runs came to: a table, or a page to pass on; needs no data and no server"),
    "track": (_add_track, "bring MLflow's mirror of a run up to its ledger, here or in another store"),
    "list": (_add_list, "what there is by name"),
    "ui": (_add_ui, "MLflow's own user interface on the store of your runs"),
}


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands.

    What it parses has `command`, `parser` (that of the command) and `settings`: key of an experiment file to the value
    of the option that was given for it.
    """
    parser = _Parser(
        prog="autoprune",
        description="Finds how much to remove from each layer of a trained network, and removes it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"autoprune {version('autoprune')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for name, (add_arguments, text) in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(parser=command, settings={})
        command.add_argument("-v", "--verbose", action="store_true", help="also say what is not followed, and why")
        add_arguments(command)
    return parser

"""The command line: arguments in, exit code out; everything heavy is imported by the command that needs it."""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from autoprune import registry
from autoprune.commands.interruption import interrupts, is_full
from autoprune.errors import AutopruneError, UserError, did_you_mean, printable


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
    module, _, function = arguments.run.partition(":")
    with interrupts(lambda: "interrupted"):
        try:
            getattr(importlib.import_module(module), function)(arguments)
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as fault:
            raise AutopruneError(f"the network, task or data ended the run: {type(fault).__name__}: {fault}") from fault


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


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    parser = _Parser(
        prog="autoprune",
        description="Finds how much to remove from each layer of a trained network, and removes it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"autoprune {version('autoprune')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for add in _COMMANDS:
        add(commands)
    return parser


def _command(commands: argparse._SubParsersAction[_Parser], name: str, text: str) -> _Parser:
    command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    command.set_defaults(run=f"autoprune.commands.{name}:run", parser=command)
    command.add_argument("-v", "--verbose", action="store_true", help="also say what is not followed, and why")
    return command


def _add_task_options(command: _Parser) -> None:
    group = command.add_argument_group("network and data")
    group.add_argument("--task", metavar="NAME", help="a built-in task, or package.module:attribute (default: digits)")
    group.add_argument("--model", metavar="NAME", help="a bundled network, or package.module:callable")
    group.add_argument("--checkpoint", metavar="FILE", help="the dense network's weights")
    group.add_argument("--data", metavar="DIR", help="where a built-in task finds its data")
    group.add_argument("--device", metavar="NAME", help="auto, cpu or cuda (default: auto)")
    group.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="any key of an experiment file")


def _add_search(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = _command(commands, "search", "search for the allocation that loses least under a budget")
    command.add_argument("experiment", nargs="?", type=Path, metavar="EXPERIMENT.yaml")
    command.add_argument("--budget", metavar="LIMITS", help="flops=0.5 or flops=20M,params=0.6 (also: size)")
    _add_task_options(command)
    group = command.add_argument_group("search")
    group.add_argument(
        "--searcher", metavar="NAME", help="default: auto; `autoprune list searchers`, or package.module:Class"
    )
    group.add_argument(
        "--pruner", metavar="NAME", help="default: l1_filter; `autoprune list pruners`, or package.module:attribute"
    )
    group.add_argument("--pattern", metavar="NAME", help="default: the pruner's; `autoprune list patterns`")
    group.add_argument("--space", metavar="FILE", help="a search space (default: filters)")
    group.add_argument(
        "--trials",
        metavar="N",
        help="candidates to evaluate, the sweep not counted (default: 100, or as many as --evaluations pays for)",
    )
    group.add_argument(
        "--evaluations", metavar="N", help="cap on the cost of all, the sweep too, in evaluations of the dense network"
    )
    group.add_argument("--seed", metavar="N", help="default: 0")
    group.add_argument("--output", metavar="DIR", help="the run's folder (default: a new one under runs/)")
    group.add_argument("--resume", metavar="DIR", type=Path, help="continue a run; all settings come from its folder")
    group.add_argument("--tracking-uri", metavar="URI", help="MLflow's store (default: as MLflow does)")
    group = command.add_argument_group("where trials are evaluated (see docs/cluster.md)")
    group.add_argument("--workers", metavar="N", help="trials at once, by Ray Tune (default: 0, in this process)")
    group.add_argument("--cpus-per-trial", metavar="X", help="CPUs of a worker, and its threads (default: 1)")
    group.add_argument("--gpus-per-trial", metavar="X", help="GPUs of a worker; 0.25 shares one (default: 0)")
    group.add_argument("--retries", metavar="N", help="further tries where a worker dies or hangs (default: 2)")
    group.add_argument("--trial-timeout", metavar="S", help="seconds after which a trial counts as hung")
    group.add_argument("--ray-address", metavar="A", help="a running cluster (default: RAY_ADDRESS, else none)")


def _add_sensitivity(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = _command(commands, "sensitivity", "loss and accuracy of each group against its kept width")
    _add_task_options(command)
    command.add_argument("--pruner", metavar="NAME", help="default: l1_filter")
    command.add_argument("--pattern", metavar="NAME", help="default: the pruner's; `autoprune list patterns`")
    command.add_argument("--space", metavar="FILE", help="a search space (default: filters)")
    command.add_argument("--output", metavar="DIR", help="where sensitivity.csv, .json and .png go (default: here)")


def _add_inspect(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = _command(commands, "inspect", "the groups of a network, what they cost, what is frozen and why")
    _add_task_options(command)
    command.add_argument("--pattern", metavar="NAME", help="default: the pruner's; `autoprune list patterns`")
    command.add_argument("--space", metavar="FILE", help="a search space (default: filters)")
    command.add_argument("--json", action="store_true")


def _samples(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes a number of training samples, 512 say, not {text!r}")
    return int(text)


def _add_apply(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = _command(commands, "apply", "write the smaller network that a search found")
    command.add_argument("source", metavar="RUN", help="a run's folder, a best.yaml, or mlflow:RUN_ID")
    command.add_argument("--output", metavar="FILE", type=Path, required=True)
    command.add_argument("--overwrite", action="store_true", help="replace the output if it is there already")
    command.add_argument("--trial", metavar="N", type=int, help="another trial than the best")
    command.add_argument(
        "--force", action="store_true", help="prune a checkpoint other than the one searched on, to the same widths"
    )
    command.add_argument(
        "--reconstruct",
        metavar="SAMPLES",
        type=_samples,
        default=0,
        help="refit every layer behind what is removed, by least squares on so many training samples, 512 say",
    )
    command.add_argument(
        "--finetune", metavar="PLAN", help="train afterwards: epochs=1,rate=0.02 (steps=500,distill=1,…)"
    )
    command.add_argument("--export", choices=("onnx", "pt2"), help="also write a file that needs no autoprune")
    command.add_argument("--tracking-uri", metavar="URI", help="MLflow's store, for mlflow:RUN_ID")
    _add_task_options(command)


def _add_train(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = _command(commands, "train", "train with a pruning schedule: gradual, lottery ticket, group lasso, …")
    command.add_argument("--schedule", metavar="FILE", type=Path, help="what is pruned, by which pruner, and when")
    _add_task_options(command)
    command.add_argument("--scratch", action="store_true", help="start from initial weights, not from a checkpoint")
    command.add_argument("--seed", metavar="N", help="default: 0")
    command.add_argument("--output", metavar="DIR", help="the training's folder (default: a new one under runs/)")
    command.add_argument("--resume", metavar="DIR", type=Path, help="continue; all settings come from its folder")
    command.add_argument("--tracking-uri", metavar="URI", help="MLflow's store (default: as MLflow does)")


def _add_evaluate(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = _command(commands, "evaluate", "accuracy, loss, parameters, FLOPs and latency of a checkpoint")
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
    _add_task_options(command)


def _add_list(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = _command(commands, "list", "what there is by name")
    command.add_argument("what", choices=tuple(registry.TABLES))
    command.add_argument("--json", action="store_true")


def _add_report(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = _command(
        commands, "report", "what runs came to: a table, or a page to pass on; needs no data and no server"
    )
    command.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run's folder, finished or not")
    command.add_argument("--format", choices=("table", "json", "csv", "html"), default="table", help="default: table")
    command.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help="where html goes (default: report/ in the run's folder), or the others",
    )


def _add_track(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = _command(commands, "track", "bring MLflow's mirror of a run up to its ledger, here or in another store")
    command.add_argument("folder", type=Path, metavar="RUN", help="a run's folder, finished or interrupted")
    command.add_argument("--tracking-uri", metavar="URI", help="MLflow's store (default: the run's own)")
    command.add_argument("--experiment", metavar="NAME", help="MLflow's experiment (default: the run's own)")


def _add_ui(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = _command(commands, "ui", "MLflow's own user interface on the store of your runs")
    command.add_argument(
        "folder", nargs="?", type=Path, metavar="RUN", help="a run to show, from its store (default: all of MLflow's)"
    )
    command.add_argument("--tracking-uri", metavar="URI")
    command.add_argument("--experiment", metavar="NAME", help="default: the run's own, or autoprune")
    command.add_argument("--host", default="127.0.0.1")
    command.add_argument("--port", type=int, default=5000)


_COMMANDS = (
    _add_search,
    _add_sensitivity,
    _add_inspect,
    _add_apply,
    _add_train,
    _add_evaluate,
    _add_report,
    _add_track,
    _add_list,
    _add_ui,
)

"""The command line `mlml`. Each file of `pipelines/commands/` is a command; only the one that is called is imported."""

import argparse
import ast
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent / "commands"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit code 2 means that the declaration or the command line has faults, 1 that it failed."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    commands = summaries()
    parser = argparse.ArgumentParser(prog="mlml", description="Compare machine-learning methods under one protocol.")
    chosen = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parsers = {name: chosen.add_parser(name, help=text, description=text) for name, text in commands.items()}
    name = next((word for word in words if not word.startswith("-")), None)
    if name not in parsers:
        parser.parse_args(words)  # help, or the fault
        return
    _prefer_own_programs()
    command = importlib.import_module(f"pipelines.commands.{name}")
    command.add_arguments(parsers[name])
    command.run(parser.parse_args(words))


def _prefer_own_programs() -> None:
    """Let the `python` and `dvc` that stages are run by be those of this environment, also when it is not activated."""
    own = str(Path(sys.executable).parent)
    paths = os.environ.get("PATH", os.defpath).split(os.pathsep)
    if paths[0] != own:
        os.environ["PATH"] = os.pathsep.join([own, *paths])


def summaries() -> dict[str, str]:
    """Name -> first line of the docstring of every command, without importing any."""
    return {
        path.stem: (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
        for path in sorted(FOLDER.glob("[a-z]*.py"))
    }


if __name__ == "__main__":
    main()

"""Run what is not up to date, stages that do not depend on each other side by side."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlml.config import DeclarationError
from stages import _lineage, _servers
from stages.check import read_or_exit

if TYPE_CHECKING:
    from pipelines.coordinator import Options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare targets and options."""
    parser.add_argument("targets", nargs="*", help="stages, groups of stages, or experiments; default: everything")
    parser.add_argument("-j", "--jobs", type=int, help="stages at once; default: as many as the cores and GPUs take")
    parser.add_argument("-f", "--force", action="store_true", help="run stages that are up to date, too")
    parser.add_argument(
        "-k", "--keep-going", action="store_true", help="after a failure, go on with what does not depend on it"
    )
    parser.add_argument("-p", "--pool", help="run stages on the workers of this Prefect work pool ('mlml worker')")
    parser.add_argument(
        "-s",
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE[,VALUE...]",
        help="run isolated experiments with other numbers, one for each combination; the workspace stays as it is",
    )
    parser.add_argument("-n", "--name", help="of the isolated experiments; default: made of the values")


def run(options: argparse.Namespace) -> None:
    """Exit code 0 when all is up to date, 1 when a stage failed, 2 when a target or the declaration has a fault."""
    declared = read_or_exit()
    folder = _lineage.store_root()
    _servers.apply_settings(folder)
    from pipelines.coordinator import Options
    from pipelines.graph import TargetError
    from pipelines.lock_file import WorkspaceError
    from pipelines.overrides import OverrideError, parse

    try:
        asked = Options(tuple(options.targets), options.jobs, options.force, options.keep_going, options.pool)
        values = dict(parse(text) for text in options.set)
        if values and options.pool:
            raise ValueError("--set runs isolated experiments on this machine; leave --pool out")
        good = (
            _isolated(folder, declared.threads, asked, values, options.name)
            if values
            else (_workspace(folder, declared.threads, asked))
        )
    except DeclarationError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        raise SystemExit(2) from None
    except (TargetError, OverrideError, ValueError) as error:
        print(f"mlml repro: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except WorkspaceError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        print("interrupted; every stage has ended, and the next run goes on from the checkpoints", file=sys.stderr)
        raise SystemExit(130) from None
    if not good:
        raise SystemExit(1)


def _workspace(folder: Path, threads: int, asked: "Options") -> bool:
    """Bring the workspace up to date; return whether it is."""
    from pipelines.coordinator import reproduce
    from pipelines.live import summary

    result = reproduce(folder, threads, asked)
    print("\n".join(summary(result)), flush=True)
    return result.ok


def _isolated(folder: Path, threads: int, asked: "Options", values: dict[str, list[Any]], name: str | None) -> bool:
    """Run isolated experiments; return whether all went well."""
    from pipelines.coordinator import run_isolated

    done = run_isolated(folder, threads, asked, values, name)
    for one, code in done:
        print(f"{one.name}: {'done' if code == 0 else f'failed (exit code {code}); its log: {one.log}'}")
    print("'dvc exp show' compares them; 'dvc exp apply NAME' brings one into the workspace", flush=True)
    return all(code == 0 for _, code in done)

"""Run what is not up to date, stages that do not depend on each other side by side."""

import argparse
import sys

from stages import _lineage, _servers
from stages.check import read_or_exit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare targets and options."""
    parser.add_argument("targets", nargs="*", help="stages, groups of stages, or experiments; default: everything")
    parser.add_argument("-j", "--jobs", type=int, help="stages at once; default: as many as the cores and GPUs take")
    parser.add_argument("-f", "--force", action="store_true", help="run stages that are up to date, too")
    parser.add_argument(
        "-k", "--keep-going", action="store_true", help="after a failure, go on with what does not depend on it"
    )


def run(options: argparse.Namespace) -> None:
    """Exit code 0 when all is up to date, 1 when a stage failed, 2 when a target or the declaration has a fault."""
    declared = read_or_exit()
    folder = _lineage.store_root()
    _servers.apply_settings(folder)
    from pipelines.coordinator import Options, reproduce
    from pipelines.graph import TargetError
    from pipelines.live import summary
    from pipelines.lock_file import WorkspaceError

    try:
        asked = Options(tuple(options.targets), options.jobs, options.force, options.keep_going)
        result = reproduce(folder, declared.threads, asked)
    except (TargetError, ValueError) as error:
        print(f"mlml repro: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except WorkspaceError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        print("interrupted; every stage has ended, and 'mlml repro' goes on from the checkpoints", file=sys.stderr)
        raise SystemExit(130) from None
    print("\n".join(summary(result)), flush=True)
    if not result.ok:
        raise SystemExit(1)

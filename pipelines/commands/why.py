"""Tell where a value comes from, down to the raw data, and make it again."""

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.provenance.chain import Chain

EXAMPLES = """\
WHAT is one of
  reports/leaderboard.csv:simclr.linear            a cell: encoder.probe, dataset.encoder.probe, or the probe's stage
  reports/metrics/simclr_linear.json:test/accuracy a metric
  models/simclr, models/simclr/seed_0/model.json   an output of a stage, or a file in it
  4f1c09                                           the id of an MLflow run, or its beginning; a key of the report
  pretext@simclr                                   a stage
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what is asked, and in which form the answer comes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    parser.add_argument("what", metavar="WHAT", help="a file, a metric, a cell of the leaderboard, or a run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--code", action="store_true", help="list every code file with its md5")
    parser.add_argument("--diff", action="store_true", help="show uncommitted changes whole")
    parser.add_argument("--reproduce", action="store_true", help="print the commands that make it again from nothing")
    parser.add_argument("--run", action="store_true", help="with --reproduce: run them, and compare the values")
    parser.add_argument("--keep", action="store_true", help="with --run: keep the worktree")


def run(options: argparse.Namespace) -> None:
    """Print the chain or the commands; exit code 2 when it cannot be told, 1 when the value made again differs."""
    from pipelines.provenance.making import WhyError

    try:
        code = _answer(options)
    except WhyError as error:
        print(f"mlml why: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)


def _answer(options: argparse.Namespace) -> int:
    import json

    from pipelines.provenance import telling
    from pipelines.provenance.chain import Chain, Workspace
    from pipelines.provenance.making import WhyError, read_lock
    from pipelines.provenance.question import ask
    from pipelines.provenance.runs import Runs

    if options.run and not options.reproduce:
        raise WhyError("--run goes with --reproduce")
    root = _root()
    runs = Runs(root)
    lock = read_lock(root)
    question = ask(options.what, root, lock, runs)
    with closing(Workspace(root)) as workspace:
        chain = Chain(question, lock, runs, workspace)
    if options.reproduce:
        return _reproduce(chain, root, options)
    if options.json:
        print(json.dumps(telling.as_json(chain), indent=2))
    else:
        print("\n".join(telling.text(chain, options.code, options.diff)))
    return 0


def _reproduce(chain: "Chain", root: Path, options: argparse.Namespace) -> int:
    """Print the commands; with `--run`, run them and compare."""
    from pipelines.provenance import again
    from pipelines.provenance.telling import value

    remaking = again.plan(chain, root)
    for warning in remaking.warnings:
        print(f"! {warning}")
    if not options.run:
        print("\n".join(again.script(remaking, root)))
        return 0
    question = chain.question
    with again.made(remaking, root, options.keep) as project:
        remade = question.measure(project)
        differences = again.differences(chain, remade, project)
    print(f"{question.asked}: {question.about}")
    print(f"then: {value(question.value)}")
    print(f"now:  {value(remade)}")
    print("\n".join(differences or ["identical"]))
    if options.keep:
        tree = root / remaking.worktree
        print(f"kept: {tree} (to remove it: git worktree remove --force --force {tree})")
    return 1 if differences else 0


def _root() -> Path:
    """Folder of the project that the working directory lies in."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)

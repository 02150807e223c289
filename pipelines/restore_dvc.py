"""`dvc`, but for one thing: the run cache that it pulls is the result of one stage, which a worker has reported.

DVC would copy the whole run cache of the remote, for each stage, and take the newest entry that fits. Taken as reported
instead, a result is that of the run that the coordinator has waited for, whatever another has left on the remote since.
A stage whose result does not fit is not run here: that would hide that the two workspaces differ.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from stages import _lineage

VARIABLE = "MLML_REPORTED"
"""Environment variable with the path of a JSON file: {"stage": address, "entry": of the stage in dvc.lock}."""


def keep(cache: Any, entry: dict[str, Any]) -> None:
    """Put a result into the run cache, as the newest for its stage and inputs."""
    from dvc.stage.cache import _get_cache_hash
    from dvc.utils.serialize import dump_yaml

    key, value = _get_cache_hash(dict(entry), key=True), _get_cache_hash(dict(entry))
    path = Path(cache._get_cache_path(key, value))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{value}.{os.getpid()}")
    dump_yaml(str(partial), entry)
    partial.replace(path)
    for other in path.parent.iterdir():  # DVC takes the newest; equal times are possible
        if other != path:
            other.unlink()


def forget_other_result(stage: str, entry: dict[str, Any]) -> None:
    """Drop the stage's entry in dvc.lock if it has other outputs, for DVC would leave an unchanged stage as it is."""
    from dvc.repo import Repo

    with Repo() as repo:
        [found] = repo.stage.collect(stage)
        here = {dependency.def_path: dependency for dependency in found.deps}
        read = {one["path"]: one.get("md5") for one in entry.get("deps", [])}
        if not all(path in here and _lineage.hash_of(here[path]).value == md5 for path, md5 in read.items()):
            return  # DVC is about to refuse it
        made = {one["path"]: one.get("md5") for one in entry.get("outs", [])}
        if any(made.get(out.def_path) != out.hash_info.value for out in found.outs):
            with repo.lock:
                found.dvcfile._lockfile.remove_stage(found)


def main() -> None:
    """Run DVC's own command line."""
    import dvc.stage.run
    from dvc.cli import main as run
    from dvc.exceptions import DvcException
    from dvc.stage.cache import StageCache

    reported = json.loads(Path(os.environ[VARIABLE]).read_text())

    def refuse(stage: Any, **_: Any) -> None:
        raise DvcException(
            f"the worker's result of {stage.addressing} does not fit: its inputs here are others, or its outputs are "
            "not on the DVC remote"
        )

    def pull(cache: Any, *_: Any) -> list[Any]:
        keep(cache, reported["entry"])
        return []

    StageCache.pull = pull
    dvc.stage.run.cmd_run = refuse
    forget_other_result(reported["stage"], reported["entry"])
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()

import os
import shutil
import sys
from pathlib import Path

import pytest

from pipelines.cli import main


@pytest.mark.parametrize("before", ["/usr/bin:/bin", f"/usr/bin:{Path(sys.executable).parent}", None])
def test_stages_are_run_by_the_python_of_this_environment(monkeypatch, capsys, before):
    """Also when nobody has activated it: dvc.yaml says `python`."""
    if before is None:
        monkeypatch.delenv("PATH")
    else:
        monkeypatch.setenv("PATH", before)
    main(["catalogue"])
    own = Path(sys.executable).parent
    assert Path(shutil.which("dvc")).parent == own
    assert os.environ["PATH"].split(os.pathsep)[0] == str(own)
    once = os.environ["PATH"]
    main(["catalogue"])
    assert os.environ["PATH"] == once

"""The key of a run, which names all that its result depends on, is the same before the stage ran and after."""

import pytest

from stages import _lineage


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_stage_that_reads_another_file_than_last_time_has_the_key_that_dvc_lock_will_give_it(workspace, kind):
    data = workspace.folder / "data"
    written = data / "table.csv" if kind == "folder" else data
    written.parent.mkdir(exist_ok=True)
    workspace.declare(one=("echo 1 > one.out", []), two=("echo 2 > two.out", []))
    workspace.dvc("repro")
    written.write_bytes(b"text with the line ends\r\nof another system\r\n")  # which DVC's second version did not tell
    declared = (workspace.folder / "dvc.yaml").read_text()
    (workspace.folder / "dvc.yaml").write_text(declared.replace("- one.in", "- one.in\n    - data"))
    assert "data" in _lineage.of_all(["one"])["one"].dependencies
    before = [_lineage.of_all(names)["one"].key for names in (["one"], ["one", "two"])]
    workspace.dvc("repro")
    after = [_lineage.of_all(names)["one"].key for names in (["one"], ["one", "two"])]
    assert len({*before, *after}) == 1
    locked = {entry["path"]: entry["md5"] for entry in workspace.lock()["one"]["deps"]}
    assert _lineage.of_all(["one"])["one"].dependencies == locked

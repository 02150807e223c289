import logging

import pytest
import torch

from mlml import checkpoint, checkpoint_remote

CPU = torch.device("cpu")


@pytest.fixture
def remote(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_remote, "_failed_at", None)
    monkeypatch.setattr(checkpoint_remote, "_warned", False)
    monkeypatch.setenv(checkpoint_remote.VARIABLE, str(tmp_path / "remote"))
    return tmp_path / "remote"


def folder(tmp_path, machine):
    made = tmp_path / machine / ".mlml" / "runs" / "pretext@simclr" / "0123456789abcdef" / "seed_0"
    made.mkdir(parents=True, exist_ok=True)
    return made


def save(place, step):
    with (place / "points.jsonl").open("ab") as points:
        points.write(b"point %d\n" % step)
    checkpoint.save(place, step, {"step": step, "weights": torch.full((3,), float(step))})


def test_another_machine_goes_on_from_the_newest_copy_with_its_points(tmp_path, remote):
    ada, bob = folder(tmp_path, "ada"), folder(tmp_path, "bob")
    for step in (5, 10, 15):
        save(ada, step)
    copies = sorted(path.name for path in remote.rglob("*") if path.is_file())
    assert copies == ["step_000000010.ckpt", "step_000000015.ckpt"]
    with (bob / "points.jsonl").open("ab") as held:  # as the loop has it when it asks
        loaded = checkpoint.load_newest(bob, CPU)
        held.write(b"later\n")
    assert loaded is not None
    assert loaded["step"] == 15
    assert torch.equal(loaded["weights"], torch.full((3,), 15.0))
    assert (bob / "points.jsonl").read_bytes() == b"point 5\npoint 10\npoint 15\nlater\n"
    checkpoint.clear(bob)
    assert not [path for path in remote.rglob("*") if path.is_file()]


def test_what_lies_here_is_used_unless_the_copy_is_newer(tmp_path, remote):
    ada, bob = folder(tmp_path, "ada"), folder(tmp_path, "bob")
    save(ada, 5)
    save(bob, 10)
    save(ada, 7)
    (bob / "points.jsonl").write_bytes(b"own\n")
    assert checkpoint.load_newest(bob, CPU)["step"] == 10
    assert (bob / "points.jsonl").read_bytes() == b"own\n"
    assert checkpoint.load_newest(ada, CPU)["step"] == 10


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-20], lambda content: content[:200] + b"x" + content[201:]]
)
def test_a_damaged_copy_is_passed_over(tmp_path, remote, damage, caplog):
    ada, bob = folder(tmp_path, "ada"), folder(tmp_path, "bob")
    save(ada, 5)
    save(ada, 10)
    [newest] = remote.rglob("step_000000010.ckpt")
    newest.write_bytes(damage(newest.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load_newest(bob, CPU)["step"] == 5
    assert "step_000000010.ckpt: damaged" in caplog.text
    assert (bob / "points.jsonl").read_bytes() == b"point 5\n"


def test_a_remote_that_fails_costs_one_warning_and_is_tried_again_later(tmp_path, remote, monkeypatch, caplog):
    ada = folder(tmp_path, "ada")
    remote.write_text("a file where a folder should be")
    for step in (5, 10):
        save(ada, step)
        monkeypatch.setattr(checkpoint_remote, "_failed_at", checkpoint_remote._failed_at - 100)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "; the training goes on" in caplog.text
    assert checkpoint.load_newest(ada, CPU)["step"] == 10
    remote.unlink()
    save(ada, 15)
    assert not list(tmp_path.rglob("remote/**/*.ckpt"))  # left alone for a while after the failure
    monkeypatch.setattr(checkpoint_remote, "_failed_at", checkpoint_remote._failed_at - 100)
    save(ada, 20)
    assert [path.name for path in remote.rglob("*.ckpt")] == ["step_000000020.ckpt"]


def test_a_folder_of_no_stage_has_no_copies(tmp_path, remote):
    checkpoint.save(tmp_path / "notebook", 5, {"step": 5})
    assert checkpoint.load_newest(tmp_path / "notebook", CPU)["step"] == 5
    assert not remote.exists()

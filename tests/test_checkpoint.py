import logging
import os

import pytest
import torch

from mlml import checkpoint

CPU = torch.device("cpu")


def state(value: float) -> dict:
    return {"weights": torch.full((3,), value), "state": {"step": int(value), "best": float("inf")}}


def test_newest_comes_back_equal(tmp_path):
    checkpoint.save(tmp_path, 1, state(1))
    checkpoint.save(tmp_path, 2, state(2))
    loaded = checkpoint.load_newest(tmp_path, CPU)
    assert torch.equal(loaded["weights"], torch.full((3,), 2.0))
    assert loaded["state"] == {"step": 2, "best": float("inf")}


def test_two_are_kept(tmp_path):
    for step in range(1, 6):
        checkpoint.save(tmp_path, step, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000000004.ckpt", "step_000000005.ckpt"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "headless"])
def test_a_damaged_one_is_named_and_the_one_before_is_used(tmp_path, caplog, damage):
    checkpoint.save(tmp_path, 1, state(1))
    path = checkpoint.save(tmp_path, 2, state(2))
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[-40] ^= 1
    elif damage == "empty":
        content = content[:0]
    else:
        content = content[65:]
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        loaded = checkpoint.load_newest(tmp_path, CPU)
    assert torch.equal(loaded["weights"], torch.ones(3))
    assert str(path) in caplog.text
    assert "the checkpoint before it is used" in caplog.text


def test_nothing_usable_is_none(tmp_path):
    assert checkpoint.load_newest(tmp_path / "none", CPU) is None
    path = checkpoint.save(tmp_path, 1, state(1))
    path.write_bytes(b"x")
    assert checkpoint.load_newest(tmp_path, CPU) is None


def test_a_kill_before_the_rename_leaves_the_old_one(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, state(1))
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 2, state(2))
    monkeypatch.undo()
    assert checkpoint.load_newest(tmp_path, CPU)["state"]["step"] == 1


def test_older_ones_stay_when_the_new_one_does_not_read_back(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, state(1))
    checkpoint.save(tmp_path, 2, state(2))

    def lose_data(descriptor: int) -> None:
        os.ftruncate(descriptor, 100)

    monkeypatch.setattr(os, "fsync", lose_data)
    with pytest.raises(checkpoint.CheckpointError, match="does not match"):
        checkpoint.save(tmp_path, 3, state(3))
    assert checkpoint.load_newest(tmp_path, CPU)["state"]["step"] == 2


def test_clear_removes_all(tmp_path):
    checkpoint.save(tmp_path, 1, state(1))
    (tmp_path / "step_000000009.partial").write_bytes(b"half")
    (tmp_path / "points.jsonl").write_text("")
    checkpoint.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["points.jsonl"]

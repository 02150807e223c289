import pytest

from mlml import status
from mlml.status import Status


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv(status.VARIABLE, str(tmp_path / "now"))
    return tmp_path / "now"


def test_what_is_written_is_read(path, monkeypatch):
    assert status.read(path) is None
    status.begin("train seed 0")
    assert status.read(path) == Status("train seed 0")
    status.count(3, 10, 2.5, "loss 1")
    assert status.read(path) == Status("train seed 0")  # too soon after the last
    monkeypatch.setattr(status, "EVERY_SECONDS", 0.0)
    status.count(4, 10, 2.0, "loss 0.5")
    assert status.read(path) == Status("train seed 0", 4, 10, 2.0, "loss 0.5")
    status.begin("evaluate")
    assert status.read(path) == Status("evaluate")


def test_nobody_watches(path, monkeypatch):
    monkeypatch.delenv(status.VARIABLE)
    status.begin("train")
    assert not path.exists()


def test_a_full_disk_ends_no_training(monkeypatch, tmp_path):
    monkeypatch.setenv(status.VARIABLE, str(tmp_path / "no folder" / "now"))
    status.begin("train")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", '{"task": "tr', '{"other": 1}'])
def test_what_is_no_status_is_none(tmp_path, text):
    (tmp_path / "now").write_text(text)
    assert status.read(tmp_path / "now") is None

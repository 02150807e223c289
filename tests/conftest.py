"""Data that every test can train on, and threads that do not fight on a small machine."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# a shell's background job ignores interrupts, and so would all that the tests start and then interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import pytest
from blobs import write_prepared

from mlml.data.dataset import PreparedData

# a drawn example may take as long as the machine needs for it
hypothesis.settings.register_profile("any_speed", deadline=None)
hypothesis.settings.load_profile("any_speed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes, so that no process is left with them at the end."""
    items.sort(key=lambda item: "pipeline" not in item.path.parent.name)


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Undo what a test, or a command that it calls in this process, sets in the environment."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def blob_data(tmp_path: Path) -> PreparedData:
    """A labelled grey data set of four easy classes, 8x8."""
    return write_prepared(tmp_path / "blobs")

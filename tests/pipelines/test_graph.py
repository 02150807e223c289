"""The graph and the lineage of stages, read while another `dvc` writes dvc.lock in place."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.utils.strictyaml import YAMLValidationError

from pipelines.graph import Graph
from stages import _lineage

READERS: dict[str, Callable[[], object]] = {
    "lineage": lambda: _lineage.of_all(["first", "second"]),
    "hashes": lambda: _lineage.hashes("second"),
    "graph": lambda: list(_graph().nodes),
}


def _graph() -> Graph:
    with Graph() as graph:
        return graph


@pytest.fixture
def run_once(workspace):
    workspace.declare(first=("echo 1 > first.out", []), second=("echo 2 > second.out", ["first"]))
    workspace.dvc("repro", "-q")
    return workspace


@pytest.mark.parametrize("length", [0, 0.5])
@pytest.mark.parametrize("reader", READERS)
def test_half_a_lock_is_read_again_when_it_is_whole(run_once, reader, length):
    whole = Path("dvc.lock").read_bytes()
    expected = READERS[reader]()
    Path("dvc.lock").write_bytes(whole[: int(length * len(whole))])
    writer = threading.Timer(0.4, Path("dvc.lock").write_bytes, [whole])
    writer.start()
    try:
        assert READERS[reader]() == expected
    finally:
        writer.join()


def test_a_search_takes_a_slot_for_each_of_its_workers(workspace):
    Path("params.yaml").write_text(
        "search: {one: {trials: 3}, two: {workers: 2}, many: {workers: 5}, faulty: {workers: x}}"
    )
    Path("dvc.yaml").write_text(
        """
stages:
  search:
    foreach: ${search}
    do: {cmd: "echo ${key} > ${key}.out", params: ["search.${key}", threads], outs: ["${key}.out"]}
  plain: {cmd: echo, outs: [plain.out]}
"""
    )
    with Graph() as graph:
        workers = {name: node.workers for name, node in graph.nodes.items()}
    assert workers == {"search@one": 1, "search@two": 2, "search@many": 5, "search@faulty": 1, "plain": 1}


def test_a_lock_that_stays_half_is_a_fault(run_once, monkeypatch):
    monkeypatch.setattr(_lineage, "PATIENCE_SECONDS", 0.2)
    Path("dvc.lock").write_text("")
    with pytest.raises(YAMLValidationError, match=r"dvc\.lock"):
        _lineage.of("first")


def test_a_fault_of_the_declaration_is_told_at_once(run_once, monkeypatch):
    monkeypatch.setattr(_lineage, "PATIENCE_SECONDS", 1e9)
    Path("dvc.yaml").write_text("stages: {first: {cmd: [], nothing: 1}}")
    with pytest.raises(YAMLValidationError, match=r"dvc\.yaml"):
        _lineage.of("first")

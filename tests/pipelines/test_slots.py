import os

import pytest

from pipelines import slots
from pipelines.slots import Slots


def test_a_stage_of_several_workers_takes_a_slot_for_each():
    two = Slots(2)
    assert two.take("a", "cpu") == {}
    assert two.take("search", "gpu", 2) is None
    two.release("a")
    assert two.take("search", "gpu", 3) == {}  # more than there are: all
    assert two.take("a", "cpu") is None
    two.release("search")
    assert two.take("a", "cpu") == {}
    machine = Slots(4, ("0", "1", "2"))
    assert machine.take("search", "gpu", 2) == {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert machine.take("other", "gpu", 2) is None
    assert machine.take("a", "gpu") == {"CUDA_VISIBLE_DEVICES": "2"}
    machine.release("search")
    assert machine.take("other", "gpu", 2) == {"CUDA_VISIBLE_DEVICES": "0,1"}


def test_processor_slots_are_as_many_as_jobs():
    two = Slots(2)
    assert two.take("a", "cpu") == {}
    assert two.take("b", "gpu") == {}  # no GPU here: a processor slot
    assert two.take("c", "cpu") is None
    two.release("a")
    assert two.take("c", "cpu") == {}


def test_every_gpu_goes_to_one_stage():
    machine = Slots(4, ("0", "1"))
    assert machine.take("a", "gpu") == {"CUDA_VISIBLE_DEVICES": "0"}
    assert machine.take("b", "gpu") == {"CUDA_VISIBLE_DEVICES": "1"}
    assert machine.take("c", "gpu") is None
    assert machine.take("d", "cpu") == {"CUDA_VISIBLE_DEVICES": ""}
    machine.release("a")
    assert machine.take("c", "gpu") == {"CUDA_VISIBLE_DEVICES": "0"}


@pytest.mark.parametrize(
    ("visible", "found"), [("", ()), ("-1", ()), ("3", ("3",)), ("0, GPU-12ab", ("0", "GPU-12ab"))]
)
def test_gpus_are_those_that_the_user_made_visible(monkeypatch, visible, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert slots.gpus() == found


def test_gpus_are_asked_of_the_driver(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\n[ "$1" = --query-gpu=index ] && printf "0\\n1\\n"\n')
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert slots.gpus() == ("0", "1")


def test_no_driver_no_gpu(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slots.gpus() == ()


@pytest.mark.parametrize(("cores", "threads", "gpus", "jobs"), [(8, 2, 0, 4), (2, 4, 0, 1), (4, 4, 8, 8)])
def test_default_jobs(monkeypatch, cores, threads, gpus, jobs):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert slots.default_jobs(threads, gpus) == jobs

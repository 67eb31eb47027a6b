"""Processes of a launcher: one that would evaluate alone is noticed, and each has its own device."""

import pytest
import torch

from gemma_lisa.evaluation.processes import STARTED, Processes, joined
from gemma_lisa.safety.errors import UsageError


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in (*STARTED, "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_there_is_one_process():
    with joined() as processes:
        assert (processes.rank, processes.count, processes.is_first) == (0, 1, True)
        assert processes.gather("a") == ["a"] and processes.of_first("b") == "b" and processes.add("n", 3) == 3
        assert list(processes.wait_for("n", 9)) == []
        assert processes.device("cpu") == "cpu" and processes.device(None) is None


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}, "MASTER_PORT is not set"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "WORLD_SIZE is not set"),
        (
            {"SLURM_STEP_NUM_TASKS": "2", "WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "WORLD_SIZE is 1",
        ),
    ],
)
def test_processes_that_would_evaluate_alone_are_refused(monkeypatch, given, reason):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UsageError, match=rf"2 processes were started, .* alone \({reason}\)\. Start them with torchrun"
    ):
        with joined():
            pass


def test_each_process_has_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [Processes(rank, 2, rank).device(None) for rank in range(2)] == ["cuda:0", "cuda:1"]
    assert Processes(1, 3, 1).device("cuda:0") == "cuda:0"
    with pytest.raises(UsageError, match=r"more processes were started on this machine than it has GPUs \(2\)"):
        Processes(2, 3, 2).device(None)
    with pytest.raises(UsageError, match="--device auto is not supported with several processes"):
        Processes(0, 2, 0).device("auto")


def test_only_the_first_process_prints(capsys):
    for rank in range(2):
        with Processes(rank, 2).printing():
            print(f"rank {rank}")
    assert capsys.readouterr().out == "rank 0\n"

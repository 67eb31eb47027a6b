"""One run per folder: a second one is refused at once, and the lock of an ended process is free."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from gemma_lisa.training import run_lock
from gemma_lisa.training.run_lock import LOCK, is_alive, locked, run_locked, this_process
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

HOLD = "import sys, time; from pathlib import Path; from gemma_lisa.training.run_lock import locked\n"
HOLD += "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.readline()"


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path/run until its input ends."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_and_the_first_one_is_named(holder, tmp_path):
    folder = tmp_path / "run"
    lock = json.loads((folder / LOCK).read_text())
    assert lock["pid"] == holder.pid
    with (
        pytest.raises(ValueError, match=rf"process {holder.pid} on {socket.gethostname()}, started 20\d\d-.*:\d\d"),
        locked(folder),
    ):
        pass
    assert (folder / LOCK).is_file()  # the lock of the first run


def test_the_lock_is_released_with_its_run_and_leaves_no_file(holder, tmp_path):
    holder.communicate("\n")
    assert holder.returncode == 0 and not (tmp_path / "run").exists()


def test_a_killed_run_releases_its_lock(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / LOCK).is_file()
    with locked(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()


def test_the_lock_is_released_after_an_error(tmp_path):
    (tmp_path / "kept").write_text("")
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    with locked(tmp_path):
        pass


def test_a_forked_worker_does_not_hold_the_lock_of_its_dead_parent(tmp_path):
    program = "import os, sys, time; from pathlib import Path; from gemma_lisa.training.run_lock import locked\n"
    program += "lock = locked(Path(sys.argv[1])); lock.__enter__()\n"
    program += "child = os.fork()\n"
    program += "if child: print(child, flush=True); os.kill(os.getpid(), 9)\n"
    program += "time.sleep(600)"
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert parent.wait() == -signal.SIGKILL
    try:
        os.kill(child, 0)  # it still runs
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_lock_file_deleted_between_opening_and_locking_is_not_used(tmp_path, monkeypatch):
    lock, deleted = fcntl.flock, []

    def flock(descriptor, operation):
        if not deleted:
            deleted.append((tmp_path / LOCK).unlink())
        lock(descriptor, operation)

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(
    ("changed", "is_held"),
    [
        ({}, True),
        ({"started": 1.0}, False),  # another process has the id now
        ({"pid": 2**22 + 1}, False),
        ({"boot": "before"}, False),
        ({"host": "elsewhere"}, True),
    ],
)
def test_without_file_locks_the_process_is_looked_up(tmp_path, monkeypatch, changed, is_held):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    (tmp_path / LOCK).write_text(json.dumps({**this_process(), **changed}))
    assert is_alive({**this_process(), **changed}) is is_held
    if is_held:
        with pytest.raises(ValueError, match=f"delete {tmp_path / LOCK}"), locked(tmp_path):
            pass
    else:
        with locked(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text()) == this_process()


@pytest.mark.parametrize("content", ["", "half of {", "[1]", '{"pid": 1}'])
def test_an_empty_lock_file_is_free(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with locked(tmp_path):
        pass


def test_an_unwritable_folder_is_refused_before_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    args = GemmaLisaTrainingArguments(output_dir=str(tmp_path / "file" / "run"), use_cpu=True)
    with pytest.raises(ValueError, match=r"output_dir .*: .*file is a file; expected a folder"), run_locked(args):
        pass


def test_a_lock_file_that_cannot_be_opened_is_named_on_all_processes(tmp_path, monkeypatch):
    (tmp_path / LOCK).mkdir()
    sent = []
    monkeypatch.setattr(run_lock.torch.distributed, "broadcast_object_list", lambda found, device: sent.extend(found))
    args = SimpleNamespace(output_dir=str(tmp_path), process_index=0, world_size=2, device="cpu")
    with pytest.raises(ValueError, match=rf"{tmp_path / LOCK}: the run's lock file .*delete"), run_locked(args):
        pass
    assert [type(error) for error in sent] == [ValueError]

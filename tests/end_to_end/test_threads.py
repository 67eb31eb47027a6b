"""Several threads that share one model get the same answers as a single thread."""

import json
import os
import subprocess
import sys
import threading

import pytest
from picture_files import ROOT, SCENE

from gemma_lisa.checkpoints.loading import EXAMPLE
from gemma_lisa.images_gemma_lisa import ThreadLock


@pytest.mark.slow
def test_several_threads_get_the_answers_of_a_single_thread(tmp_path):
    program, handler = ROOT / "tests" / "ask_from_threads.py", ROOT / "hub" / "handler.py"
    done = subprocess.run(
        [sys.executable, "-I", program, EXAMPLE, handler, SCENE],
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["module"].startswith("transformers_modules.")  # the code of the checkpoint
    assert report["calls"] == 160 and report["answers"] > 4  # different answers, so that mixed-up ones would be noticed
    assert report["wrong"] == []


@pytest.mark.skipif(os.name != "posix", reason="fork needs POSIX")
def test_a_lock_is_released_in_a_forked_child():
    lock, is_held, may_end = ThreadLock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            is_held.set()
            may_end.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    is_held.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if lock._lock.acquire(timeout=5) else 1)
    may_end.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

"""Start app.py as users do."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from picture_files import ROOT

from gemma_lisa.images_gemma_lisa import MAX_IMAGE_PIXELS_VARIABLE

SECONDS = 90  # time limit of every step; test machines are busy


@contextmanager
def served_app(folder: Path) -> Iterator[tuple[str, subprocess.Popen, Path]]:
    """Yield the address of a running app.py, its process, and the folder of its temporary files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "log"
    environment = os.environ | {"TMPDIR": str(folder / "temporary"), "OMP_NUM_THREADS": "1"}
    environment.pop(MAX_IMAGE_PIXELS_VARIABLE, None)
    (folder / "temporary").mkdir()
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port), "--device", "cpu"],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    started = time.monotonic()
    while "The page is at" not in log.read_text():
        assert process.poll() is None and time.monotonic() - started < 300, log.read_text()
        time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/", process, folder / "temporary"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert "Traceback" not in log.read_text(), log.read_text()
    # Gradio creates empty folders when it is imported
    left = [path for path in (folder / "temporary").rglob("*") if path.is_file() or path.name.startswith("gemma-lisa")]
    assert left == [], "the server left files behind"


def left_in(folder: Path) -> list[Path]:
    """Return all files except the server's lock file. Uploaded pictures must not be among them."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]

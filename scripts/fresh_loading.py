"""Check that a checkpoint works in a new Python process that has transformers but not this project."""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from gemma_lisa.safety.short_text import shorten

CHECK = Path(__file__).with_name("loading_check.py")


def check_loading(folder: Path, name: str | None = None, python: str = sys.executable) -> dict[str, int]:
    """Load a checkpoint in a new process and compare its answers to the examples with `answers.json`.

    Args:
        folder: the exported folder, with examples and their answers.
        name: load the model from this name on the Hub instead, and skip handler.py.
        python: Python interpreter. Another one than this uses its own packages.

    Returns:
        way of loading -> number of equal masks.

    Raises:
        ValueError: the model does not load, or gives different answers.
    """
    is_own = python == sys.executable
    with tempfile.TemporaryDirectory() as home:
        # A new cache, so that no older code is used; and the CPU, on which the answers were computed
        environment = {**os.environ, "HF_HOME": home, "CUDA_VISIBLE_DEVICES": ""}
        if name is None:
            environment["HF_HUB_OFFLINE"] = "1"
        packages = sysconfig.get_path("purelib") if is_own else ""
        command = [python, "-B", *(["-I", "-S"] if is_own else ["-I"]), str(CHECK), packages, str(folder)]
        done = subprocess.run(
            [*command, *([name] if name else [])], cwd=home, env=environment, capture_output=True, text=True
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it failed without a message"])[-1]
        raise ValueError(f"{name or folder}: the test without this project failed: {shorten(last)}")
    return json.loads(done.stdout.splitlines()[-1])["masks"]

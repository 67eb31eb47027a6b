"""Check that a checkpoint loads and answers in a fresh Python that has transformers and not this project."""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

CHECK = Path(__file__).with_name("loading_check.py")


def check_loading(folder: Path, name: str | None = None, python: str = sys.executable) -> dict[str, int]:
    """Load and ask in a fresh interpreter that has transformers but not this project.

    Args:
        folder: the exported folder, with examples and their answers.
        name: load the model by this name on the Hub instead, and not handler.py.
        python: whose packages are used; another than this one brings its own.

    Returns:
        how many masks were compared, and equal, each way.

    Raises:
        ValueError: it does not load, or answers otherwise than it did here.
    """
    is_own = python == sys.executable
    with tempfile.TemporaryDirectory() as home:
        # Its own home, so that no code of an earlier look is taken; the CPU, where the answers were made
        environment = {**os.environ, "HF_HOME": home, "CUDA_VISIBLE_DEVICES": ""}
        if name is None:
            environment["HF_HUB_OFFLINE"] = "1"
        packages = sysconfig.get_path("purelib") if is_own else ""
        command = [python, "-B", *(["-I", "-S"] if is_own else ["-I"]), str(CHECK), packages, str(folder)]
        done = subprocess.run(
            [*command, *([name] if name else [])], cwd=home, env=environment, capture_output=True, text=True
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise ValueError(f"{name or folder} does not load where this project is not: {last}")
    return json.loads(done.stdout.splitlines()[-1])["masks"]

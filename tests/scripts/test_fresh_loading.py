"""A published folder works in a Python environment without this project."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gemma_lisa.scripts.fresh_loading import check_loading

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_new_environment_with_the_requirements_of_the_folder_gives_the_same_masks(published, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    pinned = ["-c", ROOT / "constraints.txt"]
    reach = subprocess.run([*pip, "install", "--quiet", "--no-deps", "pillow", *pinned], capture_output=True, text=True)
    if reach.returncode:
        pytest.skip(f"pip cannot reach an index: {reach.stderr.strip().splitlines()[-1]}")
    done = subprocess.run(
        [*pip, "install", "--quiet", "-r", published / "requirements.txt", *pinned], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    listed = subprocess.run([*pip, "list", "--format=freeze"], capture_output=True, text=True, check=True).stdout
    assert "transformers==" in listed and not re.search(r"(?m)^(gemma|accelerate|peft|datasets|torchvision)", listed)
    assert check_loading(published, python=str(python)) == {"AutoModel": 3, "pipeline": 3, "handler": 3}

"""app.py: its options, and errors of one line."""

import subprocess
import sys

import pytest
from picture_files import ROOT


@pytest.mark.slow
def test_an_unknown_model_ends_the_start_in_one_line():
    done = subprocess.run(
        [sys.executable, "app.py", "--model", "no/such/folder"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "no/such/folder" in line and "Traceback" not in done.stderr
    assert "The page is at" not in done.stdout


@pytest.mark.slow
def test_a_wrong_option_ends_the_start_in_one_line():
    done = subprocess.run(
        [sys.executable, "app.py", "--port", "x"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1

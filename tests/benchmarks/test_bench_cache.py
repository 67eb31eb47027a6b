"""bench_cache.py at a small size."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_bench_cache_measures_three_epochs():
    command = [sys.executable, "benchmarks/bench_cache.py", "--photos", "2", "--sam_side", "256"]
    report = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for epoch in ("without cache", "cold", "warm"):
        assert f"| {epoch} | " in report
    assert "per image: 0." in report and "ms to find, check and read" in report

"""bench_data.py with small stand-ins in the original formats."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_bench_data_measures_all_sets_and_all_parts(tmp_path):
    results = tmp_path / "results.md"
    command = [sys.executable, "benchmarks/bench_data.py", "--output", tmp_path / "stand_ins", "--results", results]
    options = ["--scale", "0.0005", "--samples", "40", "--workers", "2", "--batches", "2"]
    subprocess.run([*command, *options], cwd=ROOT, check=True)
    report = results.read_text()
    for name, rows in {"coco_instances": 59, "ade20k": 10, "refcoco": 10}.items():
        assert f"| {name} | {rows} |" in report
    for part in ("JPEG", "masks", "pixels", "tokens", "collation"):
        assert part in report
    found = {
        case: json.loads(
            subprocess.run([*command[:4], "--case", case], cwd=ROOT, check=True, capture_output=True).stdout
        )
        for case in ("headers", "polygons")
    }
    assert found["headers"]["stored_size"] > 0 and found["headers"]["Pillow"] > 0
    assert all(
        0.9 < lowest <= mean < 1 for mean, lowest in (found["polygons"][name] for name in ("Pillow", "pycocotools"))
    )
    assert "| 1 |" in report.partition("waits for its batch")[2]  # the steps after the first
    for questions, seen in {("training", 4), ("training", 40), ("evaluation", 4), ("evaluation", 40)}:
        assert f"| {questions} | {seen} |" in report

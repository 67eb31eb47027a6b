"""bench_gpu.py with a small model on a CPU."""

import re

import pytest

from gemma_lisa.benchmarks import bench_gpu


def test_all_measurements_run_at_small_size(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_gpu, "GPU_TESTS", ["--version"])
    results = tmp_path / "results.md"
    results.write_text("before\n")
    with pytest.raises(SystemExit, match="^0$"):
        bench_gpu.main(["--size", "tiny", "--device", "cpu", "--repeats", "1", "--output", str(results)])
    report = results.read_text()
    assert report.startswith("before\n")
    for case in ("training step, 1 × 1", "training step, 2 × 3", "segment, 1 question", "segment, 8 question"):
        assert re.search(rf"\| {re.escape(case)}.* \| \d+\.\d+ \| nan \|", report), case
    assert all(f"| {name} |" in report for name in bench_gpu.RECIPES)
    assert re.search(r"LoRA step, 8 × 3 questions: .* which is \d+ % of the measured peak", report)
    assert re.search(r"SAM's encoder, 8 images: \d+\.\d+ images/s", report)
    assert re.search(r"first mask \d+ ms, first question \d+ ms, second question \d+ ms", report)

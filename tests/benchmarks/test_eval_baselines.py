"""The table of baselines shows each for what it is."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_truth_has_perfect_scores_and_no_mask_none(tmp_path):
    options = '{"image_size": 64, "train_rows": 0, "validation_rows": 0, "test_rows": 6}'
    command = [sys.executable, "benchmarks/eval_baselines.py", "--dataset_options", options, "--output", "table.md"]
    command[-1] = str(tmp_path / "table.md")
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    lines = (tmp_path / "table.md").read_text().splitlines()
    table = {
        cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("| ").split("|")] for line in lines)
    }
    assert set(table["truth"]) <= {"1.000", "-"} and table["truth"][0] == "1.000"
    assert table["never"][0] == "0.000" and table["whole image"][4] == "1.000"
    assert len(table) == 9

"""The probe of a checkpoint: what its own code answers, without this project."""

import math
import sys
from pathlib import Path

import pytest

from gemma_lisa.scripts import check_versions


@pytest.mark.slow
def test_the_probe_tells_answers_a_model_saved_again_and_a_training_step(tmp_path):
    report = check_versions.run_in(sys.executable, check_versions.PROBE, check_versions.EXAMPLE, check_versions.SCENE)
    assert set(report) == {"session", "saved_again", "loss", "without_gradient"}
    red_circle, squares = report["session"]
    assert len(red_circle["pixels"]) == 1 and red_circle["pixels"][0] > 100 and len(squares["pixels"]) >= 1
    assert report["saved_again"] == red_circle
    assert math.isfinite(report["loss"]) and report["without_gradient"] == []


def test_the_probe_cannot_use_this_project(tmp_path):
    text = Path(check_versions.PROBE).read_text()
    before, after = text.split('sys.modules["gemma_lisa"] = None')
    assert "transformers" not in before and "gemma_lisa" not in before.replace('"""', "")
    assert "import gemma_lisa" not in after and "from gemma_lisa" not in after

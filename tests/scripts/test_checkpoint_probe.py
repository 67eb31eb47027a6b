"""The probe prints the outputs of a checkpoint's own code, without this project."""

import ast
import math
import sys

import pytest

from gemma_lisa.scripts import check_versions


@pytest.mark.slow
def test_the_probe_reports_answers_and_the_loss_of_a_training_step(tmp_path):
    report = check_versions.run_in(sys.executable, check_versions.PROBE, check_versions.EXAMPLE, check_versions.SCENE)
    assert set(report) == {"session", "saved_again", "loss", "without_gradient"}
    red_circle, squares = report["session"]
    assert len(red_circle["pixels"]) == 1 and red_circle["pixels"][0] > 100 and len(squares["pixels"]) >= 1
    assert report["saved_again"] == red_circle
    assert math.isfinite(report["loss"]) and report["without_gradient"] == []


def test_the_probe_hides_this_project_before_other_imports():
    hidden = False
    for node in ast.parse(check_versions.PROBE.read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            packages = {name.split(".")[0] for name in names}
            assert "gemma_lisa" not in packages
            assert hidden or packages <= set(sys.stdlib_module_names)
        hidden = hidden or ast.unparse(node) == "sys.modules['gemma_lisa'] = None"
    assert hidden

"""The module for 🤗 Evaluate: it returns the scores of `evaluation.metrics` and the output of its README."""

import numpy as np
import pytest
from counts import random_counts
from picture_files import ROOT

from gemma_lisa.evaluation.metrics import NUM_COUNTS, summarize_counts


def test_evaluate_module_returns_the_same_scores_as_the_project(tmp_path, monkeypatch):
    evaluate = pytest.importorskip("evaluate")
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    module = evaluate.load(str(ROOT / "hub" / "reasoning_segmentation"), cache_dir=str(tmp_path))
    mixed = random_counts(60, seed=2)
    groups = [
        mixed,
        mixed[mixed[:, 2] > 0],
        mixed[mixed[:, 2] == 0],
        mixed[mixed[:, 2] == 1],
        np.array([[0, 0, 0, 0, 1]]),
        np.zeros((0, NUM_COUNTS), dtype=np.int64),
    ]
    names = ("intersections", "unions", "num_targets", "num_predictions", "complete")
    for counts in groups:
        columns = dict(zip(names, counts.T.tolist(), strict=True))
        columns["complete"] = [bool(value) for value in columns["complete"]]
        assert module.compute(**columns) == summarize_counts(counts)


def test_readme_of_the_evaluate_module_shows_its_real_output(tmp_path):
    evaluate = pytest.importorskip("evaluate")
    metric = evaluate.load(str(ROOT / "hub" / "reasoning_segmentation"), cache_dir=str(tmp_path))
    metric.add(intersections=80, unions=100, num_targets=1, num_predictions=1, complete=True)
    metric.add(intersections=0, unions=0, num_targets=0, num_predictions=0, complete=True)
    scores = metric.compute()
    shown = (scores["gIoU"], scores["gIoU_all"], scores["gIoU_plural"], scores["cIoU"], scores["N-acc"])
    assert shown == (0.8, 0.9, None, 0.8, 1.0)

"""The module for 🤗 Evaluate: it returns the scores of `evaluation.metrics` and the output of its README."""

import re

import numpy as np
import pytest
from counts import random_counts
from judged_drawings import BOTTOM_LEFT, BOTTOM_RIGHT, NOTHING, TOP_LEFT, TOP_RIGHT, judged
from picture_files import ROOT

from gemma_lisa.evaluation.metrics import NUM_COUNTS, summarize, summarize_counts

FOLDER = ROOT / "hub" / "reasoning_segmentation"
NAMES = ("intersections", "unions", "num_targets", "num_predictions", "complete")


@pytest.fixture
def load(tmp_path, monkeypatch):
    evaluate = pytest.importorskip("evaluate")
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    return lambda *name: evaluate.load(str(FOLDER), *name, cache_dir=str(tmp_path))


def test_evaluate_module_returns_the_scores_of_training(load):
    module, mixed = load(), random_counts(60, seed=2)
    groups = [
        mixed,
        mixed[mixed[:, 2] > 0],
        mixed[mixed[:, 2] == 0],
        mixed[mixed[:, 2] == 1],
        np.array([[0, 0, 0, 0, 1]]),
        np.zeros((0, NUM_COUNTS), dtype=np.int64),
    ]
    for counts in groups:
        columns = dict(zip(NAMES, counts.T.tolist(), strict=True))
        columns["complete"] = [bool(value) for value in columns["complete"]]
        found, expected = module.compute(**columns), summarize_counts(counts)
        assert {name: found[name] for name in expected} == expected


def drawn_answers(count: int) -> list:
    generator, squares = np.random.default_rng(count), [TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT, BOTTOM_RIGHT]
    masks = [*squares, NOTHING, "11.. 1... .... ....", "1111 1111 .... ...."]
    return [
        judged(
            list(generator.permutation(squares)[: generator.integers(0, 5)]),
            list(generator.choice(masks, generator.integers(0, 4))),
            complete=bool(generator.random() < 0.8),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("count", [1, 3, 80])
def test_evaluate_module_returns_the_scores_of_an_evaluation(load, count):
    answers = drawn_answers(count)
    columns = {
        "intersections": [one.intersection for one in answers],
        "unions": [one.union for one in answers],
        "num_targets": [len(one.question.targets) for one in answers],
        "num_predictions": [len(one.prediction.masks) for one in answers],
        "complete": [one.prediction.complete for one in answers],
    }
    instances = {
        "matched_ious": [one.matched_ious for one in answers],
        "boundary_ious": [one.boundary_iou or 0.0 for one in answers],
    }
    expected = summarize(answers)
    for found in (load().compute(**columns), load("instances").compute(**columns, **instances)):
        for name, value in found.items():
            assert value == (None if expected[name] is None else pytest.approx(expected[name])), name
    own_words = {"instance_IoU_ordered", "phrase_acc", "answers_right", "likelihood", "tokens", "seconds_per_question"}
    counts = {"phrases_judged", "phrases_not_judged", "answers_count"}
    assert expected.keys() - found.keys() == own_words | counts


def test_readme_of_the_evaluate_module_shows_its_real_output(load):
    readme = (FOLDER / "README.md").read_text()
    metric = load()
    metric.add(intersections=80, unions=100, num_targets=1, num_predictions=1, complete=True)
    metric.add(intersections=0, unions=0, num_targets=0, num_predictions=0, complete=True)
    first = metric.compute()
    metric = load("instances")
    query = {"intersections": 80, "unions": 100, "num_targets": 2, "num_predictions": 2, "complete": True}
    metric.add(**query, matched_ious=[0.9, 0.7], boundary_ious=0.6)
    second = metric.compute()
    for scores, line in zip((first, second), re.findall(r"print\(metric.compute\(\)\)  # (.*)", readme), strict=True):
        shown = dict(part.rsplit(" ", 1) for part in line.replace("…", "").split(", ") if part.strip(", "))
        assert shown and all(str(scores[name] and round(scores[name], 4)) == value for name, value in shown.items())


def test_readme_of_the_evaluate_module_names_every_score(load):
    readme = (FOLDER / "README.md").read_text()
    scores = load("instances").compute(
        **{name: [1] for name in NAMES[:-1]}, complete=[True], matched_ious=[[1.0]], boundary_ious=[1.0]
    )
    assert [name for name in scores if f"`{name}`" not in readme] == []


GOOD = {"intersections": 8, "unions": 10, "num_targets": 1, "num_predictions": 2, "complete": True}


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"unions": 5}, "intersections must not be larger than unions; the intersection is 8"),
        ({"intersections": -1}, "intersections must be at least 0, got -1"),
        ({"num_targets": -1}, "num_targets must be at least 0, got -1"),
        ({"num_predictions": -1}, "num_predictions must be at least 0, got -1"),
        ({"matched_ious": [0.8, 0.7]}, "matched_ious must have at most one IoU per pair of mask and target"),
        ({"matched_ious": [1.5]}, r"matched_ious must be between 0 and 1, got \[1.5\]"),
        ({"matched_ious": [float("nan")]}, r"matched_ious must be between 0 and 1, got \[nan\]"),
        ({"boundary_ious": float("nan")}, "boundary_ious must be between 0 and 1, got nan"),
        ({"boundary_ious": 2.0}, "boundary_ious must be between 0 and 1, got 2.0"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(load, wrong, problem):
    metric, good = load("instances"), {**GOOD, "matched_ious": [0.8], "boundary_ious": 0.6}
    metric.add(**good)
    metric.add(**{**good, **wrong})
    with pytest.raises(ValueError, match=rf"^query 1 \(counted from 0\): {problem}"):
        metric.compute()


def test_tables_of_the_readme_have_a_head():
    lines = (FOLDER / "README.md").read_text().splitlines()
    starts = [at for at, line in enumerate(lines) if line.startswith("|") and not lines[at - 1].startswith("|")]
    assert starts and all(lines[at + 1].startswith("|---") for at in starts)

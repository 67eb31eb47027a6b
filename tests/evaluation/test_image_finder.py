"""Images of evaluated questions, found through the data set of the results file."""

from dataclasses import replace

import numpy as np
import pytest

from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.evaluation.benchmark import list_questions
from gemma_lisa.evaluation.image_finder import find_images
from gemma_lisa.evaluation.judging import judge
from gemma_lisa.evaluation.records import Prediction

OPTIONS = {"train_rows": 1, "validation_rows": 1, "test_rows": 4}
CONTENT = {"dataset": "shapes/easy", "split": "test", "dataset_options": OPTIONS, "data_dir": None}


@pytest.fixture(scope="module")
def benchmark():
    return list_questions(load_rows("shapes/easy", "test", None, OPTIONS), "shapes/easy")


@pytest.fixture(scope="module")
def judged(benchmark):
    return [judge(asked, Prediction(asked.id, [], [])) for asked in benchmark]


def test_each_question_gets_its_own_image_in_any_order(benchmark, judged):
    order = np.random.default_rng(0).permutation(len(judged))
    image_of, remark = find_images(CONTENT, [judged[at] for at in order])
    assert remark is None
    for index, at in enumerate(order):
        assert (np.asarray(image_of(index)) == np.asarray(benchmark.image(int(at)))).all()


def test_an_image_that_is_missing_or_has_another_size_is_none(judged):
    other = replace(judged[0], question=replace(judged[0].question, id="unknown#0"))
    larger = replace(judged[0], question=replace(judged[0].question, size=(640, 640)))
    image_of, _ = find_images(CONTENT, [other, larger, judged[0]])
    assert image_of(0) is None and image_of(1) is None and image_of(2) is not None


def test_only_the_evaluated_rows_are_read(judged):
    image_of, _ = find_images({**CONTENT, "rows": 1}, judged)
    assert image_of(0) is not None and image_of(len(judged) - 1) is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"dataset": "boxes"}, "boxes"),
        ({"split": "unknown"}, "unknown"),
        ({"dataset_options": {"size_of_image": 3}}, "size_of_image"),
        ({"dataset": "reason_seg", "dataset_options": None}, "data_dir is missing"),
    ],
)
def test_a_data_set_that_cannot_be_loaded_gives_the_reason(judged, changed, words):
    image_of, remark = find_images({**CONTENT, **changed}, judged)
    assert image_of is None and words in remark and "\n" not in remark


def test_data_dir_replaces_the_folder_of_the_results_file(judged, tmp_path):
    _, remark = find_images(
        {**CONTENT, "dataset": "reason_seg", "dataset_options": None}, judged, str(tmp_path / "here")
    )
    assert "here" in remark

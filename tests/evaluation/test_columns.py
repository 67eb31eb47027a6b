"""The numbers of each question that are summed."""

import numpy as np
from judged_drawings import TOP_LEFT, TOP_RIGHT, answered, judged

from gemma_lisa.evaluation.columns import columns_of


def test_each_question_has_a_number_in_each_column():
    answers = [judged([TOP_LEFT, TOP_RIGHT], [TOP_LEFT]), judged([], []), answered("two", "two")]
    columns = columns_of(answers)
    assert {len(column) for column in columns.values()} == {3}
    assert columns["asked"].tolist() == [1, 1, 0] and columns["iou"].tolist() == [0.5, 1, 0]
    assert columns["target_2"].tolist() == [1, 0, 0] and columns["plural"].tolist() == [1, 0, 0]
    assert columns["found"][:, 0].tolist() == [1, 0, 0] and columns["masks_and_targets"].tolist() == [3, 0, 0]
    assert columns["no_target"].tolist() == [0, 1, 0] and columns["texts_right"].tolist() == [0, 0, 1]


def test_lisas_numbers_exist_in_its_style_only():
    answers = [judged([TOP_LEFT], [TOP_LEFT]), answered("two", "two")]
    assert not any(name.startswith("lisa") for name in columns_of(answers))
    assert columns_of(answers, "lisa")["lisa_masks"].tolist() == [1, 0]


def test_no_questions_have_empty_columns():
    assert {column.shape[0] for column in columns_of([], "lisa").values()} == {0}
    assert columns_of([])["found"].dtype == np.float64

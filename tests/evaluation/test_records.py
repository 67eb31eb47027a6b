"""The records are plain values: they can be compared, and they do not change."""

from dataclasses import FrozenInstanceError, fields

import pytest
from judged_drawings import TOP_LEFT, judged

from gemma_lisa.evaluation.records import Judged, Prediction, Question


def test_equal_answers_are_equal_records():
    assert judged([TOP_LEFT], [TOP_LEFT]) == judged([TOP_LEFT], [TOP_LEFT]) != judged([TOP_LEFT], [])


@pytest.mark.parametrize("record", [Question, Prediction, Judged])
def test_every_field_is_described_and_none_can_be_changed(record):
    one = judged([TOP_LEFT], [TOP_LEFT])
    value = {Question: one.question, Prediction: one.prediction, Judged: one}[record]
    for field in fields(record):
        assert field.name in record.__doc__
        with pytest.raises(FrozenInstanceError):
            setattr(value, field.name, None)


def test_a_prediction_needs_only_its_masks():
    prediction = Prediction("row#0", [], [])
    assert prediction.complete and prediction.refused is None and prediction.tokens is None

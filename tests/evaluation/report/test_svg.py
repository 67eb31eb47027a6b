"""Parts of charts."""

import xml.etree.ElementTree as ElementTree

import pytest

from gemma_lisa.evaluation.report.svg import Axis, axes, bar, chart, count_axis, dot, text, unit_axis, x_of, y_of


@pytest.mark.parametrize(("highest", "high"), [(0, 1), (1, 1), (5, 5), (6, 6), (11, 15), (49, 50), (10_000, 10_000)])
def test_the_axis_of_counts_has_whole_ticks_and_reaches_the_highest(highest, high):
    axis = count_axis(highest, "questions")
    assert axis.high == high >= highest
    assert len(axis.ticks) <= 7 and all(isinstance(value, int) for value, _ in axis.ticks)


def test_values_beyond_the_ends_are_moved_to_the_ends():
    axis = Axis(-1, 1, [], "")
    assert [axis.share(value) for value in (-3, -1, 0, 1, 2)] == [0, 0, 0.5, 1, 1]


def test_larger_values_are_further_right_and_further_up():
    axis = unit_axis("IoU")
    assert x_of(axis, 0.2) < x_of(axis, 0.8) and y_of(axis, 0.2) > y_of(axis, 0.8)


def test_a_chart_is_valid_xml_with_a_name_and_escaped_texts():
    evil = '<script>"&'
    axis = unit_axis(evil)
    drawn = chart(
        evil, [*axes(axis, axis), bar(1, 2, 3, 4, "mark", evil), dot(1, 2, 3, "mark", evil), text(1, 2, evil, "a")]
    )
    root = ElementTree.fromstring(drawn)
    assert root.get("aria-label") == evil and root.get("role") == "img"
    assert "<script>" not in drawn
    assert [tip.text for tip in root.iter("title")] == [evil, evil]

"""The numbers that charts show."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from gemma_lisa.evaluation.error_classes import summarize_errors
from gemma_lisa.evaluation.report import charts


def names(drawn: str, tag: str) -> list[str]:
    return [mark.get("class") for mark in ElementTree.fromstring(drawn).iter(tag)]


def test_bins_count_every_value_once():
    values = np.array([0.0, 0.05, 0.5, 0.999, 1.0])
    bins = charts.binned(values, 2 * values, [0, 0.05, 0.5, 1])
    assert [part.count for part in bins] == [1, 1, 3]
    assert bins[2].mean == pytest.approx(2 * np.mean([0.5, 0.999, 1])) and bins[2].value == pytest.approx(0.833)
    assert (bins[1].lower, bins[1].upper) == (pytest.approx(0.1), pytest.approx(0.1))


def test_a_bin_without_values_has_no_numbers():
    first, last = charts.binned(np.array([0.9]), np.array([0.4]), [0, 0.5, 1])
    assert (first.count, first.mean, first.value) == (0, None, None) and last.mean == 0.4


def test_the_calibration_error_is_weighted_by_the_number_of_masks():
    # Three masks with score 0.9 and IoU 0.6, one with score 0.2 and IoU 0.2: (3 * 0.3 + 0) / 4
    bins = charts.score_bins(np.array([0.9, 0.9, 0.9, 0.25]), np.array([0.6, 0.6, 0.6, 0.25]))
    assert charts.calibration_error(bins) == pytest.approx(0.225)


def test_perfect_calibration_has_no_error_and_no_masks_have_none():
    scores = np.linspace(0, 1, 50)
    assert charts.calibration_error(charts.score_bins(scores, scores)) == pytest.approx(0, abs=1e-12)
    assert charts.calibration_error(charts.score_bins(np.array([]), np.array([]))) is None


def test_the_histogram_has_a_bar_for_each_filled_bin_and_the_mean():
    drawn = charts.iou_histogram(np.array([0.0, 0.0, 0.51, 1.0]))
    assert names(drawn, "rect") == ["mark"] * 3
    assert "mean 0.38" in drawn and "IoU 0.00 to 0.05: 2 questions" in drawn


def test_the_size_chart_has_all_questions_up_to_its_limit():
    few = charts.size_chart(np.array([0.002, 0.2]), np.array([0.5, 0.9]))
    assert names(few, "circle").count("faint") == 2 and names(few, "circle").count("mark") == 2
    generator = np.random.default_rng(0)
    many = charts.size_chart(generator.uniform(0, 1, 900), generator.uniform(0, 1, 900))
    assert names(many, "circle").count("faint") == charts.DOTS < 900
    assert "900 questions" in many


def test_there_is_a_name_for_each_bin_of_sizes():
    bins = charts.size_bins(np.array([0.0005, 0.5]), np.array([1.0, 0.0]))
    assert len(charts.size_names()) == len(bins) == len(charts.SIZE_EDGES) - 1
    assert charts.size_names()[:2] == ["< 0.1", "0.1–0.3"] and charts.size_names()[-1] == "> 30"


def test_bars_of_errors_are_as_long_as_their_cost():
    errors = {
        "selection": {"count": 4, "share": 0.4, "cost": 0.2},
        "boundary": {"count": 2, "share": 0.2, "cost": 0.1},
        "count": {"count": 0, "share": 0.0, "cost": 0.0},
        "right": {"count": 4, "share": 0.4, "cost": 0.05},
    }
    drawn = charts.error_chart(errors)
    widths = [float(mark.get("width")) for mark in ElementTree.fromstring(drawn).iter("rect")]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2) and widths[2] == 0
    assert names(drawn, "rect") == ["mark", "mark", "mark", "rest"]
    assert "−0.200 · 4 questions" in drawn and ">0 questions" in drawn


def test_an_error_chart_without_errors_is_drawn():
    assert names(charts.error_chart(summarize_errors([])), "rect") == ["mark"] * 5 + ["rest"]


def test_dots_of_the_reliability_diagram_grow_with_the_number_of_masks():
    drawn = charts.reliability_diagram(charts.score_bins(np.array([0.9] * 9 + [0.1]), np.array([0.8] * 9 + [0.1])))
    small, large = (float(mark.get("r")) for mark in ElementTree.fromstring(drawn).iter("circle"))
    assert small < large and "expected calibration error 0.090" in drawn


def test_an_interval_of_differences_has_its_zero_in_the_middle():
    (zero,) = re.findall(r'class="axis" x1="([\d.]+)"', charts.interval(0.1, 0.0, 0.2, reach=0.5))
    assert float(zero) == 60
    assert charts.interval(None, None, None) == "" and "range" not in charts.interval(0.5, None, None)

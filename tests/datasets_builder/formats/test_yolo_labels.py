"""Lines of YOLO label files: polygons, boxes, confidences and keypoints, and lines that are damaged."""

import math

import pytest
from own_folder import write

from gemma_lisa.datasets_builder.formats.annotated import Notes
from gemma_lisa.datasets_builder.formats.yolo_labels import (
    POSED,
    SCORED,
    class_number,
    has_polygon,
    is_label,
    read_lines,
    read_objects,
)

NAMES = {0: "mug", 1: "plate"}
TRIANGLE = "0.1 0.2 0.5 0.2 0.5 0.9"


def objects(tmp_path, text, num_pose=0, encoding="utf-8"):
    write(tmp_path, "1.txt", text, encoding)
    notes = Notes()
    found = read_objects(tmp_path / "1.txt", "1.txt", NAMES, num_pose, notes, tmp_path / "1.jpg")
    return found, {kind: len(cases) for kind, cases in notes.cases.items()}


def test_a_polygon_and_a_box_in_fractions(tmp_path):
    found, notes = objects(tmp_path, f"1 {TRIANGLE}\n\n0 0.5 0.5 0.25 0.5\n", encoding="utf-16")
    assert [(each.name, each.where) for each in found] == [("plate", "1.txt line 1"), ("mug", "1.txt line 3")]
    assert found[0].segmentation == [[0.1, 0.2, 0.5, 0.2, 0.5, 0.9]] and found[0].box is None
    assert found[1].segmentation is None and found[1].box == (0.375, 0.25, 0.25, 0.5)
    assert notes == {}


def test_confidences_are_dropped_if_all_polygons_have_one(tmp_path):
    found, notes = objects(tmp_path, f"0 {TRIANGLE} 0.91\n1 {TRIANGLE} 0.4\n0 0.5 0.5 0.25 0.5 0.7")
    assert [each.segmentation for each in found[:2]] == [[[0.1, 0.2, 0.5, 0.2, 0.5, 0.9]]] * 2
    assert found[2].box == (0.375, 0.25, 0.25, 0.5)
    assert notes == {SCORED: 2}


def test_one_odd_polygon_among_others_stays_as_it_is(tmp_path):
    found, notes = objects(tmp_path, f"0 {TRIANGLE} 0.91\n1 {TRIANGLE}")
    assert [len(each.segmentation[0]) for each in found] == [7, 6]
    assert notes == {}


def test_numbers_that_are_none_become_nan_and_keep_the_object(tmp_path):
    found, _ = objects(tmp_path, "0 0.1 x 0.5 0.2 0.5 0.9\n1 0.1 0.2\n1")
    assert math.isnan(found[0].segmentation[0][1]) and found[0].name == "mug"
    assert found[1].segmentation == [[0.1, 0.2]]
    assert found[2].segmentation is None and found[2].box is None


def test_keypoints_are_boxes(tmp_path):
    found, notes = objects(tmp_path, "0 0.5 0.5 0.25 0.5 0.1 0.2 2 0.3 0.4 2", num_pose=6)
    assert found[0].segmentation is None and found[0].box == (0.375, 0.25, 0.25, 0.5)
    assert notes == {POSED: 1}
    assert not has_polygon(read_lines(tmp_path / "1.txt"), 6) and has_polygon(read_lines(tmp_path / "1.txt"), 0)


@pytest.mark.parametrize(
    "line, text", [("2 0.1", "1.txt line 2: there is no class 2"), ("mug 0.1", "'mug' is not a class number")]
)
def test_a_line_without_a_known_class_is_named(tmp_path, line, text):
    (good, bad), _ = objects(tmp_path, f"0 {TRIANGLE}\n{line}")
    assert good.error is None and text in str(bad.error)


@pytest.mark.parametrize(
    "text, number", [("0", 0), ("1.0000e+00", 1), ("1.5", None), ("-1", None), ("nan", None), ("1" * 50, None)]
)
def test_class_numbers(text, number):
    assert class_number(text) == number


@pytest.mark.parametrize(
    "line, expected",
    [
        ("0 0.1 0.2 0.3 0.4", True),
        ("0 1 2 3", False),
        ("Car 0.1 0.2 0.3 0.4", False),
        ("0 a b c d", False),
        ("", False),
    ],
)
def test_lines_of_labels_are_recognized(line, expected):
    assert is_label(line) is expected

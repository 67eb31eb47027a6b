"""Published sizes of splits: equal sizes are confirmed, other sizes are named, unknown ones give no line."""

import pytest

from gemma_lisa.datasets_builder.published_sizes import compared_with_published, published_size


@pytest.mark.parametrize(
    ("name", "split", "size"),
    [
        ("reason_seg", "validation", (200, "images")),
        ("reason_seg", "test", (779, "images")),
        ("reason_seg_x", "test", (773, "questions")),
        ("reason_seg_r", "test", None),
        ("refcoco", "testA", (750, "images")),
        ("refcoco/unc", "testA", (750, "images")),
        ("llava_instruct/mix665k", "train", (665_298, "records")),
        ("shapes/easy", "test", None),
        ("prepared/reason_seg", "test", None),
        ("reason_seg", "none", None),
    ],
)
def test_size_and_unit_of_a_split(name, split, size):
    assert published_size(name, split) == size


def test_line_names_both_sizes_if_they_differ():
    assert compared_with_published("reason_seg", "test", 779, 800) == "reason_seg test: 779 images, as published"
    line = compared_with_published("reason_seg_x", "test", 700, 772)
    assert line == ("reason_seg_x test: 772 questions, but 773 are published; scores are not comparable with papers")
    assert compared_with_published("reason_seg_r", "test", 5, 5) is None

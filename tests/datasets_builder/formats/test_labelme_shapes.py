"""Photos with LabelMe files in the layout of the folder data set: the areas of their classes."""

import numpy as np
import pytest
import torch
from own_folder import areas, drawn, labelme, load, photo, refusal, shape, turned, write

from gemma_lisa.datasets_builder.rows import decode_mask

pytestmark = [
    pytest.mark.usefixtures("own_cache"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # raised inside pycocotools
]


ONES = np.ones((2, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


@pytest.mark.parametrize("place", ["images", "labels"])
def test_labelme_shapes_are_masks_by_label(root, place):
    photo(root, "1.jpg", (40, 30))
    shapes = [
        shape("coffee_cup", [[0, 0], [10, 0], [10, 5], [0, 5]]),
        shape("coffee_cup", [[30, 20], [20, 30]], "rectangle"),  # from any corner
        shape("ball", [[20, 10], [25, 10]], "circle"),
        shape("sun", [[0, 30], [3, 30]], "circle"),  # extends beyond the image
        shape("__ignore__", [[0, 28], [40, 28], [40, 30], [0, 30]]),
    ]
    labelme(root, f"{place}/1.json", shapes, (40, 30))
    [row] = load(root)
    found = areas(row)
    assert list(found) == ["the coffee cup", "the ball", "the sun"] and found["the coffee cup"] == 50 + 100
    assert abs(found["the ball"] - np.pi * 25) < 4 and abs(found["the sun"] - np.pi * 9 / 4) < 2
    ball = decode_mask(row["targets"][1]["masks"][0], "")
    assert ball[10, 20] and ball[5:15, 15:25].sum() == ball.sum()
    assert all(decode_mask(target["ignore"], "").sum() == 80 for target in row["targets"])


@pytest.mark.parametrize(("kind", "marked"), [(bool, 1), (np.uint8, 1), (np.uint8, 255)])
def test_a_mask_of_labelmes_ai_tools_fills_its_box(root, kind, marked):
    photo(root, "1.jpg")
    pixels = (np.array([[1, 0, 1], [0, 1, 1]]) * marked).astype(kind)
    labelme(root, "labels/1.json", [drawn("mug", [[2, 3], [4, 4]], pixels)])
    mug = decode_mask(load(root)[0]["targets"][0]["masks"][0], "")
    assert np.argwhere(mug).tolist() == [[3, 2], [3, 4], [4, 3], [4, 4]]


def test_a_mask_of_labelmes_ai_tools_can_exceed_the_border_by_a_pixel(root):
    photo(root, "1.jpg")
    everything = np.ones((3, 3), dtype=np.uint8)
    shapes = [
        drawn("left", [[-1, -1], [1, 1]], everything),
        drawn("right", [[6, 4], [8, 6]], everything[:2, :2]),  # as cropped by older versions
        drawn("moved", [[2.4, 2.6], [4.6, 4.4]], everything),  # a box between the pixels
    ]
    labelme(root, "labels/1.json", shapes)
    [row] = load(root)
    masks = {target["texts"][0]: decode_mask(target["masks"][0], "") for target in row["targets"]}
    expected = {"the left": (slice(0, 2), slice(0, 2)), "the right": (slice(4, 6), slice(6, 8))}
    expected["the moved"] = (slice(3, 6), slice(2, 5))
    for name, (rows, columns) in expected.items():
        assert masks[name][rows, columns].all() and masks[name].sum() == masks[name][rows, columns].size


@pytest.mark.parametrize("kind", ["rectangle", "oriented_rectangle", "rotation"])
def test_a_rectangle_of_four_corners_is_a_polygon(root, kind):
    photo(root, "1.jpg", (20, 20))
    corners = [[4, 2], [12, 2], [12, 5], [4, 5]]
    labelme(root, "labels/1.json", [shape("mug", corners, kind)], (20, 20))
    mug = decode_mask(load(root)[0]["targets"][0]["masks"][0], "")
    assert mug[2:5, 4:12].all() and mug.sum() == 24
    tilted = [[10, 0], [20, 10], [10, 20], [0, 10]]
    labelme(root, "labels/1.json", [shape("mug", tilted, kind)], (20, 20))
    mug = decode_mask(load(root)[0]["targets"][0]["masks"][0], "")
    assert mug[10, 1] and not mug[1, 1] and not mug[18, 18] and abs(int(mug.sum()) - 200) <= 20


def test_labels_of_a_listed_class_are_merged_and_others_refused(root):
    photo(root, "1.jpg")
    labelme(root, "labels/1.json", [shape(f"dog-{at}", [[0, at], [8, at + 1]], "rectangle") for at in (1, 3)])
    assert areas(load(root, classes=["dog"])[0]) == {"the dog": 16}
    assert "1.json: shape 1 (dog-1): 'dog-1' is not a class; the classes are: cat" in refusal(root, classes=["cat"])


def test_shapes_on_a_rotated_photo_are_aligned_like_masks(root):
    photo(root, "1.jpg", (8, 6), exif=turned(6))
    labelme(root, "images/1.json", [shape("mug", [[0, 0], [3, 2]], "rectangle")], (6, 8))
    upright = decode_mask(load(root)[0]["targets"][0]["masks"][0], "")
    assert upright.shape == (8, 6) and upright[:2, :3].all() and upright.sum() == 6
    labelme(
        root, "images/1.json", [shape("mug", [[0, 3], [2, 6]], "rectangle")], (8, 6)
    )  # the same pixels before rotation
    assert np.array_equal(decode_mask(load(root)[0]["targets"][0]["masks"][0], ""), upright)


def test_an_overflowing_circle_is_refused_with_flushed_denormals(root):
    photo(root, "1.jpg")
    labelme(root, "labels/1.json", [shape("a", [[1, 1], [1e308, 1e308]], "circle")])
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    try:
        with pytest.raises(ValueError, match=r"center is x 1, y 1 and the radius 1.41421e\+308"):
            load(root)
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([shape("a", [[0, 0], [4, 4], [8, 8]], "circle")], "a circle must have 2 points, got 3"),
        ([shape("a", [[1e300, 1], [4, 4]], "circle")], r"the center is x 1e\+300, y 1 and the radius 1e\+300 pixels"),
        (
            [shape("a", [[1, 1], [1e308, 1e308]], "circle")],
            r"center is x 1, y 1 and the radius 1.41421e\+308",
        ),
        ([shape("a", [[0, 0], [4, 0], [4, 4]], "rectangle")], "a rectangle must have 2 points, got 3"),
        ([shape("a", [[0, 0], [4, 4]], "mask")], r"shape 1 \(a\): the mask is not a PNG in base64; draw it again"),
        ([shape("a", [[0, 0], [4, 4]], "mask") | {"mask": "AAAA"}], r"\(a\): the mask is not a PNG in base64"),
        ([drawn("a", [[0, 0], [2, 1]], ONES, cut=40)], r"\(a\): the mask cannot be read"),
        ([drawn("a", [[0, 0], [2, 1]], np.zeros((9_000, 9_000), bool))], "the mask is 9000 x 9000 .* its box is 3 x 2"),
        ([drawn("a", [[0, 0]], ONES)], "a mask must have 2 points, got 1"),
        ([drawn("a", [[0, 0], [5, 1]], ONES)], "mask is 3 x 2 pixels .* its box is 6 x 2; draw it again"),
        ([drawn("a", [[9, 0], [11, 1]], ONES)], "extends beyond the image, which is 8 x 6 pixels"),
        (
            [drawn("a", [[0, 0], [2, 1]], np.dstack([ONES] * 3))],
            "the mask must have one number per pixel, got an image in mode RGB",
        ),
        ([shape("c\ud83dat", [])], r"1.json: the label of shape 1: 'c\\ud83dat' contains half of a character"),
        ([shape("a", [[0, 0], [80, 0], [80, 40]])], r"shape 1 .*its image is 8 x 6"),
        ([shape("a", ["x"])], "points must be pairs of numbers"),
        ([shape(" ", [])], "shape 1 has no label"),
        (["a"], "shape 1 has no label"),
        (None, "1.json: the list shapes is missing"),
    ],
)
def test_errors_in_a_shape_are_one_line(root, content, said):
    photo(root, "1.jpg")
    labelme(root, "labels/1.json", content)
    with pytest.raises(ValueError, match=said) as refused:
        load(root)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_json_file_that_is_not_from_labelme_is_refused(root, text):
    photo(root, "1.jpg")
    write(root, "images/1.json", text)
    assert "images/1.json" in refusal(root)

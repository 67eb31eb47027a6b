"""Label maps are read as indices, not colors, and all classes are encoded in one pass."""

import numpy as np
import pytest
from own_folder import turned
from PIL import Image

from gemma_lisa.datasets_builder.formats.label_maps import (
    BETWEEN,
    check_interpolation,
    class_masks,
    picture_size,
    plane_masks,
    read_label_map,
)
from gemma_lisa.datasets_builder.rows import decode_mask


@pytest.mark.parametrize("shape, num_classes", [((1, 1), 1), ((7, 5), 3), ((40, 60), 150), ((30, 1), 2)])
def test_class_masks_equal_a_comparison_with_each_number(shape, num_classes):
    labels = np.random.default_rng(0).integers(0, num_classes, shape).astype(np.uint8)
    masks = class_masks(labels)
    assert sorted(masks) == sorted(np.unique(labels))
    for value, mask in masks.items():
        assert np.array_equal(decode_mask(mask, "test"), labels == value)


def test_a_label_map_with_many_numbers_is_supported():
    labels = np.arange(100 * 200, dtype=np.int32).reshape(100, 200)
    masks = class_masks(labels)
    assert len(masks) == labels.size
    assert all(decode_mask(masks[value], "test").ravel()[value] == 1 for value in (0, 7_777, 19_999))


def test_a_palette_image_gives_its_indices_even_if_colors_repeat(tmp_path):
    labels = np.array([[0, 1, 2], [2, 1, 0]], dtype=np.uint8)
    picture = Image.fromarray(labels).convert("P")
    picture.putpalette([9, 9, 9] * 256)
    picture.save(tmp_path / "p.png")
    assert np.array_equal(read_label_map(tmp_path / "p.png"), labels)


def test_a_color_image_is_refused_by_name(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "colors.png")
    with pytest.raises(ValueError, match="colors.png.*one number per pixel"):
        read_label_map(tmp_path / "colors.png")


def test_every_combination_of_two_maps_has_a_mask():
    random = np.random.default_rng(0)
    classes = random.integers(0, 3, (9, 7)).astype(np.uint8)
    colors = random.choice(np.array([0, 5, 2**32 - 1], dtype=np.uint32), (9, 7))
    masks = plane_masks(classes, colors)
    assert set(masks) == set(zip(classes.ravel().tolist(), colors.ravel().tolist(), strict=True))
    for (number, color), mask in masks.items():
        assert np.array_equal(decode_mask(mask, "test"), (classes == number) & (colors == color))


def test_too_many_combinations_are_refused():
    labels = np.arange(12).reshape(3, 4)
    assert len(plane_masks(labels, limit=12)) == 12
    with pytest.raises(ValueError, match="12 different numbers or colors, more than 11"):
        plane_masks(labels, limit=11)


def test_the_size_of_a_picture_is_that_of_its_pixels(tmp_path):
    for name, orientation in (("1.png", 1), ("6.png", 6), ("6.jpg", 6)):
        Image.new("L", (7, 5)).save(tmp_path / name, exif=turned(orientation))
        assert picture_size(tmp_path / name) == read_label_map(tmp_path / name).shape
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n")
    assert picture_size(tmp_path / "1.png") is None and picture_size(tmp_path / "2.png") is None


def areas(first, second):
    """Return a label map (96, 128) with a disc and a box of these numbers."""
    labels = np.zeros((96, 128), dtype=np.uint8)
    y, x = np.indices(labels.shape)
    labels[(x - 34) ** 2 + (y - 40) ** 2 < 600] = first
    labels[50:80, 80:110] = second
    return labels


@pytest.mark.parametrize("numbers", [(2, 7), (1, 3), (5, 30)])
@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("method", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])
def test_interpolated_label_maps_are_refused(numbers, factor, method):
    small = Image.fromarray(areas(*numbers)).resize((128 // factor, 96 // factor), Image.Resampling.NEAREST)
    with pytest.raises(ValueError, match='maps/1.png: its numbers 1, .* was resized .*"nearest neighbor"'):
        check_interpolation(np.asarray(small.resize((128, 96), method)), "maps/1.png", pytest.fail)


def test_label_maps_without_interpolation_pass():
    for labels in (areas(2, 7), areas(1, 3), np.kron(areas(9, 4), np.ones((2, 2), np.uint8))):
        check_interpolation(labels, "maps/1.png", pytest.fail)
    thin = areas(7, 7)
    thin[:, 60:62] = 3  # between 0 and 0
    thin[40:44] = 255
    check_interpolation(thin, "maps/1.png", pytest.fail)
    check_interpolation(np.arange(100, dtype=np.uint8).reshape(10, 10), "maps/1.png", pytest.fail)  # too small


def test_a_thin_border_class_is_noted():
    labels, notes = areas(2, 2), []
    inside = labels[1:-1, 1:-1] & labels[:-2, 1:-1] & labels[2:, 1:-1] & labels[1:-1, :-2] & labels[1:-1, 2:]
    labels[1:-1, 1:-1][(labels[1:-1, 1:-1] > 0) & (inside == 0)] = 1
    check_interpolation(labels, "maps/1.png", notes.append)
    assert notes == [BETWEEN]

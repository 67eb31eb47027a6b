"""YOLO labels, read by independent code."""

import numpy as np
import yaml
from drawn_masks import SHAPE, filled, masks
from exported_photos import NAMES, assert_folder_reads_exactly_the_masks, drawn_photos, exported

from gemma_lisa.datasets_builder.writers.exported import ExportedPhoto
from gemma_lisa.datasets_builder.writers.yolo import LABELS, OPTIONS, YOLO


def read(path, shape):
    """Return (class number, mask) of each line."""
    found = []
    for line in path.read_text().splitlines():
        number, *numbers = line.split()
        points = np.array(numbers, dtype=float).reshape(-1, 2)
        assert points.min() >= 0 and points.max() <= 1
        # Rounding moves points by less than 1/200 pixel, but pixel centers are at least 1/2 away
        found.append((int(number), filled([points * shape[::-1]], shape)))
    return found


def test_each_object_is_one_line_with_exactly_its_mask(tmp_path):
    assert YOLO.write(tmp_path, iter(drawn_photos(tmp_path / YOLO.photos)), NAMES) == []
    for number, mask in enumerate(masks().values()):
        ((kind, found),) = read(tmp_path / LABELS / f"{number}.txt", SHAPE)
        assert kind == number % 3 and (found == mask).all()
    assert (tmp_path / LABELS / "nothing.txt").read_text() == ""


def test_folder_reads_exactly_the_masks(tmp_path):
    YOLO.write(tmp_path, iter(drawn_photos(tmp_path / YOLO.photos)), NAMES)
    assert_folder_reads_exactly_the_masks(tmp_path)


def test_data_yaml_names_the_classes_and_the_photos(tmp_path):
    YOLO.write(tmp_path, iter(drawn_photos(tmp_path / YOLO.photos)), NAMES)
    options = yaml.safe_load((tmp_path / OPTIONS).read_text())
    assert options == {"train": "images/train", "names": dict(enumerate(NAMES))}
    assert (tmp_path / options["train"] / "0.png").is_file()


def test_a_long_side_has_more_digits(tmp_path):
    mask = np.zeros((2, 300_000), bool)
    mask[0, 123_457] = True
    YOLO.write(tmp_path, iter([ExportedPhoto("a.png", mask.shape, [exported("mug", mask)])]), ["mug"])
    _, *numbers = (tmp_path / LABELS / "a.txt").read_text().split()
    x = np.array(numbers, dtype=float)[::2] * 300_000
    assert np.abs(x - np.rint(x)).max() < 0.01 and set(np.rint(x)) == {123_457, 123_458}

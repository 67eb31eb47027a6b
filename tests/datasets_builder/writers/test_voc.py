"""Pascal VOC label maps, read by Pillow."""

import numpy as np
import pytest
from drawn_masks import SHAPE, masks
from exported_photos import NAMES, assert_folder_reads_exactly_the_masks, drawn_photos, exported
from PIL import Image

from gemma_lisa.datasets_builder.writers.exported import ExportedPhoto
from gemma_lisa.datasets_builder.writers.voc import CLASSES, LABEL_MAP, OBJECTS, TRAIN, VOC, palette


def read(path):
    with Image.open(path) as picture:
        assert picture.mode == "P"
        return np.asarray(picture), np.asarray(picture.convert("RGB"))


def test_label_maps_hold_exactly_the_masks_in_the_colors_of_the_label_map(tmp_path):
    assert VOC.write(tmp_path, iter(drawn_photos(tmp_path / VOC.photos)), NAMES) == []
    lines = (tmp_path / LABEL_MAP).read_text().splitlines()
    colors = dict(line.split(":")[:2] for line in lines if not line.startswith("#"))
    assert list(colors) == ["background", *NAMES]
    for number, mask in enumerate(masks().values()):
        values, shown = read(tmp_path / CLASSES / f"{number}.png")
        assert (values == mask * (number % 3 + 1)).all()
        color = [int(part) for part in colors[NAMES[number % 3]].split(",")]
        assert (shown[mask] == color).all() and (shown[~mask] == 0).all()
        assert (read(tmp_path / OBJECTS / f"{number}.png")[0] == mask).all()
    assert not read(tmp_path / CLASSES / "nothing.png")[0].any()
    assert (tmp_path / TRAIN).read_text().split() == [*map(str, range(len(masks()))), "nothing"]


def test_folder_reads_exactly_the_masks(tmp_path):
    VOC.write(tmp_path, iter(drawn_photos(tmp_path / VOC.photos)), NAMES)
    assert_folder_reads_exactly_the_masks(tmp_path)


def test_the_palette_is_that_of_pascal_voc():
    colors = palette()
    assert colors[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert colors[15].tolist() == [192, 128, 128] and colors[20].tolist() == [0, 64, 128]  # person, tv monitor
    assert colors[255].tolist() == [224, 224, 192]  # the ignore region


def test_the_higher_score_is_on_top_and_covered_objects_are_counted(tmp_path):
    left, right = np.zeros((2, *SHAPE), bool)
    left[:, :30], right[:, 20:] = True, True
    photo = ExportedPhoto("a.png", SHAPE, [exported("mug", left, 0.9), exported("lid", right, 0.3)])
    (remark,) = VOC.write(tmp_path, iter([photo]), NAMES)
    assert remark == "an object with a higher score covers a part of 1 object"
    values, _ = read(tmp_path / CLASSES / "a.png")
    assert (values[:, :30] == 1).all() and (values[:, 30:] == 3).all()
    assert (read(tmp_path / OBJECTS / "a.png")[0][0, [0, 25, 40]] == [1, 1, 2]).all()


def test_objects_beyond_254_are_counted(tmp_path):
    things = []
    for number in range(256):
        mask = np.zeros((16, 32), bool)
        mask[number // 32, number % 32] = True
        things.append(exported("mug", mask))
    (remark,) = VOC.write(tmp_path, iter([ExportedPhoto("a.png", (16, 32), things)]), NAMES)
    assert remark == "skipped 2 objects beyond 254 of one photo"
    assert read(tmp_path / OBJECTS / "a.png")[0].max() == 254


@pytest.mark.parametrize("names", [["mug", "a: b"], ["Background"], ["#1"], [f"class {at}" for at in range(255)]])
def test_names_that_the_format_cannot_hold_are_refused(names):
    assert VOC.refusal(names)


def test_other_names_are_accepted():
    assert VOC.refusal(NAMES) is None

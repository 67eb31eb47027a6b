"""Masks of Pascal VOC in the layouts of VOC, CVAT and Datumaro give one mask for each object."""

import numpy as np
import pytest
from annotated_files import box, masks_by_name, names, read, refusal
from own_folder import photo, write
from PIL import Image

from gemma_lisa.datasets_builder.formats import voc
from gemma_lisa.datasets_builder.formats.annotated import AS_SIZE, IGNORED, Notes
from gemma_lisa.datasets_builder.formats.voc import FORMAT
from gemma_lisa.datasets_builder.formats.voc_colors import STANDARD_NAMES, VOC_COLORS

SIZE = (6, 8)
LEFT, RIGHT, LOW, BORDER = box(0, 0, 3, 3), box(5, 0, 8, 3), box(0, 4, 8, 6), box(3, 0, 5, 3)
LABEL_MAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nmug:51,221,255::\nplate:250,50,83::\n"
COLORS = {0: 0, 1: 0x33DDFF, 2: 0xFA3253, 255: 0xE0E0C0}


def numbers(*parts):
    """Return a label map of SIZE from (number, mask)."""
    values = np.zeros(SIZE, dtype=np.uint8)
    for number, mask in parts:
        values[mask] = number
    return values


CLASSES = numbers((1, LEFT), (1, RIGHT), (2, LOW), (255, BORDER))
OBJECTS = numbers((1, LEFT), (2, RIGHT), (3, LOW), (255, BORDER))


def palette(root, name, values):
    """Save a label map as VOC does."""
    picture = Image.fromarray(values).convert("P")
    picture.putpalette([part for color in VOC_COLORS for part in (color >> 16, color >> 8 & 255, color & 255)])
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    picture.save(root / name)


def colored(root, name, values, colors):
    """Save a label map in colors, as CVAT does."""
    pixels = np.array([[(colors[v] >> 16, colors[v] >> 8 & 255, colors[v] & 255) for v in row] for row in values])
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(root / name)


def check_objects(image, plate="plate", mug="mug"):
    found = masks_by_name(image, SIZE)
    assert {name: len(masks) for name, masks in found.items()} == {mug: 2, plate: 1, IGNORED: 1}
    assert np.array_equal(found[mug], [LEFT, RIGHT])
    assert np.array_equal(found[plate][0], LOW) and np.array_equal(found[IGNORED][0], BORDER)
    assert [each.crowd for each in image.objects()] == [False, False, False, True]
    assert image.size == SIZE and image.frame == AS_SIZE and not image.normalized


def test_voc2012(tmp_path):
    root = tmp_path / "VOCdevkit/VOC2012"
    for name in ("2007_1", "2007_2", "2007_3"):
        photo(root, f"JPEGImages/{name}.jpg")
    for name in ("2007_1", "2007_2"):
        palette(root, f"SegmentationClass/{name}.png", CLASSES)
        palette(root, f"SegmentationObject/{name}.png", OBJECTS)
    write(root, "ImageSets/Segmentation/train.txt", "2007_1\n")
    write(root, "ImageSets/Segmentation/val.txt", "2007_2\n2007_9\n")
    write(root, "ImageSets/Segmentation/trainval.txt", "2007_1\n2007_2\n")
    write(root, "Annotations/2007_1.xml", "<annotation></annotation>")
    splits, notes = read(FORMAT, tmp_path)
    assert names(splits) == {"train": ["2007_1.jpg"], "validation": ["2007_2.jpg"]}
    check_objects(splits["train"][0], "bicycle", "aeroplane")
    assert notes == {STANDARD_NAMES: 2, voc.WITHOUT_MASK: 1, voc.LISTED_WITHOUT_MASK: 1}


@pytest.mark.parametrize("photos", ["images", "JPEGImages", "photos/mine", "."])
def test_cvat(tmp_path, photos):
    photo(tmp_path, f"{photos}/a/1.jpg")
    colored(tmp_path, "SegmentationClass/a/1.png", CLASSES, COLORS)
    colored(tmp_path, "SegmentationObject/a/1.png", OBJECTS, dict(enumerate(VOC_COLORS)))
    write(tmp_path, "labelmap.txt", LABEL_MAP)
    write(tmp_path, "ImageSets/Segmentation/default.txt", "a/1\n")
    splits, notes = read(FORMAT, tmp_path)
    assert names(splits) == {"train": ["1.jpg"]} and notes == {}
    check_objects(splits["train"][0])


def test_without_objects_a_class_is_one(tmp_path):
    photo(tmp_path, "JPEGImages/1.jpg")
    palette(tmp_path, "SegmentationClass/1.png", CLASSES)
    write(tmp_path, "classes.txt", "mug\nplate\n")
    splits, notes = read(FORMAT, tmp_path)
    assert np.array_equal(masks_by_name(splits["train"][0], SIZE)["mug"], [LEFT | RIGHT])
    assert notes == {voc.ONE_OBJECT: 1}


def test_objects_of_another_size_and_regions_without_a_number_are_noted(tmp_path):
    for name in ("1", "2"):
        photo(tmp_path, f"images/{name}.jpg")
        palette(tmp_path, f"SegmentationClass/{name}.png", CLASSES)
    palette(tmp_path, "SegmentationObject/1.png", OBJECTS[:3])
    palette(tmp_path, "SegmentationObject/2.png", numbers((1, LEFT)))
    write(tmp_path, "labelmap.txt", LABEL_MAP)
    splits, notes = read(FORMAT, tmp_path)
    found = [masks_by_name(image, SIZE)["mug"] for image in splits["train"]]
    assert np.array_equal(found[0], [LEFT | RIGHT]) and np.array_equal(found[1], [RIGHT, LEFT])
    assert notes == {voc.OTHER_SIZE: 1, voc.UNNUMBERED: 2}


def test_lists_of_other_names_are_train(tmp_path):
    for name in ("1", "2", "my photo"):
        photo(tmp_path, f"images/{name}.jpg")
        palette(tmp_path, f"SegmentationClass/{name}.png", CLASSES)
    photo(tmp_path, "images/3.jpg")
    palette(tmp_path, "SegmentationClass/4.png", CLASSES)
    write(tmp_path, "labelmap.txt", LABEL_MAP)
    write(tmp_path, "ImageSets/Segmentation/first.txt", "1\n4\nmy photo\n")
    write(tmp_path, "ImageSets/Segmentation/test.txt", "JPEGImages/1.jpg SegmentationClass/1.png\n")
    splits, notes = read(FORMAT, tmp_path)
    assert names(splits) == {"train": ["my photo.jpg"], "test": ["1.jpg"]}
    assert notes[voc.OTHER_LISTS] == notes[voc.LISTED_TWICE] == notes[voc.UNLISTED] == notes[voc.WITHOUT_PHOTO] == 1
    assert notes[voc.WITHOUT_MASK] == 2  # 2.jpg is in no list


def test_splits_can_be_folders(tmp_path):
    for split in ("train", "val"):
        photo(tmp_path, f"{split}/JPEGImages/1.jpg")
        palette(tmp_path, f"{split}/SegmentationClass/1.png", CLASSES)
    write(tmp_path, "labelmap.txt", LABEL_MAP)
    splits, _ = read(FORMAT, tmp_path)
    assert {split: images[0].path.relative_to(tmp_path).parts[0] for split, images in splits.items()} == {
        "train": "train",
        "validation": "val",
    }
    (tmp_path / "train").rename(tmp_path / "VOC2007")
    assert "VOC2007, val are several data sets" in refusal(FORMAT, tmp_path)


def test_errors_of_one_photo_are_raised_by_its_objects(tmp_path):
    for name in ("1", "2", "3", "4"):
        photo(tmp_path, f"images/{name}.jpg")
        palette(tmp_path, f"SegmentationClass/{name}.png", CLASSES)
    photo(tmp_path, "images/1.png")
    colored(tmp_path, "SegmentationClass/2.png", CLASSES, dict.fromkeys(COLORS, 5))
    (tmp_path / "SegmentationClass/3.png").write_bytes(b"\x89PNG")
    write(tmp_path, "labelmap.txt", LABEL_MAP)
    first, second, third, fourth = FORMAT.read(tmp_path, Notes())["train"]
    with pytest.raises(ValueError, match="1.png: its photo can be .*1.jpg and .*1.png"):
        first.objects()
    with pytest.raises(ValueError, match="1 color of its pixels, such as 0,0,5, is not in labelmap.txt"):
        second.objects()
    assert third.size is None
    with pytest.raises(ValueError, match="3.png cannot be read"):
        third.objects()
    assert len(fourth.objects()) == 3


def test_masks_with_smooth_edges_are_refused_quickly(tmp_path):
    photo(tmp_path, "images/1.jpg")
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    (tmp_path / "SegmentationClass").mkdir()
    Image.fromarray(pixels).save(tmp_path / "SegmentationClass/1.png")
    with pytest.raises(ValueError, match="different numbers or colors, more than 10,000; save the masks as PNG"):
        FORMAT.read(tmp_path, Notes())["train"][0].objects()


def test_missing_photos_are_refused_with_advice(tmp_path):
    palette(tmp_path, "SegmentationClass/1.png", CLASSES)
    assert "none has its photo; put the photos into JPEGImages/" in refusal(FORMAT, tmp_path)
    (tmp_path / "SegmentationClass/1.png").unlink()
    assert "SegmentationClass: contains no masks" in refusal(FORMAT, tmp_path)


def test_other_folders_are_not_recognized(tmp_path):
    photo(tmp_path, "1.jpg")
    palette(tmp_path, "masks/1.png", CLASSES)
    assert not FORMAT.recognizes(tmp_path) and not FORMAT.recognizes(tmp_path / "missing")


@pytest.mark.parametrize("in_color", [False, True])
def test_a_list_without_numbers_counts_from_1_only_if_a_mask_shows_it(tmp_path, in_color):
    photo(tmp_path, "JPEGImages/1.jpg")
    values = numbers((1, LEFT), (2, LOW), (255, BORDER))
    save = (lambda *args: colored(*args, VOC_COLORS)) if in_color else palette
    save(tmp_path, "SegmentationClass/1.png", values)
    write(tmp_path, "classes.txt", "wall\nmug\nplate\n")
    with pytest.raises(ValueError, match="no mask contains the number 3, .* `0: wall`, `1: mug`, .* or `1: wall`"):
        FORMAT.read(tmp_path, Notes())
    write(tmp_path, "classes.txt", "0: wall\n1: mug\n2: plate\n")
    [image] = FORMAT.read(tmp_path, Notes())["train"]
    assert list(masks_by_name(image, SIZE)) == ["wall", "mug", "plate", IGNORED]
    write(tmp_path, "classes.txt", "mug\nplate\n")
    [image] = FORMAT.read(tmp_path, Notes())["train"]
    assert list(masks_by_name(image, SIZE)) == ["mug", "plate", IGNORED]

"""YOLO segmentation labels in the layouts of Ultralytics, Roboflow, CVAT, Label Studio and supervision."""

from pathlib import Path

import numpy as np
import pytest
from annotated_files import box, mask_of, masks_by_name, names, read, refusal
from own_folder import SIZE, photo, write
from PIL import Image, ImageDraw

from gemma_lisa.datasets_builder.formats import yolo
from gemma_lisa.datasets_builder.formats.annotated import Notes
from gemma_lisa.datasets_builder.formats.yolo import FORMAT

WIDTH, HEIGHT = SIZE
EXPORT = Path(__file__).parents[2] / "exports"


def outline(left, top, right, bottom, number=0):
    """Return the line of a box as a polygon of five points."""
    points = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return " ".join([str(number), *(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in points)]) + "\n"


def labelled(root, name, text=None, label=None):
    """Write a photo and its label file."""
    photo(root, name)
    label = label or name.replace("images", "labels").rpartition(".")[0] + ".txt"
    write(root, label, outline(1, 2, 5, 4) if text is None else text)


YAML = "names: [mug, steel_plate]\nnc: 2\n"


@pytest.mark.parametrize(
    "image, label",
    [
        ("train/images/1.jpg", "train/labels/1.txt"),
        ("images/train/1.jpg", "labels/train/1.txt"),
        ("images/1.jpg", "labels/1.txt"),
        ("images/a/1.jpg", "labels/a/1.txt"),
        ("Images/1.jpg", "Labels/1.txt"),
        ("train/1.jpg", "train/1.txt"),
        ("train/1.jpg", "train/labels/1.txt"),
        ("photos/1.jpg", "labels/1.txt"),
        ("images/1.jpg", "images/1.txt"),
        ("images/1.jpg", "annotations/1.txt"),
    ],
)
def test_a_photo_is_found_with_its_labels(tmp_path, image, label):
    labelled(tmp_path, image, outline(1, 2, 5, 4) + outline(5, 0, 8, 6, 1), label)
    write(tmp_path, "data.yaml", YAML)
    splits, notes = read(FORMAT, tmp_path)
    (found,) = splits["train"]
    assert found.path == tmp_path / image and found.normalized and found.size is None and notes == {}
    masks = masks_by_name(found, (HEIGHT, WIDTH))
    assert np.array_equal(masks["mug"][0], box(1, 2, 5, 4))
    assert np.array_equal(masks["steel_plate"][0], box(5, 0, 8, 6))


def test_roboflow(tmp_path):
    for split in ("train", "valid", "test"):
        labelled(tmp_path, f"{split}/images/{split}_jpg.rf.1a2b.jpg")
    write(tmp_path, "data.yaml", f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\n{YAML}")
    write(tmp_path, "README.roboflow.txt", "0 1 2 3 4\n")
    splits, notes = read(FORMAT, tmp_path)
    assert list(splits) == ["train", "validation", "test"] and all(map(len, splits.values()))
    assert sum(notes.values()) == 3


def test_cvat(tmp_path):
    labelled(tmp_path, "images/train/a/1.jpg")
    labelled(tmp_path, "images/val/2.jpg")
    write(tmp_path, "data.yaml", "path: .\ntrain: train.txt\nval: val.txt\nnames:\n  0: mug\n")
    write(tmp_path, "train.txt", "data/images/train/a/1.jpg\n")
    write(tmp_path, "val.txt", "data/images/val/2.jpg\n")
    splits, notes = read(FORMAT, tmp_path)
    assert names(splits) == {"train": ["1.jpg"], "validation": ["2.jpg"]} and notes == {}


def test_label_studio_without_photos_names_labels_by_its_uploads(tmp_path):
    photo(tmp_path, "a (1).jpg")
    photo(tmp_path, "b.jpg")
    write(tmp_path, "labels/cb0618f6-a_1.txt", outline(1, 2, 5, 4))
    write(tmp_path, "labels/1b0618f6-b.txt", outline(0, 0, 2, 2))
    write(tmp_path, "labels/2b0618f6-c.txt", outline(0, 0, 2, 2))
    write(tmp_path, "classes.txt", "mug\n")
    write(tmp_path, "notes.json", "{}")
    splits, notes = read(FORMAT, tmp_path)
    found = {image.path.name: image for image in splits["train"]}
    assert np.array_equal(masks_by_name(found["a (1).jpg"], (6, 8))["mug"][0], box(1, 2, 5, 4))
    assert np.array_equal(masks_by_name(found["b.jpg"], (6, 8))["mug"][0], box(0, 0, 2, 2))
    assert notes == {yolo.NO_PREFIX: 2, yolo.WITHOUT_PHOTO: 1}


@pytest.mark.parametrize("name", ["1.jpg", "2.jpg"])
def test_an_export_of_supervision_gives_its_masks(name):
    splits, notes = read(FORMAT, EXPORT / "supervision_yolo")
    image = next(image for image in splits["train"] if image.path.name == name)
    found, size = {}, (72, 96)
    for annotated in image.objects():
        # supervision writes the numbers of the outermost pixels, so its outlines belong to the object
        canvas = Image.new("1", size[::-1])
        points = np.rint(np.reshape(annotated.segmentation[0], (-1, 2)) * size[::-1]).astype(int)
        ImageDraw.Draw(canvas).polygon([tuple(point) for point in points.tolist()], fill=1, outline=1)
        found[annotated.name] = found.get(annotated.name, False) | np.asarray(canvas)
        filled = mask_of(annotated, image, size)
        assert (filled & canvas).sum() > 0.85 * (filled | canvas).sum()
    masks = EXPORT / "supervision_masks"
    expected = {path.stem.split("_", 2)[2]: np.asarray(Image.open(path)) for path in masks.glob(f"{name[0]}_*.png")}
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[kind], expected[kind]) for kind in expected)
    assert notes == {}


def test_photos_without_labels_have_no_objects(tmp_path):
    labelled(tmp_path, "images/1.jpg")
    labelled(tmp_path, "images/2.jpg", "")
    photo(tmp_path, "3.jpg")
    write(tmp_path, "labels/9.txt", outline(1, 2, 5, 4))
    write(tmp_path, "classes.txt", "mug\n")
    photo(tmp_path, "plots/labels.jpg")
    splits, notes = read(FORMAT, tmp_path)
    assert [len(image.objects()) for image in splits["train"]] == [1, 0, 0]
    assert notes == {yolo.WITHOUT_LABELS: 1, yolo.WITHOUT_PHOTO: 1, yolo.OTHER_IMAGES: 1}


def test_a_bad_line_is_an_error_of_its_object_only(tmp_path):
    labelled(tmp_path, "images/1.jpg", outline(1, 2, 5, 4) + "7 0.1 0.1 0.2 0.2 0.3 0.3\n")
    labelled(tmp_path, "images/2.jpg")
    write(tmp_path, "classes.txt", "mug\n")
    bad, good = FORMAT.read(tmp_path, Notes())["train"]
    whole, unknown = bad.objects()
    assert (whole.name, whole.error, unknown.name) == ("mug", None, "")
    assert "labels/1.txt line 2: there is no class 7; the 1 class is 0 (mug)" in str(unknown.error)
    assert len(good.objects()) == 1


def test_two_photos_with_one_label_file_are_an_error_of_the_second(tmp_path):
    labelled(tmp_path, "images/1.jpg")
    photo(tmp_path, "1.png")
    write(tmp_path, "classes.txt", "mug\n")
    first, second = FORMAT.read(tmp_path, Notes())["train"]
    assert len(first.objects()) == 1
    with pytest.raises(ValueError, match="1.png: its label file 1.txt is also that of 1.jpg"):
        second.objects()


def test_a_box_among_polygons_has_no_outline(tmp_path):
    labelled(tmp_path, "images/1.jpg", outline(1, 2, 5, 4) + "0 0.5 0.5 0.5 0.5\n")
    write(tmp_path, "classes.txt", "mug\n")
    _, only_box = read(FORMAT, tmp_path)[0]["train"][0].objects()
    assert only_box.segmentation is None and only_box.box == (0.25, 0.25, 0.5, 0.5)


def test_four_corners_everywhere_are_noted(tmp_path):
    labelled(tmp_path, "images/1.jpg", "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n")
    write(tmp_path, "classes.txt", "mug\n")
    assert read(FORMAT, tmp_path)[1] == {yolo.ORIENTED: 1}


def test_boxes_are_refused_with_advice(tmp_path):
    for name in ("1", "2"):
        labelled(tmp_path, f"images/{name}.jpg", "0 0.5 0.5 0.25 0.5\n1 0.5 0.5 0.25 0.5 0.9\n")
    assert "are boxes (class" in refusal(FORMAT, tmp_path)  # not: add names
    write(tmp_path, "data.yaml", YAML)
    assert FORMAT.recognizes(tmp_path)
    assert "are boxes (class, x, y, width, height), but masks need outlines; export" in refusal(FORMAT, tmp_path)
    write(tmp_path, "data.yaml", f"{YAML}kpt_shape: [2, 2]\n")
    write(tmp_path, "labels/1.txt", "0 0.5 0.5 0.25 0.5 0.1 0.1 0.2 0.2\n")
    assert "are boxes with keypoints" in refusal(FORMAT, tmp_path)


def test_a_folder_without_photos_labels_or_lines_is_refused(tmp_path):
    write(tmp_path, "labels/1.txt", outline(1, 2, 5, 4))
    write(tmp_path, "data.yaml", YAML)
    assert FORMAT.recognizes(tmp_path) and "but no photo" in refusal(FORMAT, tmp_path)
    photo(tmp_path, "2.jpg")
    assert "the labels of images/2.jpg must be in labels/2.txt" in refusal(FORMAT, tmp_path)
    write(tmp_path, "labels/2.txt", "\n")
    assert "all 1 YOLO label file" in refusal(FORMAT, tmp_path)


def test_names_are_required(tmp_path):
    labelled(tmp_path, "images/1.jpg")
    assert FORMAT.recognizes(tmp_path)
    assert "no data.yaml or classes.txt" in refusal(FORMAT, tmp_path)


@pytest.mark.parametrize(
    "name, text",
    [
        ("labels/1.txt", "Car 0.00 0 -1.5 100 200 300 400\n"),  # KITTI
        ("images/1.txt", "a caption of the photo\n"),
        ("notes.txt", "0 0.1 0.2 0.3 0.4\n"),
        ("labels/1.json", "{}"),
        ("classes.txt", "mug\n"),
    ],
)
def test_other_formats_are_not_recognized(tmp_path, name, text):
    photo(tmp_path, "1.jpg")
    write(tmp_path, name, text)
    assert not FORMAT.recognizes(tmp_path)
    assert not FORMAT.recognizes(tmp_path / "missing")

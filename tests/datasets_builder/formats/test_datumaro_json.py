"""Datumaro's own JSON files are read with their subsets as splits."""

import json
from pathlib import Path

import numpy as np
import pytest
from own_folder import SIZE, photo, write

from gemma_lisa.datasets_builder.formats.annotated import AS_SIZE, Notes
from gemma_lisa.datasets_builder.formats.coco_segmentation import segmentation_runs, unite
from gemma_lisa.datasets_builder.formats.datumaro_json import FORMAT, NO_CLASS, NO_SPLIT, WITHOUT_AREA
from gemma_lisa.datasets_builder.rows import decode_mask

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools

EXPORTS = Path(__file__).parents[2] / "exports" / "datumaro"
SQUARE = [1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0]


def annotation(kind="polygon", label=0, points=SQUARE, **fields):
    record = {"id": 0, "type": kind, "attributes": {}, "group": 0, "label_id": label, "z_order": 0}
    return record | ({"points": points} if points is not None else {}) | fields


def item(number="1", path="1.jpg", annotations=None, **fields):
    image = {"path": path, "size": list(SIZE[::-1])}
    annotations = [annotation()] if annotations is None else annotations
    return {"id": number, "annotations": annotations, "image": image} | fields


def subset(root, name, *items, labels=("mug", "plate"), **fields):
    labels = [{"name": label, "parent": "", "attributes": []} for label in labels]
    content = {"infos": {}, "categories": {"label": {"labels": labels}}, "items": list(items)}
    write(root, f"annotations/{name}.json", json.dumps(content | fields))


def read(root):
    """Return {split: paths of photos relative to root}, the notes and the images."""
    assert FORMAT.recognizes(root)
    notes = Notes()
    splits = FORMAT.read(root, notes)
    paths = {split: [image.path.relative_to(root).as_posix() for image in images] for split, images in splits.items()}
    return paths, notes, [image for images in splits.values() for image in images]


def test_an_export_of_datumaro_has_the_masks_that_were_drawn():
    expected = json.loads((EXPORTS / "expected.json").read_text())
    paths, notes, images = read(EXPORTS / "datumaro")
    assert paths == {"train": ["images/train/1.png", "images/train/2.png"], "validation": ["images/val/3.png"]}
    for image in images:
        masks = {}
        for one in image.objects():
            masks.setdefault(one.name, []).append(segmentation_runs(one.segmentation, image.size, one.where))
        assert {name: unite(same) for name, same in masks.items()} == expected[image.path.stem]["masks"]
    assert {kind: len(cases) for kind, cases in notes.cases.items()} == {WITHOUT_AREA: 6}
    plates = [one.fields["group"] for one in images[2].objects() if one.name == "plate"]
    assert plates == [1, 1]  # two polygons of one object


@pytest.mark.parametrize(
    ("places", "path"),
    [
        (("images/train/1.jpg", "images/val/1.jpg"), "1.jpg"),
        (("images/train/1.jpg", "images/val/1.jpg"), ""),
        (("images/train/1.jpg", "images/val/1.jpg"), "/data/me/1.jpg"),
        (("images/train_1.jpg", "images/val_1.jpg"), None),
        (("train_1.jpg", "val_1.jpg"), None),
    ],
)
def test_photos_are_found_in_the_folder_of_their_subset(tmp_path, places, path):
    for split, place in zip(("train", "val"), places, strict=True):
        photo(tmp_path, f"./{place}")
        stem = Path(place).stem
        subset(tmp_path, split, item(stem, f"{stem}.jpg" if path is None else path))
    paths, _, images = read(tmp_path)
    assert paths == {"train": [places[0]], "validation": [places[1]]}
    assert all((image.size, image.frame, len(image.objects())) == (SIZE[::-1], AS_SIZE, 1) for image in images)


def test_a_photo_of_another_subset_is_not_used(tmp_path):
    photo(tmp_path, "val/1.jpg")
    photo(tmp_path, "images/val/1.jpg")
    subset(tmp_path, "train", item(), item("2", "2.jpg"))
    _, _, (other, missing) = read(tmp_path)
    with pytest.raises(ValueError, match="train.json: item 1: its photo .* is in another split"):
        other.objects()
    with pytest.raises(ValueError, match=r"train.json: item 2: the photo '2.jpg' is not in"):
        missing.objects()


def test_items_in_folders_are_found_as_datumaro_writes_them(tmp_path):
    photo(tmp_path, "images/default/a_1.jpg")
    photo(tmp_path, "images/default/a/2.jpg")
    subset(tmp_path, "default", item("a/1", "a/1.jpg"), item("a/2", "a/2.jpg", attr={"frame": 7}))
    paths, notes, images = read(tmp_path)
    assert paths == {"train": ["images/default/a_1.jpg", "images/default/a/2.jpg"]}
    assert NO_SPLIT not in notes.cases and images[1].fields == {"frame": 7}


def test_other_subsets_are_train_and_counted(tmp_path):
    photo(tmp_path, "images/1.jpg")
    photo(tmp_path, "images/2.jpg")
    subset(tmp_path, "batch1", item())
    subset(tmp_path, "Test", item("2", "2.jpg"))
    paths, notes, _ = read(tmp_path)
    assert paths == {"train": ["images/1.jpg"], "test": ["images/2.jpg"]} and len(notes.cases[NO_SPLIT]) == 1


def test_objects_are_as_in_the_file(tmp_path):
    photo(tmp_path, "images/1.jpg")
    annotations = [
        annotation(group=2, z_order=1, attributes={"color": "red"}),
        annotation("mask", 1, None, rle={"counts": [6, 12, 30], "size": [6, 8]}, attributes={"is_crowd": True}),
        annotation("mask", 1, None, rle={"counts": "6<n0", "size": [6, 8]}),
        annotation("bbox", 0, None, bbox=[1, 2, 3, 4]),
        annotation("ellipse", 0, [1, 1, 7, 5]),
    ]
    subset(tmp_path, "train", item(annotations=annotations))
    _, notes, [image] = read(tmp_path)
    polygon, listed, text, box, ellipse = image.objects()
    assert (polygon.name, polygon.segmentation) == ("mug", [SQUARE]) and "item 1: annotation 1 (mug)" in polygon.where
    assert polygon.fields == {"color": "red", "group": 2, "z_order": 1}
    assert [one.crowd for one in image.objects()] == [False, True, False, False, False]
    masks = [decode_mask(segmentation_runs(one.segmentation, image.size, ""), "") for one in (listed, text)]
    assert np.array_equal(*masks) and masks[0][:, 1:3].all() and masks[0].sum() == 12
    assert (box.segmentation, box.box) == (None, (1, 2, 3, 4))
    drawn = decode_mask(segmentation_runs(ellipse.segmentation, image.size, ""), "")
    assert drawn[3, 1:7].all() and not drawn[0].any() and abs(int(drawn.sum()) - np.pi * 3 * 2) < 3
    assert not notes.cases


def test_annotations_without_an_area_are_counted_and_the_others_remain(tmp_path):
    photo(tmp_path, "images/1.jpg")
    empty = [annotation(kind) for kind in ("label", "caption", "points", "polyline")]
    empty += [annotation(points=points) for points in ([], [1, 1, 2, 2], None)]
    bad = [
        7,
        annotation(label=2),
        annotation(label=-1),
        annotation(label=True),
        annotation("cuboid_3d"),
        annotation(points=["x"]),
        annotation(points=[[1, 2]]),
        annotation(points=[float("nan")] * 6),
        annotation("mask", rle=None),
        annotation("mask", rle={"size": [6, 8]}),
        annotation("bbox", bbox=[1, 2]),
        annotation("ellipse"),
    ]
    subset(tmp_path, "train", item(annotations=[*empty, annotation(), annotation(label=None), *bad]))
    _, notes, [image] = read(tmp_path)
    errors = [str(one.error) for one in image.objects() if one.error]
    assert len(image.objects()) == 1 + len(bad) and len(errors) == len(bad)
    assert all("\n" not in error and "item 1: annotation" in error for error in errors)
    notes.cases.clear()
    image.objects()
    assert {kind: len(cases) for kind, cases in notes.cases.items()} == {WITHOUT_AREA: 7, NO_CLASS: 1}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (7, "item 1: the list annotations is missing"),
        (item(annotations={}), "item 1: the list annotations is missing"),
        (item() | {"image": None, "video_frame": {"video_path": "a.mp4"}}, "item 1 is not an image"),
    ],
)
def test_a_bad_item_is_an_error_of_its_photo(tmp_path, record, said):
    photo(tmp_path, "images/1.jpg")
    photo(tmp_path, "images/2.jpg")
    subset(tmp_path, "train", record, item("2", "2.jpg", image={"path": "2.jpg", "size": None}))
    _, _, (bad, good) = read(tmp_path)
    assert good.objects() and good.size is None
    with pytest.raises(ValueError, match=said):
        bad.objects()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"items": {}}, "train.json: the list items is missing"),
        ({"categories": {"label": {"labels": []}}}, "train.json: categories.label.labels must be a list"),
        ({"categories": {"label": [1]}, "dm_format_version": "1.0"}, "train.json: categories.label.labels must be"),
        ({"categories": {"label": {"labels": [{"name": " "}]}}}, "train.json: categories.label.labels must be"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, fields, said):
    subset(tmp_path, "train", item(), **fields)
    assert FORMAT.recognizes(tmp_path)
    with pytest.raises(ValueError, match=said):
        FORMAT.read(tmp_path, Notes())


@pytest.mark.parametrize("text", ["", "[]", '{"info": {}, "images": [], "categories": [{"name": "label"}]}'])
def test_other_json_files_are_not_recognized(tmp_path, text):
    write(tmp_path, "annotations/train.json", text)
    assert not FORMAT.recognizes(tmp_path) and not FORMAT.recognizes(EXPORTS / "coco_instances")
    with pytest.raises(ValueError, match=r"contains no annotations/\*.json of Datumaro"):
        FORMAT.read(tmp_path, Notes())

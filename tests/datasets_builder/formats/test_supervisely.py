"""Projects of Supervisely are read with their data sets as splits."""

import base64
import io
import json
import zlib

import numpy as np
import pytest
from own_folder import SIZE, photo, write
from PIL import Image

from gemma_lisa.datasets_builder.formats.annotated import AS_SIZE, Notes
from gemma_lisa.datasets_builder.formats.photo_names import OTHER_SUFFIX
from gemma_lisa.datasets_builder.formats.supervisely import (
    FORMAT,
    NO_FILE,
    NO_SIZE,
    NO_SPLIT,
    PNG_EXTRA_BYTES,
    SMALL_HOLE,
    SOFT_MASK,
    WITHOUT_AREA,
)
from gemma_lisa.datasets_builder.rows import decode_mask

# Of supervisely.Bitmap.data_2_base64, version 6.74.51, and its mask
RING = (
    "eJzrDPBz5+WS4mJgYOD19HAJAtLMIMwIInOeqf8BUmwBPiGuQPr///9Lb86/C2QxlgT5BT"
    "M4PLuRBuTwebo4hlTMSa44sKHhISMDuxpTYrr03F6gDIOnq5/LOqeEJgDM5ht6"
)
RING_PIXELS = [[1, 1, 1], [1, 0, 1], [1, 1, 1]]


def thing(name="mug", kind="polygon", exterior=((1, 1), (5, 1), (5, 4), (1, 4)), interior=(), **fields):
    points = {"exterior": list(exterior), "interior": list(interior)}
    return {"id": 7, "classTitle": name, "geometryType": kind, "shape": kind, "points": points, "tags": []} | fields


def bitmap(data=RING, origin=(2, 1), kind="bitmap", name="ring"):
    return {"classTitle": name, "geometryType": kind, kind: {"data": data, "origin": list(origin)}}


def png(pixels, compressed=True, **options):
    content = io.BytesIO()
    Image.fromarray(np.array(pixels, dtype=np.uint8)).save(content, "PNG", **options)
    return base64.b64encode(zlib.compress(content.getvalue()) if compressed else content.getvalue()).decode()


def annotation(root, name, objects=(), size=SIZE, **fields):
    content = {"description": "", "tags": [], "size": {"height": size[1], "width": size[0]}, "objects": list(objects)}
    write(root, name, json.dumps(content | fields))


def project(root, names=("ds",), objects=None, **fields):
    """Write a project with one photo in each data set."""
    classes = [{"title": "mug", "shape": "polygon"}, {"title": "box", "shape": "rectangle"}]
    write(root, "meta.json", json.dumps({"classes": classes, "tags": []}))
    for at, name in enumerate(names, start=1):
        photo(root, f"{name}/img/{at}.jpg")
        annotation(root, f"{name}/ann/{at}.jpg.json", [thing()] if objects is None else objects, **fields)


def read(root):
    """Return {split: paths of photos relative to root}, the notes and the images."""
    assert FORMAT.recognizes(root)
    notes = Notes()
    splits = FORMAT.read(root, notes)
    paths = {split: [image.path.relative_to(root).as_posix() for image in images] for split, images in splits.items()}
    return paths, notes, [image for images in splits.values() for image in images]


def objects_of(root, objects, **fields):
    project(root, objects=objects, **fields)
    _, notes, [image] = read(root)
    return image.objects(), notes


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["."], {"train": ["img/1.jpg"]}),
        (["ds1", "ds2"], {"train": ["ds1/img/1.jpg", "ds2/img/2.jpg"]}),
        (["val", "Train"], {"train": ["Train/img/2.jpg"], "validation": ["val/img/1.jpg"]}),
        (["project/test"], {"test": ["project/test/img/1.jpg"]}),
        (["a", "a/datasets/val"], {"train": ["a/img/1.jpg"], "validation": ["a/datasets/val/img/2.jpg"]}),
    ],
)
def test_data_sets_with_the_name_of_a_split_are_splits(tmp_path, names, expected):
    project(tmp_path, names)
    paths, notes, images = read(tmp_path)
    assert paths == expected and len(notes.cases[NO_SPLIT]) == ("a/img/1.jpg" in paths.get("train", []))
    for image in images:
        assert (image.size, image.frame, image.normalized) == (SIZE[::-1], AS_SIZE, False)
        assert [one.name for one in image.objects()] == ["mug"]


def test_annotations_are_matched_by_the_name_of_the_photo(tmp_path):
    project(tmp_path)
    for name in ("2.png", "3.jpg", "ku\u0308che.jpg"):
        photo(tmp_path, f"ds/img/{name}")
    annotation(tmp_path, "ds/ann/2.json")
    annotation(tmp_path, "ds/ann/k\u00fcche.jpg.json")
    annotation(tmp_path, "ds/ann/4.jpg.json")
    paths, notes, images = read(tmp_path)
    assert paths == {"train": [f"ds/img/{name}" for name in ("1.jpg", "2.png", "4.jpg", "ku\u0308che.jpg")]}
    assert [case.photo.name for case in notes.cases[NO_FILE]] == ["3.jpg"]
    assert [case.photo.name for case in notes.cases[OTHER_SUFFIX]] == ["2.png"]
    with pytest.raises(ValueError, match=r"4.jpg.json: the photo '4.jpg' is not in"):
        images[2].objects()


def test_polygons_have_holes_and_rectangles_four_corners(tmp_path):
    hole = [[2, 2], [4, 2], [3, 3]]
    parts = [{"exterior": [[0, 0], [2, 0], [0, 2]], "interior": [hole]}, {"exterior": [[5, 5], [7, 5], [5, 6]]}]
    objects = [
        thing("Mug", interior=[hole, [[1, 1]]], tags=[{"name": "color", "value": "red"}, {"name": "new"}]),
        thing("box", "rectangle", [[4, 3], [1, 1]], description="lid", instance="abc"),
        {"classTitle": "cups", "geometryType": "multipolygon", "parts": parts},
    ]
    (mug, box, cups), notes = objects_of(tmp_path, objects)
    assert (mug.name, mug.segmentation, mug.holes) == ("Mug", [[1, 1, 5, 1, 5, 4, 1, 4]], [[2, 2, 4, 2, 3, 3]])
    assert mug.fields == {"color": "red", "new": True} and "ds/ann/1.jpg.json: object 1 (Mug)" in mug.where
    assert (box.segmentation, box.holes) == ([[4, 3, 1, 3, 1, 1, 4, 1]], [])
    assert box.fields == {"description": "lid", "instance": "abc"}
    assert cups.segmentation == [[0, 0, 2, 0, 0, 2], [5, 5, 7, 5, 5, 6]] and cups.holes == [[2, 2, 4, 2, 3, 3]]
    assert {kind: len(cases) for kind, cases in notes.cases.items()} == {SMALL_HOLE: 1}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (RING, RING_PIXELS),
        (png(RING_PIXELS), RING_PIXELS),
        (png(np.array(RING_PIXELS) * 255, compressed=False), RING_PIXELS),
        (png(np.dstack([np.full((3, 3), 9)] * 3 + [np.array(RING_PIXELS) * 255])), RING_PIXELS),  # RGBA
    ],
)
def test_bitmaps_are_placed_at_their_origin(tmp_path, data, expected):
    [ring], notes = objects_of(tmp_path, [bitmap(data)])
    mask = decode_mask(ring.segmentation, "")
    assert mask.shape == SIZE[::-1] and mask[1:4, 2:5].tolist() == expected and mask.sum() == 8
    assert not notes.cases


def test_a_bitmap_can_exceed_the_border_by_a_pixel(tmp_path):
    (first, last), _ = objects_of(tmp_path, [bitmap(origin=(-1, -1)), bitmap(origin=(6, 4))])
    assert decode_mask(first.segmentation, "")[:2, :2].tolist() == [[0, 1], [1, 1]]
    assert decode_mask(last.segmentation, "")[4:, 6:].tolist() == [[1, 1], [1, 0]]


def test_an_alpha_mask_is_used_without_its_transparency(tmp_path):
    [one], notes = objects_of(tmp_path, [bitmap(png([[0, 9], [200, 255]]), kind="alpha_mask")])
    assert decode_mask(one.segmentation, "").sum() == 3 and len(notes.cases[SOFT_MASK]) == 1


def test_old_files_do_not_state_the_shape(tmp_path):
    objects = [thing("mug"), thing("box", exterior=[[1, 1], [4, 3]]), bitmap(), thing("mug", exterior=[[1, 1]])]
    for one in objects:
        one.pop("geometryType"), one.pop("shape", None)
        one["bitmap"] = one.get("bitmap")
    (mug, box, ring), notes = objects_of(tmp_path, objects)
    assert len(mug.segmentation[0]) == len(box.segmentation[0]) == 8 and "counts" in ring.segmentation
    assert len(notes.cases[WITHOUT_AREA]) == 1


def test_objects_without_an_area_are_counted_and_the_others_remain(tmp_path):
    empty = [thing(kind=kind) for kind in ("point", "line", "graph")]
    empty += [thing(exterior=[]), thing(exterior=[[1, 1], [2, 2]])]
    bomb = base64.b64encode(zlib.compress(base64.b64decode(png(RING_PIXELS, False)) + bytes(PNG_EXTRA_BYTES))).decode()
    bad = [
        7,
        thing(""),
        thing(kind="cuboid"),
        thing(exterior="x"),
        thing(interior="x"),
        thing(points={"exterior": thing()["points"]["exterior"], "interior": 7}),
        thing(points=None),
        bitmap(None),
        bitmap("AAAA"),
        bitmap(RING[:40]),
        bitmap(bomb),
        bitmap(base64.b64encode(zlib.compress(bytes(10**7))).decode()),
        bitmap(png(np.zeros((9, 9)))),
        bitmap(png(np.zeros((2, 2, 3)))),
        bitmap(origin=(6, 9)),
        bitmap(origin=()),
    ]
    found, notes = objects_of(tmp_path, [*empty, thing(), *bad])
    read, errors = [one for one in found if one.error is None], [str(one.error) for one in found if one.error]
    assert len(read) == 1 and "object 6 (mug)" in read[0].where
    assert {kind: len(cases) for kind, cases in notes.cases.items()} == {WITHOUT_AREA: 5} and len(errors) == len(bad)
    assert any("more than 1,000,045 bytes when it is decompressed" in error for error in errors)
    assert all("\n" not in error and "1.jpg.json: object" in error for error in errors)


def test_without_a_valid_size_the_photo_has_none(tmp_path):
    project(tmp_path, objects=[bitmap()], size=(None, 6))
    _, notes, [image] = read(tmp_path)
    [ring] = image.objects()
    assert image.size is None and ring.segmentation["size"] == [6, 8] and len(notes.cases[NO_SIZE]) == 1


def test_a_damaged_file_is_an_error_of_its_photo(tmp_path):
    project(tmp_path, ("a", "b"))
    write(tmp_path, "a/ann/1.jpg.json", '{"size": {')
    paths, notes, images = read(tmp_path)
    assert paths == {"train": ["a/img/1.jpg", "b/img/2.jpg"]} and images[1].objects() and not notes.cases
    with pytest.raises(ValueError, match="1.jpg.json cannot be read as JSON"):
        images[0].objects()
    write(tmp_path, "meta.json", "[]")
    with pytest.raises(ValueError, match=r"meta.json: the list classes is missing"):
        FORMAT.read(tmp_path, Notes())


@pytest.mark.parametrize("text", ["", "[]", '{"shapes": []}'])
def test_other_folders_are_not_recognized(tmp_path, text):
    photo(tmp_path, "img/1.jpg")
    assert not FORMAT.recognizes(tmp_path)
    write(tmp_path, "ann/1.json", text)
    assert not FORMAT.recognizes(tmp_path)
    with pytest.raises(ValueError, match="contains no folder with img/ and ann/"):
        FORMAT.read(tmp_path / "img", Notes())

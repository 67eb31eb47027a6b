"""Recognize what a JSON file is from its content, and large files from their first and last bytes."""

import json

import pytest

from gemma_lisa.datasets_builder.formats.json_kinds import (
    HEAD,
    INSTANCES,
    NOT_JSON,
    advice_for,
    describe,
    kind_of_file,
    kind_of_json,
)

IMAGES = [{"id": number, "file_name": f"{number}.jpg", "height": 2, "width": 2} for number in range(3)]
CATEGORIES = [{"id": 1, "name": "mug"}]


def coco(**annotation):
    annotations = [{"id": 1, "image_id": 1, **annotation}] if annotation else []
    return {"info": {}, "images": IMAGES, "annotations": annotations, "categories": CATEGORIES}


KINDS = [
    (coco(), INSTANCES),
    (coco(category_id=1, segmentation=[[1, 2]]), INSTANCES),
    (coco(category_id=1, bbox=[1, 2, 3, 4]), INSTANCES),
    (coco(category_id=1, segmentation=[], keypoints=[1, 2]), INSTANCES),
    (coco(category_id=1, segmentation=[], shapes=[], imagePath="x"), INSTANCES),
    (coco(segments_info=[]), "a COCO panoptic file"),
    (coco(caption="a mug"), "a COCO captions file"),
    (coco(category_id=1, keypoints=[1, 2]), "a COCO keypoints file without masks"),
    ({"images": IMAGES, "categories": CATEGORIES}, "a COCO file of photos without annotations"),
    ([{"image_id": 1, "category_id": 1, "bbox": [], "score": 0.5}], "a COCO results file (predictions)"),
    ({"shapes": [], "imagePath": "1.jpg"}, "a LabelMe file"),
    ({"text": ["What?"], "is_sentence": True, "shapes": []}, "a ReasonSeg file"),
    ({"_via_settings": {}, "_via_img_metadata": {}}, "a VIA project"),
    ({"1.jpg123": {"filename": "1.jpg", "regions": []}}, "a VIA annotations file"),
    ([{"id": 1, "data": {}, "annotations": []}], "a Label Studio JSON export"),
    ([{"id": 1, "annotator": 1, "annotation_id": 3}], "a Label Studio JSON-MIN export"),
    ({"image": {}, "annotations": []}, "an SA-1B file"),
    ({"info": {}, "categories": {}, "items": []}, "a Datumaro file"),
    ({"title": "Mugs", "licenses": []}, None),
    ({}, None),
    ([], None),
    ([1, "x"], None),
    (7, None),
]


@pytest.mark.parametrize(("content", "kind"), KINDS)
def test_kinds_of_content_and_of_small_files(tmp_path, content, kind):
    assert kind_of_json(content) == kind
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "a.json").write_text(json.dumps(content), encoding=encoding)
        assert kind_of_file(tmp_path / "a.json") == kind


def long(content, key, first=()):
    """Return a JSON text longer than HEAD, with the records of one list repeated."""
    content = {**dict.fromkeys(first), **content, key: content[key] * HEAD}
    return json.dumps({name: content[name] for name in [*first, *(name for name in content if name not in first)]})


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (long(coco(segmentation=[]), "images"), INSTANCES),
        (long(coco(segmentation=[]), "annotations"), INSTANCES),
        (long(coco(segmentation=[]), "annotations", ["annotations"]), INSTANCES),
        (long(coco(segmentation=[]), "categories", ["categories"]), INSTANCES),
        (long(coco(segments_info=[]), "annotations"), "a COCO panoptic file"),
        (long(coco(segments_info=[]), "images"), "a COCO panoptic file"),
        (long(coco(caption="a mug"), "images"), "a COCO captions file"),
        (json.dumps({"imagePath": "1.jpg", "shapes": [], "imageData": "A" * 2 * HEAD}), "a LabelMe file"),
        (json.dumps([{"data": {"a": "]}"}, "annotations": []}] * HEAD), "a Label Studio JSON export"),
        (json.dumps({"title": "x" * 2 * HEAD}), None),
        ("x" * 2 * HEAD, NOT_JSON),
        ("", NOT_JSON),
        ("{", NOT_JSON),
        ("]" * 10, NOT_JSON),
        ("[" * 10_000, NOT_JSON),
        ("[" * 2 * HEAD, NOT_JSON),
        (json.dumps(coco(segmentation=[[1, 2]]))[:-30], INSTANCES),  # cut off
    ],
)
def test_kinds_of_large_and_damaged_files(tmp_path, text, kind):
    (tmp_path / "a.json").write_text(text)
    assert kind_of_file(tmp_path / "a.json") == kind


def test_a_missing_file_and_bytes_are_not_json(tmp_path):
    assert kind_of_file(tmp_path / "none.json") == NOT_JSON
    (tmp_path / "a.json").write_bytes(bytes(range(256)) * 10)
    assert kind_of_file(tmp_path / "a.json") == NOT_JSON


@pytest.mark.parametrize("content", [content for content, kind in KINDS if kind != INSTANCES])
def test_other_files_are_described_in_one_short_line(content):
    text = describe(content)
    assert text and "\n" not in text and len(text) < 200
    kind = kind_of_json(content)
    assert kind is None or (kind in text and advice_for(kind) in text)

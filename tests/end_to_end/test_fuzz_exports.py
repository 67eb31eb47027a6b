"""Readers of exports of labelling tools return plain objects for random content, or raise a short ValueError."""

import json
import shutil

import pytest
from fuzzing import LONGEST_ERROR, budget, damaged, leaves, result_or_refusal, values
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gemma_lisa.datasets_builder.formats import datumaro_json, labelme, supervisely
from gemma_lisa.datasets_builder.formats.annotated import AnnotatedObject, Notes

pytestmark = pytest.mark.fuzz

numbers = st.one_of(st.integers(-3, 40), st.floats())
points = st.one_of(st.lists(st.lists(numbers, min_size=2, max_size=2), max_size=5), values)
tags = st.one_of(st.lists(st.fixed_dictionaries({"name": leaves, "value": leaves}), max_size=2), values)
TINY_PNG = "eJzrDPBz5+WS4mJgYOD19HAJAtLMIMwIInOeqf8BUmwBPiGuQPr///9Lb86/C2QxlgT5BTM4PLuRBuTwebo4hlTMSa44sKHhISMDuxpTYrr03F6gDIOnq5/LOqeEJgDM5ht6"  # noqa: E501
data = st.one_of(st.just(TINY_PNG), st.text(max_size=20), leaves)


def record(**fields):
    return st.one_of(st.fixed_dictionaries(fields), values)


shapes = record(
    label=st.one_of(st.sampled_from(["a", "__ignore__"]), leaves),
    shape_type=st.one_of(st.sampled_from(["polygon", "circle", "mask", "line", None]), leaves),
    points=points,
    mask=data,
    group_id=leaves,
    flags=values,
)
labelme_files = record(
    shapes=st.one_of(st.lists(shapes, max_size=3), values),
    imagePath=st.one_of(st.sampled_from(["p.png", "..\\img\\p.png", "C:\\p.png", ""]), leaves),
    imageData=leaves,
    imageHeight=st.one_of(st.just(32), leaves),
    imageWidth=st.one_of(st.just(32), leaves),
    flags=values,
)
kinds = st.sampled_from(["polygon", "rectangle", "bitmap", "alpha_mask", "multipolygon", "point", None])
outlines = record(exterior=points, interior=st.one_of(st.lists(points, max_size=2), values))
objects = record(
    classTitle=st.one_of(st.just("a"), leaves),
    geometryType=st.one_of(kinds, leaves),
    points=outlines,
    parts=st.one_of(st.lists(outlines, max_size=2), values),
    bitmap=record(data=data, origin=st.one_of(st.lists(numbers, min_size=2, max_size=2), values)),
    tags=tags,
)
supervisely_files = record(
    size=record(height=st.one_of(st.just(32), leaves), width=st.one_of(st.just(32), leaves)),
    objects=st.one_of(st.lists(objects, max_size=3), values),
    tags=tags,
)
annotations = record(
    type=st.one_of(st.sampled_from(["polygon", "mask", "bbox", "ellipse", "label"]), leaves),
    label_id=st.one_of(st.just(0), leaves),
    points=st.one_of(st.lists(numbers, max_size=8), values),
    bbox=st.one_of(st.lists(numbers, min_size=4, max_size=4), values),
    rle=record(size=values, counts=values),
    attributes=values,
)
items = record(
    id=st.one_of(st.sampled_from(["p", "a/p", "../p"]), leaves),
    image=record(path=st.one_of(st.just("p.png"), leaves), size=values),
    annotations=st.one_of(st.lists(annotations, max_size=3), values),
    attr=values,
)
datumaro_files = record(
    categories=st.one_of(st.just({"label": {"labels": [{"name": "a"}]}}), values),
    items=st.one_of(st.lists(items, max_size=3), values),
)
FILES = {labelme: "ann/p.json", supervisely: "ann/p.png.json", datumaro_json: "annotations/train.json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "img").mkdir()
    Image.new("RGB", (32, 32)).save(folder / "img/p.png")
    return folder


def check(folder, reader, content) -> None:
    """Read a folder with one annotation file. Errors and notes must be short, objects must be complete."""
    for place in ("ann", "annotations"):
        shutil.rmtree(folder / place, ignore_errors=True)
    file = folder / FILES[reader]
    file.parent.mkdir()
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    assert reader.FORMAT.recognizes(folder) in (True, False)
    notes = Notes()
    splits = result_or_refusal(lambda: reader.FORMAT.read(folder, notes))
    if isinstance(splits, ValueError):
        return
    assert set(splits) <= {"train", "validation", "test"}
    for image in (image for images in splits.values() for image in images):
        assert image.path.is_relative_to(folder) and isinstance(image.name, str) and isinstance(image.fields, dict)
        found = result_or_refusal(image.objects)
        for one in found if isinstance(found, list) else []:
            assert isinstance(one, AnnotatedObject)
            assert one.error is not None or (one.name.strip() and (one.segmentation or one.box))
            assert len(one.where) < LONGEST_ERROR and isinstance(one.fields, dict)
    assert all(len(case.where) <= LONGEST_ERROR for cases in notes.cases.values() for case in cases)


@budget()
@given(labelme_files)
def test_any_file_of_labelme_is_read_or_refused(folder, content):
    check(folder, labelme, content)


@budget()
@given(supervisely_files)
def test_any_file_of_supervisely_is_read_or_refused(folder, content):
    check(folder, supervisely, content)


@budget()
@given(datumaro_files)
def test_any_file_of_datumaro_is_read_or_refused(folder, content):
    check(folder, datumaro_json, content)


@budget(0.5)
@given(damaged(st.one_of(labelme_files, supervisely_files, datumaro_files).map(lambda one: json.dumps(one).encode())))
def test_damaged_files_are_read_or_refused(folder, content):
    for reader in FILES:
        check(folder, reader, content)

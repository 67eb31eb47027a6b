"""Label Studio's JSON exports become photos with objects, or an error names the reason."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.formats.annotated import AS_SIZE, Notes
from gemma_lisa.datasets_builder.formats.coco_segmentation import segmentation_runs
from gemma_lisa.datasets_builder.formats.label_studio import (
    CANCELLED,
    FORMAT,
    GROUND_TRUTH,
    NO_ANNOTATION,
    PREDICTIONS,
    ROTATED_VIEW,
    SEVERAL,
)
from gemma_lisa.datasets_builder.rows import decode_mask

EXPORT = Path(__file__).parents[2] / "exports" / "label_studio"
TRIANGLE = [[10, 10], [90, 10], [90, 90]]


def photo(root, name="images/1.jpg", size=(80, 60)):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(root / name)


def polygon(label="mug", size=(80, 60), **more):
    value = {"points": TRIANGLE, "closed": True, "polygonlabels": [label]}
    sides = {"original_width": size[0], "original_height": size[1]}
    return {
        "id": label,
        "type": "polygonlabels",
        "to_name": "image",
        "image_rotation": 0,
        **sides,
        "value": value,
    } | more


def annotation(*results, **more):
    return {"id": 5, "completed_by": 1, "was_cancelled": False, "ground_truth": False, "result": list(results)} | more


def task(*annotations, number=1, data=None, **more):
    data = {"image": "/data/upload/1/cb0618f6-1.jpg"} if data is None else data
    return {"id": number, "annotations": list(annotations), "predictions": [], "data": data} | more


def write(root, *tasks, name="result.json"):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(tasks), encoding="utf-8")


def read(root, notes=None):
    assert FORMAT.recognizes(root)
    return FORMAT.read(root, notes or Notes())


def test_an_export_has_its_masks():
    [(split, [one])] = read(EXPORT).items()
    drawn = np.load(EXPORT / "masks.npz")
    assert split == "train" and one.size == (30, 40) and one.frame == AS_SIZE and not one.normalized
    assert one.path == EXPORT / "images" / "scene 1.jpg" and one.name == "/data/upload/1/cb0618f6-scene_1.jpg"
    found = one.objects()
    assert [part.name for part in found] == ["mug", "plate", "corner"]
    for part in found:
        mask = decode_mask(segmentation_runs(part.segmentation, one.size, ""), "")
        assert part.error is None and np.array_equal(mask, drawn[part.name])


def test_empty_annotations_are_photos_without_objects(tmp_path):
    photo(tmp_path)
    write(tmp_path, task(annotation()))
    [one] = read(tmp_path)["train"]
    assert one.objects() == [] and one.size is None


def test_tasks_without_annotations_are_skipped_and_counted(tmp_path):
    photo(tmp_path)
    result = polygon()
    tasks = [task(annotation(result)), task(number=2), task(annotation(result, was_cancelled=True), number=3)]
    write(
        tmp_path, *tasks, task(number=4, predictions=[{"result": [result]}]), {"id": 5, "data": {}, "completions": []}
    )
    notes = Notes()
    [one] = read(tmp_path, notes)["train"]
    assert "task 1" in one.where
    counts = {kind: [case.where.rpartition(" ")[2] for case in cases] for kind, cases in notes.cases.items()}
    assert counts.pop(NO_ANNOTATION) == ["2", "3", "5"] and counts.pop(CANCELLED) == ["3"]
    assert counts.pop(PREDICTIONS) == ["4"]


def test_annotations_of_several_annotators_are_united(tmp_path):
    photo(tmp_path)
    write(tmp_path, task(annotation(polygon("a")), annotation(polygon("a"), polygon("b"))))
    notes = Notes()
    [one] = read(tmp_path, notes)["train"]
    assert [part.name for part in one.objects()] == ["a", "a", "b"] and len(notes.cases[SEVERAL]) == 1
    assert "annotation 2: result 1" in one.objects()[1].where


def test_the_ground_truth_is_preferred(tmp_path):
    photo(tmp_path)
    write(tmp_path, task(annotation(polygon("a")), annotation(polygon("b"), ground_truth=True)))
    notes = Notes()
    [one] = read(tmp_path, notes)["train"]
    assert [part.name for part in one.objects()] == ["b"] and len(notes.cases[GROUND_TRUTH]) == 1


@pytest.mark.parametrize(
    "data",
    [
        {"image": "/data/local-files/?d=photos/1.jpg"},
        {"img": "s3://bucket/1.jpg"},
        {"$undefined$": "http://host/1.jpg?a=b"},
        {"text": "a mug", "my photo": r"C:\photos\1.jpg"},
        {"image": "upload/1/1.jpg", "thumbnail": "2.jpg"},
        {"a.jpg": "2.jpg", "image2": "1.jpg", "to_name": "image2"},
        {"image": "1", "number": "3"},
        {"url": "1", "number": 3},
        {"any": ["/data/upload/1/cb0618f6-1.jpg"]},
    ],
)
def test_the_photo_is_found_by_any_key(tmp_path, data):
    photo(tmp_path)
    name = data.pop("to_name", "image")
    write(tmp_path, task(annotation(polygon(to_name=name)), data=data))
    [one] = read(tmp_path)["train"]
    assert one.path == tmp_path / "images" / "1.jpg" and len(one.objects()) == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({}, "its data must name one photo, got the keys none"),
        ({"a": "1.jpg", "b": "2.jpg"}, "got the keys a, b; keep one of them"),
        ({"image": 3}, "got the keys image"),
        ({"image": "3.jpg"}, "the photo '3.jpg' is not in"),
    ],
)
def test_a_task_without_a_photo_is_an_error_of_its_record(tmp_path, data, reason):
    photo(tmp_path)
    write(tmp_path, task(annotation(polygon()), data=data), task(annotation(polygon())))
    bad, good = read(tmp_path)["train"]
    with pytest.raises(ValueError, match=f"result.json: task 1.*{reason}"):
        bad.objects()
    assert len(good.objects()) == 1


def test_a_task_of_several_photos_is_read_by_index(tmp_path):
    photo(tmp_path)
    photo(tmp_path, "images/2.jpg", (60, 80))
    results = polygon("a", item_index=0), polygon("b", (60, 80), item_index=1), polygon("c")
    write(tmp_path, task(annotation(*results), data={"pages": ["1.jpg", "2.jpg"]}))
    first, second = read(tmp_path)["train"]
    assert [part.name for part in first.objects()] == ["a", "c"] and first.size == (60, 80)
    assert [part.name for part in second.objects()] == ["b"] and second.size == (80, 60)


def test_a_size_that_is_missing_is_that_of_the_photo(tmp_path):
    photo(tmp_path)
    write(tmp_path, task(annotation(polygon(original_width=None, original_height=None))))
    [one] = read(tmp_path)["train"]
    assert one.size == (60, 80) and one.objects()[0].segmentation == [[8, 6, 72, 6, 72, 54]]


@pytest.mark.parametrize("more", [{"original_width": 0}, {"original_height": "6"}, {"original_height": [60]}])
def test_a_size_that_differs_is_an_error_of_one_object(tmp_path, more):
    photo(tmp_path)
    missing = polygon("c", original_width=None, original_height=None)
    write(tmp_path, task(annotation(polygon("a", **more), polygon("b"), missing, polygon("d", (60, 80)))))
    [one] = read(tmp_path)["train"]
    bad, *good, other = one.objects()
    assert one.size == (60, 80) and [part.error for part in good] == [None, None]
    assert "original_width and original_height are" in str(bad.error)
    assert "are 60 and 80, but those of the photo are 80 and 60" in str(other.error)
    write(tmp_path, task(annotation(polygon(**more))))
    [one] = read(tmp_path)["train"]
    assert one.size == (60, 80) and "but those of the photo are 80 and 60" in str(one.objects()[0].error)


def test_a_rotated_view_is_counted_and_changes_no_coordinate(tmp_path):
    photo(tmp_path)
    write(tmp_path, task(annotation(polygon(image_rotation=90))))
    notes = Notes()
    [one] = read(tmp_path, notes)["train"]
    assert one.objects()[0].segmentation == [[8, 6, 72, 6, 72, 54]] and len(notes.cases[ROTATED_VIEW]) == 1


def test_names_of_files_and_folders_are_splits(tmp_path):
    for folder in ("images", "test/images"):
        photo(tmp_path, f"{folder}/1.jpg")
    for name in ("train.json", "val.json", "test/result.json"):
        write(tmp_path, task(annotation(polygon())), name=name)
    found = {split: [str(one.path.relative_to(tmp_path)) for one in images] for split, images in read(tmp_path).items()}
    assert found == {"train": ["images/1.jpg"], "validation": ["images/1.jpg"], "test": ["test/images/1.jpg"]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([{"id": 1, "image": "1.jpg", "annotation_id": 3, "annotator": 1}], "has the format JSON-MIN"),
        ([task(annotation()), 3], "task 2 must be an object, got 3"),
        ([task(annotation()), {"id": 9, "data": {}}], "task 9 must have data and annotations"),
        ([task(annotation()) | {"data": 3}], "task 1 must have data and annotations"),
        ([task() | {"inner_id": 3}], "contains no annotated task"),
    ],
)
def test_another_format_is_refused_with_advice(tmp_path, content, reason):
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"result.json.*{reason}.*export it from Label Studio in the format JSON"):
        read(tmp_path)


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps([task(annotation(polygon()))])[:-5])
    with pytest.raises(ValueError, match="result.json cannot be read as JSON"):
        read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"images": [], "annotations": [], "categories": []},
        [{"image": "1.jpg", "question": "where?"}],
        [1, 2],
        {"_via_img_metadata": {"a": {"filename": "1.jpg", "regions": []}}},
    ],
)
def test_other_files_are_not_recognized(tmp_path, content):
    assert not FORMAT.recognizes(tmp_path) and not FORMAT.recognizes(tmp_path / "missing")
    (tmp_path / "1.json").write_text(json.dumps(content))
    assert not FORMAT.recognizes(tmp_path)


def test_a_video_is_named(tmp_path):
    photo(tmp_path)
    write(tmp_path, task(annotation(), data={"video": "/data/upload/1/a.mp4"}))
    [image] = read(tmp_path)["train"]
    with pytest.raises(ValueError, match="task 1: '/data/upload/1/a.mp4' is a video, .*annotate its frames as images"):
        image.objects()

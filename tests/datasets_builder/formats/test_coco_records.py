"""Read the records of COCO JSON files as other people write them, and name the record in each error."""

import json

import pytest

from gemma_lisa.datasets_builder.formats import coco_records
from gemma_lisa.datasets_builder.formats.annotated import Notes
from gemma_lisa.datasets_builder.formats.coco_files import read_coco
from gemma_lisa.datasets_builder.formats.coco_records import BROKEN, Ids, as_id, number_in

PANOPTIC = json.dumps({"images": [], "annotations": [{"segments_info": []}], "categories": []})
LABELME = json.dumps({"shapes": [], "imagePath": "1.jpg", "imageHeight": 2, "imageWidth": 2})


def content(**changes):
    """Return a file of one image, category and annotation; `image__width=3` changes a field, None removes it."""
    parts = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 6, "width": 8}],
        "annotations": [{"id": 7, "image_id": 1, "category_id": 3, "segmentation": [[1, 1, 5, 1, 5, 5]]}],
        "categories": [{"id": 3, "name": "trash_can"}],
    }
    for name, value in changes.items():
        part, _, key = name.partition("__")
        if not key:
            parts[part] = value
        elif value is None:
            del parts[part][0][key]
        else:
            parts[part][0][key] = value
    return parts


def test_records_are_joined_by_id_and_names_cleaned(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content()), encoding="utf-8-sig")
    images, annotations, names, _ = read_coco(path)
    assert [image["file_name"] for image in images] == ["1.jpg"]
    assert [annotation["id"] for annotation in annotations[1]] == [7]
    assert names == {3: "trash can"}


TWICE = content()


def read(tmp_path, stored, errors=None, notes=None, **options):
    path = tmp_path / "a.json"
    path.write_text(stored if isinstance(stored, str) else json.dumps(stored))
    return read_coco(path, **({} if errors is None else {"tolerate": errors.append}), notes=notes, **options)[:3]


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "is not a COCO instances file, whose top level has the lists images, annotations, categories: it is a"),
        ("{}", "its keys are missing"),
        ("7", "it is a single value"),
        (PANOPTIC, "it is a COCO panoptic file; read it with --dataset folder"),
        (LABELME, "it is a LabelMe file; read it with --dataset folder"),
        (content(images={}), "is not a COCO instances file"),
        (content(categories=None), "is not a COCO instances file"),
        (content(images=[]), "contains no images"),
        (content(images=["1.jpg"]), "the image at index 0 of its list has no id"),
        (content(images__id=None), "the image at index 0"),
        (content(images__id=[1]), "the image at index 0 of its list has the id [1], which is not"),
        (content(images__id=1.5), "has the id 1.5, which is not"),
        (content(images__id=True), "has the id True, which is not"),
        (
            content(categories__name="(" * 10**6),
            "the name of category 3 must have at most 1,000 characters, got 1,000,000",
        ),
        (content(images__height=10**4000), "an integer of 13,288 bits"),
        (content(images__id="x" * 10**6, images__width=-1), "image xxx"),
        (content(images__file_name=None), "image 1 has no file_name"),
        (content(images__file_name=5), "image 1 has the file_name 5, which is not the name of a file"),
        (content(images__file_name=" "), "image 1 has the file_name ' '"),
        (content(images__width=-8), "image 1 has height 6 and width -8; both must be numbers of pixels from 1"),
        (content(images__height="high"), "image 1 has height 'high' and width 8"),
        (content(images__height=1.5), "image 1 has height 1.5"),
        (content(images=[*TWICE["images"], {**TWICE["images"][0], "width": 9}]), "image 1 exists twice"),
        (content(annotations__image_id=None), "annotation 7 has no image_id"),
        (content(annotations__image_id=2), "annotation 7: there is no image 2; the file has the ids 1."),
        (content(annotations__image_id=[1]), "annotation 7: there is no image [1]"),
        (content(annotations__category_id=None), "annotation 7 has no category_id"),
        (content(annotations__category_id=4), "annotation 7: there is no category 4; the file has the ids 3."),
        (content(annotations__iscrowd="maybe"), "annotation 7: iscrowd is 'maybe'"),
        (content(annotations__iscrowd=2), "annotation 7: iscrowd is 2"),
        (content(annotations=[7]), "the annotation at index 0 must be an object, got 7"),
        (content(categories=[*TWICE["categories"], {"id": 3, "name": "mug"}]), "category 3 exists twice"),
        (content(categories__name=None), "category 3 has no name"),
        (content(categories__name=" _ "), "category 3 has no name"),
        (content(categories__name=["mug"]), "category 3 has no name"),
    ],
)
@pytest.mark.parametrize("is_own", [False, True])
def test_invalid_records_are_named_in_one_line(tmp_path, broken, words, is_own):
    with pytest.raises(ValueError) as refusal:
        read(tmp_path, broken, notes=Notes() if is_own else None)
    message = str(refusal.value)
    assert message.startswith(str(tmp_path / "a.json")) and words in message and "\n" not in message, message


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"images": "\xff\xfe"}')
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        read_coco(path)


def two_images(**changes):
    """Return the content with a second image and two annotations of it."""
    stored = content(**changes)
    stored["images"].append({**content()["images"][0], "id": 2, "file_name": "2.jpg"})
    stored["annotations"] += [{**content()["annotations"][0], "id": number, "image_id": 2} for number in (8, 9)]
    return stored


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"images__width": 0}, [2]),
        ({"images__height": None}, [2]),
        ({"images__id": None}, [2]),
        ({"images__file_name": None}, [2]),
        ({"annotations__category_id": 4}, [2]),
        ({"annotations__category_id": "3"}, [2]),
        ({"annotations__iscrowd": "maybe"}, [2]),
        ({"annotations__image_id": 5}, [1, 2]),
        ({"annotations__image_id": [1]}, [1, 2]),
    ],
)
def test_without_notes_the_image_of_a_bad_record_is_skipped(tmp_path, change, left):
    errors = []
    images, annotations, _ = read(tmp_path, two_images(**change), errors)
    assert [image["id"] for image in images] == left and [one["id"] for one in annotations[2]] == [8, 9]
    assert set(annotations) <= set(left) and all(str(error).startswith(str(tmp_path / "a.json")) for error in errors)


@pytest.mark.parametrize(
    ("change", "marks"),
    [
        ({"category_id": 4}, (True, [])),
        ({"category_id": None}, (True, [])),
        ({"iscrowd": "maybe"}, (None, [True])),
        ({"image_id": 5}, (None, [])),
        ({"image_id": [1]}, (None, [])),
    ],
)
def test_a_bad_annotation_does_not_remove_its_image(tmp_path, change, marks):
    stored, errors = content(), []
    stored["annotations"].append({**stored["annotations"][0], "id": 8, **change})
    [image], annotations, _ = read(tmp_path, stored, errors, Notes())
    assert len(errors) == 1 and "annotation 8" in str(errors[0])
    assert annotations[1][0]["id"] == 7 and BROKEN not in annotations[1][0]
    assert (image.get(BROKEN), [one.get(BROKEN) for one in annotations[1][1:]]) == marks


def test_without_notes_both_images_of_a_repeated_annotation_are_skipped(tmp_path):
    stored, errors = two_images(), []
    stored["images"].append({**stored["images"][0], "id": 3})
    stored["annotations"][1]["id"] = 7
    images, _, _ = read(tmp_path, stored, errors)
    assert (
        [image["id"] for image in images] == [3] and len(errors) == 1 and "annotation 7 exists twice" in str(errors[0])
    )


def test_objects_without_masks_and_repeated_ids_are_kept(tmp_path):
    stored, notes = content(), Notes()
    del stored["annotations"][0]["id"]
    for segmentation in ([], None, [[1, 2]]):
        stored["annotations"].append({"id": 7, "image_id": 1, "category_id": 3, "segmentation": segmentation})
    _, annotations, _ = read(tmp_path, stored, notes=notes)
    assert [one["id"] for one in annotations[1]] == ["at index 0", 7, 7, 7]
    assert [len(cases) for cases in notes.cases.values()] == [1, 2]


def counts(notes):
    return {kind: len(cases) for kind, cases in notes.cases.items()}


@pytest.mark.parametrize(
    ("image", "category", "annotation"),
    [
        ((1, 3), (1, 3), {}),
        ((1.0, 3.0), (1.0, 3.0), {}),
        ((1.0, 3), (1, 3.0), {}),
        ((1, 3), ("1", "3"), {coco_records.SAME_ID: 2}),
        (("1", "3"), (1, 3.0), {coco_records.SAME_ID: 2}),
        (("000001", "3"), (1, "03"), {coco_records.SAME_ID: 2}),
        (("1.0", 3), ("1", 3), {coco_records.SAME_ID: 1}),
        (("a", "b"), ("a", "b"), {}),
    ],
)
def test_ids_can_be_text_in_one_place_and_numbers_in_another(tmp_path, image, category, annotation):
    stored, notes = content(images__id=image[0], categories__id=image[1]), Notes()
    for at in range(3):
        stored["annotations"].append({**stored["annotations"][0], "id": at})
    for one in stored["annotations"]:
        one["image_id"], one["category_id"] = category
    [found], annotations, names = read(tmp_path, stored, notes=notes)
    assert len(annotations[found["id"]]) == 4 and counts(notes) == annotation
    assert all(names[one["category_id"]] == "trash can" for one in annotations[found["id"]])
    assert not isinstance(found["id"], float)


def test_an_id_that_can_mean_two_records_is_unknown():
    notes = Notes()
    ids = Ids({1: None, "01": None, 2: None}, "a.json: image", notes)
    assert ids.find(1) == 1 and ids.find("01") == "01" and ids.find("1") is None and ids.find("2") == 2
    assert ids.find("2") == 2 and counts(notes) == {coco_records.SAME_ID: 1}
    assert Ids({1: None}, "a.json: image", None).find("1") is None
    assert [ids.find(value) for value in (None, True, [1], 1.5, "", "x", float("nan"), 3)] == [None] * 8


def test_integers_in_ids():
    assert [as_id(value) for value in (1, 1.0, "1", True, 1.5, None, float("inf"))] == [
        1,
        1,
        "1",
        None,
        None,
        None,
        None,
    ]
    assert [number_in(value) for value in (1, 1.0, " 01 ", "1.0", "1.5", "a", "1e3")] == [1, 1, 1, 1, None, None, None]


@pytest.mark.parametrize(
    ("height", "width", "size", "is_noted"),
    [
        (6.0, 8.0, (6, 8), False),
        ("6", "8", (6, 8), False),
        ("6.0", 8, (6, 8), False),
        (None, None, (None, None), True),
        (None, 8, (None, None), True),
        (0, 0, (None, None), True),
        ("", "", (None, None), True),
    ],
)
def test_sizes_can_be_float_or_text_or_missing(tmp_path, height, width, size, is_noted):
    notes = Notes()
    [image], _, _ = read(tmp_path, content(images__height=height, images__width=width), notes=notes)
    assert (image["height"], image["width"]) == size
    assert counts(notes) == ({coco_records.NO_SIZE: 1} if is_noted else {})


@pytest.mark.parametrize(
    ("value", "is_crowd"),
    [(None, False), (0.0, False), (1.0, True), (True, True), ("0", False), ("1", True), ("False", False)],
)
def test_iscrowd_can_be_written_in_many_ways(tmp_path, value, is_crowd):
    stored = content()
    stored["annotations"][0]["iscrowd"] = value
    _, annotations, _ = read(tmp_path, stored, notes=Notes())
    assert bool(annotations[1][0]["iscrowd"]) == is_crowd and BROKEN not in annotations[1][0]


def test_a_photo_without_file_name_is_named_by_its_url(tmp_path):
    stored, notes = content(images__file_name=None, images__coco_url="http://host/train2017/1.jpg"), Notes()
    [image], _, _ = read(tmp_path, stored, notes=notes)
    assert image["file_name"] == "http://host/train2017/1.jpg" and counts(notes) == {coco_records.OTHER_NAME: 1}
    with pytest.raises(ValueError, match="image 1 has no file_name"):
        read(tmp_path, stored)


def test_spellings_of_a_category_are_one_class_and_background_is_kept(tmp_path):
    names = ["Mug", "mug ", "MUG", "tea_cup", "_background_", "background"]
    stored, notes = content(), Notes()
    stored["categories"] = [{"id": at, "name": name} for at, name in enumerate(names)]
    _, _, found = read(tmp_path, stored, notes=notes)
    assert list(found.values()) == ["Mug", "Mug", "Mug", "tea cup", "_background_", "background"]
    [cases] = notes.cases.values()
    assert "'MUG'" in cases[0].where
    _, _, found = read(tmp_path, {**stored, "annotations": []})
    assert [found[at] for at in range(4)] == ["Mug", "mug", "MUG", "tea cup"]  # published names stay as they are


def test_equal_records_with_one_id_are_counted_and_different_ones_refused(tmp_path):
    stored, notes, errors = content(), Notes(), []
    stored["images"] *= 2
    stored["categories"] *= 2
    images, annotations, _ = read(tmp_path, stored, notes=notes)
    assert len(images) == len(annotations[1]) == 1 and counts(notes) == {coco_records.SAME_RECORD: 2}
    with pytest.raises(ValueError, match="image 1 exists twice"):
        read(tmp_path, stored)
    stored["images"][1] = {**stored["images"][1], "file_name": "2.jpg"}
    stored["images"].append({**stored["images"][0], "id": 2})
    images, annotations, _ = read(tmp_path, stored, errors, Notes())
    assert [image["id"] for image in images] == [2] and not annotations[1]
    assert len(errors) == 1 and "image 1 exists twice" in str(errors[0])  # not one more for its annotation

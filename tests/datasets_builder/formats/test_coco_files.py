"""Find COCO JSON files in common layouts, and name the record in each error."""

import json

import pytest

from gemma_lisa.datasets_builder.formats.coco_files import (
    find_annotations,
    find_folder,
    fingerprint,
    name_folders,
    path_inside,
    read_coco,
)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (  # COCO
            ["annotations/instances_train2017.json", "annotations/instances_val2017.json", "annotations/captions.json"],
            {"train": "annotations/instances_train2017.json", "validation": "annotations/instances_val2017.json"},
        ),
        (["annotations/instances_default.json"], {"train": "annotations/instances_default.json"}),  # CVAT
        (  # Roboflow
            [f"{part}/_annotations.coco.json" for part in ("train", "valid", "test")],
            {
                "train": "train/_annotations.coco.json",
                "validation": "valid/_annotations.coco.json",
                "test": "test/_annotations.coco.json",
            },
        ),
        (["result.json"], {"train": "result.json"}),  # Label Studio
        (["my_test_set.json"], {"test": "my_test_set.json"}),
        (["train.json", "val.json"], {"train": "train.json", "validation": "val.json"}),
        (["annotations/photos.json"], {"train": "annotations/photos.json"}),
    ],
)
def test_files_are_found_and_their_names_define_the_split(tmp_path, names, expected):
    touch(tmp_path, *names)
    assert find_annotations(tmp_path, None) == {split: tmp_path / name for split, name in expected.items()}


def test_options_name_files_and_splits(tmp_path):
    touch(tmp_path, "a.json", "b.json", "c/instances_val.json")
    assert find_annotations(tmp_path, "b.json") == {"train": tmp_path / "b.json"}
    assert find_annotations(tmp_path, "c/instances_val.json") == {"validation": tmp_path / "c/instances_val.json"}
    named = find_annotations(tmp_path, {"train": "a.json", "dev": "b.json"})
    assert named == {"train": tmp_path / "a.json", "dev": tmp_path / "b.json"}


@pytest.mark.parametrize(
    ("names", "option", "words"),
    [
        ([], None, "no COCO JSON"),
        (["a.json", "b.json"], None, "cannot tell the splits of a.json, b.json"),
        (["train_1.json", "train_2.json"], None, "cannot tell the splits"),
        (["a.json"], "b.json", "b.json: no such file"),
        (["a.json"], {"train": "a.json", "test": "b.json"}, "b.json: no such file"),
    ],
)
def test_missing_or_ambiguous_files_are_refused(tmp_path, names, option, words):
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match="annotations|no such file") as refusal:
        find_annotations(tmp_path, option)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("file", "picture", "file_name"),
    [
        ("annotations/instances_val2017.json", "val2017/1.jpg", "1.jpg"),
        ("annotations/instances_val2017.json", "images/val2017/1.jpg", "1.jpg"),
        ("annotations/instances_default.json", "images/1.jpg", "1.jpg"),
        ("annotations/instances_default.json", "images/default/1.jpg", "1.jpg"),
        ("train/_annotations.coco.json", "train/1.jpg", "1.jpg"),
        ("result.json", "images/1.jpg", "images/1.jpg"),
        ("result.json", "images/1.jpg", "images\\1.jpg"),
        ("result.json", "1.jpg", "1.jpg"),
        ("annotations/train.json", "photos/1.jpg", "../photos/1.jpg"),
    ],
)
def test_images_are_found_in_common_layouts(tmp_path, file, picture, file_name):
    touch(tmp_path, file, picture)
    folder = find_folder(tmp_path / file, tmp_path, [file_name])
    assert path_inside(folder, file_name, (tmp_path,), "here") == tmp_path / picture


def test_a_missing_image_is_named_with_the_searched_folders(tmp_path):
    with pytest.raises(ValueError, match=r"1\.jpg is in none of .*images") as refusal:
        find_folder(tmp_path / "result.json", tmp_path, ["1.jpg"])
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("file_name", ["../1.jpg", "a/../../1.jpg", "..\\1.jpg", "/etc/1.jpg"])
def test_file_names_outside_of_the_folder_are_refused(tmp_path, file_name):
    with pytest.raises(ValueError, match="^here: file_name .* is outside of"):
        path_inside(tmp_path, file_name, (tmp_path,), "here")


def test_image_folders_by_option(tmp_path):
    (tmp_path / "a").mkdir()
    splits = {"train": tmp_path / "x.json", "test": tmp_path / "y.json"}
    assert name_folders(tmp_path, None, splits) == {}
    assert name_folders(tmp_path, "a", splits) == {"train": tmp_path / "a", "test": tmp_path / "a"}
    with pytest.raises(ValueError, match="no folder for test"):
        name_folders(tmp_path, {"train": "a"}, splits)
    with pytest.raises(ValueError, match="b: no such folder"):
        name_folders(tmp_path, "b", splits)


def test_the_fingerprint_depends_only_on_json_files_and_images(tmp_path):
    touch(tmp_path, "result.json", "images/1.jpg", "images/deep/2.PNG", "notes.txt", ".cache/3.jpg")
    (tmp_path / "images/deep/loop").symlink_to(tmp_path / "images")
    (tmp_path / "images/broken.jpg").symlink_to(tmp_path / "gone.jpg")
    files = {"train": tmp_path / "result.json"}
    seen = {fingerprint(files, [tmp_path])}
    touch(tmp_path, "other.txt", ".cache/4.jpg")
    assert seen == {fingerprint(files, [tmp_path])}
    (tmp_path / "images/1.jpg").write_text("changed")
    seen.add(fingerprint(files, [tmp_path]))
    (tmp_path / "images/deep/2.PNG").rename(tmp_path / "images/deep/3.png")
    seen.add(fingerprint(files, [tmp_path]))
    touch(tmp_path, "images/4.webp")
    seen.add(fingerprint(files, [tmp_path]))
    (tmp_path / "result.json").write_text("changed")
    seen.add(fingerprint(files, [tmp_path]))
    seen.add(fingerprint({"test": tmp_path / "result.json"}, [tmp_path]))
    assert len(seen) == 6


# --- records ---------------------------------------------------------------------------------------------------------
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
    images, annotations, names = read_coco(path)
    assert [image["file_name"] for image in images] == ["1.jpg"]
    assert [annotation["id"] for annotation in annotations[1]] == [7]
    assert names == {3: "trash can"}


TWICE = content()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "is not a COCO instances file"),
        ("{}", "is not a COCO instances file"),
        (content(images={}), "is not a COCO instances file"),
        (content(categories=None), "is not a COCO instances file"),
        (content(images=[]), "contains no images"),
        (content(images=["1.jpg"]), "the image at index 0 of its list has no id"),
        (content(images__id=None), "the image at index 0"),
        (content(images__id=[1]), "the image at index 0"),
        (
            content(categories__name="(" * 10**6),
            "the name of category 3 must have at most 1,000 characters, got 1,000,000",
        ),
        (content(images__height=10**4000), "an integer of 13,288 bits"),
        (content(images__id="x" * 10**6, images__width=0), "image xxx"),
        (content(images__file_name=None), "image 1 has no file_name"),
        (
            content(images__file_name=5),
            "image 1: file_name must be a string, height and width numbers of pixels, got 5",
        ),
        (content(images__width=None), "image 1 has no width"),
        (content(images__width=0), "and 0"),
        (content(images__height="6"), "'1.jpg', '6' and 8"),
        (content(images=TWICE["images"] * 2), "image 1 exists twice"),
        (content(annotations=TWICE["annotations"] * 2), "annotation 7 exists twice"),
        (content(annotations__id=None), "the annotation at index 0"),
        (content(annotations__image_id=None), "annotation 7 has no image_id"),
        (content(annotations__image_id=2), "annotation 7: there is no image 2"),
        (content(annotations__image_id=[1]), "annotation 7: there is no image [1]"),
        (content(annotations__category_id=4), "annotation 7: there is no category 4"),
        (content(annotations__iscrowd="0"), "annotation 7: iscrowd is '0'"),
        (content(categories=TWICE["categories"] * 2), "category 3 exists twice"),
        (content(categories__name=None), "category 3 has no name"),
        (content(categories__name=" _ "), "category 3 has no name"),
    ],
)
def test_invalid_records_are_named_in_one_line(tmp_path, broken, words):
    path = tmp_path / "a.json"
    path.write_text(broken if isinstance(broken, str) else json.dumps(broken))
    with pytest.raises(ValueError) as refusal:
        read_coco(path)
    message = str(refusal.value)
    assert message.startswith(str(path)) and words in message and "\n" not in message, message


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"images": "\xff\xfe"}')
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        read_coco(path)


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"images__width": 0}, [2]),
        ({"images__id": None}, [2]),
        ({"images__file_name": None}, [2]),
        ({"annotations__category_id": 4}, [2]),
        ({"annotations__iscrowd": "0"}, [2]),
        ({"annotations__id": None}, [2]),
        ({"annotations__image_id": 5}, [1, 2]),
        ({"annotations__image_id": [1]}, [1, 2]),
    ],
)
def test_the_image_of_a_bad_record_is_skipped(tmp_path, change, left):
    broken = content(**change)
    broken["images"].append({**content()["images"][0], "id": 2})
    broken["annotations"] += [{**content()["annotations"][0], "id": number, "image_id": 2} for number in (8, 9)]
    path, errors = tmp_path / "a.json", []
    path.write_text(json.dumps(broken))
    images, annotations, _ = read_coco(path, errors.append)
    assert [image["id"] for image in images] == left and [one["id"] for one in annotations[2]] == [8, 9]
    assert all(str(error).startswith(str(path)) for error in errors)


def test_both_images_of_a_duplicate_annotation_are_skipped(tmp_path):
    broken = content()
    broken["images"] += [{**broken["images"][0], "id": number} for number in (2, 3)]
    broken["annotations"].append({**broken["annotations"][0], "image_id": 2})
    path, errors = tmp_path / "a.json", []
    path.write_text(json.dumps(broken))
    images, _, _ = read_coco(path, errors.append)
    assert [image["id"] for image in images] == [3] and len(errors) == 1 and "exists twice" in str(errors[0])


def test_the_folder_is_that_of_the_first_existing_image(tmp_path):
    touch(tmp_path, "images/3.jpg")
    names = ["../../1.jpg", "x" * 300, "2.jpg", "3.jpg"]
    assert find_folder(tmp_path / "result.json", tmp_path, names) == tmp_path / "images"
    with pytest.raises(ValueError, match="'../../1.jpg' is outside of"):
        find_folder(tmp_path / "result.json", tmp_path, names[:3])

"""Find COCO JSON files and their photos in common layouts."""

import json

import pytest

from gemma_lisa.datasets_builder.formats.annotated import Notes
from gemma_lisa.datasets_builder.formats.coco_files import (
    NOT_USED,
    SKIPPED,
    find_annotations,
    find_folder,
    fingerprint,
    has_coco,
    name_folders,
    path_inside,
    photo_finder,
)

COCO = json.dumps({"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [], "categories": []})
PANOPTIC = json.dumps({"images": [], "annotations": [{"segments_info": []}], "categories": []})
LABELME = json.dumps({"shapes": [], "imagePath": "1.jpg", "imageHeight": 2, "imageWidth": 2})


def touch(root, *names, text=COCO):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


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
        (["labels.json"], {"train": "labels.json"}),  # FiftyOne
        (
            ["train/labels.json", "validation/labels.json"],
            {"train": "train/labels.json", "validation": "validation/labels.json"},
        ),
        (["labels/train.json", "labels/val.json"], {"train": "labels/train.json", "validation": "labels/val.json"}),
        (["Train/coco.json", "test/coco.json"], {"train": "Train/coco.json", "test": "test/coco.json"}),
        (["val/annotations/all.json"], {"validation": "val/annotations/all.json"}),
        (["annotations/cells/cells_val.json"], {"validation": "annotations/cells/cells_val.json"}),
    ],
)
def test_files_are_found_and_their_names_define_the_split(tmp_path, names, expected):
    touch(tmp_path, *names)
    assert find_annotations(tmp_path, None) == {split: tmp_path / name for split, name in expected.items()}


def test_leftovers_of_macos_are_skipped(tmp_path):
    touch(tmp_path, "result.json")
    touch(tmp_path, "._result.json", ".labels.json", "__MACOSX/labels.json", "__MACOSX/labels/._a.json", text="\0")
    assert find_annotations(tmp_path, None, Notes()) == {"train": tmp_path / "result.json"}


def test_other_json_files_are_skipped_and_counted(tmp_path):
    touch(tmp_path, "annotations/train.json", "labels/old.json")
    touch(tmp_path, "dataset-metadata.json", "info.json", text='{"title": "Mugs"}')
    touch(tmp_path, "annotations/panoptic_train.json", text=PANOPTIC)
    touch(tmp_path, "annotations/damaged.json", text="{")
    notes = Notes()
    assert find_annotations(tmp_path, None, notes) == {"train": tmp_path / "annotations/train.json"}
    said = {kind: [case.where.removeprefix(f"{tmp_path}/") for case in cases] for kind, cases in notes.cases.items()}
    assert said == {
        SKIPPED: [
            "dataset-metadata.json (unknown content)",
            "info.json (unknown content)",
            "annotations/damaged.json (not a JSON file)",
            "annotations/panoptic_train.json (a COCO panoptic file)",
        ],
        NOT_USED: ["labels/old.json (a COCO instances file)"],
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PANOPTIC, "a.json is a COCO panoptic file; read it with --dataset folder"),
        (LABELME, "a.json is a LabelMe file; read it with --dataset folder"),
        ('{"title": "Mugs"}', "found only a.json; add the COCO file"),
    ],
)
def test_a_folder_with_other_json_files_only_is_refused(tmp_path, text, words):
    touch(tmp_path, "a.json", text=text)
    touch(tmp_path, "b.json", text="{")
    with pytest.raises(ValueError, match="no COCO JSON file found: ") as refusal:
        find_annotations(tmp_path, None)
    assert words in str(refusal.value).replace("a.json, b.json", "a.json") and "\n" not in str(refusal.value)
    assert not has_coco(tmp_path)


def test_damaged_files_only_are_returned_because_reading_them_raises_the_exact_error(tmp_path):
    touch(tmp_path, "train.json", text="{")
    assert find_annotations(tmp_path, None) == {"train": tmp_path / "train.json"}


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        (["._a.json", "a.json", "b.json"], '{"train": "a.json", "validation": "b.json"}'),
        (["all.json", "train.json"], '{"train": "train.json"}'),
        (["train_1.json", "train_2.json", "val.json"], '{"train": "train_1.json", "validation": "val.json"}'),
    ],
)
def test_the_advice_for_ambiguous_splits_names_real_files(tmp_path, names, advice):
    touch(tmp_path, *names)
    with pytest.raises(ValueError, match="cannot tell the splits") as refusal:
        find_annotations(tmp_path, None)
    given = str(refusal.value).partition("such as ")[2].rstrip(".")
    assert json.loads(given).items() >= json.loads(advice).items()
    found = find_annotations(tmp_path, json.loads(given))
    assert all(path.name in names and not path.name.startswith(".") for path in found.values())


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
        ("labels.json", "data/1.jpg", "1.jpg"),
        ("train/labels.json", "train/data/1.jpg", "1.jpg"),
        ("labels/val.json", "images/val/1.jpg", "1.jpg"),
        ("labels/val.json", "validation/images/1.jpg", "1.jpg"),
        ("annotations/instances_val2017.json", "valid/1.jpg", "1.jpg"),
    ],
)
def test_images_are_found_in_common_layouts(tmp_path, file, picture, file_name):
    touch(tmp_path, file, picture)
    folder = find_folder(tmp_path / file, tmp_path, [file_name])
    assert path_inside(folder, file_name, (tmp_path,), "here") == tmp_path / picture
    notes = Notes()
    finder = photo_finder(tmp_path / file, tmp_path, None, [file_name], notes)
    assert finder.find(file_name, "here") == tmp_path / picture and finder.folders[0] == folder and not notes.cases


def test_the_finder_searches_the_named_folder_only(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "b/2.jpg")
    finder = photo_finder(tmp_path / "result.json", tmp_path, tmp_path / "a", ["1.jpg"])
    assert finder.find("1.jpg", "here") == tmp_path / "a/1.jpg"
    with pytest.raises(ValueError, match="here: the photo '2.jpg' is not in"):
        finder.find("2.jpg", "here")
    finder = photo_finder(tmp_path / "result.json", tmp_path, None, ["gone.jpg", "b/1.jpg"])
    assert finder.find("2.jpg", "here") == tmp_path / "b/2.jpg"


def test_a_photo_of_another_split_is_not_found_by_its_name_alone(tmp_path):
    touch(tmp_path, "annotations/instances_train.json", "images/val/1.jpg", "images/deep/2.jpg")
    notes = Notes()
    finder = photo_finder(tmp_path / "annotations/instances_train.json", tmp_path, None, ["1.jpg"], notes)
    with pytest.raises(ValueError, match="here: the photo '1.jpg' is not in .*val/1.jpg, of another split"):
        finder.find("1.jpg", "here")
    finder = photo_finder(tmp_path / "annotations/instances_train.json", tmp_path, None, ["val/1.jpg"], notes)
    assert finder.find("val/1.jpg", "here") == tmp_path / "images/val/1.jpg" and not notes.cases
    assert finder.find("2.jpg", "here") == tmp_path / "images/deep/2.jpg" and len(notes.cases) == 1


def test_no_photo_outside_of_the_data_folder_is_found(tmp_path):
    root = tmp_path / "data"
    touch(tmp_path, "data/annotations/a.json", "secret.jpg", "annotations/secret.jpg")
    for name in ("../secret.jpg", "../../secret.jpg", str(tmp_path / "secret.jpg"), "file:///etc/secret.jpg"):
        with pytest.raises(ValueError, match="here: the photo .* is not in"):
            photo_finder(root / "annotations/a.json", root, None, [name]).find(name, "here")


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


def test_the_folder_is_that_of_the_first_existing_image(tmp_path):
    touch(tmp_path, "images/3.jpg")
    names = ["../../1.jpg", "x" * 300, "2.jpg", "3.jpg"]
    assert find_folder(tmp_path / "result.json", tmp_path, names) == tmp_path / "images"
    with pytest.raises(ValueError, match="'../../1.jpg' is outside of"):
        find_folder(tmp_path / "result.json", tmp_path, names[:3])

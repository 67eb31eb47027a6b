"""Photos of YOLO data sets are assigned to splits by data.yaml, by lists of photos or by folders."""

from pathlib import Path

import pytest
from own_folder import write

from gemma_lisa.datasets_builder.formats import yolo_splits
from gemma_lisa.datasets_builder.formats.annotated import Notes
from gemma_lisa.datasets_builder.formats.folder_listing import list_files
from gemma_lisa.datasets_builder.formats.yolo_config import YoloConfig
from gemma_lisa.datasets_builder.formats.yolo_splits import split_photos


def splits(root, photos, folder="", **paths):
    for name in photos:
        write(root, name, "")
    files = list_files(root)
    notes = Notes()
    config = YoloConfig(Path("data.yaml"), {0: "mug"}, folder, paths)
    known = {name: path for name, path in files.items() if name.endswith(".jpg")}
    assigned = split_photos(config, known, files, notes)
    return assigned, {kind: len(cases) for kind, cases in notes.cases.items()}


TWO = ["train/images/1.jpg", "valid/images/2.jpg"]
SPLIT = {"train/images/1.jpg": "train", "valid/images/2.jpg": "validation"}


@pytest.mark.parametrize("train", ["train/images", "./train/images", "train"])
def test_folders_that_exist_are_used_silently(tmp_path, train):
    assert splits(tmp_path, TWO, train=[train], validation=["valid/images"]) == (SPLIT, {})


@pytest.mark.parametrize(
    "train, valid",
    [
        ("../train/images", "../valid/images"),
        ("/content/mugs/train/images", "/content/mugs/valid/images"),
        ("C:\\mugs\\train\\images", "C:\\mugs\\valid\\images"),
    ],
)
def test_folders_of_another_machine_are_found_here(tmp_path, train, valid):
    assert splits(tmp_path, TWO, train=[train], validation=[valid]) == (SPLIT, {yolo_splits.REPLACED: 2})


def test_the_folder_of_the_data_set_is_put_before_the_paths(tmp_path):
    photos = ["images/train/1.jpg", "images/val/2.jpg", "images/extra/3.jpg"]
    assigned, notes = splits(
        tmp_path, photos, "../datasets/mugs", train=["images/train", "images/extra"], validation=["images/val"]
    )
    assert list(assigned.values()).count("train") == 2 and assigned["images/val/2.jpg"] == "validation"
    assert notes == {yolo_splits.REPLACED: 3}


def test_a_missing_folder_is_replaced_by_the_folder_of_its_split(tmp_path):
    photos = ["train/images/1.jpg", "val/images/2.jpg"]
    assigned, notes = splits(tmp_path, photos, train=["train/images"], validation=["valid/pictures"], test=["test"])
    assert assigned == {"train/images/1.jpg": "train", "val/images/2.jpg": "validation"}
    assert notes == {yolo_splits.REPLACED: 1, yolo_splits.MISSING: 1}


def test_without_any_folder_of_the_file_the_names_of_folders_count(tmp_path):
    assigned, notes = splits(tmp_path, ["images/1.jpg"], train=["../train/images"], validation=["../valid/images"])
    assert assigned == {"images/1.jpg": "train"}
    assert notes == {yolo_splits.MISSING: 2, yolo_splits.BY_FOLDER: 1}


def test_lists_name_photos_of_any_machine(tmp_path):
    write(tmp_path, "train.txt", "data/images/train/1.jpg\n\n./images/train/2.jpg\nimages/train/9.jpg\n")
    write(tmp_path, "lists/val.txt", "../images/val/3.jpg\n")
    photos = ["images/train/1.jpg", "images/train/2.jpg", "images/val/3.jpg", "images/val/4.jpg"]
    assigned, notes = splits(tmp_path, photos, ".", train=["train.txt"], validation=["lists/val.txt"])
    assert assigned == dict(zip(photos, ["train", "train", "validation"], strict=False))
    assert notes == {yolo_splits.LISTED_MISSING: 1, yolo_splits.UNLISTED: 1}


def test_a_photo_in_two_splits_is_in_train(tmp_path):
    assigned, notes = splits(tmp_path, ["images/1.jpg"], validation=["images"], train=["images"])
    assert assigned == {"images/1.jpg": "train"} and notes == {yolo_splits.LISTED_TWICE: 1}


def test_folders_define_the_splits_without_a_yaml_file(tmp_path):
    photos = ["Train/images/1.jpg", "images/val2017/2.jpg", "images/3.jpg"]
    assigned, notes = splits(tmp_path, photos)
    assert assigned == dict(zip(photos, ["train", "validation", "train"], strict=True))
    assert notes == {yolo_splits.OUTSIDE: 1}


@pytest.mark.parametrize("path", [".", "./", "/"])
def test_the_data_folder_itself_can_be_a_split(tmp_path, path):
    assert splits(tmp_path, ["1.jpg"], train=[path])[0] == {"1.jpg": "train"}

"""The files of a user's folder are matched by name: photos with masks, labels and questions."""

import unicodedata

import pytest
from own_folder import labelme, mask, numbers, photo, write

from gemma_lisa.datasets_builder.custom.folder_files import (
    annotation_files,
    composed,
    find_folders,
    find_mask,
    find_place,
    pair_up,
    place_remarks,
    share_out,
)
from gemma_lisa.datasets_builder.custom.folder_tables import Question


def question(image, split="", where="questions.csv line 2"):
    return Question(where, image, "the cat", "", "", "", split, "", points=True)


def names_of(photos):
    return {stem: [(rest, path.name) for rest, path in found.masks] for stem, found in photos.items()}


def test_split_folders_can_have_upper_case_names(tmp_path):
    for name in ("Train", "VALID", "other"):
        photo(tmp_path, f"{name}/images/1.jpg")
    assert find_folders(tmp_path) == {"train": tmp_path / "Train", "validation": tmp_path / "VALID"}
    with pytest.raises(ValueError, match="no such folder"):
        find_folders(tmp_path / "nowhere")


def test_folders_with_singular_names_are_used_if_the_plural_is_missing(tmp_path):
    photo(tmp_path, "image/1.jpg")
    mask(tmp_path, "mask/1_cat.png", numbers())
    labelme(tmp_path, "label/2.json", [])
    photo(tmp_path, "image/2.jpg")
    folders = find_folders(tmp_path)
    pairs = pair_up(tmp_path, asked=set())
    assert folders == {"train": tmp_path} and pairs.errors == []
    assert names_of(pairs.photos) == {"1": [("cat", "1_cat.png")], "2": []}
    assert pairs.photos["2"].labels == tmp_path / "label/2.json"
    assert str(tmp_path / "label/2.json") in annotation_files(tmp_path)
    assert find_mask("1_cat.png", tmp_path, tmp_path, "line 2") == tmp_path / "mask/1_cat.png"
    assert share_out([question("images/1.jpg"), question("image/1.jpg")], {"train": pairs.photos}, tmp_path) == []
    assert place_remarks(folders) == [
        f"{tmp_path}/{name}: used as {name}s/, which does not exist" for name in ("image", "mask", "label")
    ]


def test_folders_with_singular_names_are_ignored_if_the_plural_exists(tmp_path):
    photo(tmp_path, "1.jpg")
    photo(tmp_path, "image/2.jpg")
    assert find_place(tmp_path, "images") == tmp_path / "images"
    assert list(pair_up(tmp_path, asked=set()).photos) == ["1"]
    assert place_remarks({"train": tmp_path}) == [f"{tmp_path}/image: ignored because images/ exists"]


def test_splits_are_in_the_order_train_validation_test(tmp_path):
    for name in ("test", "val", "train"):
        photo(tmp_path, f"{name}/image/1.jpg")
    assert list(find_folders(tmp_path)) == ["train", "validation", "test"]


def test_a_mask_belongs_to_the_photo_with_the_longest_matching_name(tmp_path):
    for name in ("1.jpg", "1_a.jpg", "2.jpg"):
        photo(tmp_path, name)
    for name in ("1.png", "1_dog.png", "1_a.png", "1_a_dog.png", "masks/2/cat.png"):
        mask(tmp_path, name, numbers())
    pairs = pair_up(tmp_path, asked=set())
    assert names_of(pairs.photos) == {
        "1": [(None, "1.png"), ("dog", "1_dog.png")],
        "1_a": [(None, "1_a.png"), ("dog", "1_a_dog.png")],
        "2": [("cat", "cat.png")],
    }
    assert pairs.errors == [] and pairs.others == []


def test_unmatched_files_are_errors_unless_a_question_names_them(tmp_path):
    photo(tmp_path, "1.jpg")
    for name in ("1.png", "9.png", "8.png"):
        mask(tmp_path, name, numbers())
    labelme(tmp_path, "labels/7.json", [])
    write(tmp_path, "images/notes.txt", "x")
    write(tmp_path, "images/6.HEIC", "x")
    mask(tmp_path, "6_cat.png", numbers())
    pairs = pair_up(tmp_path, asked={tmp_path / "masks/9.png"})
    said = [str(error).removeprefix(f"{tmp_path}/") for error in pairs.errors]
    assert said == [
        "masks/6_cat.png: its photo 6.HEIC cannot be opened; save it as JPEG or PNG.",
        "masks/8.png: there is no photo for this mask; add a photo with this name to images/, or remove it.",
        "labels/7.json: there is no photo for this LabelMe file; add a photo with this name to images/, or remove it.",
    ]
    assert [path.name for path in pairs.others] == ["6.HEIC", "notes.txt"]


def test_a_photo_has_either_masks_or_one_labelme_file(tmp_path):
    for name in ("1.jpg", "2.jpg"):
        photo(tmp_path, name)
    labelme(tmp_path, "images/1.json", [])
    assert pair_up(tmp_path, set()).photos["1"].labels == tmp_path / "images/1.json"
    labelme(tmp_path, "labels/1.json", [])
    mask(tmp_path, "2.png", numbers())
    labelme(tmp_path, "labels/2.json", [])
    said = sorted(str(error) for error in pair_up(tmp_path, set()).errors)
    assert said == [
        f"{tmp_path}/labels/1.json: {tmp_path}/images/1.json belongs to the same photo; keep one of the two.",
        f"{tmp_path}/labels/2.json: {tmp_path}/masks/2.png belongs to the same photo; keep one of the two.",
    ]


def test_decomposed_and_composed_names_are_equal(tmp_path):
    apart = unicodedata.normalize("NFD", "café")
    assert apart != "café" == composed(apart)
    photo(tmp_path, f"{apart}.jpg")
    mask(tmp_path, "café_cat.png", numbers())
    assert names_of(pair_up(tmp_path, set()).photos) == {"café": [("cat", "café_cat.png")]}


@pytest.mark.parametrize("image", ["1", "1.jpg", "images/1.jpg", "images\\1.jpg", "./images/1.jpg"])
def test_a_question_finds_its_photo_by_name_stem_or_path(tmp_path, image):
    photo(tmp_path, "1.jpg")
    photos = pair_up(tmp_path, set()).photos
    asked = question(image)
    assert share_out([asked], {"train": photos}, tmp_path) == []
    assert photos["1"].questions == [asked]


def test_a_question_about_no_photo_or_two_is_an_error(tmp_path):
    splits = {}
    for split in ("train", "test"):
        photo(tmp_path, f"{split}/images/1.jpg")
        splits[split] = pair_up(tmp_path / split, set()).photos
    errors = share_out([question("1.jpg"), question("2.jpg"), question("1.jpg", "test")], splits, tmp_path)
    assert [str(error) for error in errors] == [
        "questions.csv line 2: '1.jpg' is in train and test; add a column split to choose one.",
        "questions.csv line 2: there is no photo '2.jpg'; write its file name as in images/.",
    ]
    assert len(splits["test"]["1"].questions) == 1 and not splits["train"]["1"].questions


def test_a_mask_path_is_relative_to_the_split_its_masks_or_the_data_folder(tmp_path):
    split = tmp_path / "train"
    for name in ("train/a.png", "train/masks/b.png", "c.png"):
        mask(tmp_path, f"./{name}", numbers())
    found = [find_mask(f"{name}.png", split, tmp_path, "line 2") for name in "abc"]
    assert found == [split / "a.png", split / "masks/b.png", tmp_path / "c.png"]
    assert find_mask("d.png", split, tmp_path, "line 2") is None
    with pytest.raises(ValueError, match="line 2: .*is outside of"):
        find_mask("../../c.png", split, tmp_path, "line 2")


def test_annotation_files_are_found_in_all_folders_except_hidden_ones(tmp_path):
    photo(tmp_path, "1.jpg")
    names = {"questions.xlsx", "Classes.TXT", "masks/classes.txt", "images/a/1.json", "train/labels/2.xml", "data.yaml"}
    for name in {*names, ".git/a.json", "readme.md"}:
        write(tmp_path, name, "x")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = {path.relative_to(tmp_path).as_posix() for path in annotation_files(tmp_path).values()}
    assert found == names

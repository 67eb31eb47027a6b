"""The files of a user's folder are matched by name: photos with masks, labels and questions."""

import unicodedata

import pytest
from own_folder import labelme, mask, numbers, photo, write

from gemma_lisa.datasets_builder.custom.folder_files import (
    annotation_files,
    composed,
    find_folders,
    find_mask,
    pair_up,
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
        f"{tmp_path}/labels/2.json: {tmp_path}/masks/2.png belongs to the same photo; keep one of the two, or set "
        'the option format to "labelme".',
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


def test_photos_in_folders_have_masks_in_folders_with_the_same_names(tmp_path):
    for name in ("images/a/1.JPG", "images/b/1.jpg", "images/b/c/2.jpg", "3.jpg"):
        photo(tmp_path, name)
    for name in ("masks/a/1.png", "masks/b/1_cat.PNG", "masks/b/c/2/dog.png", "3.png"):
        mask(tmp_path, name, numbers())
    labelme(tmp_path, "images/b/4.json", [])
    photo(tmp_path, "images/b/4.jpg")
    pairs = pair_up(tmp_path, set())
    assert names_of(pairs.photos) == {
        "3": [(None, "3.png")],
        "a/1": [(None, "1.png")],
        "b/1": [("cat", "1_cat.PNG")],
        "b/4": [],
        "b/c/2": [("dog", "dog.png")],
    }
    assert pairs.photos["b/4"].labels == tmp_path / "images/b/4.json"
    assert pairs.errors == [] and pairs.others == []
    errors = share_out([question("a/1.JPG"), question("images/b/1"), question("1")], {"train": pairs.photos}, tmp_path)
    assert [str(error) for error in errors] == ["questions.csv line 2: '1' is a/1 and b/1; write one of these paths."]
    assert len(pairs.photos["a/1"].questions) == len(pairs.photos["b/1"].questions) == 1


def test_a_mask_outside_of_the_folders_belongs_to_the_only_photo_with_its_name(tmp_path):
    for name in ("images/a/1.jpg", "images/b/1.jpg", "images/b/2.jpg"):
        photo(tmp_path, name)
    for name in ("1.png", "2_cat.png"):
        mask(tmp_path, name, numbers())
    pairs = pair_up(tmp_path, set())
    assert names_of(pairs.photos)["b/2"] == [("cat", "2_cat.png")]
    assert [str(error) for error in pairs.errors] == [
        f"{tmp_path}/masks/1.png: belongs to a/1 and b/1; move it into a folder as in images/."
    ]


def test_a_folder_of_masks_cannot_belong_to_a_photo_and_to_a_folder_of_photos(tmp_path):
    for name in ("a.jpg", "images/a/1.jpg"):
        photo(tmp_path, name)
    mask(tmp_path, "masks/a/1.png", numbers())
    [error] = pair_up(tmp_path, set()).errors
    assert "masks/a: belongs to a.jpg and to the folder a/ in images/; rename one of them." in str(error)


@pytest.mark.parametrize(
    ("image", "masked", "rest"),
    [
        ("case_1_0000.png", "case_1.png", None),
        ("a_leftImg8bit.png", "a_gtFine_labelIds.png", "gtFine_labelIds"),
        ("7_sat.jpg", "7_mask.png", "mask"),
        ("image_7.jpg", "mask_7.png", None),
        ("7.jpg", "mask_7.png", None),
        ("7.jpg", "7-mask.png", "mask"),
        ("2024-01-05.jpg", "2024-01-05.mask.png", "mask"),
        ("7.jpg", "7.jpg.png", None),
        ("7_a.jpg", "7_a-mask.png", "mask"),
    ],
)
def test_usual_parts_of_names_are_not_compared(tmp_path, image, masked, rest):
    photo(tmp_path, image)
    mask(tmp_path, masked, numbers())
    pairs = pair_up(tmp_path, set())
    assert pairs.errors == [] and list(names_of(pairs.photos).values()) == [[(rest, masked)]]


def test_a_suffix_that_only_some_photos_have_is_part_of_their_names(tmp_path):
    for name in ("a_0000.jpg", "b.jpg"):
        photo(tmp_path, name)
    mask(tmp_path, "a.png", numbers())
    [error] = pair_up(tmp_path, set()).errors
    assert "masks/a.png: there is no photo for this mask" in str(error)

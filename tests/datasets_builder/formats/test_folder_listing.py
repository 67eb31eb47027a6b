"""Files are listed by relative paths, and paths of other machines are found by their ends."""

import os
import unicodedata

import pytest
from own_folder import photo, write

from gemma_lisa.datasets_builder.formats.annotated import Notes
from gemma_lisa.datasets_builder.formats.folder_listing import (
    first_text,
    is_photo,
    list_files,
    longest_known,
    ordered,
    read_text,
    split_of,
    split_word,
)


def test_hidden_and_system_files_are_not_listed(tmp_path):
    for name in ("a/1.txt", ".git/1.txt", "a/.1.txt", "__MACOSX/1.txt", "a/Thumbs.db", "b.txt"):
        write(tmp_path, name, "")
    assert list(list_files(tmp_path)) == ["a/1.txt", "b.txt"]


def test_a_link_to_a_parent_folder_is_listed_once(tmp_path):
    write(tmp_path, "a/1.txt", "")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert list(list_files(tmp_path)) == ["a/1.txt"]


def test_names_are_composed_but_paths_are_those_of_the_disk(tmp_path):
    name = unicodedata.normalize("NFD", "Café.txt")
    write(tmp_path, name, "x")
    assert {name: path.read_text() for name, path in list_files(tmp_path).items()} == {"Café.txt": "x"}


def test_a_name_that_is_not_utf_8_is_noted(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"\xff.txt")
    try:
        open(path, "w").close()
    except OSError:
        pytest.skip("the file system requires UTF-8")
    notes = Notes()
    assert list_files(tmp_path, notes) == {}
    assert list(notes.cases) == ["skipped files whose names are not in UTF-8"]


@pytest.mark.parametrize("name, expected", [("1.JPG", True), ("1.heic", True), ("1.pdf", False), ("jpg", False)])
def test_photos_are_known_by_their_suffix(name, expected):
    assert is_photo(name) is expected


@pytest.mark.parametrize(
    "name, split",
    [
        ("Train", "train"),
        ("val2017", "validation"),
        ("valid", "validation"),
        ("test_2007", "test"),
        ("trainer", None),
        ("test tubes", None),
    ],
)
def test_a_split_is_a_whole_word(name, split):
    assert split_word(name) == split


def test_the_first_folder_that_names_a_split_counts():
    assert split_of("images/train2017/test/1.jpg") == "train"
    assert split_of("images/test.jpg") is None


def test_splits_are_ordered_and_empty_ones_are_dropped():
    assert list(ordered({"test": [1], "validation": [], "train": [2]})) == ["train", "test"]


@pytest.mark.parametrize(
    "path, expected",
    [
        ("/content/data/train/images", "train/images"),
        ("C:\\data\\train\\images", "train/images"),
        ("./train/images/", "train/images"),
        ("../valid/images", None),  # not "images": that would drop the split
        ("../x/images", "images"),
        (".", None),
    ],
)
def test_the_longest_end_of_a_path_is_found(path, expected):
    assert longest_known(path, {"train/images", "images"}) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_with_its_byte_order_mark(tmp_path, encoding):
    write(tmp_path, "1.txt", "né", encoding)
    assert read_text(tmp_path / "1.txt") == first_text(tmp_path / "1.txt", 100) == "né"


def test_text_in_another_encoding_is_refused_by_name(tmp_path):
    write(tmp_path, "1.txt", "né", "latin-1")
    with pytest.raises(ValueError, match="1.txt is not text in UTF-8"):
        read_text(tmp_path / "1.txt")


def test_a_photo_is_listed(tmp_path):
    photo(tmp_path, "1.jpg")
    assert list(list_files(tmp_path)) == ["images/1.jpg"]
    assert first_text(tmp_path / "missing", 10) == ""

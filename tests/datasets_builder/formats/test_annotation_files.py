"""Annotation files are found, and their names state splits."""

import pytest

from gemma_lisa.datasets_builder.formats.annotation_files import (
    files_in,
    head_of,
    in_order,
    photo_folders,
    split_in,
    split_of_file,
)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


def test_files_are_found_in_the_folder_and_in_its_folders(tmp_path):
    touch(tmp_path, "b.json", "a.JSON", "c.txt", "._a.json", "val/3.json", "val/4.json", "val/deep/5.json")
    touch(tmp_path, "__MACOSX/1.json", ".git/1.json")
    (tmp_path / "folder.json").mkdir()
    names = [path.relative_to(tmp_path).as_posix() for path in files_in(tmp_path, ".json")]
    assert names == ["a.JSON", "b.json", "val/3.json", "val/4.json"]
    assert [path.name for path in files_in(tmp_path, ".json", 1)] == ["a.JSON", "3.json"]
    assert files_in(tmp_path / "missing", ".json") == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_start_of_a_file_is_read_in_any_encoding(tmp_path, encoding):
    (tmp_path / "1.json").write_bytes(' \n["é"'.encode(encoding) + b"\xff" * 100_000)
    assert head_of(tmp_path / "1.json").startswith('["é"') and len(head_of(tmp_path / "1.json")) < 20_000
    assert head_of(tmp_path / "2.json") == ""


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("instances_val2017", "validation"),
        ("Valid", "validation"),
        ("my-test", "test"),
        ("default", None),
        ("train_val", None),
        ("constraint", None),
    ],
)
def test_names_state_splits(name, split):
    assert split_in(name) == split


def test_the_name_of_a_file_is_preferred_to_its_folder(tmp_path):
    root = tmp_path / "train"
    assert split_of_file(root / "val" / "test.json", root) == "test"
    assert split_of_file(root / "val" / "1.json", root) == "validation"
    assert split_of_file(root / "1.json", root) is None


def test_splits_are_in_order():
    assert in_order([("test", 1), ("train", 2), ("test", 3)]) == {"train": [2], "test": [1, 3]}
    assert list(in_order([("test", 1), ("train", 2)])) == ["train", "test"]


def test_photos_are_searched_near_their_file(tmp_path):
    touch(tmp_path, "val/images/sub/1.jpg", "images/1.jpg")
    folders = photo_folders(tmp_path / "val" / "1.json", tmp_path, "sub")
    names = [folder.relative_to(tmp_path).as_posix() for folder in folders]
    assert names == ["val/images/sub", "val/images", "val", "images", "."]
    assert photo_folders(tmp_path / "1.json", tmp_path, "../val") == [tmp_path / "images", tmp_path]

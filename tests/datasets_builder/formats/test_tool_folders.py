"""Folders of labelling tools are walked without system files, and their names state splits."""

import pytest
from own_folder import write

from gemma_lisa.datasets_builder.formats.file_search import walk
from gemma_lisa.datasets_builder.formats.photo_names import name_key
from gemma_lisa.datasets_builder.formats.tool_folders import (
    by_split,
    files_below,
    find_files,
    head_of,
    is_in_other_split,
    photo_folders,
    photo_suffixes,
    split_in,
)


def test_system_files_are_not_listed_and_links_to_parents_end(tmp_path):
    for name in ("b/1.JSON", "a/2.json", "3.json", "a/._2.json", ".cache/4.json", "__MACOSX/5.json", "a/6.txt"):
        write(tmp_path, name, "{}")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path, {".json"})]
    assert found == ["3.json", "a/2.json", "b/1.JSON"]
    assert [folder.name for folder, _, _ in walk(tmp_path)] == [tmp_path.name, "a", "b"]
    assert not list(files_below(tmp_path / "missing", {".json"}))


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train/labels/1.json", "train"),
        ("val/1", "validation"),
        ("images/Valid_images/1", "validation"),
        ("instances_val2017.json", "validation"),
        ("test-set", "test"),
        ("test/train", "train"),
        ("test bench/1", None),
        ("latest/1", None),
        ("train_val", None),
        ("trainer", None),
        ("", None),
        (".", None),
        ("../train", "train"),
    ],
)
def test_the_last_name_that_states_a_split_decides(path, split):
    assert split_in(path) == split


def test_photos_without_a_split_are_train(tmp_path):
    assert by_split([1, 2, 3, 4], ["test", None, "validation", "train"]) == {
        "train": [2, 4],
        "validation": [3],
        "test": [1],
    }
    assert list(by_split([1, 2], ["test", "train"])) == ["train", "test"]
    assert is_in_other_split(tmp_path / "val/1.jpg", "train", tmp_path)
    assert not is_in_other_split(tmp_path / "val/1.jpg", "validation", tmp_path)
    assert not is_in_other_split(tmp_path / "val/1.jpg", None, tmp_path)
    assert not is_in_other_split(tmp_path / "a/1.jpg", "train", tmp_path)
    assert not is_in_other_split(tmp_path / "val/a/1.jpg", "train", tmp_path / "val")


def test_names_and_first_characters(tmp_path):
    assert name_key("Ku\u0308che.JPG") == name_key("k\u00fcche.jpg") != name_key("kuche.jpg")
    (tmp_path / "1.json").write_bytes(b"\xef\xbb\xbf{\xff" + b"x" * 10**5)
    head = head_of(tmp_path / "1.json")
    assert head.startswith("{\ufffdx") and len(head) < 5000
    assert head_of(tmp_path) == head_of(tmp_path / "missing") == ""
    assert {".jpg", ".png", ".tif", ".heic"} <= photo_suffixes() and ".json" not in photo_suffixes()


def touch(root, *names, text=" \n{}"):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def found(root, most=None):
    files = find_files(root, ".json", lambda start: start.startswith("{"), most)
    return [path.relative_to(root).as_posix() for path in files]


def test_files_are_found_in_the_folder_and_in_its_folders(tmp_path):
    touch(tmp_path, "b.json", "a.JSON", "c.txt", "._a.json", "val/3.json", "val/4.json", "val/deep/5.json")
    touch(tmp_path, "__MACOSX/1.json", ".git/1.json")
    touch(tmp_path, "0.json", text="[]")
    (tmp_path / "folder.json").mkdir()
    assert found(tmp_path) == ["a.JSON", "b.json", "val/3.json", "val/4.json"]
    assert found(tmp_path, 2) == ["a.JSON", "val/3.json", "val/4.json"]
    assert found(tmp_path / "missing") == []


def test_photos_are_searched_near_their_file(tmp_path):
    touch(tmp_path, "val/images/sub/1.jpg", "images/1.jpg", "val/images/file/1.jpg")
    folders = photo_folders(tmp_path / "val" / "file.json", tmp_path, "sub")
    names = [folder.relative_to(tmp_path).as_posix() for folder in folders]
    assert names == ["val/images/sub", "val/images/file", "val/images", "val", "images", "."]
    assert photo_folders(tmp_path / "1.json", tmp_path, "../val") == [tmp_path / "images", tmp_path]

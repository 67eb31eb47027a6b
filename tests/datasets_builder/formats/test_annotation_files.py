"""Annotation files and the folders of their photos are found."""

from gemma_lisa.datasets_builder.formats.annotation_files import find_files, photo_folders


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

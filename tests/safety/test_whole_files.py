"""Files are written atomically, and unwritable files are an error before the work begins."""

import errno
import json
import os

import pytest
from PIL import ExifTags, Image

from gemma_lisa.safety import whole_files
from gemma_lisa.safety.errors import UsageError, WriteError
from gemma_lisa.safety.whole_files import SOFTWARE, check_writable, write_whole


@pytest.mark.parametrize(("name", "is_folder"), [("new/deep/a.png", False), ("a.png", False), ("new/folder", True)])
def test_a_writable_path_is_accepted_and_no_file_is_left(tmp_path, name, is_folder):
    check_writable(tmp_path / name, "--output", is_folder)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_or_folder_of_the_right_kind_is_accepted(tmp_path):
    (tmp_path / "a.png").write_text("kept")
    check_writable(tmp_path / "a.png", "--output")
    check_writable(tmp_path, "--output", is_folder=True)
    assert (tmp_path / "a.png").read_text() == "kept" and len(list(tmp_path.iterdir())) == 1


def test_an_unwritable_path_is_an_error_with_option_and_path(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("/nowhere/x")
    for path, is_folder, said in (
        (tmp_path, False, "this is a folder; expected a file"),
        (tmp_path / "file", True, "this is a file; expected a folder"),
        (tmp_path / "file" / "a.png", False, f"{tmp_path / 'file'} is a file; expected a folder"),
        (tmp_path / "link" / "a.png", False, "is a broken link"),
    ):
        with pytest.raises(UsageError, match=f"^--output {path}: .*{said}"):
            check_writable(path, "--output", is_folder)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_read_only_folder_or_full_disk_is_an_error(tmp_path, monkeypatch, number):
    def refuse(**options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(whole_files.tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(ValueError, match=rf"^--json {tmp_path}/a.json: cannot be written \({os.strerror(number)}\)"):
        check_writable(tmp_path / "a.json", "--json")


def test_a_failed_write_keeps_the_old_file_and_names_it_in_the_error(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("old")

    def fill_up(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(whole_files.os, "replace", fill_up)
    with pytest.raises(WriteError, match=f"^{tmp_path}/a.json: cannot be written .No space left on device") as refusal:
        write_whole(tmp_path / "a.json", {"new": 1})
    assert "\n" not in str(refusal.value)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and (tmp_path / "a.json").read_text() == "old"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a"])
def test_an_image_is_written_in_the_format_of_its_name_with_the_software_in_its_exif(tmp_path, name):
    write_whole(tmp_path / "new" / name, Image.new("RGB", (9, 7), "red"))
    with Image.open(tmp_path / "new" / name) as picture:
        assert picture.format == {"a.jpg": "JPEG", "a.webp": "WEBP"}.get(name, "PNG") and picture.size == (9, 7)
        assert picture.getexif()[ExifTags.Base.Software] == SOFTWARE


def test_texts_and_json_are_written_as_utf_8(tmp_path):
    write_whole(tmp_path / "a.txt", "grün")
    write_whole(tmp_path / "a.json", {"Farbe": ["grün", None, 1.5]})
    assert (tmp_path / "a.txt").read_bytes() == "grün".encode()
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "grün" in text and text.endswith("}\n") and json.loads(text) == {"Farbe": ["grün", None, 1.5]}
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "a.json"}

"""Files appear whole or not at all; what cannot be written is told before work begins."""

import errno
import json
import os

import pytest
from PIL import ExifTags, Image

from gemma_lisa.safety import whole_files
from gemma_lisa.safety.errors import UsageError, WriteError
from gemma_lisa.safety.whole_files import SOFTWARE, check_writable, write_whole


@pytest.mark.parametrize(("name", "is_folder"), [("new/deep/a.png", False), ("a.png", False), ("new/folder", True)])
def test_what_can_be_written_passes_and_nothing_is_left(tmp_path, name, is_folder):
    check_writable(tmp_path / name, "--output", is_folder)
    assert not list(tmp_path.iterdir())


def test_an_existing_file_or_folder_of_the_right_kind_passes(tmp_path):
    (tmp_path / "a.png").write_text("kept")
    check_writable(tmp_path / "a.png", "--output")
    check_writable(tmp_path, "--output", is_folder=True)
    assert (tmp_path / "a.png").read_text() == "kept" and len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_written_is_told_with_option_and_path(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("/nowhere/x")
    for path, is_folder, said in (
        (tmp_path, False, "this is a folder; expected the name of a file"),
        (tmp_path / "file", True, "this is a file; expected the name of a folder"),
        (tmp_path / "file" / "a.png", False, f"{tmp_path / 'file'} is a file; expected a folder"),
        (tmp_path / "link" / "a.png", False, "is a link to nothing"),
    ):
        with pytest.raises(UsageError, match=f"^--output {path}: .*{said}"):
            check_writable(path, "--output", is_folder)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_read_only_folder_or_full_disk_is_told(tmp_path, monkeypatch, number):
    def refuse(**options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(whole_files.tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(ValueError, match=rf"^--json {tmp_path}/a.json: cannot be written \({os.strerror(number)}\)"):
        check_writable(tmp_path / "a.json", "--json")


def test_a_file_that_cannot_be_written_is_named_and_the_old_one_stays(tmp_path, monkeypatch):
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
def test_a_picture_is_written_in_the_format_of_its_name_and_says_what_wrote_it(tmp_path, name):
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

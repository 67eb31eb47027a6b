"""Which images and questions predict.py finds in folders and tables, and what it reports about the others."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from gemma_lisa import predict
from gemma_lisa.interfaces import image_inputs
from gemma_lisa.interfaces.image_inputs import expand_folders, images_in, read_table, unreadable_images


def picture(path):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(path)
    return path


# ---------------------------------------------------------------------------------------------------------------------
# Folders
# ---------------------------------------------------------------------------------------------------------------------
def test_images_of_a_folder_are_found_and_other_files_are_counted_with_a_reason(tmp_path, capsys):
    images = ["a.png", "b.JPG", "c.webp"]
    others = ["notes.pdf", "d.eps", "e.mpg", "f.h5", "g.PDF"]
    for name in (*images, *others, "h.HEIC", "i.heic", ".DS_Store", "._a.png"):
        (tmp_path / name).touch()
    (tmp_path / "more.png").mkdir()
    assert [path.name for path in images_in(tmp_path)] == images
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}: skipped 2 HEIC files: run `pip install pillow-heif`, or convert them to JPEG",
        f"{tmp_path}: skipped 5 other files: unsupported type (.eps, .mpg, .h5, .pdf)",
        f"{tmp_path}: skipped 1 subfolder: subfolders are not searched",
        f"{tmp_path}: skipped 2 hidden files: the name starts with a dot",
    ]


def test_a_folder_of_images_only_prints_nothing(tmp_path, capsys):
    (tmp_path / "a.png").touch()
    assert [path.name for path in images_in(tmp_path)] == ["a.png"]
    assert capsys.readouterr().err == ""


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="has no images; expected files such as a.jpg or b.png"):
        predict.main(["--image", str(tmp_path), "--query", "a", "--output", str(tmp_path / "out")])


def test_folders_are_replaced_by_their_images_and_named_files_are_kept(tmp_path):
    first, second = picture(tmp_path / "photos" / "a.png"), picture(tmp_path / "photos" / "b.png")
    images, found = expand_folders([first, tmp_path / "photos", tmp_path / "missing.png"])
    assert images == [first, first, second, tmp_path / "missing.png"]
    assert found == {second}  # `first` was also given by name, so it must not be skipped


def test_images_that_cannot_be_opened_are_skipped_in_folders_only(tmp_path, capsys):
    good, bad = picture(tmp_path / "good.png"), tmp_path / "bad.png"
    bad.write_bytes(good.read_bytes()[:40])
    assert unreadable_images([good, bad], {good, bad}) == [bad]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"skipped: {bad} cannot be read")
    with pytest.raises(ValueError, match="bad.png cannot be read"):
        unreadable_images([good, bad], {good})


def test_a_heic_image_that_is_given_by_name_is_refused_with_the_package_that_opens_it(tmp_path):
    photo = tmp_path / "a.HEIC"
    photo.write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(ValueError, match="a.HEIC: HEIC images cannot be opened yet; run `pip install pillow-heif`"):
        unreadable_images([photo], set())


def test_pillow_heif_is_registered_if_it_is_installed(monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=lambda: calls.append(1)))
    image_inputs.register_heif()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # the import fails
    image_inputs.register_heif()
    assert calls == [1]


# ---------------------------------------------------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "q.csv",
            b"image,question\na.png,b\n",
            "q.csv, line 2: must have a text in each of the columns image and query",
        ),
        ("q.csv", b"image,query\na.png,\n", "q.csv, line 2"),
        ("q.csv", b"", "q.csv has no rows"),
        ("q.csv", "image,query\na.png,naïve\n".encode("latin-1"), "q.csv: must be UTF-8"),
        ("q.csv", b"image,query\nhttps://a.b/c.png,d\n", "q.csv, line 2: image must be .* got a URL .*; download it"),
        ("q.jsonl", b'{"image": "a.png", "query": "b"}\n{"image": \n', "q.jsonl, line 2: not valid JSON"),
        ("q.jsonl", b'["a.png", "b"]\n', "q.jsonl, line 1"),
        ("q.txt", b"a.png b", "--table must be a .csv or .jsonl file, got '.*q.txt'"),
        (None, b"", "no such file"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_with_its_line(tmp_path, name, content, message):
    path = tmp_path / (name or "missing.csv")
    if name:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        predict.main(["--table", str(path), "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.csv", b"image,query\n" + b"x" * 200_000 + b",a\n", "line 1: not valid CSV .field larger"),
        ("q.jsonl", b'{"image": ' + b"[" * 100_000, "line 1: not valid JSON .*nested too deep"),
        ("q.jsonl", b'{"image": ' + b"9" * 5_000 + b"}", "line 1: not valid JSON"),
        ("q.jsonl", b'{"image": "a", "query": ["' + b"x" * 100_000 + b'"]}', "line 1: must have a text in each"),
        ("q.csv", b"image,query\n" + b"x" * 100_000 + b",a\n", "line 2: image must be .* too long for a file name"),
    ],
)
def test_a_table_with_a_value_that_is_too_long_is_refused_in_a_short_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        read_table(tmp_path / name)
    assert len(str(refused.value)) < 500

"""Photos are found by the names that labelling tools write, or an error names the reason."""

import os
import unicodedata

import pytest

from gemma_lisa.datasets_builder.formats import photo_names
from gemma_lisa.datasets_builder.formats.annotated import Notes
from gemma_lisa.datasets_builder.formats.photo_names import NO_PREFIX, OTHER_SUFFIX, PhotoNames, is_photo_name


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def found(root, name, notes=None):
    return PhotoNames([root / "images", root], notes).find(name, "record 1").relative_to(root).as_posix()


def refusal(root, name, notes=None):
    with pytest.raises(ValueError) as error:
        found(root, name, notes)
    message = str(error.value)
    assert message.startswith("record 1: ") and "\n" not in message and message.endswith(".")
    return message


@pytest.mark.parametrize(
    "name",
    [
        "scene 1.png",
        "images/scene 1.png",
        "./images/../scene 1.png",
        r"C:\photos\scene 1.png",
        r"D:\scene 1.png",
        r"images\scene 1.png",
        r"\\server\share\scene 1.png",
        "/photos/anna/scene 1.png",
        "file:///photos/anna/scene%201.png",
        "file:///C:/photos/scene%201.png",
        "s3://bucket/folder/scene 1.png",
        "https://example.org/a/scene%201.png?X-Signature=a.b&x=/c.d#top",
        "https://example.org/scene%201.png#a/b.png",
        "/data/upload/1/scene 1.png",
        "../../upload/1/scene 1.png",
        "/data/local-files/?d=folder/scene 1.png",
        "/data/local-files/?d=folder%2Fscene%201.png",
        "http://localhost:8080/data/local-files/?d=folder/scene+1.png",
        r"/data/local-files/?d=folder\scene 1.png",
        "/tasks/1/presign/?fileuri=czM6Ly9idWNrZXQvc2NlbmUgMS5wbmc=",  # s3://bucket/scene 1.png
        "scene 1.PNG",
        "Scene 1.png",
        "cb0618f6-scene 1.png",
        "/data/upload/1/cb0618f6-scene_1.png",
        "https://example.org/data/upload/1/cb0618f6-scene_1.png",
    ],
)
def test_a_photo_is_found_by_every_name_that_tools_write(root, name):
    touch(root, "images/scene 1.png", "images/scene 2.png", "notes.txt")
    assert found(root, name) == "images/scene 1.png"


@pytest.mark.parametrize("name", ["50%25.png", "a?b.png", "a#b.png", "cb0618f6-scene.png", "x:y.png", " 1.png"])
def test_an_exact_name_is_preferred_to_its_decoded_form(root, name):
    touch(root, f"images/{name}", "images/50%.png", "images/a", "images/b.png", "images/scene.png", "images/1.png")
    assert found(root, name) == f"images/{name}"


def test_a_number_sign_in_a_local_name_starts_no_fragment(root):
    touch(root, "images/a#1.png", "images/a")
    assert found(root, r"C:\photos\a#1.png") == "images/a#1.png"


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_the_form_of_unicode_makes_no_difference(root, forms):
    on_disk, in_file = (unicodedata.normalize(form, "küche é/tür.jpg") for form in forms)
    touch(root, f"images/{on_disk}", "images/other/tür.jpg")
    assert found(root, in_file) == f"images/{on_disk}"


def test_an_exact_path_needs_no_index(root, monkeypatch):
    touch(root, "images/train/1.jpg", "1.jpg")
    monkeypatch.setattr(photo_names, "_files", None)
    assert found(root, "train/1.jpg") == "images/train/1.jpg"
    assert found(root, "images/train/1.jpg") == "images/train/1.jpg"
    assert found(root, "1.jpg") == "1.jpg"
    assert found(root, str(root / "images/train/1.jpg")) == "images/train/1.jpg"


def test_each_folder_is_indexed_once(root, monkeypatch):
    touch(root, "images/a/1.jpg", "images/a/2.jpg", "images/a/3.jpg")
    calls, files = [], photo_names._files
    monkeypatch.setattr(photo_names, "_files", lambda folder: calls.append(folder) or files(folder))
    names = PhotoNames([root / "images"])
    assert [names.find(f"x/{number}.jpg", "").name for number in (1, 2, 3)] == ["1.jpg", "2.jpg", "3.jpg"]
    assert calls == [str(root / "images")]


def test_folders_in_the_name_choose_between_equal_file_names(root):
    touch(root, "images/train/a/1.jpg", "images/val/a/1.jpg", "images/val/b/1.jpg")
    assert found(root, "s3://bucket/val/a/1.jpg") == "images/val/a/1.jpg"
    assert found(root, "/x/Train/A/1.jpg") == "images/train/a/1.jpg"
    message = refusal(root, "s3://bucket/a/1.jpg")
    assert "the photo 's3://bucket/a/1.jpg' can be" in message
    assert str(root / "images/train/a/1.jpg") in message and str(root / "images/val/a/1.jpg") in message


def test_the_first_folder_is_preferred(root):
    touch(root, "images/sub/1.jpg", "backup/1.jpg", "2.jpg")
    assert found(root, "x/1.jpg") == "images/sub/1.jpg"
    assert found(root, "x/2.jpg") == "2.jpg"


def test_upper_and_lower_case_choose_between_names(root):
    touch(root, "images/a/1.JPG", "images/a/1.jpg", "images/a/x.jpg", "images/a/X.jpg", "images/a/X.JPG")
    assert found(root, "b/1.jpg") == "images/a/1.jpg"
    assert found(root, "b/1.JPG") == "images/a/1.JPG"
    assert found(root, "b/x.JPG") == "images/a/x.jpg"
    assert "can be" in refusal(root, "b/1.Jpg")


def test_hidden_files_and_masks_are_not_searched(root):
    hidden = ("images/._1.jpg", ".trash/1.jpg", "__MACOSX/1.jpg", "masks/1.jpg", "SegmentationClass/1.jpg")
    touch(root, *hidden, "photos/1.jpg")
    assert found(root, "x/1.jpg") == "photos/1.jpg"
    assert found(root, "masks/1.jpg") == "masks/1.jpg"  # an exact path
    (root / "photos/1.jpg").unlink()
    assert "'x/1.jpg' is not in" in refusal(root, "x/1.jpg")


def test_a_photo_outside_of_the_folders_is_not_found(root):
    touch(root, "../secret.jpg", "1.jpg")
    for name in (
        "../secret.jpg",
        "../../data/../secret.jpg",
        str(root.parent / "secret.jpg"),
        "a/%2e%2e/../secret.jpg",
    ):
        assert "is not in" in refusal(root, name)
    touch(root, "../data2/1.jpg")
    assert found(root, "../data2/1.jpg") == "1.jpg"
    assert found(root, f"{root}2/1.jpg") == "1.jpg"


def test_links_are_followed_once(root, tmp_path):
    touch(tmp_path, "disk/a/1.jpg")
    os.symlink(tmp_path / "disk", root / "images")
    os.symlink(tmp_path / "disk", tmp_path / "disk/a/again")
    assert found(root, "x/1.jpg") == "images/a/1.jpg"


def test_a_photo_that_pillow_cannot_open_is_found(root):
    touch(root, "images/1.HEIC")
    assert found(root, "upload/1.heic") == "images/1.HEIC"


def test_another_suffix_is_counted_or_refused(root):
    touch(root, "images/1.jpg", "images/1.txt", "images/frame_000000.PNG", "images/a.1.jpg")
    notes = Notes()
    assert found(root, "1.HEIC", notes) == "images/1.jpg"
    assert found(root, "frame_000000", notes) == "images/frame_000000.PNG"
    assert found(root, "a.1", notes) == "images/a.1.jpg"
    assert [case.photo.name for case in notes.cases[OTHER_SUFFIX]] == ["1.jpg", "frame_000000.PNG", "a.1.jpg"]
    assert f"Only {root / 'images/1.jpg'} has a similar name." in refusal(root, "1.HEIC")
    touch(root, "images/1.png")
    assert "is not in" in refusal(root, "1.HEIC", notes)


def test_a_removed_prefix_is_counted(root):
    touch(root, "images/Grüne Tür (2).png", "images/1.png", "images/cb0618f6-1.png")
    notes = Notes()
    assert found(root, "/data/upload/1/aa0618f6-Grüne_Tür_2.png", notes) == "images/Grüne Tür (2).png"
    assert found(root, "/data/upload/1/aa0618f6-1.png", notes) == "images/1.png"
    assert len(notes.cases[NO_PREFIX]) == 2
    assert found(root, "/data/upload/1/cb0618f6-1.png", notes) == "images/cb0618f6-1.png"
    assert len(notes.cases[NO_PREFIX]) == 2


def test_a_photo_belongs_to_one_name(root):
    touch(root, "images/scene.png", "images/2.png")
    names = PhotoNames([root / "images", root])
    names.find("/upload/1/aa0618f6-scene.png", "task 1")
    names.find("https://host/upload/1/aa0618f6-scene.png?signature=2", "task 2")  # the same upload
    with pytest.raises(ValueError, match="^task 3: the photos '/upload/1/aa0618f6-scene.png' and .*bb0618f6-scene"):
        names.find("/upload/1/bb0618f6-scene.png", "task 3")
    with pytest.raises(ValueError, match="both found as"):
        names.find("scene.png", "task 4")
    assert names.find("images/2.png", "") == names.find("2.png", "") == root / "images/2.png"


@pytest.mark.parametrize(
    "name", ["", " ", None, 3, ["1.png"], "/", "..", "a\0.png", "x" * 5000, "\ud83d.png", "http://["]
)
def test_a_name_that_is_none_is_an_error(root, name):
    touch(root, "images/1.png")
    assert len(refusal(root, name)) < 2000
    path, error = PhotoNames([root]).find_or_error(name, "record 1")
    assert isinstance(error, ValueError) and path.is_relative_to(root)


def test_find_or_error_returns_the_path_of_a_photo(root):
    touch(root, "images/1.png")
    assert PhotoNames([root]).find_or_error("images/1.png", "") == (root / "images/1.png", None)
    path, error = PhotoNames([root]).find_or_error("a/2.png", "record 1")
    assert path == root / "2.png" and "'a/2.png'" in str(error)


@pytest.mark.parametrize("name", ["a/1.JPG", "1.heic", "s3://b/1.png", "http://host/1.webp?x=1", "/data/?d=a/1.tif"])
def test_texts_with_the_suffix_of_an_image_are_names_of_photos(name):
    assert is_photo_name(name)


@pytest.mark.parametrize("text", ["", "a mug", "1.mp4", "http://host/", "readme.txt?x=1", "x" * 20_000 + ".jpg"])
def test_other_texts_are_no_names_of_photos(text):
    assert not is_photo_name(text)

"""Find photos by the names in COCO JSON files, and count those whose path is another."""

import pytest

from gemma_lisa.datasets_builder.formats.annotated import Notes
from gemma_lisa.datasets_builder.formats.coco_photos import OTHER_NAME, PhotoFinder


def finder(tmp_path, *photos):
    for name in photos:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    notes = Notes()
    folders = [tmp_path / name for name in ("annotations", "images", ".")]
    return PhotoFinder([folder for folder in folders if folder.is_dir()], tmp_path, notes), notes


@pytest.mark.parametrize("name", ["1.jpg", "images/1.jpg", "images\\1.jpg", "./images/1.jpg", "../images/1.jpg"])
def test_an_exact_name_is_no_remark(tmp_path, name):
    (tmp_path / "annotations").mkdir()
    photos, notes = finder(tmp_path, "images/1.jpg", "other/1.jpg")
    assert photos.find(name, "here") == tmp_path / "images/1.jpg" and not notes.cases


@pytest.mark.parametrize(
    "name",
    [
        "..\\..\\label-studio\\media\\upload\\4\\1.jpg",
        "data/local-files/?d=photos/1.jpg",
        "C:\\photos\\1.jpg",
        "https://host/photos/1.jpg",
        "1.JPG",
    ],
)
def test_another_path_is_counted(tmp_path, name):
    photos, notes = finder(tmp_path, "images/1.jpg")
    assert photos.find(name, "here") == tmp_path / "images/1.jpg"
    assert {kind: len(cases) for kind, cases in notes.cases.items()} == {OTHER_NAME: 1}


@pytest.mark.parametrize("name", ["2.jpg", "../../1.jpg/../2.jpg", "", None, 5, "\0", "x" * 5000, "..", "../.."])
def test_a_missing_photo_is_refused_in_one_line(tmp_path, name):
    photos, _ = finder(tmp_path, "images/1.jpg")
    with pytest.raises(ValueError, match="^here: the ") as refusal:
        photos.find(name, "here")
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 1000

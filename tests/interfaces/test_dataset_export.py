"""Answers as a data set for labelling tools: classes, folders, and what is written if something fails."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_masks import SHAPE, masks
from PIL import ExifTags, Image

from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.rows import decode_mask
from gemma_lisa.interfaces import dataset_export
from gemma_lisa.interfaces.dataset_export import FILES, SCORES, WRITERS, DatasetExport, check_folder, class_name
from gemma_lisa.safety.errors import UsageError, WriteError


def answer(*found, text="It is there.", scores=None):
    """Return an answer with these masks, as the processor returns it."""
    scores = torch.tensor(scores or [0.9] * len(found))
    stacked = torch.from_numpy(np.stack(found)) if found else torch.zeros((0, *SHAPE), dtype=torch.bool)
    raw = text + " [SEG]" * len(found)
    facts = {"masks": stacked, "scores": scores, "phrases": [""] * len(found)}
    return {**facts, "text": text, "raw_text": raw, "complete": True}


def photo(path, color=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SHAPE[::-1], (color, 0, 0)).save(path, **options)
    return path


def table(folder):
    with (folder / SCORES).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("the mug", "mug"),
        ("A mug.", "mug"),
        ("an  old mug ", "old mug"),
        ("all the blue mugs", "blue mugs"),
        ("all of the mugs", "mugs"),
        ("all mugs", "mugs"),
        ("apple", "apple"),
        ("theater", "theater"),
        ("the", "the"),
        ("What could open the bottle?", "What could open the bottle?"),
        ("the mug?", "the mug?"),
        ("マグカップ。", "マグカップ"),
    ],
)
def test_the_class_is_the_noun_phrase_and_a_question_keeps_its_text(question, name):
    assert class_name(question) == name


@pytest.fixture
def asked(tmp_path):
    """Return an export with one answer with masks, one refusal and one photo in a subfolder of the same name."""

    def make(form="coco", **options):
        first, second = photo(tmp_path / "a" / "1.jpg"), photo(tmp_path / "b" / "1.jpg", 200)
        pairs = [(path, question) for path in (first, second) for question in ("the mug", "a lid")]
        export = DatasetExport(tmp_path / "out", form, pairs, **options)
        drawn = masks()
        export.add(first, SHAPE, "the mug", answer(drawn["holes"], drawn["parts"], scores=[0.93, 0.2]))
        export.add(first, SHAPE, "a lid", answer(text="No, I see none."))
        export.add(second, SHAPE, "a lid", answer(drawn["circle"], np.zeros(SHAPE, bool)))
        export.add(second, SHAPE, "the mug", answer(drawn["circle"], drawn["circle"]))
        return export

    return make


@pytest.mark.parametrize("form", ["coco", "yolo", "voc", "labelme"])
def test_photos_and_scores_are_written_in_every_format(asked, tmp_path, form):
    summary = asked(form).write()
    folder = tmp_path / "out"
    copies = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    assert [Path(copy).name for copy in copies] == ["1-2.jpg", "1.jpg"]
    assert (tmp_path / "a" / "1.jpg").is_file()
    lines = table(folder)
    assert [(line["photo"], line["object"], line["class"], line["score"], line["status"]) for line in lines] == [
        ("1.jpg", "1", "mug", "0.93", "low confidence"),
        ("1.jpg", "2", "mug", "0.2", "low confidence"),
        ("1.jpg", "", "lid", "", "not there"),
        ("1-2.jpg", "1", "lid", "0.9", "found"),
        ("1-2.jpg", "2", "mug", "0.9", "found"),
    ]
    assert lines[2]["answer"] == "No, I see none." and lines[3]["source"] == str(tmp_path / "b" / "1.jpg")
    first, *remarks, last = summary.splitlines()
    assert first.startswith(f"wrote {folder} (") and "2 photos, 4 objects" in first
    assert "skipped 1 empty mask" in remarks
    assert "skipped 1 object with the class and mask of another one" in remarks
    assert last.startswith("Next: ") and "--data_dir" in last
    listing = (folder / FILES).read_text().splitlines()[1:]
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(listing) == written - {FILES}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]


def test_names_can_be_given(asked, tmp_path):
    asked(names={"a lid": " the cover "}).write()
    content = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["mug", "the cover"]


@pytest.mark.parametrize(
    ("form", "names", "message"),
    [
        ("coco", {"the cup": "cup"}, "--class_names: 'the cup' is not one of the questions"),
        ("coco", {"the mug": 3}, "--class_names: the class of 'the mug' must be a text, got 3"),
        ("coco", {"the mug": " "}, "must be a text, got ' '"),
        ("coco", {"the mug": "\ud800"}, "the class '.ud800' is not valid Unicode"),
        ("voc", {"the mug": "a:b"}, "--format voc: .*'a:b'; name the classes with --class_names"),
    ],
)
def test_unsuitable_names_are_refused(asked, form, names, message):
    with pytest.raises(UsageError, match=message):
        asked(form, names=names)


def export_turned(tmp_path, form, orientation):
    """Export a photo with an EXIF orientation and a mask on the upright photo, and return both."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = photo(tmp_path / "photos" / "two words.jpg", exif=exif)
    mask = masks()["island in a hole"]
    mask = np.rot90(mask).copy() if orientation == 6 else mask
    export = DatasetExport(tmp_path / "out", form, [(path, "the mug")])
    export.add(path, mask.shape, "the mug", answer(mask))
    export.write()
    return path, mask


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_masks_are_read_back_on_photos_with_an_orientation(tmp_path, form, orientation):
    _, mask = export_turned(tmp_path, form, orientation)
    (row,) = load_rows("folder", "train", str(tmp_path / "out"))
    assert (decode_mask(row["targets"][0]["masks"][0], "row") == mask).all()


@pytest.mark.parametrize("form", ["coco", "labelme"])
def test_coco_and_labelme_copy_photos_byte_by_byte(tmp_path, form):
    path, mask = export_turned(tmp_path, form, 6)
    assert (tmp_path / "out" / "images" / "two words.jpg").read_bytes() == path.read_bytes()
    if form == "coco":
        (row,) = load_rows("coco_instances", "train", str(tmp_path / "out"))
        assert (decode_mask(row["targets"][0]["masks"][0], "row") == mask).all()


@pytest.mark.parametrize("form", WRITERS)
def test_folder_reads_back_the_union_of_the_objects_of_each_class(asked, tmp_path, form, caplog):
    asked(form).write()
    rows = load_rows("folder", "train", str(tmp_path / "out"))
    found = {
        (Path(row["image"]["path"]).name, target["texts"][0]): decode_mask(target["masks"][0], "row").astype(bool)
        for row in rows
        for target in row["targets"]
    }
    drawn = masks()
    expected = {
        ("1.jpg", "the mug"): drawn["holes"] | drawn["parts"],
        ("1-2.jpg", "the lid"): drawn["circle"],
        ("1-2.jpg", "the mug"): drawn["circle"],
    }
    if form == "voc":  # a pixel has one object, so equal masks of two classes are one
        del expected["1-2.jpg", "the lid"]
    assert found.keys() == expected.keys()
    assert all((found[key] == expected[key]).all() for key in expected)
    # The other files of the folder are no data
    assert not [record for record in caplog.records if SCORES in record.message or FILES in record.message]


@pytest.mark.parametrize(
    ("form", "name"), [("yolo", "images/train/two words.jpg"), ("voc", "JPEGImages/two_words.jpg")]
)
@pytest.mark.parametrize("orientation", [3, 6])
def test_yolo_and_voc_store_photos_upright(tmp_path, form, name, orientation):
    _, mask = export_turned(tmp_path, form, orientation)
    with Image.open(tmp_path / "out" / name) as stored:
        assert stored.size == mask.shape[::-1] and ExifTags.Base.Orientation not in stored.getexif()
    if form == "voc":
        assert (np.asarray(Image.open(tmp_path / "out" / "SegmentationClass" / "two_words.png")) == mask).all()


def test_photos_without_all_answers_are_not_written(tmp_path):
    paths = [photo(tmp_path / f"{number}.png") for number in range(2)]
    export = DatasetExport(tmp_path / "out", "coco", [(path, text) for path in paths for text in ("a", "b")])
    export.add(paths[0], SHAPE, "a", answer())
    assert export.write() is None and not (tmp_path / "out").exists()
    export.add(paths[0], SHAPE, "b", answer())
    assert export.write().startswith(f"{tmp_path / 'out'} holds 1 of 2 photos\n")
    export.skip(paths[1:])
    assert export.write().startswith(f"wrote {tmp_path / 'out'} (COCO): 1 photo, 0 objects")


def test_a_photo_that_was_deleted_is_skipped_and_reported(asked, tmp_path, capsys):
    export = asked()
    (tmp_path / "a" / "1.jpg").unlink()
    assert "skipped 1 photo that can no longer be read" in export.write()
    assert f"skipped: {tmp_path / 'a' / '1.jpg'}" in capsys.readouterr().err


def test_nothing_remains_if_writing_fails_and_an_earlier_data_set_is_kept(asked, tmp_path, monkeypatch):
    export = asked()
    export.write()
    before = (tmp_path / "out" / SCORES).read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dataset_export, "copy_photo", full)
    with pytest.raises(WriteError, match="out: cannot be written .No space left on device"):
        export.write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]
    assert (tmp_path / "out" / SCORES).read_bytes() == before


def test_an_earlier_data_set_comes_back_if_the_new_one_cannot_be_renamed(asked, tmp_path, monkeypatch):
    export = asked()
    export.write()
    renamed = Path.rename

    def refuse(self, target):
        if self.name.endswith(".new"):
            raise PermissionError(13, "Permission denied")
        return renamed(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(WriteError):
        export.write()
    assert (tmp_path / "out" / SCORES).is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]


def test_a_folder_that_was_not_written_by_the_option_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    check_folder(tmp_path / "mine", False, [], [])
    check_folder(tmp_path / "new", False, [], [])
    (tmp_path / "mine" / "notes.txt").write_text("")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="not empty and was not written by --dataset_out"):
            check_folder(tmp_path / "mine", overwrite, [], [])


def test_an_earlier_data_set_needs_overwrite_and_must_not_hold_other_files(asked, tmp_path):
    folder = tmp_path / "out"
    asked().write()
    with pytest.raises(UsageError, match="a data set is already there; .*--overwrite"):
        check_folder(folder, False, [], [])
    check_folder(folder, True, [], [])
    asked("yolo").write()
    assert not (folder / "annotations").exists() and (folder / "labels" / "train" / "1.txt").is_file()
    (folder / "labels" / "mine.txt").write_text("")
    with pytest.raises(UsageError, match="did not write labels/mine.txt; move"):
        check_folder(folder, True, [], [])


def test_a_folder_with_an_input_or_another_output_is_refused(tmp_path):
    path = photo(tmp_path / "out" / "images" / "1.png")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for folder in (tmp_path / "out", tmp_path / "link"):
        with pytest.raises(UsageError, match="contains the input .*1.png; choose another folder"):
            check_folder(folder, True, [None, path], [])
    with pytest.raises(UsageError, match="--json .*a.json is in this folder"):
        check_folder(tmp_path / "new", True, [], [("--masks", None), ("--json", tmp_path / "new" / "a.json")])


def test_a_mount_point_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path)
    with pytest.raises(UsageError, match="a mount point cannot be replaced"):
        check_folder(tmp_path, False, [], [])

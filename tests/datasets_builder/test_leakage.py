"""Held-out COCO photos: recognized by id in any folder, with a warning if the evaluation splits are not known."""

import json
import logging
import pickle
from pathlib import Path

import pytest

from gemma_lisa.datasets_builder.leakage import coco_id, coco_photo, held_out_images, photo_of


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("COCO_train2014_000000581857.jpg", 581857),
        ("coco/train2017/000000581857.jpg", 581857),
        (Path("coco/train2017/000000000009.jpg"), 9),
        ("val2014\\COCO_val2014_000000000042.jpg", 42),
        ("COCO_train2014_000000581857", 581857),
        ("train2017/photo.jpg", None),
        ("", None),
    ],
)
def test_coco_id_is_the_same_for_all_file_names_of_a_photo(path, number):
    assert coco_id(path) == number


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("data/coco/train2017/000000581857.jpg", 581857),
        ("COCO_train2014_000000581857.jpg", 581857),
        ("images/000000581857_jpg.rf.0a1b2c3d4e5f678901234567.jpg", 581857),  # as Roboflow renames it
        ("coco/train2017/77.jpg", 77),
        ("coco/TRAIN2014/77.jpg", 77),
        ("coco/train2017/part_1/77.jpg", 77),
        ("image000000000025.jpg", 25),
        ("Zebra000000581857.jpg", 581857),
        ("COCO_train2014_000000581857a.jpg", 581857),
        ("ade20k/images/training/ADE_train_00000009.jpg", None),
        ("JPEGImages/2008_000002.jpg", None),
        ("images/0035fkbjWljhaftpVM37-g.jpg", None),
        ("IMG_20240101_120000123.jpg", None),
        ("images/0a123456789012ff.jpg", None),
        ("train2017/ade20k/images/ADE_train_00000009.jpg", None),
    ],
)
def test_coco_photos_are_distinguished_from_other_photos(path, number):
    assert coco_photo(path) == number


@pytest.mark.parametrize(
    ("path", "source", "number"),
    [
        ("coco/train2017/000000000009.jpg", "coco_stuff/train/000000000009", 9),
        ("581857.jpg", "coco_instances/train/train2017/581857.jpg", 581857),  # prepared rows keep no folder
        ("0.jpg", "refcoco/train/COCO_train2014_000000000025", 25),
        (None, "refcoco/train/COCO_train2014_000000000025", 25),
        ("IMG_1.jpg", "folder/train/IMG_1", None),
        ("1.b_o.jpg", "reason_seg_x/train/1.b_o", "reason_seg_x/1.b_o"),
        ("1.jpg", "reason_seg/train/COCO_train2014_000000000025", 25),
    ],
)
def test_photo_without_a_file_name_is_recognized_by_the_source_of_its_row(path, source, number):
    assert photo_of(path, source) == number


def ref(image, split, number=0):
    return {
        "ref_id": number,
        "ann_id": 1,
        "image_id": image,
        "split": split,
        "file_name": f"COCO_train2014_{image:012d}_16.jpg" if isinstance(image, int) else "",
        "sentences": [{"sent": "the lady"}],
    }


def write(root, name, records):
    path = root / "refer_seg" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(records, protocol=2) if path.suffix == ".p" else json.dumps(records).encode())


def test_validation_and_test_splits_of_the_four_sets_are_held_out_and_training_splits_are_not(tmp_path, caplog):
    write(tmp_path, "refcoco/refs(unc).p", [ref(1, "train"), ref(2, "val"), ref(3, "testA"), ref(4, "testB")])
    write(tmp_path, "refcoco+/refs(unc).json", [ref(2, "testA"), ref(5, "val"), ref(1, "train")])
    write(tmp_path, "refcocog/refs(google).p", [ref(6, "train"), ref(7, "val"), ref(8, "val"), ref(9, "val")])
    write(tmp_path, "refcocog/refs(umd).p", [ref(7, "train"), ref(8, "test")])
    write(tmp_path, "refclef/refs(unc).p", [ref(99, "testA")])  # not COCO photos
    write(tmp_path, "grefcoco/grefs(unc).json", [ref(1, "train"), ref(9, "val"), {**ref(10, "val"), "ann_id": [-1]}])
    with caplog.at_level(logging.INFO):
        held_out = held_out_images(tmp_path)
    assert held_out == {
        2: "refcoco/unc/validation",
        3: "refcoco/unc/testA",
        4: "refcoco/unc/testB",
        5: "refcoco_plus/unc/validation",
        8: "refcocog/umd/test",  # 7 is in val of google, but in train of umd
        9: "grefcoco/unc/validation",
        10: "grefcoco/unc/validation",
    }
    names = "refcoco/unc, refcoco_plus/unc, refcocog/umd, grefcoco/unc"
    assert "photos of refcocog/google are not held out, because they include training photos of other" in caplog.text
    assert f"7 photos of the validation and test splits of {names} are held out" in caplog.text
    assert "no refs files" not in caplog.text


def test_missing_sets_are_listed_in_a_warning(tmp_path, caplog):
    write(tmp_path, "refcoco/refs(unc).p", [ref(1, "train"), ref(2, "val")])
    assert held_out_images(str(tmp_path)) == {2: "refcoco/unc/validation"}
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "no refs files of refcoco_plus, refcocog, grefcoco;" in warning


def test_no_refs_files_at_all_give_a_warning(tmp_path, caplog):
    assert held_out_images(tmp_path / "none") == {}
    assert "no refs files of refcoco, refcoco_plus, refcocog, grefcoco;" in caplog.text


def test_photo_without_a_numeric_id_is_refused(tmp_path):
    write(tmp_path, "refcoco/refs(unc).json", [ref("a", "val", 5)])
    with pytest.raises(ValueError, match=r"refs\(unc\).json: .*ref 5: image_id must be a COCO image id .*got 'a'"):
        held_out_images(tmp_path)


def test_google_split_is_used_if_it_is_the_only_split(tmp_path):
    write(tmp_path, "refcocog/refs(google).p", [ref(6, "train"), ref(7, "val")])
    assert held_out_images(tmp_path) == {7: "refcocog/google/validation"}

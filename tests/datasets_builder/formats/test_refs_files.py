"""Files of refs: plain pickles, their conversion to JSON, and one-line errors."""

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gemma_lisa.datasets_builder.formats.refs_files import (
    Ref,
    convert,
    find_refs,
    main,
    read_instances,
    read_refs,
    refs_by_split,
    splits_of,
    unpickle,
)

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "samples"


def record(number=0, split="train", sent="the lady", ann_id=7, **more):
    return {
        "ref_id": number,
        "ann_id": ann_id,
        "image_id": 581857,
        "category_id": 1,
        "split": split,
        "file_name": "COCO_train2014_000000581857_16.jpg",
        "sent_ids": [number],
        "sentences": [{"tokens": sent.split(), "raw": sent.upper(), "sent": sent, "sent_id": number}],
        **more,
    }


def as_python_2(value, encoding):
    """Return the bytes between the header and the end of a pickle of Python 2, whose strings are bytes."""
    if isinstance(value, str):
        text = value.encode(encoding)
        return b"T" + struct.pack("<i", len(text)) + text
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(as_python_2(item, encoding) for item in value) + b"e"
    pairs = (as_python_2(item, encoding) for pair in value.items() for item in pair)
    return b"}(" + b"".join(pairs) + b"u"


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_strings_of_python_2_are_decoded(tmp_path, encoding):
    sent = "the lady" if encoding == "ascii" else "the café"
    file = tmp_path / "refs(unc).p"
    file.write_bytes(b"\x80\x02" + as_python_2([record(sent=sent)], encoding) + b".")
    (ref,) = read_refs(file)
    assert ref.sentences == (sent,)
    assert (ref.image, ref.annotations, ref.label) == (581857, (7,), "train")
    assert str(file) in ref.where and ref.where.endswith("ref 0")


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, protocol):
    file, proof = tmp_path / "refs(unc).p", tmp_path / "proof"
    file.write_bytes(pickle.dumps([record(), Malice(proof)], protocol=protocol))
    with pytest.raises(ValueError, match=r"refs\(unc\).p cannot be read as plain data .*mkdir; only lists, dicts"):
        read_refs(file)
    with pytest.raises(ValueError, match="contains the class"):
        convert(file)
    assert not proof.exists()
    pickle.loads(file.read_bytes())
    assert proof.exists()  # the pickle does run code in pickle.loads


@pytest.mark.parametrize(
    "stored",
    [b"", b"no pickle", pickle.dumps([record()])[:-9], b"cbuiltins\nlist\n.", b"\x80\x02r\xff\xff\xff\x7f."],
    ids=["empty", "text", "cut off", "a class, though a harmless one", "a memo too large"],
)
def test_a_damaged_pickle_is_one_line(tmp_path, stored):
    (tmp_path / "refs(unc).p").write_bytes(stored)
    with pytest.raises(ValueError, match=r"refs\(unc\).p cannot be read as plain data") as caught:
        unpickle(tmp_path / "refs(unc).p")
    assert "\n" not in str(caught.value)


def test_a_converted_file_has_the_same_content_and_has_precedence(tmp_path, capsys):
    file = tmp_path / "refs(unc).p"
    records = [record(0, "train", "the café"), record(1, "testAB", ann_id=[7, 8]), record(2, "val", ann_id=[-1])]
    file.write_bytes(b"\x80\x02" + as_python_2(records, "latin-1") + b".")
    from_pickle = read_refs(find_refs(tmp_path, "refs(unc)"))
    main(["convert", str(file)])
    path = tmp_path / "refs(unc).json"
    assert str(path) in capsys.readouterr().out
    assert json.loads(path.read_text(encoding="utf-8")) == records
    assert find_refs(tmp_path, "refs(unc)") == path
    from_json = read_refs(path)
    assert [ref.annotations for ref in from_json] == [(7,), (7, 8), ()]
    assert [vars(ref) | {"where": ""} for ref in from_json] == [vars(ref) | {"where": ""} for ref in from_pickle]
    assert sorted(tmp_path.iterdir()) == [path, file]
    with pytest.raises(ValueError, match="already exists"):
        convert(file)


def test_ids_can_be_numbers_of_numpy_or_float(tmp_path):
    file = tmp_path / "refs(unc).p"
    own = [record(np.int64(0), ann_id=np.int32(7)), record(1, ann_id=[np.int64(7), 8.0], image_id=np.float64(581857))]
    file.write_bytes(pickle.dumps([*own, record(2, ann_id=[np.int64(-1)])]))
    refs = read_refs(file)
    assert [ref.annotations for ref in refs] == [(7,), (7, 8), ()] and {ref.image for ref in refs} == {581857}
    assert not any(isinstance(number, float) for ref in refs for number in (ref.image, *ref.annotations))
    assert json.loads(convert(file).read_text())[0]["ann_id"] == 7
    stored = instances([{**IMAGE, "id": 581857.0}], [{**ANNOTATION, "id": 7.0, "image_id": 581857.0}])
    (tmp_path / "instances.json").write_text(json.dumps(stored))
    found = read_instances(tmp_path / "instances.json")
    assert found.image(refs[0])["file_name"] == "a.jpg" and found.annotation(7, refs[0])["segmentation"] == []


@pytest.mark.parametrize("content", [[{**record(), "more": b"bytes"}], [{**record(), "more": {1, 2}}], {"refs": []}])
def test_content_that_is_not_refs_is_not_converted(tmp_path, content):
    file = tmp_path / "refs(unc).p"
    file.write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(
        ValueError,
        match=r"\(unc\).p(: the content cannot be written as JSON|: the top level must be a list| cannot .*EMPTY_SET)",
    ):
        convert(file)
    assert list(tmp_path.iterdir()) == [file]


def test_the_command_prints_errors_on_one_line(tmp_path):
    command = [
        sys.executable,
        "-m",
        "gemma_lisa.datasets_builder.formats.refs_files",
        "convert",
        str(tmp_path / "none.p"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "none.p cannot be read" in done.stderr


@pytest.mark.parametrize(
    ("label", "splits"),
    [
        ("train", ["train"]),
        ("val", ["validation"]),
        ("test", ["test"]),
        ("testA", ["testA"]),
        ("testC", ["testC"]),
        ("testAB", ["testA", "testB"]),
        ("testABC", ["testA", "testB", "testC"]),
        ("minival", []),
        ("testX", []),
        ("A", []),
    ],
)
def test_the_letters_of_a_label_are_its_splits(label, splits):
    assert splits_of(label) == splits


def test_refs_are_grouped_by_split_and_photo_and_others_counted(tmp_path):
    file = tmp_path / "refs(unc).json"
    records = [record(0, "testBC"), record(1, "train"), record(2, "none"), record(3, "train", image_id=9)]
    file.write_text(json.dumps([*records, record(4, "train")]))
    remarks = []
    groups = refs_by_split(read_refs(file), file, remarks.append)
    assert {split: {image: len(refs) for image, refs in photos.items()} for split, photos in groups.items()} == {
        "train": {581857: 2, 9: 1},
        "testB": {581857: 1},
        "testC": {581857: 1},
    }
    assert list(groups) == ["train", "testB", "testC"]
    [said] = remarks
    assert "skipped refs without a split (1)" in said and "ref 2" in said and "'none'" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "the top level must be a list of refs"),
        ({}, "the top level must be a list of refs"),
        ([7], "record 0 .*a ref must be an object"),
        ([record(), {"ref_id": 1}], r"record 1 \(counted from 0\): image_id, ann_id, split, sentences missing"),
        ([record(5, image_id=[3])], r"ref 5: image_id \[3\]"),
        ([record(5, ann_id=[])], "ref 5: .*ann_id"),
        ([record(5, ann_id=[1.5])], "ref 5: .*ann_id"),
        ([record(5, split=1)], "ref 5: split must be a string, got 1"),
        ([record(5, sentences="the lady")], "ref 5: sentences must be a list"),
        ([record(5, sentences=[{"raw": "the lady"}])], "ref 5: sentences must be a list"),
    ],
)
def test_an_invalid_ref_is_one_line(tmp_path, content, message):
    file = tmp_path / "refs(unc).json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"refs\(unc\).json: (record 0 \(counted from 0\), )?{message}") as caught:
        read_refs(file)
    assert "\n" not in str(caught.value)


def instances(images=(), annotations=()):
    return {"images": list(images), "annotations": list(annotations), "categories": "are not read"}


IMAGE = {"id": 1, "file_name": "a.jpg", "height": 2, "width": 2}
ANNOTATION = {"id": 5, "image_id": 1, "segmentation": []}


def test_instances_are_found_by_id_and_identical_records_are_merged(tmp_path):
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(instances([IMAGE, IMAGE], [ANNOTATION])))
    found = read_instances(file)
    assert found.images == {1: IMAGE} and found.annotations == {5: ANNOTATION}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "the lists images and annotations are missing"),
        ({"images": []}, "the lists images and annotations are missing"),
        (instances([7]), r"the image at index 0 of its list has no id"),
        (instances([IMAGE, {**IMAGE, "width": 3}]), "two different records have the id of image 1"),
        (
            instances([IMAGE], [ANNOTATION, {**ANNOTATION, "image_id": 2}]),
            "two different records have the id of annotation 5",
        ),
    ],
)
def test_invalid_instances_are_one_line(tmp_path, content, message):
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"instances.json: {message}"):
        read_instances(file)


def test_tolerated_records_are_reported_and_skipped(tmp_path):
    errors = []
    file = tmp_path / "instances.json"
    other = {**ANNOTATION, "id": 6}
    file.write_text(json.dumps(instances([IMAGE, 7], [ANNOTATION, {**ANNOTATION, "image_id": 2}, other])))
    found = read_instances(file, errors.append)
    assert found.images == {1: IMAGE} and found.annotations == {6: other} and len(errors) == 2
    file = tmp_path / "refs(unc).json"
    file.write_text(json.dumps([record(0), record(1, split=3), record(2)]))
    assert [ref.where[-5:] for ref in read_refs(file, errors.append)] == ["ref 0", "ref 2"] and len(errors) == 3


def test_a_ref_to_an_incomplete_record_is_named(tmp_path):
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(instances([{"id": 3}], [{"id": 5, "image_id": 3}])))
    found = read_instances(file)
    ref = Ref("refs(unc).p: ref 0", 3, (5,), "train", ("the lady",))
    with pytest.raises(ValueError, match="ref 0: .*instances.json: image 3 has no file_name, height, width"):
        found.image(ref)
    with pytest.raises(ValueError, match="ref 0: .*instances.json: annotation 5 has no segmentation"):
        found.annotation(5, ref)


@pytest.mark.skipif(not (SAMPLES / "refer_seg").is_dir(), reason=f"no real samples: {SAMPLES}")
def test_the_real_records_are_read():
    (ref,) = read_refs(SAMPLES / "refer_seg/refcoco/refs_unc.EXCERPT.json")
    assert (ref.image, ref.annotations, ref.label) == (581857, (1719310,), "train")
    assert ref.sentences == ("the lady with the blue shirt", "lady with back to us", "blue shirt")
    found = read_instances(SAMPLES / "refer_seg/refcoco/instances.EXCERPT.json")
    assert found.images[98304]["file_name"] == "COCO_train2014_000000098304.jpg"
    assert found.annotations[3007]["image_id"] == 98304

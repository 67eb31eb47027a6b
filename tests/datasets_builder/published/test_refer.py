"""The referring data sets in their original layout: small files made here, with the oddities of the real ones."""

import json
import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.mixture import BUILDERS, load_rows
from gemma_lisa.datasets_builder.rows import check_row, decode_mask, encode_mask

TRAIN2014 = "refer_seg/images/mscoco/images/train2014"


pytestmark = pytest.mark.usefixtures("own_cache")


def box(left, top, right, bottom):
    """Return a mask of 8 x 6 pixels (width x height)."""
    mask = np.zeros((6, 8), dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def polygon(left, top, right, bottom):
    return [left, top, right, top, right, bottom, left, bottom]


def annotation(number, image, segmentation):
    return {"id": number, "image_id": image, "category_id": 1, "iscrowd": 0, "segmentation": segmentation}


def photo(number, name=None):
    return {"id": number, "file_name": name or f"COCO_train2014_{number:012d}.jpg", "height": 6, "width": 8}


def ref(number, image, ann_id, split, *sents):
    return {
        "ref_id": number,
        "ann_id": ann_id,
        "image_id": image,
        "category_id": 1,
        "split": split,
        "file_name": f"COCO_train2014_{image:012d}_16.jpg",  # not the name of an image
        "sent_ids": [],
        "sentences": [{"raw": f"RAW {sent}", "sent": sent, "tokens": [], "sent_id": 0} for sent in sents],
    }


def write(root, name, records, images, annotations):
    """Write a refs file below refer_seg and its instances.json."""
    path = root / "refer_seg" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(records, protocol=2) if path.suffix == ".p" else json.dumps(records).encode())
    content = {"images": images, "annotations": annotations, "categories": [], "info": {}, "licenses": []}
    (path.parent / "instances.json").write_text(json.dumps(content))


def save(root, path, mode="RGB", **options):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 6)).save(root / path, **options)


REFS = [
    ref(0, 9, 50, "train", "The Lady ", "woman in red"),
    ref(1, 9, 51, "train", "left man"),
    ref(2, 11, 60, "val", "dog", "black dog"),
    ref(3, 12, 61, "testA", "man"),
    ref(4, 12, 62, "testB", "chair"),
]
ANNOTATIONS = [
    annotation(50, 9, [polygon(0, 0, 4, 4), polygon(2, 2, 6, 6)]),  # overlap
    annotation(51, 9, [polygon(6, 0, 8, 2)]),
    annotation(60, 11, [polygon(0, 0, 8, 6)]),
    annotation(61, 12, [polygon(0, 0, 2, 2)]),
    annotation(62, 12, [polygon(4, 4, 6, 6)]),
]


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "data"
    for number, mode in ((9, "RGB"), (11, "L"), (12, "RGB")):
        save(root, f"{TRAIN2014}/COCO_train2014_{number:012d}.jpg", mode)
    write(root, "refcoco/refs(unc).p", REFS, [photo(9), photo(11), photo(12)], ANNOTATIONS)
    return root


def masks_of(target):
    return [decode_mask(mask, "") for mask in target["masks"]]


def test_training_row_has_a_target_for_each_object_with_all_its_descriptions(root):
    (row,) = load_rows("refcoco", "train", str(root))
    assert row["source"] == "refcoco/train/COCO_train2014_000000000009"
    assert row["image"] == {"bytes": None, "path": str(root / TRAIN2014 / "COCO_train2014_000000000009.jpg")}
    assert [target["texts"] for target in row["targets"]] == [["the lady", "woman in red"], ["left man"]]
    assert not any(target["is_sentence"] for target in row["targets"])
    check_row(row)
    (lady,), (man,) = map(masks_of, row["targets"])
    assert np.array_equal(lady, box(0, 0, 4, 4) | box(2, 2, 6, 6))
    assert np.array_equal(man, box(6, 0, 8, 2))


def test_splits_are_the_official_splits(root):
    texts = {
        split: [target["texts"] for row in load_rows("refcoco", split, str(root)) for target in row["targets"]]
        for split in ("validation", "testA", "testB")
    }
    # each description is a separate target
    assert texts == {"validation": [["dog"], ["black dog"]], "testA": [["man"]], "testB": [["chair"]]}
    with pytest.raises(ValueError, match="refcoco has no split 'test'; it has: train, validation, testA, testB"):
        load_rows("refcoco", "test", str(root))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("refcoco/google", "refcoco/refs(google).p"),
        ("refcoco_plus", "refcoco+/refs(unc).p"),
        ("refcocog", "refcocog/refs(umd).p"),
        ("refcocog/google", "refcocog/refs(google).json"),
    ],
)
def test_each_configuration_has_its_own_refs_file(root, name, file):
    # In a split by objects, a photo can be in train and in val
    records = [ref(0, 9, 50, "train", "lady"), ref(1, 9, 51, "val", "man")]
    write(root, file, records, [photo(9)], ANNOTATIONS[:2])
    for split, text in (("train", "lady"), ("validation", "man")):
        (row,) = load_rows(name, split, str(root))
        assert [target["texts"] for target in row["targets"]] == [[text]]
        assert row["source"] == f"{name.split('/')[0]}/{split}/COCO_train2014_000000000009"


def test_refclef_has_its_own_photos_lists_of_rle_and_refs_of_several_splits(tmp_path):
    save(tmp_path, "refer_seg/images/saiapr_tc-12/00/images/112.jpg")
    runs = annotation(1, 112, [encode_mask(box(0, 0, 2, 2)), encode_mask(box(1, 1, 3, 3))])
    records = [ref(0, 112, 1, "testAB", "sky"), ref(1, 112, 1, "testC", "blue")]
    write(tmp_path, "refclef/refs(unc).p", records, [photo(112, "00/images/112.jpg")], [runs])
    write(tmp_path, "refclef/refs(berkeley).p", records[:1], [photo(112, "00/images/112.jpg")], [runs])
    for split, text in (("testA", "sky"), ("testB", "sky"), ("testC", "blue")):
        (row,) = load_rows("refclef", split, str(tmp_path))
        assert [target["texts"] for target in row["targets"]] == [[text]]
    assert row["source"] == "refclef/testC/112"
    assert np.array_equal(masks_of(row["targets"][0])[0], box(0, 0, 2, 2) | box(1, 1, 3, 3))
    assert len(load_rows("refclef/berkeley", "testA", str(tmp_path))) == 1


@pytest.mark.parametrize(
    ("folder", "pattern"), [("coco/train2014", "COCO_train2014_{:012d}.jpg"), ("coco/train2017", "{:012d}.jpg")]
)
def test_photos_are_read_from_coco_if_mscoco_does_not_exist(root, folder, pattern, caplog):
    (root / TRAIN2014).rename(root / "away")
    with pytest.raises(ValueError, match="train2014: no such folder. RefCOCO: Download refcoco.zip"):
        load_rows("refcoco", "train", str(root))
    for number in (9, 11, 12):
        save(root, f"{folder}/{pattern.format(number)}")
    with caplog.at_level(logging.INFO):
        (row,) = load_rows("refcoco", "train", str(root))
    assert row["image"]["path"] == str(root / folder / pattern.format(9))
    assert row["source"] == "refcoco/train/COCO_train2014_000000000009"  # independent of the folder
    assert caplog.text.count("does not exist; reading photos from") == 1
    (root / "away").rename(root / TRAIN2014)
    (row,) = load_rows("refcoco", "train", str(root))
    assert row["image"]["path"] == str(root / TRAIN2014 / "COCO_train2014_000000000009.jpg")


def test_empty_masks_and_refs_without_text_are_skipped_and_counted(root, caplog):
    annotations = [
        annotation(50, 9, [polygon(0, 0, 4, 4), [1, 1, 2, 2], [1, 1, 2, 2, 3]]),
        annotation(51, 9, []),
        annotation(52, 9, [[1, 1, 2, 2]]),
        annotation(53, 9, [encode_mask(box(0, 0, 0, 0))]),
        annotation(54, 9, [polygon(4, 4, 6, 6)]),
    ]
    records = [ref(number, 9, 50 + number, "train", f"thing {number}") for number in range(4)]
    records += [ref(4, 9, 54, "train", " ", ""), ref(5, 11, 60, "train")]
    write(root, "refcoco/refs(unc).p", records, [photo(9), photo(11)], [*annotations, ANNOTATIONS[2]])
    (row,) = load_rows("refcoco", "train", str(root))
    (target,) = row["targets"]
    assert target["texts"] == ["thing 0"] and np.array_equal(masks_of(target)[0], box(0, 0, 4, 4))
    assert "skipped polygons of fewer than three points (2), first:" in caplog.text
    assert "skipped annotations with an empty mask (3)" in caplog.text and "annotation 51" in caplog.text
    assert "skipped refs to objects with empty masks (3)" in caplog.text and "ref 1" in caplog.text
    assert "skipped refs without text (2)" in caplog.text and "ref 4" in caplog.text
    assert "skipped records without a question (1)" in caplog.text


def test_masks_are_rotated_by_the_exif_orientation_of_their_photo(root):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees clockwise
    save(root, f"{TRAIN2014}/COCO_train2014_000000000009.jpg", exif=exif)
    (row,) = load_rows("refcoco", "train", str(root))
    assert np.array_equal(masks_of(row["targets"][1])[0], np.rot90(box(6, 0, 8, 2), -1))


def changed(records, at, **values):
    return [{**record, **(values if place == at else {})} for place, record in enumerate(records)]


IMAGES = [photo(9), photo(11), photo(12)]


@pytest.mark.parametrize(
    ("refs", "images", "annotations", "message"),
    [
        (changed(REFS, 2, image_id=77), IMAGES, ANNOTATIONS, r"ref 2: .*instances.json has no image 77"),
        (changed(REFS, 2, ann_id=77), IMAGES, ANNOTATIONS, r"ref 2: .*has no annotation 77 in image 11"),
        (changed(REFS, 2, ann_id=50), IMAGES, ANNOTATIONS, r"ref 2: .*has no annotation 50 in image 11"),
        (REFS, changed(IMAGES, 1, file_name="../../x.jpg"), ANNOTATIONS, r"image 11: .*is outside of"),
        (REFS, changed(IMAGES, 1, file_name="none.jpg"), ANNOTATIONS, r"image 11: .*none.jpg: no such file"),
        (
            REFS,
            changed(IMAGES, 1, height="6"),
            ANNOTATIONS,
            r"image 11: .*height and width integers above 0 .*, got 'COCO.*', '6' and 8",
        ),
        (REFS, changed(IMAGES, 1, width=9), ANNOTATIONS, r"image 11: its size is 9 x 6 pixels"),
        (changed(REFS, 2, sentences=None), IMAGES, ANNOTATIONS, r"record 2 .*sentences missing"),
        (changed(REFS, 2, split=3), IMAGES, ANNOTATIONS, r"ref 2: split must be a string, got 3"),
        (REFS, IMAGES, changed(ANNOTATIONS, 2, segmentation=None), r"ref 2: .*annotation 60 has no segmentation"),
        (REFS, IMAGES, changed(ANNOTATIONS, 2, segmentation="x"), r"ref 2: .*annotation 60: a segmentation must be"),
        (REFS, IMAGES, changed(ANNOTATIONS, 2, segmentation=[polygon(0, 0, 80, 6)]), r"annotation 60: a polygon"),
    ],
    ids="no_image no_object of_another_photo out no_file no_size size no_words no_split null no_mask too_far".split(),
)
def test_bad_record_is_refused_or_skipped_with_max_bad(root, caplog, refs, images, annotations, message):
    write(root, "refcoco/refs(unc).p", refs, images, annotations)
    with pytest.raises(ValueError, match=message) as caught:
        load_rows("refcoco", "train", str(root))
    assert "\n" not in str(caught.value)
    assert len(load_rows("refcoco", "train", str(root), {"max_bad": 1})) == 1
    assert "skipped: " in caplog.text


def test_missing_files_are_refused_with_download_instructions(root, tmp_path):
    for name, message in (
        ("refcocog", "refcocog: no such folder. RefCOCOg: Download refcocog.zip"),
        ("refcoco/google", r"neither refs\(google\).json nor refs\(google\).p exists. RefCOCO: Download refcoco.zip"),
    ):
        with pytest.raises(ValueError, match=message):
            load_rows(name, "train", str(root))
    (root / "refer_seg/refcoco/instances.json").unlink()
    with pytest.raises(ValueError, match="instances.json: no such file. RefCOCO: Download refcoco.zip"):
        load_rows("refcoco", "train", str(root))
    with pytest.raises(ValueError, match="data_dir is missing"):
        load_rows("refcoco", "train")


def test_changed_files_are_prepared_again(root):
    assert len(load_rows("refcoco", "train", str(root))) == 1
    write(root, "refcoco/refs(unc).p", changed(REFS, 2, split="train"), IMAGES, ANNOTATIONS)
    rows = load_rows("refcoco", "train", str(root))
    assert [row["source"][-2:] for row in rows] == ["09", "11"]


def test_photo_of_refclef_added_later_is_read(tmp_path):
    folder = "refer_seg/images/saiapr_tc-12/00/images"
    images = [photo(number, f"00/images/{number}.jpg") for number in (25, 112)]
    objects = [annotation(at, image["id"], [polygon(0, 0, 4, 4)]) for at, image in enumerate(images)]
    records = [ref(at, image["id"], at, "train", "sky") for at, image in enumerate(images)]
    write(tmp_path, "refclef/refs(unc).json", records, images, objects)
    save(tmp_path, f"{folder}/112.jpg")
    assert len(load_rows("refclef", "train", str(tmp_path), {"max_bad": 1})) == 1
    save(tmp_path, f"{folder}/25.jpg")
    assert len(load_rows("refclef", "train", str(tmp_path), {"max_bad": 1})) == 2
    Image.new("RGB", (9, 6)).save(tmp_path / folder / "25.jpg")
    with pytest.raises(ValueError, match="its size is 8 x 6 pixels"):
        load_rows("refclef", "train", str(tmp_path))


def test_published_sizes_depend_on_the_configuration(root):
    def sizes(name, config):
        return BUILDERS[name](config_name=config, data_dir=str(root)).ARCHIVE.sizes

    assert sizes("refcoco", "unc") == {"train": 16_994, "validation": 1_500, "testA": 750, "testB": 750}
    assert sum(sizes("refcoco", "unc").values()) == 19_994 and sum(sizes("refcoco_plus", "unc").values()) == 19_992
    assert sizes("refcocog", "umd")["test"] == 2_600
    assert sizes("refcoco", "google") == sizes("refcocog", "google") == {}


@pytest.mark.parametrize("name", ["refclef", "refcoco", "refcoco_plus", "refcocog", "grefcoco"])
def test_dataset_info_has_license_homepage_and_citation(name):
    builder = BUILDERS[name](data_dir=".")
    assert builder.SET == name
    assert builder.info.license and builder.info.homepage.startswith("https://") and builder.info.citation

"""COCO-Stuff in its original layout: small files made here, and the real list of names if available."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.published.coco_stuff import LABELS, NAMES, CocoStuff
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.datasets_builder.rows import IGNORE_VALUE, decode_mask

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "samples"
PERSON, DESK, SKY, BRICK_WALL, WALL, UNLABELED = 0, 109, 156, 170, 172, 255  # pixel values: official ids - 1


pytestmark = pytest.mark.usefixtures("own_cache")


def write(root, folder, stem, labels, mode="RGB"):
    """Write a photo and its label map. All colors of the palette are equal, because only the indices matter."""
    for place in ("coco", "cocostuff"):
        (root / place / folder).mkdir(parents=True, exist_ok=True)
    Image.new(mode, labels.shape[::-1]).save(root / "coco" / folder / f"{stem}.jpg")
    label_map = Image.fromarray(labels).convert("P")
    label_map.putpalette([7, 7, 7] * 256)
    label_map.save(root / "cocostuff" / folder / f"{stem}.png")


@pytest.fixture
def root(tmp_path):
    """Return a data folder with two training photos, one of them greyscale, and one validation photo."""
    labels = np.full((6, 8), UNLABELED, dtype=np.uint8)
    labels[:2], labels[2:4, :4], labels[2:4, 4:], labels[4, :3], labels[4, 3:5] = SKY, BRICK_WALL, WALL, PERSON, DESK
    write(tmp_path / "data", "train2017", "000000000009", labels)
    write(tmp_path / "data", "train2017", "000000000025", labels, "L")
    write(tmp_path / "data", "val2017", "000000000139", labels)
    return tmp_path / "data"


def test_row_has_a_target_with_a_plain_name_for_each_class(root):
    rows = load_rows("coco_stuff", "train", str(root))
    assert [row["source"] for row in rows] == ["coco_stuff/train/000000000009", "coco_stuff/train/000000000025"]
    texts = [target["texts"] for target in rows[0]["targets"]]
    assert texts == [["the person"], ["the desk"], ["the sky"], ["the brick wall"]]
    assert rows[0]["image"] == {"bytes": None, "path": str(root / "coco/train2017/000000000009.jpg")}
    assert len(load_rows("coco_stuff", "validation", str(root))) == 1


def test_unlabeled_and_other_classes_are_ignored(root):
    questions = EvaluationQuestions(load_rows("coco_stuff", "train", str(root)), with_conversations=False)
    sample = questions[4 + 2]  # the sky in the greyscale photo
    assert sample["image"].load().mode == "RGB" and sample["source"].endswith("25")
    expected = np.full((1, 6, 8), IGNORE_VALUE, dtype=np.uint8)
    expected[:, :2], expected[:, 2:4, :4], expected[:, 4, :5] = 1, 0, 0
    assert np.array_equal(sample["masks"][0], expected)


def test_photo_with_only_ignored_classes_gives_no_row_and_is_counted(root, caplog):
    write(root, "train2017", "000000000030", np.full((6, 8), WALL, dtype=np.uint8))
    assert len(load_rows("coco_stuff", "train", str(root))) == 2
    assert "skipped records without a question (1)" in caplog.text


def test_names_are_the_182_official_names_and_phrases_have_no_hyphen():
    assert len(NAMES) == len(set(NAMES)) == 182
    assert (LABELS[SKY], LABELS[DESK], LABELS[170], LABELS[180]) == ("sky", "desk", "brick wall", "window")
    assert [NAMES[value] for value, name in LABELS.items() if name is None and value != UNLABELED] == [
        f"{sort}-other"
        for sort in "building ceiling floor food furniture ground plant solid structural textile wall water".split()
    ]
    assert not [name for name in LABELS.values() if name and "-" in name]
    if (SAMPLES / "cocostuff").is_dir():
        lines = (SAMPLES / "cocostuff" / "labels.txt").read_text().splitlines()
        assert [line.split(": ")[1] for line in lines] == ["unlabeled", *NAMES]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "coco/train2017/000000000025.jpg").unlink(), "000000000025.jpg: no such file"),
        (lambda folder: (folder / "cocostuff/train2017/000000000025.png").unlink(), "25.png: no such file, but"),
        (lambda folder: write(folder, "train2017", "000000000025", np.full((6, 8), 182, np.uint8)), "25.png.*182"),
        (
            lambda folder: Image.new("L", (9, 6)).save(folder / "cocostuff/train2017/000000000025.png"),
            r"25.png: its size is 9 x 6 pixels",
        ),
        (
            lambda folder: Image.new("RGB", (8, 6)).save(folder / "cocostuff/train2017/000000000025.png"),
            "25.png.*one number per pixel",
        ),
    ],
    ids=["no photo", "no map", "unknown number", "another size", "colors"],
)
def test_bad_file_is_refused_or_skipped_with_max_bad(root, spoil, message, caplog):
    spoil(root)
    with pytest.raises(ValueError, match=message):
        load_rows("coco_stuff", "train", str(root))
    rows = load_rows("coco_stuff", "train", str(root), {"max_bad": 1})
    assert len(rows) == 1 and "skipped: " in caplog.text and "000000000025" in caplog.text


def test_missing_files_are_refused_with_download_instructions(tmp_path):
    with pytest.raises(ValueError, match="cocostuff: no such folder.*stuffthingmaps_trainval2017.zip"):
        load_rows("coco_stuff", "train", str(tmp_path))
    (tmp_path / "cocostuff").mkdir()
    with pytest.raises(ValueError, match="contains no label maps.*stuffthingmaps_trainval2017.zip"):
        load_rows("coco_stuff", "train", str(tmp_path))


def test_changed_files_are_prepared_again(root):
    assert len(load_rows("coco_stuff", "train", str(root))) == 2
    for path in ("cocostuff/train2017/000000000025.png", "coco/train2017/000000000025.jpg"):
        (root / path).unlink()
    assert len(load_rows("coco_stuff", "train", str(root))) == 1


def test_split_with_photos_of_other_sets_but_without_label_maps_does_not_exist(root):
    (root / "cocostuff/val2017/000000000139.png").unlink()
    assert len(load_rows("coco_stuff", "train", str(root))) == 2
    with pytest.raises(ValueError, match="has no split 'validation'; it has: train"):
        load_rows("coco_stuff", "validation", str(root))


@pytest.mark.skipif(not (SAMPLES / "cocostuff").is_dir(), reason=f"no real samples: {SAMPLES}")
def test_masks_of_the_real_sample_have_the_areas_of_its_rle(tmp_path):
    """The sample has COCO RLE by official id. In the PNG, each id is one less."""
    content = json.loads((SAMPLES / "cocostuff/annotations/stuff_examples.json").read_text())
    image = content["images"][0]
    labels = np.full((image["height"], image["width"]), UNLABELED, dtype=np.uint8)
    areas = {}
    for annotation in content["annotations"]:
        if annotation["image_id"] == image["id"] and annotation["category_id"] <= len(NAMES):
            mask = decode_mask(annotation["segmentation"], "sample")
            labels[mask == 1] = annotation["category_id"] - 1
            areas[NAMES[annotation["category_id"] - 1]] = int(mask.sum())
    write(tmp_path, "train2017", "000000000934", labels)
    row = load_rows("coco_stuff", "train", str(tmp_path))[0]
    asked = {target["texts"][0]: int(decode_mask(target["masks"][0], "").sum()) for target in row["targets"]}
    assert asked["the sky"] == areas["sky-other"] and asked["the concrete wall"] == areas["wall-concrete"]
    assert asked["the grass"] == areas["grass"] and asked["the tree"] == areas["tree"]


def test_dataset_info_has_license_homepage_and_citation():
    info = CocoStuff(config_name="default", data_dir=".").info
    assert "CC BY 4.0" in info.license and info.homepage and info.citation

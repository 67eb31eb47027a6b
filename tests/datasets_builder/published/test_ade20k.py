"""ADE20K in its original layout: small files made here, and the real samples if available."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.published.ade20k import NAMES, Ade20k
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.datasets_builder.rows import IGNORE_VALUE, decode_mask

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "samples"


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def root(tmp_path):
    """Return a data folder with two training photos, one of them greyscale, and one validation photo."""
    labels = np.zeros((6, 8), dtype=np.uint8)
    labels[:3, :4], labels[3:, :4] = 1, 150
    for split, stem, mode in (
        ("training", "ADE_train_00000001", "RGB"),
        ("training", "ADE_train_00000002", "L"),
        ("validation", "ADE_val_00000001", "RGB"),
    ):
        for kind, picture, suffix in (("images", Image.new(mode, (8, 6)), "jpg"), ("annotations", labels, "png")):
            folder = tmp_path / "data" / "ade20k" / kind / split
            folder.mkdir(parents=True, exist_ok=True)
            picture = picture if kind == "images" else Image.fromarray(picture)
            picture.save(folder / f"{stem}.{suffix}")
    return tmp_path / "data"


def cut_off(photo):
    photo.write_bytes(photo.read_bytes()[:-20])


def test_row_has_a_target_for_each_class_and_ignores_other_pixels(root):
    rows = load_rows("ade20k", "train", str(root))
    assert [row["source"] for row in rows] == ["ade20k/train/ADE_train_00000001", "ade20k/train/ADE_train_00000002"]
    assert [target["texts"] for target in rows[0]["targets"]] == [["the wall"], ["the flag"]]
    assert rows[0]["image"] == {"bytes": None, "path": str(root / "ade20k/images/training/ADE_train_00000001.jpg")}
    sample = EvaluationQuestions(rows, with_conversations=False)[3]
    assert sample["image"].load().mode == "RGB"
    expected = np.zeros((1, 6, 8), dtype=np.uint8)
    expected[:, 3:, :4], expected[:, :, 4:] = 1, IGNORE_VALUE
    assert np.array_equal(sample["masks"][0], expected)
    assert len(load_rows("ade20k", "validation", str(root))) == 1


def test_names_are_the_150_official_names():
    assert len(NAMES) == len(set(NAMES)) == 150
    if (SAMPLES / "ade20k").is_dir():
        lines = (SAMPLES / "ade20k" / "objectInfo150.txt").read_text().splitlines()[1:]
        assert [line.split("\t")[-1].split(",")[0].strip() for line in lines] == list(NAMES)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "images/training/ADE_train_00000002.jpg").unlink(),
            "ADE_train_00000002.jpg: no such",
        ),
        (
            lambda folder: (folder / "annotations/training/ADE_train_00000002.png").unlink(),
            "ADE_train_00000002.png: no such file, but its photo",
        ),
        (lambda folder: cut_off(folder / "images/training/ADE_train_00000002.jpg"), "00002.jpg cannot be read"),
        (
            lambda folder: Image.new("L", (8, 6), 151).save(folder / "annotations/training/ADE_train_00000002.png"),
            "00002.png: unknown class number 151; the data set has 151 class numbers",
        ),
        (
            lambda folder: Image.new("L", (9, 6)).save(folder / "annotations/training/ADE_train_00000002.png"),
            "its size is 9 x 6 pixels",
        ),
        (lambda folder: (folder / "annotations/training/ADE_train_00000002.png").write_bytes(b""), "00002.png"),
    ],
    ids=["no photo", "no map", "truncated photo", "unknown class", "another size", "empty file"],
)
def test_bad_file_is_refused_or_skipped_with_max_bad(root, spoil, message, caplog):
    spoil(root / "ade20k")
    with pytest.raises(ValueError, match=message):
        load_rows("ade20k", "train", str(root))
    rows = load_rows("ade20k", "train", str(root), {"max_bad": 1})
    assert len(rows) == 1 and "skipped: " in caplog.text and "00000002" in caplog.text


def test_split_without_label_maps_is_skipped_with_a_warning_if_it_has_photos(root, caplog):
    for path in (root / "ade20k").glob("*/validation/*"):
        path.unlink()
    with pytest.raises(ValueError, match="has no split 'validation'"):
        load_rows("ade20k", "validation", str(root))
    Image.new("RGB", (8, 6)).save(root / "ade20k/images/validation/ADE_val_00000001.jpg")
    (root / "ade20k/annotations/validation").rmdir()
    caplog.clear()
    assert len(load_rows("ade20k", "train", str(root))) == 2
    assert "annotations/validation: contains no label maps (.png), so split validation is skipped" in caplog.text


def test_photo_without_label_map_is_a_bad_record(root):
    Image.new("RGB", (8, 6)).save(root / "ade20k/images/training/ADE_train_00000009.jpg")
    with pytest.raises(ValueError, match="training/ADE_train_00000009.png: no such file, but its photo"):
        load_rows("ade20k", "train", str(root))


def test_missing_files_are_refused_with_download_instructions(tmp_path):
    with pytest.raises(ValueError, match="ade20k: no such folder.*ADEChallengeData2016.zip"):
        load_rows("ade20k", "train", str(tmp_path))
    with pytest.raises(ValueError, match="data_dir is missing"):
        load_rows("ade20k", "train")


def test_changed_files_are_prepared_again(root):
    assert len(load_rows("ade20k", "train", str(root))) == 2
    for path in ("annotations/training/ADE_train_00000002.png", "images/training/ADE_train_00000002.jpg"):
        (root / "ade20k" / path).unlink()
    assert len(load_rows("ade20k", "train", str(root))) == 1


@pytest.mark.skipif(not (SAMPLES / "ade20k").is_dir(), reason=f"no real samples: {SAMPLES}")
def test_masks_of_the_real_sample_have_the_known_areas():
    row = load_rows("ade20k", "validation", str(SAMPLES))[0]
    areas = {target["texts"][0]: int(decode_mask(target["masks"][0], "").sum()) for target in row["targets"]}
    known = {"building": 123_406, "sky": 134_492, "wall": 14_538, "tree": 8_784, "road": 1_755}
    known |= {"grass": 53_099, "plant": 10_009}
    assert areas == {f"the {name}": area for name, area in known.items()}
    assert row["targets"][0]["masks"][0]["size"] == [512, 683]
    assert decode_mask(row["targets"][0]["ignore"], "").sum() == 3_613


def test_dataset_info_has_license_homepage_and_citation():
    info = Ade20k(config_name="default", data_dir=".").info
    assert "non-commercial" in info.license and info.homepage and info.citation

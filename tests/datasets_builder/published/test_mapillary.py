"""Mapillary Vistas v2.0 in its original layout: small files made here, and the real samples if available."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.published.mapillary import Mapillary, read_names
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.datasets_builder.rows import IGNORE_VALUE, decode_mask

SAMPLES = Path(__file__).resolve().parents[4] / "shared" / "samples"
READABLE = (
    "Bird",
    "Lane Marking - Arrow (Left)",
    "Lane Marking (only) - Dashed Line",
    "Lane Marking - Dashed Line",
    "CCTV Camera",
    "Traffic Sign (Back)",
    "Ego Vehicle",
    "Unlabeled",
)


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def root(tmp_path):
    """Return a data folder with two training photos and one validation photo. All colors of the palettes are equal."""
    labels = np.arange(8, dtype=np.uint8).repeat(6).reshape(8, 6).T.copy()  # one column per class
    folder = tmp_path / "data" / "mapillary"
    for split, stem in (("training", "a_-B"), ("training", "b"), ("validation", "c")):
        for kind in ("images", "v1.2/labels", "v2.0/labels"):
            (folder / split / kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(folder / split / "images" / f"{stem}.jpg")
        label_map = Image.fromarray(labels).convert("P")
        label_map.putpalette([128, 64, 128] * 256)
        label_map.save(folder / split / "v2.0/labels" / f"{stem}.png")
        Image.new("L", (8, 6), 65).save(folder / split / "v1.2/labels" / f"{stem}.png")
    write_config(folder, [{"readable": name, "color": [1, 2, 3], "evaluate": True} for name in READABLE])
    return tmp_path / "data"


def write_config(folder, labels):
    (folder / "config_v2.0.json").write_text(json.dumps({"labels": labels, "version": "2.0"}))


def test_row_has_a_target_for_each_class_and_lane_markings_with_the_same_name_are_united(root):
    rows = load_rows("mapillary", "train", str(root))
    assert [row["source"] for row in rows] == ["mapillary/train/a_-B", "mapillary/train/b"]
    assert rows[0]["image"]["path"] == str(root / "mapillary/training/images/a_-B.jpg")
    texts = [target["texts"][0] for target in rows[0]["targets"]]
    assert texts == [
        "the bird",
        "the left arrow lane marking",
        "the dashed line lane marking",
        "the CCTV camera",
        "the back of a traffic sign",
    ]
    marking = decode_mask(rows[0]["targets"][2]["masks"][0], "")
    assert marking[:, 2:4].all() and marking.sum() == 12
    assert len(load_rows("mapillary", "validation", str(root))) == 1


def test_void_classes_are_ignored(root):
    sample = EvaluationQuestions(load_rows("mapillary", "train", str(root)), with_conversations=False)[0]
    expected = np.zeros((1, 6, 8), dtype=np.uint8)
    expected[:, :, 0], expected[:, :, 6:] = 1, IGNORE_VALUE
    assert np.array_equal(sample["masks"][0], expected)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "training/images/b.jpg").unlink(), "b.jpg: no such file"),
        (lambda folder: (folder / "training/v2.0/labels/b.png").unlink(), "b.png: no such file, but its photo"),
        (
            lambda folder: Image.new("L", (8, 6), 8).save(folder / "training/v2.0/labels/b.png"),
            "b.png: unknown class number 8; the data set has 8 class numbers",
        ),
        (
            lambda folder: Image.new("P", (8, 7)).save(folder / "training/v2.0/labels/b.png"),
            r"b.png: its size is 8 x 7 pixels",
        ),
        (lambda folder: (folder / "training/v2.0/labels/b.png").write_bytes(b"\x89PNG"), "b.png"),
    ],
    ids=["no photo", "no map", "unknown number", "another size", "truncated"],
)
def test_bad_file_is_refused_or_skipped_with_max_bad(root, spoil, message, caplog):
    spoil(root / "mapillary")
    with pytest.raises(ValueError, match=message):
        load_rows("mapillary", "train", str(root))
    rows = load_rows("mapillary", "train", str(root), {"max_bad": 1})
    assert len(rows) == 1 and "skipped: " in caplog.text and "b." in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", 'must contain a list "labels"'),
        ('{"labels": {}}', 'must contain a list "labels"'),
        ('{"labels": [{"readable": "Bird"}, {"name": "x"}]}', "label 1 .* has no name"),
        ('{"labels": [{"readable": " "}]}', "label 0 .* has no name"),
        ('{"labels": ["Bird"]}', "label 0 .* has no name"),
        ('{"labels": [{"readable": "a' + " - (" * 10**5 + '"}]}', "the name of label 0 .* has 400,001 characters"),
    ],
)
def test_wrong_configuration_file_is_refused_with_the_number_of_the_label(root, content, message):
    (root / "mapillary/config_v2.0.json").write_text(content)
    with pytest.raises(ValueError, match=f"config_v2.0.json.*{message}"):
        load_rows("mapillary", "train", str(root))


def test_missing_files_are_refused_with_download_instructions(root):
    (root / "mapillary/config_v2.0.json").unlink()
    with pytest.raises(ValueError, match="config_v2.0.json: no such file.*Homepage"):
        load_rows("mapillary", "train", str(root))


def test_changed_names_are_prepared_again(root):
    load_rows("mapillary", "train", str(root))
    write_config(root / "mapillary", [{"readable": f"Sort {number}"} for number in range(8)])
    assert load_rows("mapillary", "train", str(root))[0]["targets"][0]["texts"] == ["the sort 0"]


@pytest.mark.skipif(not (SAMPLES / "mapillary").is_dir(), reason=f"no real samples: {SAMPLES}")
def test_the_124_real_names_become_phrases():
    names = read_names(SAMPLES / "mapillary/derived/config_v2.0.DERIVED.json")
    assert len(names) == 124 and [number for number, name in names.items() if name is None] == list(range(118, 124))
    spoken = [name for name in names.values() if name]
    assert not [name for name in spoken if set(name) & set("()_/") or " - " in name]
    twice = {name for name in spoken if spoken.count(name) > 1}
    assert twice == {f"{kind} lane marking" for kind in ("dashed line", "crosswalk", "other", "text")}


@pytest.mark.skipif(not (SAMPLES / "mapillary").is_dir(), reason=f"no real samples: {SAMPLES}")
def test_masks_of_the_real_sample_have_the_known_areas(tmp_path):
    (tmp_path / "mapillary").mkdir()
    (tmp_path / "mapillary/training").symlink_to(SAMPLES / "mapillary/training")
    shutil.copy(SAMPLES / "mapillary/derived/config_v2.0.DERIVED.json", tmp_path / "mapillary/config_v2.0.json")
    row = load_rows("mapillary", "train", str(tmp_path))[0]
    areas = {target["texts"][0]: int(decode_mask(target["masks"][0], "").sum()) for target in row["targets"]}
    assert areas == {"the building": 9_157, "the street light": 731, "the pole": 112}
    assert row["targets"][0]["masks"][0]["size"] == [100, 100] and row["targets"][0]["ignore"] is None


def test_dataset_info_has_license_homepage_and_citation():
    info = Mapillary(config_name="default", data_dir=".").info
    assert "research" in info.license and info.homepage and info.citation

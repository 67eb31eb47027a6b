"""A user's own photos with COCO JSON: errors, and bad records that are skipped."""

import json
import sys

import numpy as np
import pytest
from coco_photos import HEIGHT, LOW, WIDTH, Photos, annotation, box
from PIL import Image

from gemma_lisa import eval as evaluation
from gemma_lisa.datasets_builder.__main__ import main as datasets_main
from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.interfaces.command_line import run

# raised inside pycocotools with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path):
    return Photos(tmp_path / "photos")


def no_file(photos):
    (photos.root / "images/1.png").unlink()
    photos.content["images"].insert(0, {"id": 2, "file_name": "images/2.png", "height": HEIGHT, "width": WIDTH})
    Image.new("RGB", (WIDTH, HEIGHT)).save(photos.root / "images/2.png")


def no_picture(photos):
    (photos.root / "images/1.png").write_text("not a picture")


def other_size(photos):
    photos.content["images"][0] |= {"height": WIDTH, "width": HEIGHT}


def climbing(photos):
    photos.content["images"][0]["file_name"] = "../images/9.png"


def boxes_only(photos):
    for one in photos.content["annotations"]:
        one |= {"segmentation": [], "bbox": [1, 1, 5, 5]}


def far_out(photos):
    photos.content["annotations"][1]["segmentation"] = [box(0, 0, 2 * WIDTH, 2 * HEIGHT)]


def wrong_runs(photos):
    photos.content["annotations"][1]["segmentation"] = encode_mask(np.ones((WIDTH, HEIGHT)))


def unknown_category(photos):
    photos.content["annotations"][1]["category_id"] = 77


def nothing_marked(photos):
    photos.content["annotations"] = []


def no_images(photos):
    photos.content |= {"images": [], "annotations": []}


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (no_file, {}, ["image 1 (images/1.png)", "the photo 'images/1.png' is not in"]),
        (no_picture, {}, ["image 1 (images/1.png)", "cannot be read"]),
        (other_size, {}, ["image 1 (images/1.png)", "24 x 32 pixels (width x height)", "32 x 24"]),
        (climbing, {}, ["result.json", "the photo '../images/9.png' is not in"]),
        (boxes_only, {}, ["no annotation with a mask in 1 image", "objects with a box only"]),
        (far_out, {}, ["annotation 2", "its image is 32 x 24"]),
        (wrong_runs, {}, ["annotation 2", "[32, 24]", "[24, 32]"]),
        (unknown_category, {}, ["annotation 2", "no category 77"]),
        (nothing_marked, {}, ["no annotation with a mask in 1 image;"]),
        (no_images, {}, ["contains no images"]),
        (None, {"text": "{caption}"}, ["annotation 1", "no text in its field 'caption'"]),
        (None, {"text": "{caption"}, ["is not a valid format string"]),
        (None, {"text": "{0}"}, ["field names in braces"]),
        (None, {"text": "{category.upper}"}, ["field names in braces"]),
        (None, {"text": "{category!r}"}, ["field names in braces"]),
        (None, {"text": " "}, ["field names in braces"]),
        (None, {"text": 5}, ["is not a valid format string"]),
        (None, {"text": "{id}", "absent": 1}, ["absent"]),
        (None, {"absent": -1}, ["absent"]),
        (None, {"absent": "1"}, ["absent"]),
        (None, {"instances": "both"}, ["united or separate"]),
        (None, {"images": "nowhere"}, ["nowhere: no such folder"]),
        (None, {"annotations": "other.json"}, ["other.json: no such file"]),
    ],
)
def test_errors_are_one_line_and_leave_no_files_in_the_cache(photos, cache, spoil, options, words):
    if spoil is not None:
        spoil(photos)
    with pytest.raises(ValueError) as refusal:
        photos.load(**options)
    message = str(refusal.value)
    assert "\n" not in message and all(word in message for word in words), message
    assert spoil is None or str(photos.root) in message
    left = [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == [] and not list(cache.rglob("*.incomplete"))


def test_data_dir_is_required(tmp_path):
    with pytest.raises(ValueError, match="data_dir is missing"):
        load_rows("coco_instances", "train")
    with pytest.raises(ValueError, match="no such folder"):
        load_rows("coco_instances", "train", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no COCO JSON"):
        load_rows("coco_instances", "train", str(tmp_path))


def test_a_program_prints_one_line_and_fails(photos, tiny, tmp_path, monkeypatch, capsys):
    far_out(photos)
    (photos.root / "result.json").write_text(json.dumps(photos.content))
    arguments = ["--model", "m", "--dataset", "coco_instances", "--data_dir", str(photos.root), "--split", "train"]
    monkeypatch.setattr(sys, "argv", ["eval.py", *arguments, "--output", str(tmp_path / "out.json")])
    with pytest.raises(SystemExit) as leaving:
        run(evaluation.main)
    assert leaving.value.code == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith("error: ") and "result.json: image 1 (images/1.png): annotation 2" in line
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("spoil", [no_file, no_picture, climbing, unknown_category, other_size])
def test_bad_records_are_skipped_up_to_max_bad(tmp_path, spoil, caplog):
    photos = Photos(tmp_path / "two")
    spoil(photos)
    if spoil is not no_file:  # which adds it itself
        photos.content["images"].append({"id": 2, "file_name": "images/2.png", "height": HEIGHT, "width": WIDTH})
        Image.new("RGB", (WIDTH, HEIGHT)).save(photos.root / "images/2.png")
    photos.content["annotations"].append(annotation(9, [box(*LOW)], image=2))
    with pytest.raises(ValueError):
        photos.load()
    sources = photos.load(max_bad=1)["source"][:]
    valid = ["coco_instances/train/images/2.png"]
    # An annotation of an unknown category is none of the classes, so its image keeps the others
    assert sources == (["coco_instances/train/images/1.png", *valid] if spoil is unknown_category else valid)
    assert "skipped: " in caplog.text and "result.json" in caplog.text


def test_verify_lists_every_bad_record(tmp_path, capsys):
    photos = Photos(tmp_path / "three", 3)
    photos.content["annotations"] += [annotation(7 + image, [box(*LOW)], image=image) for image in (2, 3)]
    (photos.root / "result.json").write_text(json.dumps(photos.content))
    for number in (1, 2):
        (photos.root / f"images/{number}.png").unlink()
    with pytest.raises(ValueError, match="2 errors \\(listed above\\), 1 valid row"):
        datasets_main(["verify", "coco_instances", "--data_dir", str(photos.root)])
    said = capsys.readouterr().out
    assert "image 1 (images/1.png)" in said and "image 2 (images/2.png)" in said

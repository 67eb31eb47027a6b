"""A user's own photos with COCO JSON: masks, questions and the cache."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from coco_photos import CATEGORIES, CORNER, HEIGHT, HIGH, LOW, WIDTH, Photos, annotation, box, box_mask, masks_of
from PIL import Image
from pycocotools.coco import COCO

from gemma_lisa import eval as evaluation
from gemma_lisa import predict, train
from gemma_lisa.datasets_builder.__main__ import main as datasets_main
from gemma_lisa.datasets_builder.mixture import load_rows, load_training_rows
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, TrainingQuestions
from gemma_lisa.datasets_builder.rows import ROW_FEATURES, decode_mask, encode_mask
from gemma_lisa.scripts.init_tiny import build_tiny

# raised inside pycocotools with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHARED = Path(__file__).resolve().parents[4] / "shared" / "samples" / "coco"
PHOTO = SHARED / "val2017" / "000000039769.png"
PHOTO_OPTIONS = {"annotations": "derived/instances_39769.json", "images": "val2017"}


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path):
    return Photos(tmp_path / "photos")


# --- questions -------------------------------------------------------------------------------------------------------
def test_each_category_is_one_target_with_all_its_masks_merged(photos):
    rows = photos.load()
    assert rows.features == ROW_FEATURES
    [row] = rows
    assert row["source"] == "coco_instances/train/images/1.png"
    assert row["image"] == {"bytes": None, "path": str(photos.root / "images/1.png")}
    assert row["conversation"] == []
    found = masks_of(row)
    assert list(found) == ["the trash can", "the cat"]
    np.testing.assert_array_equal(found["the trash can"], [box_mask(*LOW) | box_mask(*HIGH)])
    np.testing.assert_array_equal(found["the cat"], [box_mask(*CORNER)])
    assert all(target["answer"] is None and not target["is_sentence"] for target in row["targets"])


def test_separate_instances_are_ordered_from_top_to_bottom(photos):
    [row] = photos.load(instances="separate")
    found = masks_of(row)
    np.testing.assert_array_equal(found["the trash can"], [box_mask(*HIGH), box_mask(*LOW)])
    assert found["the cat"].shape == (1, HEIGHT, WIDTH)


def test_all_formats_of_a_segmentation_give_the_same_mask(photos):
    mask = box_mask(*LOW)
    counts = [int(run) for run in np.diff(np.flatnonzero(np.diff(mask.flatten(order="F"), prepend=2, append=2)))]
    for segmentation in ([box(*LOW)], encode_mask(mask), {"size": [HEIGHT, WIDTH], "counts": counts}):
        photos.content["annotations"] = [annotation(1, segmentation)]
        np.testing.assert_array_equal(masks_of(photos.load()[0])["the trash can"], [mask])


def test_a_crowd_region_is_ignored_only_for_its_own_category(photos):
    photos.content["annotations"].append(annotation(4, encode_mask(box_mask(18, 0, 32, 10)), iscrowd=1))
    photos.content["annotations"].append(annotation(5, [box(0, 20, 8, 24)], category=9, iscrowd=1))
    for instances, order in (("united", [(LOW, HIGH)]), ("separate", [(HIGH,), (LOW,)])):
        found = masks_of(photos.load(instances=instances)[0])
        assert list(found) == ["the trash can", "the cat"]  # no question for a category with crowd regions only
        for mask, boxes in zip(found["the trash can"], order, strict=True):
            expected = 255 * box_mask(18, 0, 32, 10)
            for inside in boxes:
                expected[box_mask(*inside) == 1] = 1
            np.testing.assert_array_equal(mask, expected)
        assert found["the cat"].max() == 1


def test_annotations_with_an_empty_mask_are_skipped_with_a_warning(photos, caplog):
    photos.content["annotations"] += [
        annotation(4, [[5, 5, 5.1, 5, 5.1, 5.1]]),
        annotation(5, [[5, 5, 5.1, 5, 5.1, 5.1]], category=9),
    ]
    [row] = photos.load(instances="separate", absent=3)
    found = masks_of(row)
    assert list(found) == ["the trash can", "the cat"] and len(found["the trash can"]) == 2
    assert "skipped objects without any pixel (2), first:" in caplog.text and "annotation 4" in caplog.text


def test_a_box_without_an_outline_is_an_ignore_region_of_its_category(photos, caplog):
    photos.content["annotations"][1] |= {"segmentation": [], "bbox": [HIGH[0], HIGH[1], 8, 6]}
    found = masks_of(photos.load()[0])
    np.testing.assert_array_equal(found["the trash can"], [box_mask(*LOW) + 255 * box_mask(*HIGH)])
    assert "objects with a box only, read as ignore regions (1), first:" in caplog.text


def test_a_category_that_is_a_sentence_is_the_question(photos):
    photos.content["categories"][1]["name"] = "What says miau?"
    [row] = photos.load()
    assert [(target["texts"], target["is_sentence"]) for target in row["targets"]] == [
        (["the trash can"], False),
        (["What says miau?"], True),
    ]


def test_images_without_annotations_are_skipped_with_a_warning(tmp_path, caplog):
    assert len(Photos(tmp_path / "photos", n_images=3).load()) == 1
    assert "skipped records without a question (2), first:" in caplog.text
    assert "images/2.png" in caplog.text


def test_a_renamed_coco_photo_is_recognized_by_its_coco_url(tmp_path):
    photos = Photos(tmp_path / "photos", n_images=2)
    photos.content["images"][0]["coco_url"] = "http://images.cocodataset.org/train2017/000000000025.jpg"
    photos.content["annotations"].append(annotation(4, [box(*LOW)], image=2))
    photos.load()
    options = (str(photos.root), None, {25: "refcoco/unc/validation"})
    assert load_training_rows("coco_instances", "train", *options)["source"] == ["coco_instances/train/images/2.png"]
    datasets_main(["prepare", "coco_instances", "--data_dir", str(photos.root), "--output", str(tmp_path / "out")])
    assert len(load_training_rows(str(tmp_path / "out"), "train", *options)) == 1


def test_text_can_use_fields_of_the_annotations(photos):
    first, second, third = photos.content["annotations"]
    first["caption"], second["caption"] = "the  one {below}", "What is at the top?"
    third["attributes"] = {"caption": "the one {below}", "occluded": False}
    [row] = photos.load(text="{caption}")
    assert [(t["texts"], t["is_sentence"]) for t in row["targets"]] == [
        (["the one {below}"], False),
        (["What is at the top?"], True),
    ]
    np.testing.assert_array_equal(masks_of(row)["the one {below}"], [box_mask(*LOW) | box_mask(*CORNER)])
    [row] = photos.load(text="the {category} number {id}")
    assert [t["texts"][0] for t in row["targets"]] == [
        "the trash can number 1",
        "the trash can number 2",
        "the cat number 3",
    ]
    [row] = photos.load(text="every thing")
    assert len(row["targets"]) == 1


def test_absent_categories_are_asked_only_with_the_option_and_deterministically(tmp_path):
    photos = Photos(tmp_path / "photos", n_images=12)
    photos.content["annotations"] += [annotation(10 + at, [box(*LOW)], category=9, image=at) for at in (2, 3)]
    photos.content["categories"] = [*CATEGORIES, {"id": 4, "name": "never marked"}]

    def asked(rows):
        return {
            row["source"].split("/")[-1]: (
                [t["texts"][0] for t in row["targets"] if t["masks"]],
                [t["texts"][0] for t in row["targets"] if not t["masks"]],
            )
            for row in rows
        }

    assert all(not absent for _, absent in asked(photos.load()).values())
    one, all_of_them = asked(photos.load(absent=1)), asked(photos.load(absent=5))
    assert all(len(absent) == 1 for _, absent in one.values()) and len(one) == 12
    assert len({absent[0] for _, absent in one.values()}) > 1
    assert all_of_them["1.png"] == (["the trash can", "the cat"], ["the cars, parked"])
    assert all_of_them["2.png"] == (["the cars, parked"], ["the cat", "the trash can"])
    assert all_of_them["4.png"] == ([], ["the cars, parked", "the cat", "the trash can"])
    photos.content["images"].reverse()
    assert asked(photos.load(absent=1)) == one
    assert asked(photos.load(absent=1, seed=1)) != one


def test_in_lvis_files_only_negative_categories_are_asked_as_absent(photos):
    photos.content["images"][0] |= {"neg_category_ids": [9, 2], "not_exhaustive_category_ids": [2]}
    [row] = photos.load(absent=5)
    assert [(t["texts"][0], len(t["masks"])) for t in row["targets"]] == [("the trash can", 1), ("the cars, parked", 0)]
    photos.content["images"][0]["neg_category_ids"] = []
    [row] = photos.load(absent=5)
    assert [t["texts"][0] for t in row["targets"]] == ["the trash can"]


def test_rows_become_samples(photos):
    rows = photos.load(instances="separate", absent=1)
    [training, *_] = TrainingQuestions(rows, 0, 8)
    assert [masks.shape[0] for masks in training["masks"]] == [2, 1]
    assert training["conversations"][0].turns[0][1].count("{seg}") == 2
    questions = EvaluationQuestions(rows, with_conversations=True)
    assert [questions[at]["conversations"][0].turns[0][0] for at in range(2)] == ["the trash can", "the cat"]


def test_each_split_can_have_its_own_file(tmp_path):
    photos = Photos(tmp_path / "photos", n_images=2)
    for folder, number in (("train", 1), ("valid", 2)):
        photos.content["images"] = [{"id": 1, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH}]
        (photos.root / folder).mkdir()
        (photos.root / f"images/{number}.png").rename(photos.root / folder / f"{number}.png")
        (photos.root / folder / "_annotations.coco.json").write_text(json.dumps(photos.content))
    rows = load_rows("coco_instances", "validation", str(photos.root))
    assert [row["source"] for row in rows] == ["coco_instances/validation/2.png"]
    assert len(load_rows("coco_instances", "train", str(photos.root))) == 1
    with pytest.raises(ValueError, match="no split 'test'; it has: train, validation"):
        load_rows("coco_instances", "test", str(photos.root))


# --- cache -----------------------------------------------------------------------------------------------------------
def test_the_same_files_are_prepared_once(photos, monkeypatch):
    rows = photos.load()
    monkeypatch.setattr("gemma_lisa.datasets_builder.custom.coco_instances.read_coco", None)
    assert load_rows("coco_instances", "train", str(photos.root))[:] == rows[:]
    monkeypatch.chdir(photos.root.parent)
    assert load_rows("coco_instances", "train", "photos", {})[0]["image"] == rows[0]["image"]


def test_changed_files_are_never_read_from_the_cache(photos):
    def texts():
        return [target["texts"][0] for target in photos.load()[0]["targets"]]

    assert texts() == ["the trash can", "the cat"]
    photos.content["categories"] = [{"id": 1, "name": "trash_bin"}, *CATEGORIES[1:]]  # of the same length
    assert texts() == ["the trash bin", "the cat"]
    photos.content["annotations"].pop()
    assert texts() == ["the trash bin"]
    Image.new("RGB", (WIDTH // 2, HEIGHT)).save(photos.root / "images/1.png")
    with pytest.raises(ValueError, match="32 x 24 pixels"):
        texts()
    (photos.root / "images/1.png").unlink()
    with pytest.raises(ValueError, match=r"the photo 'images/1\.png' is not in"):
        texts()


def test_folders_with_the_same_name_have_different_caches(tmp_path, monkeypatch):
    for number, category in enumerate(("trash_can", "cat")):
        photos = Photos(tmp_path / str(number) / "photos")
        photos.content["categories"] = [{**kind, "name": f"{category} {kind['id']}"} for kind in CATEGORIES]
        photos.load()
        os.utime(photos.root / "result.json", (1, 1))
        os.utime(photos.root / "images/1.png", (1, 1))
    found = []
    for number in range(2):
        monkeypatch.chdir(tmp_path / str(number))
        found.append(load_rows("coco_instances", "train", "photos")[0]["targets"][0]["texts"])
    assert found == [["the trash can 1"], ["the cat 1"]]


# --- a real photo ----------------------------------------------------------------------------------------------------
@pytest.fixture
def photo():
    if not PHOTO.is_file():
        pytest.skip(f"no COCO photo 39769: {PHOTO}")
    return SHARED


def test_masks_of_a_real_photo_equal_those_of_pycocotools(photo, capsys):
    coco = COCO(photo / PHOTO_OPTIONS["annotations"])
    [row] = load_rows("coco_instances", "train", str(photo), PHOTO_OPTIONS)
    found = masks_of(row)
    assert list(found) == ["the remote", "the couch", "the bed", "the cat"]
    for category in coco.loadCats(coco.getCatIds()):
        drawn = [coco.annToMask(thing) for thing in coco.loadAnns(coco.getAnnIds(catIds=category["id"]))]
        np.testing.assert_array_equal(found[f"the {category['name']}"], [np.maximum.reduce(drawn)])
    [row] = load_rows("coco_instances", "train", str(photo), {**PHOTO_OPTIONS, "instances": "separate"})
    separate = masks_of(row)
    areas = {text: [int(mask.sum()) for mask in masks] for text, masks in separate.items()}
    assert areas == {
        "the remote": [4068, 2118],
        "the couch": [176809],
        "the bed": [301563],
        "the cat": [59710, 53306],
    }


@pytest.mark.slow
def test_a_model_from_scratch_can_memorize_a_real_photo(photo, tmp_path):
    model, processor = build_tiny(image_size=128, seed=0)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "start")
    data = ["--dataset", "coco_instances", "--data_dir", str(photo), "--dataset_options", json.dumps(PHOTO_OPTIONS)]
    recipe = ["--config", str(Path(train.__file__).parent / "configs" / "few_pictures.yaml"), "--disable_tqdm", "true"]
    train.main([*recipe, *data, "--model", str(tmp_path / "start"), "--output_dir", str(tmp_path / "out")])
    results = tmp_path / "results.json"
    evaluation.main([*data, "--model", str(tmp_path / "out"), "--split", "train", "--output", str(results)])
    scores = json.loads(results.read_text())["scores"]
    assert scores["count"] == 4 and scores["T-acc"] == 1 and scores["gIoU"] >= 0.9, scores

    picture, records = tmp_path / "cat.png", tmp_path / "cat.json"
    query = ["--image", str(PHOTO), "--query", "the cat", "--output", str(picture), "--json", str(records)]
    predict.main([*query, "--model", str(tmp_path / "out")])
    [answer] = json.loads(records.read_text())
    [mask] = answer["masks"]
    [row] = load_rows("coco_instances", "train", str(photo), PHOTO_OPTIONS)
    expected, found = masks_of(row)["the cat"][0] == 1, decode_mask(mask["rle"], "answer") == 1
    assert (expected & found).sum() / (expected | found).sum() >= 0.9
    assert Image.open(picture).width >= 512

"""predict.py --dataset_out: a data set for labelling tools."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from gemma_lisa import predict
from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.rows import decode_mask
from gemma_lisa.safety.errors import UsageError

SCENE = Path(predict.__file__).parent / "docs" / "scene.png"
CIRCLE, TRIANGLES, STAR = "the red circle", "all the blue triangles", "the yellow star"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(SCENE, folder / "a.png")
    with Image.open(SCENE) as scene:
        scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "b.png")
    return folder


def test_answers_become_a_data_set_that_is_read_back_exactly(photos, tmp_path, capsys):
    out, answers = tmp_path / "out", tmp_path / "answers.json"
    asked = ["--image", str(photos), "--query", CIRCLE, TRIANGLES, STAR, "--batch_size", "2"]
    predict.main([*asked, "--dataset_out", str(out), "--json", str(answers)])
    records = json.loads(answers.read_text())
    coco = COCO(out / "annotations" / "instances_train.json")
    assert [category["name"] for category in coco.cats.values()] == ["red circle", "blue triangles", "yellow star"]
    for image in coco.imgs.values():
        expected = [
            (name, mask["score"], mask["rle"])
            for record in records
            if Path(record["image"]).name == image["file_name"]
            for name in [record["query"].removeprefix("all ").removeprefix("the ")]
            for mask in record["masks"]
        ]
        found = coco.imgToAnns[image["id"]]
        assert len(found) == len(expected) > 0
        for annotation, (name, score, rle) in zip(found, expected, strict=True):
            assert coco.cats[annotation["category_id"]]["name"] == name and annotation["score"] == score
            assert (coco.annToMask(annotation) == decode_mask(rle, "json")).all()
    rows = load_rows("coco_instances", "train", str(out))
    assert [text for row in rows for target in row["targets"] for text in target["texts"]] == [
        "the red circle",
        "the blue triangles",
    ] * 2
    printed = capsys.readouterr().out
    assert f"wrote {out} (COCO): 2 photos, 6 objects" in printed and "Next: " in printed
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("cache")) == [
        "answers.json",
        "out",
        "photos",
    ]


def test_a_table_and_pictures_can_be_combined_with_a_data_set(photos, tmp_path):
    table = tmp_path / "questions.csv"
    table.write_text(f"image,query\nphotos/b.png,{TRIANGLES}\nphotos/a.png,{CIRCLE}\nphotos/b.png,{STAR}\n")
    out, pictures = tmp_path / "out", tmp_path / "pictures"
    predict.main(["--table", str(table), "--output", str(pictures), "--dataset_out", str(out), "--format", "labelme"])
    assert len(list(pictures.iterdir())) == 3
    assert {path.name for path in (out / "images").iterdir()} == {"a.png", "a.json", "b.png", "b.json"}
    content = json.loads((out / "images" / "b.json").read_text())
    assert {shape["label"] for shape in content["shapes"]} == {"blue triangles"}
    with (out / "scores.csv").open(newline="") as file:
        assert [line["status"] for line in csv.DictReader(file)][-1] == "found"


def test_one_photo_and_class_names_in_yolo(photos, tmp_path):
    names = json.dumps({CIRCLE: "ball"})
    asked = ["--image", str(photos / "a.png"), "--query", CIRCLE, "--class_names", names, "--format", "yolo"]
    predict.main([*asked, "--dataset_out", str(tmp_path / "simple"), "--polygon_tolerance", "1"])
    predict.main([*asked, "--dataset_out", str(tmp_path / "out")])
    assert "0: ball" in (tmp_path / "out" / "data.yaml").read_text()
    kind, *numbers = (tmp_path / "out" / "labels" / "train" / "a.txt").read_text().split()
    points = np.array(numbers, dtype=float).reshape(-1, 2) * 128
    assert len((tmp_path / "simple" / "labels" / "train" / "a.txt").read_text().split()) < len(numbers) / 2
    assert kind == "0" and np.abs(points - np.rint(points)).max() < 0.01


def test_after_ctrl_c_the_data_set_holds_the_photos_with_all_answers(photos, tmp_path, monkeypatch, capsys):
    asked, answers = [], predict.answer

    def stopped(*args, **options):
        asked.append(1)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return answers(*args, **options)

    monkeypatch.setattr(predict, "answer", stopped)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        arguments = ["--image", str(photos), "--query", CIRCLE, STAR, "--batch_size", "1"]
        predict.main([*arguments, "--dataset_out", str(out)])
    assert [path.name for path in (out / "images").iterdir()] == ["a.png"]
    assert f"{out} holds 1 of 2 photos" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "a.png", "--format", "coco"], "--format has no effect without --dataset_out"),
        (["--output", "a.png", "--class_names", "{}"], "--class_names has no effect without --dataset_out"),
        (["--output", "a.png", "--polygon_tolerance", "1"], "--polygon_tolerance has no effect without --dataset_out"),
        (["--dataset_out", "out", "--polygon_tolerance", "-1"], "must be a number of pixels from 0 to 999, got '-1'"),
        (
            ["--dataset_out", "out", "--polygon_tolerance", "1", "--format", "voc"],
            "--polygon_tolerance has no effect with --format voc",
        ),
        ([], "no output; add --output for pictures, or --dataset_out for a data set"),
        (["--dataset_out", "out", "--masks", "masks"], "--masks needs --output"),
        (["--dataset_out", "out", "--format", "pascal"], "invalid choice"),
        (["--dataset_out", "out", "--class_names", "[]"], "must be a JSON object"),
        (["--dataset_out", "https://a.b/c"], "--dataset_out must be a folder, got a URL"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_loaded(photos, monkeypatch, arguments, message):
    monkeypatch.setattr(predict, "load_asked", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(UsageError, match=message):
        predict.main(["--image", str(photos / "a.png"), "--query", CIRCLE, *arguments])


def test_a_conversation_cannot_write_a_data_set(photos):
    with pytest.raises(UsageError, match="--conversation cannot write a data set"):
        predict.main(["--conversation", "--image", str(photos / "a.png"), "--dataset_out", "out", "--output", "a.png"])


def test_folders_that_must_be_kept_are_refused_before_the_model_is_loaded(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "load_asked", lambda *_: pytest.fail("the model was loaded"))
    asked = ["--image", str(photos), "--query", CIRCLE, "--overwrite"]
    (tmp_path / "file").write_text("")
    for more, message in (
        (["--dataset_out", str(photos)], "contains the input"),
        (["--dataset_out", str(tmp_path)], "contains the input"),
        (["--dataset_out", str(tmp_path / "file")], "this is a file; expected a folder"),
        (["--dataset_out", str(tmp_path / "o"), "--output", str(tmp_path / "o" / "p")], "is in this folder"),
    ):
        with pytest.raises(UsageError, match=message):
            predict.main([*asked, *more])
    assert sorted(path.name for path in photos.iterdir()) == ["a.png", "b.png"]

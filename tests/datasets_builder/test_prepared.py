"""Load prepared rows from shards, from disk and from the Hub, and the errors of other folders."""

import itertools
import json
import re
import shutil

import datasets
import numpy as np
import pyarrow.ipc
import pyarrow.parquet as parquet
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from gemma_lisa.datasets_builder.mixture import load_rows
from gemma_lisa.datasets_builder.prepared import load_prepared
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, Part
from gemma_lisa.datasets_builder.rows import ROW_FEATURES, encode_mask
from gemma_lisa.datasets_builder.shards import write_shards
from gemma_lisa.datasets_builder.streams import StreamedQuestions, open_stream

pytestmark = pytest.mark.usefixtures("own_cache")


def row(path, at):
    target = {
        "texts": ["the bar"],
        "kind": None,
        "is_sentence": False,
        "masks": [encode_mask(np.eye(4, 5, dtype=bool))],
        "answer": None,
        "ignore": None,
        "explanation": None,
    }
    image = {"bytes": None, "path": str(path)}
    return {"image": image, "source": f"set/train/{at}", "targets": [target], "conversation": []}


@pytest.fixture
def rows(tmp_path):
    Image.new("RGB", (5, 4), "red").save(tmp_path / "a.png")
    return Dataset.from_list([row(tmp_path / "a.png", at) for at in range(3)], features=ROW_FEATURES)


@pytest.fixture
def shards(rows, tmp_path, monkeypatch):
    """Return a folder of shards with two rows each."""
    monkeypatch.setattr("gemma_lisa.datasets_builder.shards.ROWS_PER_SHARD", 2)
    write_shards({"train": rows, "validation": rows.select([0])}, tmp_path / "shards", "rows")
    return tmp_path / "shards"


def test_shards_give_the_written_rows_with_their_images(shards, rows, tmp_path):
    (tmp_path / "a.png").unlink()
    found = load_rows(str(shards), "train")
    assert found.features == ROW_FEATURES
    assert found["source"] == rows["source"] and found["targets"] == rows["targets"]
    sample = EvaluationQuestions(found, with_conversations=False)[2]
    assert sample["image"].load().getpixel((0, 0)) == (255, 0, 0) and sample["masks"][0].sum() == 4
    assert len(load_rows(str(shards), "validation", data_dir=str(tmp_path))) == 1


def test_rows_saved_to_disk_load_with_and_without_splits(rows, tmp_path):
    rows.save_to_disk(tmp_path / "one")
    DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(tmp_path / "several")
    found = load_rows(str(tmp_path / "one"), "train")
    assert found.features == ROW_FEATURES and found["targets"] == rows["targets"]
    assert EvaluationQuestions(found, with_conversations=False)[0]["masks"][0].sum() == 4
    assert load_rows(str(tmp_path / "several"), "test")["source"] == ["set/train/1"]
    for name in ("one", "several"):
        with pytest.raises(ValueError, match=f"{name} has no split 'dev'; it has: train"):
            load_prepared(str(tmp_path / name), "dev")


def save_as_they_are(rows, folder):
    """Save rows as `save_to_disk` does, but without embedding the images."""
    Dataset.from_list([{**found, "image": None} for found in rows], features=ROW_FEATURES).save_to_disk(folder)
    table = Dataset.from_list(rows, features=ROW_FEATURES).data.table
    [file] = folder.glob("*.arrow")
    with pyarrow.ipc.new_stream(str(file), table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("path", ["a.png", "one/../a.png", "one/link.png", "file://{}/a.png", "zip://x::{}/one/x.zip"])
def test_a_row_saved_to_disk_cannot_name_an_image_outside_its_folder(rows, tmp_path, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = path.format(tmp_path)
    save_as_they_are([row(tmp_path / "one" / "b.png", 0), row(named, 1)], tmp_path / "one")
    (tmp_path / "one" / "link.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(ValueError, match=f"one: set/train/1: the image {re.escape(named)} is not in this folder"):
        load_rows(str(tmp_path / "one"), "train")
    if "://" not in path:
        assert len(load_rows(str(tmp_path / "one"), "train", data_dir=str(tmp_path))) == 2


def test_a_row_saved_to_disk_can_name_images_by_relative_or_absolute_path(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("one/b.png", tmp_path / "one" / "b.png")
    save_as_they_are([row(name, at) for at, name in enumerate(names)], tmp_path / "one")
    assert len(load_rows("one", "train")) == len(load_rows(str(tmp_path / "one"), "train")) == 2


def test_a_hub_name_is_loaded_from_the_hub(shards, monkeypatch):
    asked, rows = [], load_rows(str(shards), "validation")
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda name, split: asked.append((name, split)) or rows.cast_column("image", datasets.Image()),
    )
    found = load_rows("someone/rows", "validation")
    assert asked == [("someone/rows", "validation")]
    assert found.features == ROW_FEATURES and found[0]["image"]["path"].endswith("a.png")


@pytest.mark.parametrize("path", ["../secret.png", "/etc/secret.png"])
def test_a_parquet_row_cannot_choose_a_local_file(rows, tmp_path, path):
    (tmp_path / "foreign").mkdir()
    foreign = [
        {**row(path, at), "image": {"bytes": b"", "path": None} if at < 2 else row(path, at)["image"]}
        for at in range(3)
    ]
    table = Dataset.from_list(foreign, features=ROW_FEATURES).data.table
    parquet.write_table(table, tmp_path / "foreign" / "train.parquet")
    with pytest.raises(
        ValueError, match=f"foreign: set/train/2: the row has the path {re.escape(path)} but not the image"
    ):
        load_rows(str(tmp_path / "foreign"), "train")
    part = Part("foreign", open_stream(str(tmp_path / "foreign"), "train", None), 1.0)
    with pytest.raises(ValueError, match="set/train/2: the row has the path"):
        list(itertools.islice(StreamedQuestions([part], 0, 3), 3))


def test_pattern_characters_in_a_folder_name_are_literal(shards, tmp_path):
    for name in ("rows [v2]", "rows?x", "rows*x"):  # as a pattern, the second matches the third too
        shutil.copytree(shards, tmp_path / name)
    for name in ("rows [v2]", "rows?x", "rows*x"):
        assert len(load_rows(str(tmp_path / name), "train")) == 3
        stream = open_stream(str(tmp_path / name), "train", None)
        assert {row["source"] for row in itertools.islice(stream.read((0,), [0], 1), 3)} == {
            f"set/train/{at}" for at in range(3)
        }


def test_hidden_files_are_not_shards(shards):
    for name in (".parquet", ".train-00009-of-00009.parquet"):
        (shards / name).write_bytes(b"")
    assert len(load_rows(str(shards), "train")) == 3


def test_a_missing_hub_name_is_one_line():
    with pytest.raises(ValueError, match="someone/rows: there is no such folder") as refusal:
        load_rows("someone/rows", "train")
    assert "\n" not in str(refusal.value)


def test_a_builder_has_precedence_over_a_folder_with_its_name(tmp_path, monkeypatch):
    (tmp_path / "shapes").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="shapes has no split 'none'"):
        load_rows("shapes", "none", options={"train_rows": 1, "validation_rows": 1, "test_rows": 1})
    with pytest.raises(ValueError, match="shapes: no prepared rows"):
        load_rows("./shapes", "none")


@pytest.mark.parametrize("options", [None, {"validation_share": 0.25}])
def test_a_folder_of_photos_in_place_of_a_data_set_name_is_one_line_that_says_what_to_type(tmp_path, options):
    for name in ("one/images", "two/train/image", "three/annotations", "four", "five/annotations"):
        (tmp_path / name).mkdir(parents=True)
    coco = json.dumps({"images": [], "annotations": [], "categories": []})
    (tmp_path / "three/annotations/instances_train.json").write_text(coco)
    (tmp_path / "four/dataset-metadata.json").write_text('{"title": "Mugs"}')
    (tmp_path / "four/._labels.json").write_text(coco)
    (tmp_path / "five/annotations/train.json").write_text(coco.replace("[]", '[{"segments_info": []}]'))
    for name, found, data_set in (
        ("one", "found images/, no prepared rows", "folder"),
        ("two", "found train/image/, no prepared rows", "folder"),
        ("three", "found COCO JSON, no prepared rows", "coco_instances"),
        ("four", "no prepared rows", "folder"),
        ("five", "no prepared rows", "folder"),  # panoptic
    ):
        with pytest.raises(ValueError, match=found) as refusal:
            load_rows(str(tmp_path / name), "train", options=options)
        assert f"--dataset {data_set} --data_dir {tmp_path / name}." in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_prepared_rows_have_no_options(shards):
    with pytest.raises(ValueError, match="prepared rows do not support options, got seed"):
        load_rows(str(shards), "train", options={"seed": 1})


def changed(rows, change):
    """Return rows with changed features; `change` modifies or replaces the features of a target."""
    features = ROW_FEATURES.copy()
    target = dict(features["targets"].feature)
    features["targets"] = datasets.List(change(target) or target)
    values = [{**row, "targets": []} for row in rows]
    return Dataset.from_list(values, features=features)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows.remove_columns("conversation"), "the column conversation is missing"),
        (lambda rows: rows.add_column("more", [1, 2, 3]), "the column more is unknown"),
        (lambda rows: changed(rows, lambda t: t.pop("kind") and None), r"the column targets\[\].kind is missing"),
        (
            lambda rows: changed(rows, lambda t: t.update(is_sentence=datasets.Value("int8"))),
            r"the column targets\[\].is_sentence is Value\('int8'\), not Value\('bool'\)",
        ),
        (
            lambda rows: changed(rows, lambda t: t.update(masks=datasets.List(datasets.Value("string")))),
            r"the column targets\[\].masks\[\] is Value\('string'\), not",
        ),
        (
            lambda rows: rows.remove_columns("image").add_column("image", ["a.png"] * 3),
            r"the column image is Value\('string'\), not Image",
        ),
    ],
    ids=["missing", "more", "missing in a target", "another type", "no list", "no picture"],
)
def test_other_columns_are_refused_by_name(rows, tmp_path, spoil, message):
    spoiled = spoil(rows)
    spoiled.save_to_disk(tmp_path / "disk")
    (tmp_path / "shards").mkdir()
    spoiled.to_parquet(tmp_path / "shards/train.parquet")
    for name, place in (("disk", "disk"), ("shards", "train.parquet")):
        with pytest.raises(ValueError, match=f"{place}: {message}") as refusal:
            load_prepared(str(tmp_path / name), "train")
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "data/train-00001-of-00002.parquet").unlink(),
            "only 1 of 2 shards of train exist",
        ),
        (
            lambda folder: (folder / "data/train-00001-of-00002.parquet").write_bytes(b"PAR1"),
            "train-00001-of-00002.parquet cannot be read as Parquet",
        ),
        (lambda folder: (folder / "prepared.json").rename(folder / "plan.json"), "the folder is incomplete"),
        (lambda folder: shutil.rmtree(folder / "data"), "the shards are missing; download all of them"),
    ],
    ids=["missing shard", "broken shard", "stopped", "no shards"],
)
def test_errors_in_shards_are_one_line(shards, spoil, message):
    spoil(shards)
    with pytest.raises(ValueError, match=message) as refusal:
        load_rows(str(shards), "train")
    assert "\n" not in str(refusal.value)


def test_a_missing_or_empty_split_is_refused(shards, rows, tmp_path):
    with pytest.raises(ValueError, match="no split 'test'; it has: train, validation"):
        load_rows(str(shards), "test")
    (tmp_path / "empty").mkdir()
    rows.select([]).to_parquet(tmp_path / "empty/train.parquet")
    with pytest.raises(ValueError, match="empty: the split 'train' has no rows"):
        load_rows(str(tmp_path / "empty"), "train")
    rows.select([]).save_to_disk(tmp_path / "nothing")
    with pytest.raises(ValueError, match="nothing: the data set has no rows"):
        load_rows(str(tmp_path / "nothing"), "train")

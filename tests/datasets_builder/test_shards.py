"""Shards are complete or written again, resume after a stop, and load as the same rows."""

import json

import filelock
import numpy as np
import pytest
import yaml
from datasets import Dataset, load_dataset
from PIL import Image
from pyarrow.parquet import read_table

from gemma_lisa.datasets_builder import shards
from gemma_lisa.datasets_builder.rows import ROW_FEATURES
from gemma_lisa.datasets_builder.shards import COMPLETE, LOCK, PLAN, card_of, write_shards
from gemma_lisa.datasets_builder.synthetic.shapes import Shapes


@pytest.fixture
def rows(tmp_path):
    """Return seven rows with paths of images."""
    made = []
    for number in range(7):
        path = tmp_path / "pictures" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 5, 3), number, dtype=np.uint8)).save(path)
        turns = [{"question": "What is it?", "answer": f"Number {number}."}]
        made.append(
            {
                "image": {"bytes": None, "path": str(path)},
                "source": f"set/{number}",
                "targets": [],
                "conversation": turns,
            }
        )
    return Dataset.from_list(made, features=ROW_FEATURES)


@pytest.fixture(autouse=True)
def short_shards(monkeypatch):
    monkeypatch.setattr(shards, "ROWS_PER_SHARD", 3)


def test_shards_contain_the_images_and_load_as_the_same_rows(rows, tmp_path):
    folder = tmp_path / "out"
    write_shards({"train": rows, "test": rows.select([6])}, folder, "a")
    names = sorted(path.name for path in (folder / "data").iterdir())
    assert names == ["test-00000-of-00001.parquet", *(f"train-0000{at}-of-00003.parquet" for at in range(3))]
    assert sorted(path.name for path in folder.iterdir()) == ["data", COMPLETE]
    files = {"train": [str(folder / "data" / name) for name in names[1:]]}
    again = load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"))["train"]
    assert again.features == ROW_FEATURES
    assert again["source"][:] == rows["source"][:] and again["conversation"][:] == rows["conversation"][:]
    for number, row in enumerate(again):
        assert row["image"]["path"] == f"{number}.png"
        assert row["image"]["bytes"] == (tmp_path / "pictures" / f"{number}.png").read_bytes()


def test_a_stopped_run_resumes_without_writing_shards_again(rows, tmp_path, monkeypatch, capsys):
    folder, write = tmp_path / "out", shards._write_shard
    written = []

    def stops_at_the_second(shard):
        if len(written) == 1:
            raise KeyboardInterrupt
        write(shard)
        written.append(shard[0].name)

    monkeypatch.setattr(shards, "_write_shard", stops_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write_shards({"train": rows}, folder, "a")
    assert not (folder / COMPLETE).exists() and (folder / PLAN).exists()
    monkeypatch.setattr(shards, "_write_shard", lambda shard: (write(shard), written.append(shard[0].name)))
    write_shards({"train": rows}, folder, "a")
    assert written == [f"train-0000{at}-of-00003.parquet" for at in range(3)]
    assert "1 of 3 shards already exist" in capsys.readouterr().out
    assert json.loads((folder / COMPLETE).read_text())["rows"] == {"train": 7} and not (folder / PLAN).exists()


def test_a_second_call_does_not_change_a_complete_folder(rows, tmp_path, monkeypatch):
    write_shards({"train": rows}, tmp_path / "out", "a")
    (tmp_path / "out" / "data" / ".train-00000-of-00003.parquet.77").write_text("from a killed process")
    monkeypatch.setattr(shards, "_write_shard", None)
    write_shards({"train": rows}, tmp_path / "out", "a")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["data", COMPLETE]
    assert len(list((tmp_path / "out" / "data").iterdir())) == 3


def test_a_failed_shard_leaves_no_partial_file_and_names_its_image(rows, tmp_path):
    (tmp_path / "pictures" / "3.png").unlink()
    with pytest.raises(ValueError, match=r"train-00001-of-00003.parquet: .*3\.png"):
        write_shards({"train": rows}, tmp_path / "out", "a")
    assert [path.name for path in (tmp_path / "out" / "data").iterdir()] == ["train-00000-of-00003.parquet"]


@pytest.mark.parametrize(("wanted", "sizes"), [(1, [2, 2, 3]), (5, [1, 1, 2, 1, 2]), (9, [1] * 7)])
def test_shards_have_equal_sizes_and_at_least_the_requested_number(rows, tmp_path, wanted, sizes):
    write_shards({"train": rows}, tmp_path / "out", "a", shards=wanted)
    paths = sorted((tmp_path / "out" / "data").iterdir())
    tables = [read_table(path) for path in paths]
    assert [len(table) for table in tables] == sizes
    assert [source for table in tables for source in table["source"].to_pylist()] == rows["source"][:]


def test_a_folder_with_other_rows_is_refused(rows, tmp_path):
    write_shards({"train": rows}, tmp_path / "out", "a")
    with pytest.raises(ValueError, match="contains the shards of other rows"):
        write_shards({"train": rows}, tmp_path / "out", "b")
    (tmp_path / "full" / "data").mkdir(parents=True)
    (tmp_path / "full" / "data" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="contains other files"):
        write_shards({"train": rows}, tmp_path / "full", "a")


@pytest.mark.slow
def test_several_processes_write_the_same_shards_as_one(rows, tmp_path, monkeypatch):
    monkeypatch.undo()  # other processes do not have short shards
    many = rows.select(list(range(7)) * 300)
    write_shards({"train": many}, tmp_path / "one", "a")
    write_shards({"train": many}, tmp_path / "two", "a", num_proc=2)
    for path in (tmp_path / "one" / "data").iterdir():
        assert (tmp_path / "two" / "data" / path.name).read_bytes() == path.read_bytes()


def test_the_card_lists_the_files_of_its_splits(rows, tmp_path):
    builder = Shapes(config_name="easy", cache_dir=str(tmp_path))
    front = yaml.safe_load(card_of("shapes/easy", builder, {"train": rows}).split("---")[1])
    assert front["license"] == "apache-2.0"
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]


@pytest.mark.parametrize("keep", [0, 4, -1])
def test_a_truncated_shard_is_written_again(rows, tmp_path, keep):
    folder = tmp_path / "out"
    write_shards({"train": rows}, folder, "a")
    shard = folder / "data" / "train-00001-of-00003.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:keep])
    write_shards({"train": rows}, folder, "a")
    assert read_table(shard)["source"].to_pylist() == ["set/2", "set/3"]
    assert len(list((folder / "data").iterdir())) == 3


def test_a_damaged_plan_is_refused_with_its_path(rows, tmp_path):
    write_shards({"train": rows}, tmp_path / "out", "a")
    (tmp_path / "out" / COMPLETE).write_text("{")
    with pytest.raises(ValueError, match=f"{COMPLETE} cannot be read .*; delete .*out and run prepare again"):
        write_shards({"train": rows}, tmp_path / "out", "a")


def test_only_one_process_writes_to_a_folder(rows, tmp_path):
    (tmp_path / "out").mkdir()
    with filelock.FileLock(tmp_path / "out" / LOCK), pytest.raises(ValueError, match="another process is writing"):
        write_shards({"train": rows}, tmp_path / "out", "a")
    assert not (tmp_path / "out" / "data").exists()
    write_shards({"train": rows}, tmp_path / "out", "a")
    with pytest.raises(ValueError, match="contains the shards of other rows"):
        write_shards({"train": rows}, tmp_path / "out", "b")
    assert not (tmp_path / "out" / LOCK).exists()


def test_an_existing_readme_is_not_overwritten(rows, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("notes")
    with pytest.raises(ValueError, match="contains other files, such as README.md"):
        write_shards({"train": rows}, tmp_path / "out", "a")

"""Atomic saves: what is moved appears complete, what is deleted disappears at once."""

import os

import pytest

from gemma_lisa.training import atomic_saves
from gemma_lisa.training.atomic_saves import checkpoints_of, place_checkpoint, place_model, rotate


def write(folder, **contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_replaces_one_of_the_same_step(tmp_path):
    old = write(tmp_path / "checkpoint-2", left_over="old", config__json="old")
    place_checkpoint(write(tmp_path / ".saving" / "checkpoint-2", config__json="new"), old)
    assert names_in(old) == ["config.json"] and (old / "config.json").read_text() == "new"
    assert names_in(tmp_path) == [".saving", "checkpoint-2"]


def test_a_model_replaces_another_and_its_weights(tmp_path):
    shards = {f"model-0000{number}-of-00002__safetensors": "old" for number in (1, 2)}
    write(tmp_path, **shards, model__safetensors__index__json="old", config__json="old", curve__png="kept")
    aside = write(tmp_path / ".saving" / "model", adapter_model__safetensors="new", adapter_config__json="new")
    place_model(aside, tmp_path)
    assert names_in(tmp_path) == [".saving", "adapter_config.json", "adapter_model.safetensors", "curve.png"]


def test_an_interrupted_move_leaves_nothing_that_can_be_opened(tmp_path, monkeypatch):
    contents = ("model__safetensors", "tokenizer__json", "config__json", "training__json")
    moves = len(contents)
    for cut in range(moves):
        folder = tmp_path / str(cut)
        write(folder, **dict.fromkeys(contents, "old"))
        aside = write(folder / ".saving" / "model", **dict.fromkeys(contents, "new"))
        done = []

        def replace(source, target, done=done, cut=cut):
            if len(done) == cut:
                raise KeyboardInterrupt
            done.append(target.name)
            os.rename(source, target)

        monkeypatch.setattr(atomic_saves.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            place_model(aside, folder)
        monkeypatch.undo()
        assert done == ["model.safetensors", "tokenizer.json", "config.json", "training.json"][:cut]
        if (folder / "config.json").exists():
            assert {(folder / name.replace("__", ".")).read_text() for name in contents[:3]} == {"new"}
        assert not (folder / "training.json").exists()  # it would mark the run as finished


def test_the_newest_checkpoints_and_the_best_one_are_kept(tmp_path):
    for step in (2, 4, 10, 12):
        write(tmp_path / f"checkpoint-{step}", config__json="")
    rotate(tmp_path, None, None)
    rotate(tmp_path, 0, None)
    assert [path.name for path in checkpoints_of(tmp_path)] == [f"checkpoint-{step}" for step in (2, 4, 10, 12)]
    rotate(tmp_path, 3, str(tmp_path / "checkpoint-2"))
    assert [path.name for path in checkpoints_of(tmp_path)] == [f"checkpoint-{step}" for step in (2, 10, 12)]
    rotate(tmp_path, 1, str(tmp_path / "checkpoint-2"))
    assert [path.name for path in checkpoints_of(tmp_path)] == ["checkpoint-2", "checkpoint-12"]
    rotate(tmp_path, 1, None)
    assert names_in(tmp_path) == ["checkpoint-12"]

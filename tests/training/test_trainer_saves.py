"""What the trainer saves: complete folders with checksums, without secrets."""

import shutil
from pathlib import Path

import pytest
import torch
from training_runs import dataset_of, scene_row, trainer_of
from transformers.trainer_jit_checkpoint import CheckpointManager

from gemma_lisa.checkpoints.checksums import CHECKSUMS, check_checksums
from gemma_lisa.checkpoints.training_record import Record, read_stages
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, TrainingQuestions
from gemma_lisa.training.atomic_saves import remove_scraps


def test_the_last_checkpoints_are_kept_and_no_other_files(small, tmp_path):
    questions = TrainingQuestions(dataset_of([scene_row(number) for number in range(4)]), 0, 4)
    trainer = trainer_of(
        small, questions, tmp_path, max_steps=5, save_strategy="steps", save_steps=1, save_total_limit=2
    )
    trainer.record = Record("some/model", [], None)
    trainer.train()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-4", "checkpoint-5"}
    assert read_stages(tmp_path / "checkpoint-5")[-1]["steps"] == 5
    trainer.save_model()
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "trainer_state.json", "training.json"} <= names
    assert not any(name.startswith(".") for name in names)


def test_a_checkpoint_appears_when_it_is_complete(small, tmp_path, monkeypatch):
    questions = TrainingQuestions(dataset_of([scene_row(number) for number in range(4)]), 0, 4)
    trainer = trainer_of(small, questions, tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    save_rng_state = trainer._save_rng_state

    def fail_at_the_second(folder):
        if trainer.state.global_step == 2:
            raise OSError("no space left")
        save_rng_state(folder)

    monkeypatch.setattr(trainer, "_save_rng_state", fail_at_the_second)
    with pytest.raises(OSError, match="no space"):
        trainer.train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    assert (tmp_path / ".saving" / "checkpoint-2" / "model.safetensors").exists()
    remove_scraps(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_full_disk_is_reported_with_the_path_and_leaves_no_partial_checkpoint(small, tmp_path, monkeypatch):
    questions = TrainingQuestions(dataset_of([scene_row(number) for number in range(4)]), 0, 4)
    trainer = trainer_of(small, questions, tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    save = torch.save

    def fill_up(content, path, *args, **kwargs):
        if Path(path).name == "optimizer.pt" and trainer.state.global_step == 2:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 2860096 vs 2859984")
        save(content, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", fill_up)
    with pytest.raises(OSError, match=f"^{tmp_path / 'checkpoint-2'}: cannot be written") as refusal:
        trainer.train()
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    assert not list((tmp_path / ".saving").glob("*"))


def test_a_checkpoint_at_a_signal_is_complete(small, tmp_path):
    questions = TrainingQuestions(dataset_of([scene_row(number) for number in range(2)]), 0, 4)
    trainer = trainer_of(small, questions, tmp_path, max_steps=1)
    trainer.train()
    CheckpointManager(trainer).execute_jit_checkpoint()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert not (tmp_path / "checkpoint-1" / "checkpoint-is-incomplete.txt").exists()
    check_checksums(tmp_path / "checkpoint-1")


def test_only_the_best_checkpoint_is_kept_and_the_other_is_deleted_at_once(small, tmp_path, monkeypatch):
    rows = dataset_of([scene_row(number) for number in range(2)])
    trainer = trainer_of(
        small,
        TrainingQuestions(rows, 0, 4),
        tmp_path,
        evaluation=EvaluationQuestions(rows.select(range(1)), with_conversations=False),
        max_steps=2,
        save_strategy="steps",
        save_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        save_total_limit=1,
        metric_for_best_model="count",  # it never changes, so the first one is the best
    )
    deleted, delete = [], shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda path, **options: (deleted.append(Path(path)), delete(path, **options)))
    trainer.train()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-1"}
    assert tmp_path / ".removing-checkpoint-2" in deleted and tmp_path / "checkpoint-2" not in deleted


def test_saved_folders_have_checksums_and_arguments_without_the_token(small, tmp_path):
    questions = TrainingQuestions(dataset_of([scene_row(number) for number in range(4)]), 0, 4)
    trainer = trainer_of(small, questions, tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    trainer.args.hub_token = "hf_of_the_tests"
    trainer.train()
    trainer.save_model()
    for folder in (tmp_path, tmp_path / "checkpoint-1"):
        assert (folder / CHECKSUMS).is_file()
        check_checksums(folder)
        for path in (path for path in folder.iterdir() if path.is_file()):
            assert b"hf_of_the_tests" not in path.read_bytes(), path
        assert str(tmp_path).encode() not in (folder / "training_args.bin").read_bytes()
    assert trainer.args.hub_token == "hf_of_the_tests" and trainer.args.output_dir == str(tmp_path)

"""Where train.py starts: from the beginning, from a checkpoint, or not at all; and which starts are refused."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import TrainerState

from gemma_lisa import train
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.training.arguments import DataArguments
from gemma_lisa.training.resume import DeletePickleCallback, choose_start, differences, settings_of
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

SETTINGS = {"learning_rate": 0.1, "weights": "abc", "max_steps": 4, "num_train_epochs": 3.0}


@pytest.fixture
def run(tmp_path):
    """Makes the folder of a run. steps: of its checkpoints; finished: number of steps of a finished run."""

    def make(*steps, finished=None, settings=SETTINGS, command="train.py --a b"):
        stage = {"settings": settings, "command": command}
        for step in steps:
            folder = tmp_path / f"checkpoint-{step}"
            folder.mkdir()
            write(folder / "training.json", {"stages": [{**stage, "steps": step}]})
            write(folder / "trainer_state.json", {"global_step": step})
        if finished is not None:
            write(tmp_path / "training.json", {"stages": [{**stage, "steps": finished}]})
        return tmp_path

    def write(path, content):
        path.write_text(json.dumps(content))

    return make


def start_of(folder, settings=SETTINGS, command="train.py --a b", **options):
    return choose_start(folder, settings, command, **options)


def delete_undone(start):
    first = TrainerState(is_world_process_zero=True)
    DeletePickleCallback(start).on_step_begin(None, first, None)


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_an_empty_folder_starts_from_the_beginning(tmp_path):
    start = start_of(tmp_path / "not there yet")
    assert (start.checkpoint, start.is_finished, start.messages) == (None, False, [])


def test_a_start_resumes_from_the_newest_checkpoint_and_prints_it(run):
    folder = run(2, 10, 4)
    start = start_of(folder)
    assert start.checkpoint == str(folder / "checkpoint-10")
    assert start.messages == [f"resuming from step 10: {folder / 'checkpoint-10'}"]


def test_temporary_folders_of_killed_processes_are_deleted(run):
    folder = run(2)
    for name in (".saving/checkpoint-4", ".removing-checkpoint-0"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_text("half")
    (folder / ".training.json.123").write_text("half")
    assert start_of(folder).checkpoint == str(folder / "checkpoint-2")
    assert names_in(folder) == {"checkpoint-2"}


def test_a_finished_run_resumes_only_for_more_steps(run):
    folder = run(2, 4, finished=4)
    before = names_in(folder)
    start = start_of(folder)
    assert start.is_finished and start.checkpoint is None
    assert start.messages == [f"finished: this run has trained all its 4 steps in {folder}"]
    assert names_in(folder) == before
    further = start_of(folder, {**SETTINGS, "max_steps": 6})
    assert (further.is_finished, further.checkpoint) == (False, str(folder / "checkpoint-4"))


def test_a_run_with_a_checkpoint_after_its_end_is_not_finished(run):
    folder = run(4, 5, finished=4)
    assert start_of(folder).checkpoint == str(folder / "checkpoint-5")


def test_a_finished_run_without_checkpoints_cannot_be_extended(run):
    folder = run(finished=4)
    assert start_of(folder).is_finished
    with pytest.raises(ValueError, match="without checkpoints, so it has no optimizer state") as refusal:
        start_of(folder, {**SETTINGS, "max_steps": 6})
    assert f"--model {folder} --output_dir NEW" in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("finished", [None, 4])
def test_another_run_in_the_same_folder_is_refused_with_what_differs(run, finished):
    folder = run(2, 4, finished=finished)
    with pytest.raises(ValueError, match='learning_rate 0.1, not 0.2; weights "abc", not "xyz"') as refusal:
        start_of(folder, {**SETTINGS, "learning_rate": 0.2, "weights": "xyz"})
    assert "\n" not in str(refusal.value)
    assert "--fresh true" in str(refusal.value) and "checkpoint-4" in str(refusal.value)
    assert names_in(folder) >= {"checkpoint-2", "checkpoint-4"}


def test_the_length_can_grow_but_not_shrink():
    assert differences(SETTINGS, {**SETTINGS, "max_steps": 5, "num_train_epochs": 9.0, "new_option": 1}) == []
    assert differences(SETTINGS, {**SETTINGS, "max_steps": 3}) == ["max_steps 4, not 3"]


def test_only_options_that_change_the_weights_are_settings(tmp_path):
    base = ["--model", "some", "--output_dir", str(tmp_path), "--use_cpu", "true", "--dataset_options", "{}"]

    def settings(*arguments):
        model_args, data_args, args = train.parse([*base, *arguments])
        return settings_of([model_args, data_args], args, global_batch_size=args.samples_per_step)

    before = settings()
    for free in (
        *(["--save_steps", "7"], ["--logging_steps", "3"], ["--cache_features", "some", "--cache_gb", "2"]),
        *(["--eval_strategy", "epoch", "--eval_rows", "1"], ["--preview_samples", "0"]),
        *(["--dataloader_num_workers", "2"], ["--data_dir", "elsewhere"], ["--fresh", "true"], ["--max_steps", "9"]),
        ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"],  # 8 samples per optimizer step
    ):
        assert differences(before, settings(*free)) == [], free
    for name, *value in (
        *(["learning_rate", "0.5"], ["seed", "1"], ["dataset", "shapes/hard"], ["max_questions", "2"]),
        *(["lora_rank", "4"], ["trainable", "seg_projector.*"], ["ce_loss_weight", "2"], ["warmup_steps", "5"]),
        *(["lr_scheduler_type", "cosine"], ["muon_learning_rate", "0.1"], ["learn_masks", "false"], ["bf16", "true"]),
    ):
        [found] = differences(before, settings(f"--{name}", *value))
        assert found.startswith(name), found
    assert differences(before, settings("--per_device_train_batch_size", "4")) == ["global_batch_size 8, not 4"]


def settings_with(tmp_path, dataset, **facts):
    args = GemmaLisaTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True)
    return settings_of([DataArguments(dataset=dataset)], args, **facts)


def test_a_local_data_set_is_the_same_from_every_working_directory(tmp_path, monkeypatch):
    prepared = tmp_path / "x" / "data" / "prep"
    prepared.mkdir(parents=True)
    found = []
    for folder, dataset in ((tmp_path, prepared), (tmp_path / "x", prepared), (Path("/"), prepared)):
        monkeypatch.chdir(folder)
        found.append(settings_with(tmp_path, str(dataset), rows=[f"folder: 3 rows of {dataset}"]))
    monkeypatch.chdir(prepared.parent)
    found.append(settings_with(tmp_path, "prep", rows=[f"folder: 3 rows of {prepared}"]))
    assert str(tmp_path) not in json.dumps(found[2])
    assert [differences(before, now) for before in found for now in found] == [[]] * 16


def test_two_local_data_sets_of_the_same_name_are_different_settings(tmp_path):
    one, other = (settings_with(tmp_path, f"/mnt/{disk}/prep", rows=[f"3 of /mnt/{disk}/prep"]) for disk in "ab")
    assert [found.split()[0] for found in differences(one, other)] == ["dataset", "rows"]


def test_a_record_without_hashes_of_paths_still_resumes(tmp_path):
    settings = settings_with(tmp_path, "/mnt/a/prep", rows=["3 rows of /mnt/a/prep"])
    older = {**settings, "dataset": "prep", "rows": ["3 rows of prep"]}
    assert differences(older, settings) == []
    assert differences({**older, "dataset": "/mnt/a/prep"}, settings) == []
    assert differences({**older, "dataset": "other"}, settings)[0].startswith('dataset "other"')


def test_a_checkpoint_of_an_unknown_run_is_refused(run):
    folder = run(2)
    (folder / "checkpoint-2" / "training.json").unlink()
    with pytest.raises(ValueError, match="holds a run without recorded settings"):
        start_of(folder)


def test_fresh_deletes_the_checkpoints_and_lists_them(run):
    folder = run(2, 4, finished=4)
    (folder / "model.safetensors").write_text("weights")
    start = start_of(folder, {**SETTINGS, "learning_rate": 9}, fresh=True)
    assert start.checkpoint is None and not start.is_finished
    assert start.messages == [
        f"fresh: deletes training.json, checkpoint-4, checkpoint-2 in {folder} and replaces the model there; other "
        "files stay"
    ]
    assert names_in(folder) == {"model.safetensors", "training.json", "checkpoint-2", "checkpoint-4"}
    delete_undone(start)
    assert names_in(folder) == {"model.safetensors"}


def test_a_requested_checkpoint_is_used_only_by_the_first_start(run):
    folder = run(2, 4, 6, finished=6)
    options = {"command": "train.py --resume", "wanted": str(folder / "checkpoint-2")}
    start = start_of(folder, {**SETTINGS, "learning_rate": 0.2}, **options)
    assert start.checkpoint == str(folder / "checkpoint-2")
    assert start.messages == [
        f"resuming from step 2: {folder / 'checkpoint-2'}",
        "with other settings: learning_rate 0.1, not 0.2",
        f"deletes training.json, checkpoint-6, checkpoint-4 in {folder}, which are newer",
    ]
    delete_undone(start)
    assert names_in(folder) == {"checkpoint-2"}
    # Killed at step 3, and started again with the same command
    run(3, command=options["command"])
    assert start_of(folder, **options).checkpoint == str(folder / "checkpoint-3")


def test_a_checkpoint_of_another_folder_does_not_replace_a_run(run, tmp_path_factory):
    folder = run(2, 4)
    other = tmp_path_factory.mktemp("other") / "checkpoint-1"
    shutil.copytree(folder / "checkpoint-2", other)
    with pytest.raises(ValueError, match="already holds a run"):
        start_of(folder, command="another", wanted=str(other))
    assert names_in(folder) == {"checkpoint-2", "checkpoint-4"}
    assert start_of(folder / "new", command="another", wanted=str(other)).checkpoint == str(other)


def test_a_folder_that_is_not_a_checkpoint_is_refused(run):
    with pytest.raises(ValueError, match="it has no trainer_state.json"):
        start_of(run(2), command="another", wanted="no/such")


def test_fresh_with_resume_from_checkpoint_is_refused(tmp_path):
    arguments = ["--model", "some", "--output_dir", str(tmp_path), "--use_cpu", "true"]
    with pytest.raises(UsageError, match="cannot be combined"):
        train.parse([*arguments, "--fresh", "true", "--resume_from_checkpoint", "some"])

"""Where a start begins: anew, at a checkpoint, or nowhere; and what is refused, with what differs."""

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


# --- where a start begins --------------------------------------------------------------------------------------------
@pytest.fixture
def run(tmp_path):
    """Makes the folder of a run: its checkpoints by step, and how many steps it had when it was finished."""

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


def took_away(start):
    first = TrainerState(is_world_process_zero=True)
    DeletePickleCallback(start).on_step_begin(None, first, None)


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_an_empty_folder_is_begun_anew(tmp_path):
    start = start_of(tmp_path / "not there yet")
    assert (start.checkpoint, start.is_finished, start.says) == (None, False, [])


def test_a_start_goes_on_from_the_newest_checkpoint_and_says_so_in_a_line(run):
    folder = run(2, 10, 4)
    start = start_of(folder)
    assert start.checkpoint == str(folder / "checkpoint-10")
    assert start.says == [f"going on from step 10: {folder / 'checkpoint-10'}"]


def test_scraps_of_killed_processes_are_taken_away(run):
    folder = run(2)
    for name in (".saving/checkpoint-4", ".removing-checkpoint-0"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_text("half")
    (folder / ".training.json.123").write_text("half")
    assert start_of(folder).checkpoint == str(folder / "checkpoint-2")
    assert names_in(folder) == {"checkpoint-2"}


def test_a_finished_run_is_finished_and_goes_on_only_to_more_steps(run):
    folder = run(2, 4, finished=4)
    before = names_in(folder)
    start = start_of(folder)
    assert start.is_finished and start.checkpoint is None
    assert start.says == [f"finished: {folder} holds all 4 steps of this run"]
    assert names_in(folder) == before
    further = start_of(folder, {**SETTINGS, "max_steps": 6})
    assert (further.is_finished, further.checkpoint) == (False, str(folder / "checkpoint-4"))


def test_a_run_that_went_on_after_it_was_finished_is_not_finished(run):
    folder = run(4, 5, finished=4)
    assert start_of(folder).checkpoint == str(folder / "checkpoint-5")


def test_a_finished_run_without_checkpoints_does_not_go_on(run):
    folder = run(finished=4)
    assert start_of(folder).is_finished
    with pytest.raises(ValueError, match="no checkpoint to go on from"):
        start_of(folder, {**SETTINGS, "max_steps": 6})


@pytest.mark.parametrize("finished", [None, 4])
def test_another_run_in_the_same_folder_is_refused_with_what_differs(run, finished):
    folder = run(2, 4, finished=finished)
    with pytest.raises(ValueError, match='learning_rate 0.1, not 0.2; weights "abc", not "xyz"') as refusal:
        start_of(folder, {**SETTINGS, "learning_rate": 0.2, "weights": "xyz"})
    assert "\n" not in str(refusal.value)
    assert "--fresh true" in str(refusal.value) and "checkpoint-4" in str(refusal.value)
    assert names_in(folder) >= {"checkpoint-2", "checkpoint-4"}


def test_what_is_trained_may_grow_and_not_shrink():
    assert differences(SETTINGS, {**SETTINGS, "max_steps": 5, "num_train_epochs": 9.0, "new_option": 1}) == []
    assert differences(SETTINGS, {**SETTINGS, "max_steps": 3}) == ["max_steps 4, not 3"]


def test_settings_are_what_decides_the_weights_and_nothing_else(tmp_path):
    base = ["--model", "some", "--output_dir", str(tmp_path), "--use_cpu", "true", "--dataset_options", "{}"]

    def settings(*arguments):
        model_args, data_args, args = train.parse([*base, *arguments])
        return settings_of([model_args, data_args], args, global_batch_size=args.rows_a_step)

    before = settings()
    for free in (
        *(["--save_steps", "7"], ["--logging_steps", "3"]),
        *(["--eval_strategy", "epoch", "--eval_rows", "1"], ["--preview_samples", "0"]),
        *(["--dataloader_num_workers", "2"], ["--data_dir", "elsewhere"], ["--fresh", "true"], ["--max_steps", "9"]),
        ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"],  # of 8 rows a step
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


def test_a_local_data_set_is_the_same_from_every_working_folder(tmp_path, monkeypatch):
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


def test_two_local_data_sets_of_one_name_are_two_runs(tmp_path):
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
    with pytest.raises(ValueError, match="does not say what it was made with"):
        start_of(folder)


def test_fresh_takes_the_checkpoints_away_and_says_which(run):
    folder = run(2, 4, finished=4)
    (folder / "model.safetensors").write_text("weights")
    start = start_of(folder, {**SETTINGS, "learning_rate": 9}, fresh=True)
    assert start.checkpoint is None and not start.is_finished
    assert start.says == [
        f"fresh: takes training.json, checkpoint-4, checkpoint-2 from {folder} and replaces its weights and "
        "configuration; its other files stay"
    ]
    assert names_in(folder) == {"model.safetensors", "training.json", "checkpoint-2", "checkpoint-4"}
    took_away(start)
    assert names_in(folder) == {"model.safetensors"}


def test_a_checkpoint_that_is_asked_for_is_gone_back_to_once(run):
    folder = run(2, 4, 6, finished=6)
    options = {"command": "train.py --resume", "wanted": str(folder / "checkpoint-2")}
    start = start_of(folder, {**SETTINGS, "learning_rate": 0.2}, **options)
    assert start.checkpoint == str(folder / "checkpoint-2")
    assert start.says == [
        f"going on from step 2: {folder / 'checkpoint-2'}",
        "with other settings: learning_rate 0.1, not 0.2",
        f"takes training.json, checkpoint-6, checkpoint-4 from {folder}, which came later",
    ]
    took_away(start)
    assert names_in(folder) == {"checkpoint-2"}
    # Killed at step 3, and started by the same command again
    run(3, command=options["command"])
    assert start_of(folder, **options).checkpoint == str(folder / "checkpoint-3")


def test_a_checkpoint_of_another_folder_takes_nothing_from_a_run(run, tmp_path_factory):
    folder = run(2, 4)
    other = tmp_path_factory.mktemp("other") / "checkpoint-1"
    shutil.copytree(folder / "checkpoint-2", other)
    with pytest.raises(ValueError, match="holds a run of its own"):
        start_of(folder, command="another", wanted=str(other))
    assert names_in(folder) == {"checkpoint-2", "checkpoint-4"}
    assert start_of(folder / "new", command="another", wanted=str(other)).checkpoint == str(other)


def test_a_folder_that_is_no_checkpoint_is_not_gone_back_to(run):
    with pytest.raises(ValueError, match="holds no trainer_state.json"):
        start_of(run(2), command="another", wanted="no/such")


def test_fresh_and_a_checkpoint_do_not_go_together(tmp_path):
    arguments = ["--model", "some", "--output_dir", str(tmp_path), "--use_cpu", "true"]
    with pytest.raises(UsageError, match="choose one"):
        train.parse([*arguments, "--fresh", "true", "--resume_from_checkpoint", "some"])

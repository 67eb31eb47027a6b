"""The training record describes the run and contains no secrets and no absolute local paths."""

import json
import re

import pytest
import torch
from transformers import TrainerState

from gemma_lisa import train
from gemma_lisa.checkpoints import training_record
from gemma_lisa.checkpoints.training_record import Record, circumstances, command_of, commit, leakage_of, read_stages
from gemma_lisa.safety.secret_names import secrets_of
from gemma_lisa.training.arguments import DataArguments, ModelArguments
from gemma_lisa.training.resume import choose_start, differences, settings_of
from gemma_lisa.training.run_lock import locked
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

TOKEN = "hf_of_the_tests"
HOME = "/home/alice"


def test_a_record_masks_secrets_and_shortens_paths_in_all_stages(tmp_path):
    earlier = {"command": f"train.py --hub_token {TOKEN} --model {HOME}/models/start", "steps": 1}
    (tmp_path / "training.json").write_text(json.dumps({"stages": [earlier]}))
    arguments = ["--model", str(tmp_path), "--hub_token", TOKEN, "--data_dir", f"{HOME}/data/coco"]
    facts = {"data": [f"coco: 3 rows of {HOME}/data/coco ({TOKEN})"], "settings": {"options": {"token": "abc"}}}
    content = Record(str(tmp_path), arguments, None, **facts).content(TrainerState(log_history=[{"loss": 1.0}]))
    text = json.dumps(content)
    assert not [hidden for hidden in (TOKEN, HOME, str(tmp_path), "abc") if hidden in text]
    first, this = content["stages"]
    assert first == {"command": "train.py --hub_token '***' --model start", "steps": 1}
    assert this["command"] == f"train.py --model {tmp_path.name} --hub_token '***' --data_dir coco"
    assert this["data"] == ["coco: 3 rows of coco (***)"] and this["history"] == [{"loss": 1.0}]


def test_values_of_the_environment_of_a_recipe_are_masked(tmp_path):
    (tmp_path / "recipe.yaml").write_text("env:\n  LOGIN: correct-horse\nmodel: x\n")
    arguments = ["--config", str(tmp_path / "recipe.yaml")]
    record = Record("org/nothing", arguments, None, data=["folder: login correct-horse"], settings={})
    assert record.stage["data"] == ["folder: login ***"]
    assert "correct-horse" in secrets_of(arguments)


def test_a_run_is_recognized_by_its_redacted_record(tmp_path):
    options = {"a": {"weight": 1, "sets": {"folder": {"data_dir": f"{HOME}/data/a", "password": "abc"}}}}
    args = GemmaLisaTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    parts = [ModelArguments(model="m"), DataArguments(mixture=options)]
    settings = settings_of(parts, args, (), weights="abc")
    assert HOME not in json.dumps(settings) and '"abc"}' not in json.dumps(settings["mixture"])
    older = {**settings, "mixture": options}  # recorded before paths were shortened
    assert differences(older, settings) == []
    arguments = ["--data_dir", f"{HOME}/data"]
    stage = {"settings": older, "command": f"train.py --data_dir {HOME}/data", "steps": 2}
    (tmp_path / "checkpoint-2").mkdir()
    for name, content in (("training.json", {"stages": [stage]}), ("trainer_state.json", {"global_step": 2})):
        (tmp_path / "checkpoint-2" / name).write_text(json.dumps(content))
    wanted = str(tmp_path / "checkpoint-2")
    assert choose_start(tmp_path, settings, command_of(arguments), wanted).messages == [
        f"resuming from step 2: {wanted}"
    ]


def write_record(folder, *stages):
    folder.mkdir(exist_ok=True)
    (folder / "training.json").write_text(json.dumps({"stages": stages}))
    return str(folder)


def test_circumstances_have_commit_date_and_versions(monkeypatch):
    found = circumstances()
    assert set(found["versions"]) == {"torch", "transformers", "datasets"}
    assert found["versions"]["torch"] == torch.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["date"])
    assert found["commit"] == commit()
    monkeypatch.setattr(training_record.shutil, "which", lambda name: None)
    assert commit() == "none"


def test_outside_a_checkout_the_commit_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(training_record, "__file__", str(tmp_path / "a" / "b.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() == "none"


@pytest.mark.parametrize("content", ["", "[]", '{"no": "stages"}', '{"stages": [1]}'])
def test_a_missing_record_has_no_stages_and_a_damaged_record_is_an_error(tmp_path, content):
    assert read_stages(tmp_path) == []
    (tmp_path / "training.json").write_text(content)
    with pytest.raises(ValueError, match="training.json: the training record cannot be read"):
        read_stages(tmp_path)


def test_keys_of_older_records_are_renamed(tmp_path):
    stage = {"rows_a_step": 32, "settings": {"rows_a_step": 32, "dialogue_share": 0.5}}
    expected = {"global_batch_size": 32, "settings": {"global_batch_size": 32, "conversation_share": 0.5}}
    folder = write_record(tmp_path / "older", stage, {"command": "train.py"})
    assert read_stages(folder) == [expected, {"command": "train.py"}]
    assert Record(folder, [], None, global_batch_size=8).stages[0] == expected
    settings = {"global_batch_size": 32, "conversation_share": 0.5}
    assert differences(read_stages(folder)[0]["settings"], settings) == []
    assert differences(read_stages(folder)[0]["settings"], {**settings, "global_batch_size": 8}) == [
        "global_batch_size 32, not 8"
    ]


def test_a_resumed_run_continues_its_own_stage_and_keeps_earlier_stages(tmp_path):
    start = write_record(tmp_path / "start", {"command": "train.py --config words", "steps": 9})
    begun = {
        "command": "train.py --seed 1",
        "commit": "abc",
        "date": "2026-01-01",
        "seconds": 60.0,
        "cpu_seconds": 50.0,
    }
    checkpoint = write_record(tmp_path / "checkpoint-2", {"command": "first"}, {**begun, "allow_leakage": True})
    record = Record(start, ["--seed", "1", "--resume"], checkpoint, seed=1, allow_leakage=False)
    first, stage = record.content(TrainerState(global_step=3))["stages"]
    assert first == {"command": "first"} and stage["steps"] == 3 and stage["seed"] == 1
    assert stage["resumed"] == [begun] and stage["command"] == "train.py --seed 1 --resume"
    assert stage["seconds"] >= 60 and stage["cpu_seconds"] >= 50 and stage["allow_leakage"] is True


def test_leakage_is_unknown_if_the_record_of_the_model_is_unknown(monkeypatch):
    monkeypatch.setattr(training_record, "stages_of", lambda model: None)
    assert Record("org/model", [], None, allow_leakage=False).stage["allow_leakage"] is None
    assert Record("org/model", [], None, allow_leakage=True).stage["allow_leakage"] is True


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([], None),
        ([{"command": "a"}], None),
        ([{"allow_leakage": False, "held_out": ["a", "b"]}, {"allow_leakage": None}], None),
        (
            [{"allow_leakage": False, "held_out": ["b", "a"]}, {"allow_leakage": False, "held_out": ["b", "c"]}],
            {"allow_leakage": False, "held_out": ["b"]},
        ),
        (
            [{"allow_leakage": True, "held_out": None}, {"allow_leakage": False, "held_out": ["b"]}],
            {"allow_leakage": True, "held_out": []},
        ),
    ],
)
def test_held_out_splits_are_those_that_every_stage_held_out(tmp_path, stages, expected):
    assert leakage_of(write_record(tmp_path, *stages)) == expected


def test_a_second_run_in_the_same_folder_is_an_error_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "load_model", None)
    arguments = ["--model", "outputs/start", "--output_dir", str(tmp_path), "--use_cpu", "true"]
    with locked(tmp_path), pytest.raises(ValueError, match=r"the run of process \d+ on .*, started 20.* is writing"):
        train.main(arguments)
    with pytest.raises(TypeError, match="NoneType"):  # the lock was released, and a run that fails releases it
        train.main(arguments)
    assert not list(tmp_path.iterdir())

"""The record of a training holds what ran, and neither a secret nor an absolute local path."""

import json

import pytest
from transformers import TrainerState

from gemma_lisa import train
from gemma_lisa.checkpoints.training_record import Record, command_of
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


def test_the_values_of_a_recipes_environment_are_in_no_record(tmp_path):
    (tmp_path / "recipe.yaml").write_text("env:\n  LOGIN: correct-horse\nmodel: x\n")
    arguments = ["--config", str(tmp_path / "recipe.yaml")]
    record = Record("org/nothing", arguments, None, data=["folder: login correct-horse"], settings={})
    assert record.stage["data"] == ["folder: login ***"]
    assert "correct-horse" in secrets_of(arguments)


def test_a_run_is_recognised_again_by_its_redacted_record(tmp_path):
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
    assert choose_start(tmp_path, settings, command_of(arguments), wanted).says == [f"going on from step 2: {wanted}"]


def test_a_second_training_in_one_folder_is_refused_before_the_model_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "load_model", None)
    arguments = ["--model", "outputs/start", "--output_dir", str(tmp_path), "--use_cpu", "true"]
    with locked(tmp_path), pytest.raises(ValueError, match=r"the run of process \d+ on .*, started 20.* is writing"):
        train.main(arguments)
    with pytest.raises(TypeError, match="NoneType"):  # free again, and left free by what fails
        train.main(arguments)
    assert not list(tmp_path.iterdir())

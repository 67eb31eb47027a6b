"""The stages of the model and of the resumed checkpoint come first in a training record, also from the Hub."""

import json

import pytest
from huggingface_hub.errors import EntryNotFoundError
from transformers import TrainerState

from gemma_lisa.checkpoints import training_record
from gemma_lisa.checkpoints.training_record import Record, leakage_of, read_stages


def test_a_record_continues_the_record_of_the_model_and_of_the_resumed_checkpoint(tmp_path):
    state = TrainerState(global_step=3, log_history=[{"step": 3, "loss": 2.0}])

    def write(folder, record):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "training.json").write_text(json.dumps(record.content(state)))
        return str(tmp_path / folder)

    first = write("first", Record("some/model", ["--seed", "1"], None, allow_leakage=True, held_out=[]))
    begun = write("begun", Record(first, ["--output_dir", "a folder"], None, allow_leakage=False, held_out=["a", "b"]))
    done = write("done", Record(first, ["--resume"], begun, allow_leakage=False, held_out=["b"]))
    assert [stage["command"] for stage in read_stages(done)] == ["train.py --seed 1", "train.py --resume"]
    [earlier] = read_stages(done)[1]["resumed"]
    assert earlier["command"] == "train.py --output_dir 'a folder'"
    assert read_stages(done)[1]["steps"] == 3 and read_stages(done)[1]["history"] == state.log_history
    assert leakage_of(done) == {"allow_leakage": True, "held_out": []}
    later = write("later", Record("some/model", [], begun, allow_leakage=False, held_out=["b", "c"]))
    assert leakage_of(later)["allow_leakage"] and len(read_stages(later)) == 2  # resumed: the stages it began with stay


def test_the_record_of_a_model_on_the_hub_comes_first(tmp_path, monkeypatch, caplog):
    stored = tmp_path / "models--org--base"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "main").write_text("c0ffee")
    (stored / "snapshots" / "c0ffee").mkdir(parents=True)
    stage = {"command": "train.py", "allow_leakage": True, "held_out": ["refcoco"]}
    (stored / "snapshots" / "c0ffee" / "training.json").write_text(json.dumps({"stages": [stage]}))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert leakage_of("org/base") == {"allow_leakage": True, "held_out": ["refcoco"]}
    assert [stage["command"] for stage in Record("org/base", [], None).stages] == ["train.py"]
    assert leakage_of("org/another") is None and "org/another: the Hub cannot be reached" in caplog.text
    assert Record("org/another", [], None, allow_leakage=False).stage["allow_leakage"] is None

    (stored / ".no_exist" / "c0ffee").mkdir(parents=True)
    (stored / ".no_exist" / "c0ffee" / "training.json").touch()
    (stored / "snapshots" / "c0ffee" / "training.json").unlink()
    assert training_record.stages_of("org/base") == []  # cached as not existing

    def no_record(name, file):
        raise EntryNotFoundError(f"{name} has no {file}")

    monkeypatch.setattr(training_record, "hf_hub_download", no_record)
    assert Record("org/base", [], None, allow_leakage=False).stage["allow_leakage"] is False


def test_leakage_is_unknown_without_a_record_that_states_it(tmp_path):
    assert leakage_of(tmp_path) is None
    (tmp_path / "training.json").write_text('{"stages": [{"command": "old"}]}')
    assert leakage_of(tmp_path) is None
    (tmp_path / "training.json").write_text("[]")
    with pytest.raises(ValueError, match="training.json: the training record cannot be read"):
        read_stages(tmp_path)

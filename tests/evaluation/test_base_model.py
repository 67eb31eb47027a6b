"""The base model of a training is found in its record, and the verdict follows from the interval."""

import json

import pytest

from gemma_lisa.checkpoints.adapter_base import Base, fingerprint, write_base
from gemma_lisa.evaluation import base_model
from gemma_lisa.evaluation.base_model import recorded_base, summary, verdict
from gemma_lisa.safety.errors import UsageError

BETTER = {"metric": "gIoU", "a": 0.5, "b": 0.71, "difference": 0.21, "low": 0.125, "high": 0.3}
SAME = {"metric": "gIoU", "a": 0.9, "b": 0.89, "difference": -0.01, "low": -0.02, "high": 0.0}
WORSE = {"metric": "gIoU", "a": 0.9, "b": 0.5, "difference": -0.4, "low": -0.5, "high": -0.3}


def trained(folder, command, weights=None):
    folder.mkdir()
    stage = {"command": command, "settings": {"weights": weights}}
    (folder / "training.json").write_text(json.dumps({"stages": [{"command": "train.py --model old"}, stage]}))
    return str(folder)


def test_the_base_is_the_model_of_the_last_stage(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "start").symlink_to(checkpoint)
    weights = fingerprint(checkpoint)
    assert recorded_base(trained(tmp_path / "a", "train.py --model start --seed 0", weights), None) == "start"
    assert recorded_base(trained(tmp_path / "b", "train.py --seed 0 --model=start", weights), None) == "start"
    changed = trained(tmp_path / "c", "train.py --model start", "0" * 64)
    with pytest.raises(UsageError, match="start was changed since the training started .* --base MODEL"):
        recorded_base(changed, None)


def test_the_base_of_an_adapter_is_its_own(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    write_base(tmp_path, Base(str(tmp_path), None, "x"))
    assert recorded_base(str(tmp_path), None) == str(tmp_path)
    assert recorded_base("given", str(tmp_path)) == "given"
    write_base(tmp_path, Base("../none", None, "x", "make base"))
    with pytest.raises(ValueError, match=r"is not at .*none; make it with `make base`\.$"):
        recorded_base(str(tmp_path), None)


@pytest.mark.parametrize(
    ("command", "message"),
    [("train.py --config a.yaml", "does not say which model"), ("train.py --model gone", "gone, does not exist here")],
)
def test_an_unknown_base_is_asked_for(tmp_path, command, message):
    with pytest.raises(UsageError, match=rf"{message}.*Give the model with --base MODEL"):
        recorded_base(trained(tmp_path / "a", command), None)


def test_a_difference_is_a_change_only_if_its_interval_excludes_0():
    assert verdict(BETTER) == "better by 0.21 (95% CI: +0.12 to +0.30)"
    assert verdict(WORSE) == "worse by 0.40 (95% CI: -0.50 to -0.30)"
    assert verdict(SAME) == "unchanged" and verdict(None) == "no common score"


def test_the_last_line_is_about_yours_and_elsewhere():
    lines = summary([("folder test", False, BETTER), ("shapes test", True, SAME), ("x test", True, SAME)])
    assert lines[0].startswith("  folder test (yours): gIoU 0.5000 -> 0.7100, better by 0.21")
    assert lines[1] == "  shapes test (retained): gIoU 0.9000 -> 0.8900, unchanged"
    assert lines[-1] == "better by 0.21 (95% CI: +0.12 to +0.30) on yours, unchanged elsewhere"
    assert summary([("folder test", False, SAME)])[-1] == "unchanged on yours"


def test_the_main_score_is_the_first_that_both_have(monkeypatch):
    of = {"a": 0.5, "b": 0.75, "difference": 0.25, "low": 0.1, "high": 0.4}
    found = {"gIoU": {**of, "difference": None}, "T-acc": of, "answers_right": of}
    monkeypatch.setattr(base_model, "paired_differences", lambda *_: found)
    assert base_model.difference([], [], "generate") == {**of, "metric": "answers_right"}
    monkeypatch.setattr(base_model, "paired_differences", lambda *_: {})
    assert base_model.difference([], [], "generate") is None


def test_a_recorded_folder_that_is_gone_is_not_taken_for_a_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(base_model, "stages_of", lambda _: [{"command": "train.py --model outputs/example/first"}])
    with pytest.raises(UsageError, match="outputs/example/first, does not exist here"):
        base_model.recorded_base(str(tmp_path), None)

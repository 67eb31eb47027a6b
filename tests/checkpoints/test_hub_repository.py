"""A Hub repository contains the model, its card and records, and nothing else of the run's folder."""

import json
from pathlib import Path

import pytest

from gemma_lisa.checkpoints.hub_repository import complete, files_of, link, shorten_files, stage
from gemma_lisa.checkpoints.model_card import Facts

TOKEN = "hf_of_the_tests"
HOME = "/home/alice"


@pytest.fixture
def saved(tmp_path):
    """A folder of a training run, with short texts in place of weights."""
    folder = tmp_path / "run"
    (folder / "checkpoint-1").mkdir(parents=True)
    for name in ("model.safetensors", "SHA256SUMS", "modeling_gemma_lisa.py", "chat_template.jinja"):
        (folder / name).write_text(name)
    for name in ("optimizer.pt", "training_args.bin", "curve.png", "results.samples.jsonl", "checkpoint-1/config.json"):
        (folder / name).write_text("state")
    (folder / "config.json").write_text(json.dumps({"_name_or_path": f"{HOME}/models/start"}))
    (folder / "trainer_state.json").write_text("{}")
    return folder


def test_only_files_of_the_model_are_staged_and_the_others_are_added(saved, tmp_path):
    stage(saved, tmp_path / "staged", Facts("org/name", stages=[{"command": "train.py", "steps": 1}]))
    assert {path.as_posix() for path in files_of(tmp_path / "staged")} == {
        *("model.safetensors", "SHA256SUMS", "modeling_gemma_lisa.py", "chat_template.jinja", "config.json"),
        *("README.md", "NOTICE", "handler.py", "requirements.txt", "training.json"),
    }
    assert (tmp_path / "staged" / "model.safetensors").samefile(saved / "model.safetensors")


def test_shortening_a_linked_file_does_not_change_the_original(saved, tmp_path):
    stage(saved, tmp_path / "staged", Facts("org/name"))
    assert json.loads((tmp_path / "staged" / "config.json").read_text()) == {"_name_or_path": "start"}
    assert json.loads((saved / "config.json").read_text()) == {"_name_or_path": f"{HOME}/models/start"}
    shorten_files(saved)
    assert json.loads((saved / "config.json").read_text()) == {"_name_or_path": "start"}


def test_a_folder_without_weights_is_an_error(saved, tmp_path):
    (saved / "model.safetensors").unlink()
    with pytest.raises(
        ValueError, match="run: no .safetensors file. For sharded weights .* run scripts/export.py first"
    ):
        stage(saved, tmp_path / "staged", Facts("org/name"))
    assert not (tmp_path / "staged").exists()


@pytest.mark.parametrize("name", ["config.json", "training.json"])
def test_a_results_file_with_the_name_of_a_model_file_is_an_error(saved, name):
    with pytest.raises(ValueError, match=f"{name}: a results file with this name would overwrite a file of the model"):
        complete(saved, Facts("org/name", results={name: {}}))


def test_a_file_system_without_links_gets_a_copy(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError("no links here")

    (tmp_path / "a").write_text("content")
    monkeypatch.setattr("os.link", refuse)
    link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "content" and not (tmp_path / "b").samefile(tmp_path / "a")


def test_hidden_files_and_caches_are_not_part_of_a_repository(tmp_path):
    for name in ("a.txt", "b/c.txt", ".git/config", "b/.hidden", "__pycache__/a.pyc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert files_of(tmp_path) == [Path("a.txt"), Path("b/c.txt")]


def test_secrets_and_local_paths_of_older_records_are_not_published(tmp_path):
    stage = {"command": f"train.py --hub_token {TOKEN} --output_dir {HOME}/runs/a", "steps": 1}
    result = {"dataset": "shapes", "split": "test", "protocol": "generate", "model": f"{HOME}/runs/a"}
    result |= {"scores": {"count": 1}, "dataset_options": {"data_dir": f"{HOME}/data/x", "token": "abc"}}
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": f"{HOME}/models/start"}))
    complete(tmp_path, Facts("org/name", stages=[stage], results={"results.json": result}))
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        text = path.read_text()
        assert TOKEN not in text and HOME not in text and '"abc"' not in text, path
    assert json.loads((tmp_path / "config.json").read_text()) == {"_name_or_path": "start"}
    assert json.loads((tmp_path / "results.json").read_text())["model"] == "a"

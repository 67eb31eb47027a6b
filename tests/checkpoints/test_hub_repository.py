"""A repository holds the model, what belongs beside it, and nothing else of the folder it was saved in."""

import json
from pathlib import Path

import pytest

from gemma_lisa.checkpoints.hub_repository import complete, files_of, link, shorten_files, stage
from gemma_lisa.checkpoints.model_card import Facts

TOKEN = "hf_of_the_tests"
HOME = "/home/alice"


@pytest.fixture
def saved(tmp_path):
    """A folder as a training leaves it, with pieces of files for weights."""
    folder = tmp_path / "run"
    (folder / "checkpoint-1").mkdir(parents=True)
    for name in ("model.safetensors", "SHA256SUMS", "modeling_gemma_lisa.py", "chat_template.jinja"):
        (folder / name).write_text(name)
    for name in ("optimizer.pt", "training_args.bin", "curve.png", "results.samples.jsonl", "checkpoint-1/config.json"):
        (folder / name).write_text("state")
    (folder / "config.json").write_text(json.dumps({"_name_or_path": f"{HOME}/models/start"}))
    (folder / "trainer_state.json").write_text("{}")
    return folder


def test_of_a_saved_folder_the_models_own_files_are_staged_and_completed(saved, tmp_path):
    stage(saved, tmp_path / "staged", Facts("org/name", stages=[{"command": "train.py", "steps": 1}]))
    assert {path.as_posix() for path in files_of(tmp_path / "staged")} == {
        *("model.safetensors", "SHA256SUMS", "modeling_gemma_lisa.py", "chat_template.jinja", "config.json"),
        *("README.md", "NOTICE", "handler.py", "requirements.txt", "training.json"),
    }
    assert (tmp_path / "staged" / "model.safetensors").samefile(saved / "model.safetensors")


def test_a_file_that_is_shortened_leaves_the_one_it_was_linked_to(saved, tmp_path):
    stage(saved, tmp_path / "staged", Facts("org/name"))
    assert json.loads((tmp_path / "staged" / "config.json").read_text()) == {"_name_or_path": "start"}
    assert json.loads((saved / "config.json").read_text()) == {"_name_or_path": f"{HOME}/models/start"}
    shorten_files(saved)
    assert json.loads((saved / "config.json").read_text()) == {"_name_or_path": "start"}


def test_a_folder_without_weights_is_no_model(saved, tmp_path):
    (saved / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no safetensors; scripts/export.py puts an engine's pieces together"):
        stage(saved, tmp_path / "staged", Facts("org/name"))
    assert not (tmp_path / "staged").exists()


@pytest.mark.parametrize("name", ["config.json", "training.json"])
def test_a_results_file_does_not_replace_the_models_own(saved, name):
    with pytest.raises(ValueError, match=f"{name}: a results file of this name would overwrite the model's own"):
        complete(saved, Facts("org/name", results={name: {}}))


def test_a_disc_without_links_gets_a_copy(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError("no links here")

    (tmp_path / "a").write_text("content")
    monkeypatch.setattr("os.link", refuse)
    link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "content" and not (tmp_path / "b").samefile(tmp_path / "a")


def test_hidden_files_and_caches_are_not_of_a_repository(tmp_path):
    for name in ("a.txt", "b/c.txt", ".git/config", "b/.hidden", "__pycache__/a.pyc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert files_of(tmp_path) == [Path("a.txt"), Path("b/c.txt")]


def test_what_older_records_and_results_hold_is_not_published(tmp_path):
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

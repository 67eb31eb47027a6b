"""A training pushes complete repositories while it runs."""

import json
from pathlib import Path

import hub_server
import pytest

from gemma_lisa.checkpoints.adapter_base import identify
from gemma_lisa.checkpoints.hub_repository import files_of
from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.checkpoints.lora import add_lora
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.training.trainer import GemmaLisaTrainer
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

ROOT = Path(__file__).resolve().parents[2]


def train(server, folders, tmp_path, *options, token=hub_server.TOKEN, config="configs/shapes.yaml"):
    sizes = {"image_size": 32, "train_rows": 8, "validation_rows": 2, "test_rows": 2}
    command = ["train.py", "--config", config, "--model", folders / "model"]
    command += ["--output_dir", tmp_path / "run", "--dataset_options", json.dumps(sizes), "--use_cpu", "true"]
    command += ["--max_steps", 2, "--save_strategy", "steps", "--save_steps", 1, "--save_total_limit", 1]
    command += ["--eval_strategy", "no", "--preview_samples", 0, "--per_device_train_batch_size", 2]
    command += ["--push_to_hub", "true", "--hub_model_id", "org/trained", *options]
    return hub_server.python(server, tmp_path / "home", *command, token=token)


@pytest.mark.slow
def test_training_pushes_complete_repositories(server, folders, tmp_path, monkeypatch):
    done = train(server, folders, tmp_path, "--hub_always_push", "true")
    assert done.returncode == 0, done.stderr
    commits = server.repositories["org/trained"].commits
    messages = ["initial commit", "Training in progress, step 1", "Training in progress, step 2", "Model save"]
    assert [commit.message for commit in commits] == messages
    names = {path.as_posix() for path in files_of(folders / "whole") if path.parts[0] != "examples"}
    for commit in commits[1:]:
        assert set(commit.files) == {".gitattributes", "training.json", *names}
        assert b"license: apache-2.0" in commit.files["README.md"] and b"train.py --config" in commit.files["README.md"]
        assert b'model="org/trained"' in commit.files["README.md"]
    one, two, end = (commit.files["model.safetensors"] for commit in commits[1:])
    assert one != two == end
    assert json.loads(commits[1].files["training.json"])["stages"][0]["steps"] == 1
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    assert not (tmp_path / "run" / "README.md").exists()

    # The repository opens by its name, with its own code
    for name, value in hub_server.environment(server, tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    load = "from transformers import pipeline; from PIL import Image; "
    load += (
        "print(pipeline(model='org/trained', trust_remote_code=True)(Image.new('RGB', (9, 7)), 'a circle')['complete'])"
    )
    opened = hub_server.python(server, tmp_path / "home", "-c", load)
    assert opened.returncode == 0 and opened.stdout.strip() in ("True", "False"), opened.stderr


@pytest.mark.slow
def test_the_last_checkpoint_can_be_pushed_with_its_state(server, folders, tmp_path):
    done = train(server, folders, tmp_path, "--hub_always_push", "true", "--hub_strategy", "checkpoint")
    assert done.returncode == 0, done.stderr
    files = server.repositories["org/trained"].commits[2].files
    assert {"last-checkpoint/optimizer.pt", "last-checkpoint/trainer_state.json", "model.safetensors"} <= set(files)
    assert files["last-checkpoint/model.safetensors"] == files["model.safetensors"]
    assert json.loads(files["last-checkpoint/trainer_state.json"])["global_step"] == 2


@pytest.mark.slow
def test_every_checkpoint_can_be_kept_on_the_hub(server, folders, tmp_path):
    done = train(server, folders, tmp_path, "--hub_always_push", "true", "--hub_strategy", "all_checkpoints")
    assert done.returncode == 0, done.stderr
    files = server.repositories["org/trained"].commits[-1].files
    for number in (1, 2):
        state = json.loads(files[f"checkpoint-{number}/trainer_state.json"])
        assert state["global_step"] == number and f"checkpoint-{number}/optimizer.pt" in files
    assert files["checkpoint-1/model.safetensors"] != files["checkpoint-2/model.safetensors"]
    assert files["checkpoint-2/model.safetensors"] == files["model.safetensors"]


@pytest.mark.slow
def test_the_final_model_alone_can_be_pushed(server, folders, tmp_path):
    done = train(server, folders, tmp_path, "--hub_strategy", "end")
    assert done.returncode == 0, done.stderr
    commits = server.repositories["org/trained"].commits
    assert [commit.message for commit in commits] == ["initial commit", "Model save"]
    assert json.loads(commits[1].files["training.json"])["stages"][0]["steps"] == 2


@pytest.mark.slow
def test_a_failed_push_does_not_stop_the_training_and_the_last_one_is_reported(server, folders, tmp_path):
    server.break_after = 100_000
    done = train(server, folders, tmp_path, "--max_steps", 1)
    assert "a push to the Hub failed" in done.stderr and done.returncode == 1
    assert [commit.message for commit in server.repositories["org/trained"].commits] == ["initial commit"]
    assert (tmp_path / "run" / "model.safetensors").is_file() and (tmp_path / "run" / "checkpoint-1").is_dir()


def test_pushing_an_adapter_is_refused(folders, tmp_path):
    model, processor = load_checkpoint(folders / "model")
    model = add_lora(model, rank=2, base=identify(folders / "model"))
    arguments = GemmaLisaTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, push_to_hub=True, hub_model_id="org/adapter"
    )
    with pytest.raises(UsageError, match="push_to_hub is not supported for an adapter. Merge it"):
        GemmaLisaTrainer(model=model, args=arguments, data_collator=GemmaLisaCollator(processor), train_dataset=[{}])


@pytest.mark.slow
@pytest.mark.parametrize("place", ["command line", "in one word", "recipe"])
def test_a_push_has_no_token_and_no_local_path(server, folders, tmp_path, place):
    options = {"command line": ["--hub_token", hub_server.TOKEN], "in one word": [f"--hub_token={hub_server.TOKEN}"]}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text((ROOT / "configs/shapes.yaml").read_text())
    if place == "recipe":
        recipe.write_text(f"{recipe.read_text()}\nhub_token: {hub_server.TOKEN}\n")
    more = ["--hub_always_push", "true", "--hub_strategy", "all_checkpoints", "--max_steps", 1]
    done = train(server, folders, tmp_path, *options.get(place, []), *more, token=None, config=recipe)
    assert done.returncode == 0, done.stderr
    files = server.repositories["org/trained"].commits[-1].files
    assert {"checkpoint-1/training_args.bin", "checkpoint-1/training.json", "training.json", "README.md"} <= set(files)
    for name, content in files.items():
        for secret in (hub_server.TOKEN, str(tmp_path), str(ROOT), str(Path.home()) + "/"):
            assert secret.encode() not in content, (name, secret)
    for path in (path for path in (tmp_path / "run").rglob("*") if path.is_file()):
        assert hub_server.TOKEN.encode() not in path.read_bytes(), path

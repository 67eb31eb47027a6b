"""What goes to the Hub, against a server that speaks its calls: one commit or none, and it loads back the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hub_server
import pytest
import torch
from huggingface_hub import ModelInfo

from gemma_lisa.checkpoints.adapter_base import identify
from gemma_lisa.checkpoints.hub_repository import Facts, card, commit_folder, files_of
from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.checkpoints.lora import add_lora
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.scripts import export
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.scripts.publish import check_access, check_loading
from gemma_lisa.training.trainer import GemmaLisaTrainer
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

ROOT = Path(export.__file__).parents[1]
PUSH = "import sys; from pathlib import Path; from gemma_lisa.scripts.publish import push; "
PUSH += "print(push(Path(sys.argv[1]), sys.argv[2], private=len(sys.argv) > 3))"


@pytest.fixture
def server():
    with hub_server.serve() as found:
        yield found


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two exports of a small random model: its weights in several files, and in one."""
    at = tmp_path_factory.mktemp("folders")
    for part in build_tiny(image_size=32):
        part.save_pretrained(at / "model")
    question = ["--examples", str(export.SCENE), "a circle"]
    for name, size in (("cut", "1MB"), ("whole", "5GB")):
        export.main(["--model", str(at / "model"), "--output", str(at / name), "--max_shard_size", size, *question])
    return at


def python(server, home, *arguments, token=hub_server.TOKEN):
    """Another Python, to which the server is the Hub."""
    environment = {**os.environ, **hub_server.environment(server, home, token)}
    if token is None:
        environment.pop("HF_TOKEN", None)
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)


def contents(folder):
    return {path.as_posix(): (folder / path).read_bytes() for path in files_of(folder)}


def one_line(done):
    """What a program said that failed with exit code 1, and nothing else."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


@pytest.mark.slow
def test_export_pushes_one_commit_that_loads_back_with_the_same_masks(server, tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = ["scripts/export.py", "--model", EXAMPLE, "--output", out, "--results", EXAMPLE / "easy.json"]
    done = python(server, tmp_path / "home", *command, "--push", "org/shapes-tiny")
    assert done.returncode == 0, done.stderr
    repository = server.repositories["org/shapes-tiny"]
    first, pushed = repository.commits
    assert done.stdout.splitlines()[-1] == f"pushed: {server.url}/org/shapes-tiny/commit/{pushed.sha}"
    assert [line for line in server.requests if "/commit/" in line] == ["POST /api/models/org/shapes-tiny/commit/main"]
    assert pushed.files == {**first.files, **contents(out)} and not repository.private

    server.requests.clear()
    for name, value in hub_server.environment(server, tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    assert check_loading(out, "org/shapes-tiny") == {"AutoModel": 3, "pipeline": 3}
    assert f"GET /org/shapes-tiny/resolve/{pushed.sha}/model.safetensors" in server.requests


@pytest.mark.slow
def test_a_second_push_takes_the_first_ones_weights_away_and_leaves_what_others_put_there(server, folders, tmp_path):
    done = python(server, tmp_path, "-c", PUSH, folders / "cut", "org/model", "private")
    assert done.returncode == 0, done.stderr
    repository = server.repositories["org/model"]
    assert repository.private and "model.safetensors.index.json" in repository.commits[-1].files
    repository.commit("by hand", {**repository.commits[-1].files, "LICENSE": b"terms", "old_gemma_lisa.py": b""})
    assert python(server, tmp_path, "-c", PUSH, folders / "whole", "org/model").returncode == 0
    head = repository.commits[-1].files
    assert len(repository.commits) == 4
    assert head == {".gitattributes": head[".gitattributes"], "LICENSE": b"terms", **contents(folders / "whole")}


@pytest.mark.slow
def test_an_upload_that_breaks_leaves_nothing_and_says_so_in_one_line(server, folders, tmp_path):
    server.break_after = 100_000
    command = ["scripts/export.py", "--model", folders / "model", "--output", tmp_path / "out", "--push", "org/model"]
    done = python(server, tmp_path / "home", *command, "--examples", export.SCENE, "a circle")
    assert "org/model was not written" in one_line(done) and "try again" in one_line(done)
    assert [commit.message for commit in server.repositories["org/model"].commits] == ["initial commit"]
    assert not [line for line in server.requests if "/commit/" in line]
    assert (tmp_path / "out" / "config.json").is_file()  # what was exported is there, whole
    server.break_after = None
    assert python(server, tmp_path / "home", "-c", PUSH, tmp_path / "out", "org/model").returncode == 0
    assert set(contents(tmp_path / "out")) < set(server.repositories["org/model"].commits[-1].files)


@pytest.mark.slow
def test_who_may_not_write_is_told_before_any_work(server, folders, tmp_path):
    command = [
        "scripts/export.py",
        "--model",
        folders / "model",
        "--output",
        tmp_path / "out",
        "--push",
        "others/model",
    ]
    done = python(server, tmp_path / "home", *command)
    assert "this token writes to tester, org" in one_line(done)
    assert not (tmp_path / "out").exists() and not server.repositories


@pytest.mark.slow
@pytest.mark.parametrize("token", ["hf_of_nobody", None])
def test_a_token_is_needed_that_the_hub_knows(server, tmp_path, token):
    check = "from gemma_lisa.interfaces.command_line import run; from gemma_lisa.scripts.publish import check_access; "
    check += "run(lambda given: check_access(given[0]))"
    done = python(server, tmp_path / "home", "-c", check, "org/model", token=token)
    assert "no token that is accepted" in one_line(done)
    assert python(server, tmp_path / "home", "-c", check, "org/model").returncode == 0


@pytest.mark.slow
def test_a_refusal_of_the_hub_itself_is_one_line(server, folders, tmp_path):
    program = "from pathlib import Path; from gemma_lisa.interfaces.command_line import run; "
    program += "from gemma_lisa.scripts.publish import push; run(lambda given: push(Path(given[0]), given[1]))"
    done = python(server, tmp_path, "-c", program, folders / "whole", "others/model")
    assert "this token may not write there" in one_line(done) and not server.repositories


def test_without_the_hub_the_error_is_one_sentence(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    with pytest.raises(OSError, match=r"org/model was not written, the Hub was not reached .*offline"):
        check_access("org/model")


@pytest.mark.slow
def test_a_card_the_hub_cannot_read_is_not_committed(server, folders, tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    done = python(server, tmp_path / "home", "-c", PUSH, tmp_path, "org/model")
    assert done.returncode and "Invalid metadata in README.md" in done.stderr
    assert len(server.repositories["org/model"].commits) == 1


# ---------------------------------------------------------------------------------------------------------------------
# Training that pushes as it goes
# ---------------------------------------------------------------------------------------------------------------------
def train(server, folders, tmp_path, *options, token=hub_server.TOKEN, config="configs/shapes.yaml"):
    sizes = {"image_size": 32, "train_rows": 8, "validation_rows": 2, "test_rows": 2}
    command = ["train.py", "--config", config, "--model", folders / "model"]
    command += ["--output_dir", tmp_path / "run", "--dataset_options", json.dumps(sizes), "--use_cpu", "true"]
    command += ["--max_steps", 2, "--save_strategy", "steps", "--save_steps", 1, "--save_total_limit", 1]
    command += ["--eval_strategy", "no", "--preview_samples", 0, "--per_device_train_batch_size", 2]
    command += ["--push_to_hub", "true", "--hub_model_id", "org/trained", *options]
    return python(server, tmp_path / "home", *command, token=token)


@pytest.mark.slow
def test_training_pushes_complete_repositories_as_it_goes(server, folders, tmp_path, monkeypatch):
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

    # What lies there opens by its name, as its own code
    for name, value in hub_server.environment(server, tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    load = "from transformers import pipeline; from PIL import Image; "
    load += (
        "print(pipeline(model='org/trained', trust_remote_code=True)(Image.new('RGB', (9, 7)), 'a circle')['complete'])"
    )
    opened = python(server, tmp_path / "home", "-c", load)
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
def test_every_checkpoint_can_be_kept_there(server, folders, tmp_path):
    done = train(server, folders, tmp_path, "--hub_always_push", "true", "--hub_strategy", "all_checkpoints")
    assert done.returncode == 0, done.stderr
    files = server.repositories["org/trained"].commits[-1].files
    for number in (1, 2):
        state = json.loads(files[f"checkpoint-{number}/trainer_state.json"])
        assert state["global_step"] == number and f"checkpoint-{number}/optimizer.pt" in files
    assert files["checkpoint-1/model.safetensors"] != files["checkpoint-2/model.safetensors"]
    assert files["checkpoint-2/model.safetensors"] == files["model.safetensors"]


@pytest.mark.slow
def test_only_the_end_can_be_pushed(server, folders, tmp_path):
    done = train(server, folders, tmp_path, "--hub_strategy", "end")
    assert done.returncode == 0, done.stderr
    commits = server.repositories["org/trained"].commits
    assert [commit.message for commit in commits] == ["initial commit", "Model save"]
    assert json.loads(commits[1].files["training.json"])["stages"][0]["steps"] == 2


@pytest.mark.slow
def test_a_push_that_breaks_does_not_stop_the_training_but_the_last_one_is_told(server, folders, tmp_path):
    server.break_after = 100_000
    done = train(server, folders, tmp_path, "--max_steps", 1)
    assert "a push to the Hub failed" in done.stderr and done.returncode == 1
    assert [commit.message for commit in server.repositories["org/trained"].commits] == ["initial commit"]
    assert (tmp_path / "run" / "model.safetensors").is_file() and (tmp_path / "run" / "checkpoint-1").is_dir()


def test_an_adapter_is_not_pushed_alone(folders, tmp_path):
    model, processor = load_checkpoint(folders / "model")
    model = add_lora(model, rank=2, base=identify(folders / "model"))
    arguments = GemmaLisaTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, push_to_hub=True, hub_model_id="org/adapter"
    )
    with pytest.raises(UsageError, match="an adapter alone does not open by its name"):
        GemmaLisaTrainer(model=model, args=arguments, data_collator=GemmaLisaCollator(processor), train_dataset=[{}])


@pytest.mark.slow
@pytest.mark.parametrize("place", ["command line", "in one word", "recipe"])
def test_no_token_and_no_local_path_leaves_with_a_training(server, folders, tmp_path, place):
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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.json", b'{"a": "hf_abcdefghijABCDEFGHIJ0123456789abcd"}'),
        ("examples/weights.bin", b"\0\1\2" * 99 + b"hf_of_the_environment" + b"\0"),
        ("model.safetensors", b"\0" * 99 + b"hf_of_the_environment" + b"\0"),
        ("README.md", b"see https://me:hunter2@host/x"),
        ("recipe.yaml", b"login: given-to-the-push"),
    ],
)
def test_an_upload_that_holds_a_secret_is_refused_with_the_files_name(tmp_path, monkeypatch, name, content):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    monkeypatch.setattr("gemma_lisa.checkpoints.hub_repository.HfApi", None)  # nothing is asked of the Hub
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} contains .* Nothing was uploaded") as refusal:
        commit_folder(tmp_path, "org/model", "message", secrets={"given-to-the-push"})
    assert "hf_" not in str(refusal.value) and "hunter2" not in str(refusal.value)


class Hub:
    """Stands in for HfApi: keeps what is committed."""

    def __init__(self, token=None):
        pass

    def model_info(self, name, revision=None):
        return ModelInfo(id=name, sha="0" * 40, siblings=[])

    def create_commit(self, name, operations, **options):
        Hub.files = {}
        for operation in operations:
            with operation.as_file() as file:
                Hub.files[operation.path_in_repo] = file.read()


def test_an_adapter_names_its_base_by_its_last_name_where_it_is_published(folders, tmp_path, monkeypatch):
    model, processor = load_checkpoint(folders / "model")
    for part in (add_lora(model, rank=2, base=identify(folders / "model")), processor):
        part.save_pretrained(tmp_path)
    before = contents(tmp_path)
    assert str(folders).encode() in before["base.json"]  # here it finds its base
    monkeypatch.setattr("gemma_lisa.checkpoints.hub_repository.HfApi", Hub)
    commit_folder(tmp_path, "org/adapter", "message")
    assert set(Hub.files) == set(before) and contents(tmp_path) == before
    assert not [name for name, content in Hub.files.items() if str(folders).encode() in content]
    assert json.loads(Hub.files["base.json"])["name"] == "model"
    assert json.loads(Hub.files["adapter_config.json"])["base_model_name_or_path"] == "model"


def test_a_pickle_that_names_a_folder_of_this_machine_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("gemma_lisa.checkpoints.hub_repository.HfApi", None)
    torch.save({"output_dir": f"{Path.home()}/runs/a"}, tmp_path / "training_args.bin")
    with pytest.raises(ValueError, match=r"training_args.bin contains a local path"):
        commit_folder(tmp_path, "org/model", "message")


# ---------------------------------------------------------------------------------------------------------------------
# What the card does not know
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("stages", "record", "leak"),
    [
        ([], "There is no record of its training", None),
        (None, "could not be looked up", "is not known"),
        ([{"command": "train.py"}], "| 1 |", None),
        ([{"command": "train.py", "allow_leakage": None}], "| 1 |", "is not known"),
        ([{"command": "train.py", "allow_leakage": None}, {"allow_leakage": True}], "| 2 |", "were allowed"),
    ],
)
def test_a_card_says_what_is_not_known_of_a_training(stages, record, leak):
    result = {"dataset": "shapes/easy", "split": "test", "protocol": "generate", "commit": "abc", "date": "2026-01-01"}
    result |= {"scores": {"gIoU": 0.5, "cIoU": 0.5, "N-acc": 1.0, "T-acc": 1.0, "count": 2}}
    text = card(Facts("org/name", stages=stages, results={"results.json": result}))
    records = ("There is no record of its training", "could not be looked up", "| stage | steps |")
    assert record in text and sum(words in text for words in records) == 1
    assert [words for words in ("is not known", "were allowed") if words in text] == ([] if leak is None else [leak])

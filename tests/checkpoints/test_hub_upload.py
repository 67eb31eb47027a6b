"""Uploads to a local server with the Hub's API: one commit or none, and no secrets."""

import json
from pathlib import Path
from types import SimpleNamespace

import hub_server
import pytest
import torch
from huggingface_hub import ModelInfo

from gemma_lisa.checkpoints.adapter_base import identify
from gemma_lisa.checkpoints.hub_upload import (
    check_access,
    check_name,
    check_no_secrets,
    commit_folder,
    list_files,
    push,
)
from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.checkpoints.lora import add_lora
from gemma_lisa.scripts import export
from gemma_lisa.scripts.fresh_loading import check_loading

PLAIN = "correct-horse-battery"  # a secret that does not look like a token
PUSH = "import sys; from pathlib import Path; from gemma_lisa.checkpoints.hub_upload import push; "
PUSH += "print(push(Path(sys.argv[1]), sys.argv[2], private=len(sys.argv) > 3))"


def one_line(done):
    """Return the only error line of a program that failed with exit code 1."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


@pytest.mark.slow
def test_an_exported_and_pushed_checkpoint_gives_the_same_masks(server, tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = ["scripts/export.py", "--model", EXAMPLE, "--output", out, "--results", EXAMPLE / "easy.json"]
    done = hub_server.python(server, tmp_path / "home", *command, "--push", "org/shapes-tiny")
    assert done.returncode == 0, done.stderr
    repository = server.repositories["org/shapes-tiny"]
    first, pushed = repository.commits
    assert done.stdout.splitlines()[-1] == f"uploaded: {server.url}/org/shapes-tiny/commit/{pushed.sha}"
    assert [line for line in server.requests if "/commit/" in line] == ["POST /api/models/org/shapes-tiny/commit/main"]
    assert pushed.files == {**first.files, **hub_server.contents(out)} and not repository.private

    server.requests.clear()
    for name, value in hub_server.environment(server, tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    assert check_loading(out, "org/shapes-tiny") == {"AutoModel": 3, "pipeline": 3}
    assert f"GET /org/shapes-tiny/resolve/{pushed.sha}/model.safetensors" in server.requests


@pytest.mark.slow
def test_a_second_push_deletes_older_weights_and_keeps_other_files(server, folders, tmp_path):
    done = hub_server.python(server, tmp_path, "-c", PUSH, folders / "cut", "org/model", "private")
    assert done.returncode == 0, done.stderr
    repository = server.repositories["org/model"]
    assert repository.private and "model.safetensors.index.json" in repository.commits[-1].files
    repository.commit(
        "of another program", {**repository.commits[-1].files, "LICENSE": b"terms", "old_gemma_lisa.py": b""}
    )
    assert hub_server.python(server, tmp_path, "-c", PUSH, folders / "whole", "org/model").returncode == 0
    head = repository.commits[-1].files
    assert len(repository.commits) == 4
    assert head == {
        ".gitattributes": head[".gitattributes"],
        "LICENSE": b"terms",
        **hub_server.contents(folders / "whole"),
    }


@pytest.mark.slow
def test_an_upload_that_fails_commits_nothing_and_is_an_error_of_one_line(server, folders, tmp_path):
    server.break_after = 100_000
    command = ["scripts/export.py", "--model", folders / "model", "--output", tmp_path / "out", "--push", "org/model"]
    done = hub_server.python(server, tmp_path / "home", *command, "--examples", export.SCENE, "a circle")
    assert "org/model was not uploaded" in one_line(done) and "Try again" in one_line(done)
    assert [commit.message for commit in server.repositories["org/model"].commits] == ["initial commit"]
    assert not [line for line in server.requests if "/commit/" in line]
    assert (tmp_path / "out" / "config.json").is_file()  # the exported folder is complete
    server.break_after = None
    assert hub_server.python(server, tmp_path / "home", "-c", PUSH, tmp_path / "out", "org/model").returncode == 0
    assert set(hub_server.contents(tmp_path / "out")) < set(server.repositories["org/model"].commits[-1].files)


@pytest.mark.slow
def test_missing_write_access_is_an_error_before_any_work(server, folders, tmp_path):
    command = [
        "scripts/export.py",
        "--model",
        folders / "model",
        "--output",
        tmp_path / "out",
        "--push",
        "others/model",
    ]
    done = hub_server.python(server, tmp_path / "home", *command)
    assert "this token can write only to tester, org" in one_line(done)
    assert not (tmp_path / "out").exists() and not server.repositories


@pytest.mark.slow
@pytest.mark.parametrize("token", ["hf_of_nobody", None])
def test_a_missing_or_unknown_token_is_an_error(server, tmp_path, token):
    check = "from gemma_lisa.interfaces.command_line import run; "
    check += "from gemma_lisa.checkpoints.hub_upload import check_access; run(lambda given: check_access(given[0]))"
    done = hub_server.python(server, tmp_path / "home", "-c", check, "org/model", token=token)
    assert "no valid token was found" in one_line(done)
    assert hub_server.python(server, tmp_path / "home", "-c", check, "org/model").returncode == 0


@pytest.mark.slow
def test_an_error_of_the_hub_is_one_line(server, folders, tmp_path):
    program = "from pathlib import Path; from gemma_lisa.interfaces.command_line import run; "
    program += "from gemma_lisa.checkpoints.hub_upload import push; run(lambda given: push(Path(given[0]), given[1]))"
    done = hub_server.python(server, tmp_path, "-c", program, folders / "whole", "others/model")
    assert "this token has no write access there" in one_line(done) and not server.repositories


def test_without_a_connection_the_error_is_one_line(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    with pytest.raises(
        OSError, match=r"org/model was not uploaded: the connection to the Hub failed \(.*offline.*\)\. Try again"
    ):
        check_access("org/model")


@pytest.mark.slow
def test_a_model_card_with_invalid_metadata_is_not_committed(server, folders, tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    done = hub_server.python(server, tmp_path / "home", "-c", PUSH, tmp_path, "org/model")
    assert done.returncode and "Invalid metadata in README.md" in done.stderr
    assert len(server.repositories["org/model"].commits) == 1


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
def test_an_upload_with_a_secret_is_an_error_that_names_the_file(tmp_path, monkeypatch, name, content):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_environment")
    monkeypatch.setattr("gemma_lisa.checkpoints.hub_upload.HfApi", None)  # the Hub is not called
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} contains .* Nothing was uploaded") as refusal:
        commit_folder(tmp_path, "org/model", "message", secrets={"given-to-the-push"})
    assert "hf_" not in str(refusal.value) and "hunter2" not in str(refusal.value)


@pytest.mark.usefixtures("no_login")
def test_the_error_names_the_environment_variable_but_not_its_value(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", PLAIN)
    (tmp_path / "notes.json").write_text(PLAIN)
    with pytest.raises(
        ValueError, match=r"notes.json contains .*\(the environment variable WANDB_API_KEY\)"
    ) as refusal:
        check_no_secrets(tmp_path)
    assert PLAIN not in str(refusal.value)


def test_a_pickle_with_a_local_path_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("gemma_lisa.checkpoints.hub_upload.HfApi", None)
    torch.save({"output_dir": f"{Path.home()}/runs/a"}, tmp_path / "training_args.bin")
    with pytest.raises(ValueError, match=r"training_args.bin contains a local path"):
        commit_folder(tmp_path, "org/model", "message")


class Hub:
    """Replaces HfApi and keeps the committed files."""

    def __init__(self, token=None):
        pass

    def repo_info(self, name, repo_type, revision=None):
        return ModelInfo(id=name, sha="0" * 40, siblings=[])

    def create_repo(self, name, **options):
        Hub.created = {"name": name, **options}

    def create_commit(self, name, operations, **options):
        Hub.files, Hub.options = {}, options
        for operation in operations:
            with operation.as_file() as file:
                Hub.files[operation.path_in_repo] = file.read()
        return SimpleNamespace(commit_url=f"https://hub/{name}/commit/1")


def test_a_published_adapter_contains_no_local_path_of_its_base(folders, tmp_path, monkeypatch):
    model, processor = load_checkpoint(folders / "model")
    for part in (add_lora(model, rank=2, base=identify(folders / "model")), processor):
        part.save_pretrained(tmp_path)
    before = hub_server.contents(tmp_path)
    assert str(folders).encode() in before["base.json"]  # the local adapter keeps the path of its base
    monkeypatch.setattr("gemma_lisa.checkpoints.hub_upload.HfApi", Hub)
    commit_folder(tmp_path, "org/adapter", "message")
    assert set(Hub.files) == set(before) and hub_server.contents(tmp_path) == before
    assert not [name for name, content in Hub.files.items() if str(folders).encode() in content]
    assert json.loads(Hub.files["base.json"])["name"] == "model"
    assert json.loads(Hub.files["adapter_config.json"])["base_model_name_or_path"] == "model"


@pytest.mark.usefixtures("no_login")
@pytest.mark.parametrize("repo_type", ["model", "dataset"])
def test_models_and_data_sets_are_uploaded_in_the_same_way(tmp_path, monkeypatch, repo_type):
    monkeypatch.setattr("gemma_lisa.checkpoints.hub_upload.HfApi", Hub)
    (tmp_path / "README.md").write_text("rows of /home/alice/data/coco")
    (tmp_path / ".cache").write_text("not of the repository")
    assert push(tmp_path, "org/name", private=True, repo_type=repo_type) == "https://hub/org/name/commit/1"
    assert Hub.created == {"name": "org/name", "repo_type": repo_type, "private": True, "exist_ok": True}
    assert Hub.options["repo_type"] == repo_type and Hub.options["parent_commit"] == "0" * 40
    assert Hub.files == {"README.md": b"rows of coco"}
    (tmp_path / "README.md").write_text("see https://me:hunter2@host/x")
    Hub.created = None
    with pytest.raises(ValueError, match="README.md contains an address with a password"):
        push(tmp_path, "org/name", repo_type=repo_type)
    assert Hub.created is None


@pytest.mark.parametrize("name", ["only-a-name", "org/na me", "org/", "/name", "a/b/c"])
def test_a_name_without_an_owner_is_an_error(name):
    check_name("org/name-1.0")
    with pytest.raises(ValueError, match="is not the name of a Hub repository; expected org/name"):
        check_name(name)


def test_files_are_listed_with_their_sizes_and_the_total(tmp_path):
    (tmp_path / "examples").mkdir()
    (tmp_path / "config.json").write_bytes(b"x" * 1_200)
    (tmp_path / "examples" / "1.png").write_bytes(b"y" * 34)
    lines = [line.split("  ") for line in list_files(tmp_path).splitlines()]
    assert [(size.strip(), name) for *_, size, name in lines] == [
        ("1,200", "config.json"),
        ("34", "examples/1.png"),
        ("1,234", "bytes in 2 files"),
    ]
    (tmp_path / "config.json").unlink()
    assert list_files(tmp_path).endswith("34  bytes in 1 file")

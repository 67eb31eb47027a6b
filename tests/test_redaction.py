"""No secret and no local path stands in what is recorded, and a secret is found in whatever is uploaded."""

import gzip
import json
import os
import pickle
import zipfile
from base64 import b64encode
from pathlib import Path
from urllib.parse import quote

import pytest
import torch

from gemma_lisa.redaction import (
    MASK,
    environment_secrets,
    find_local_path,
    find_secret,
    is_secret_name,
    mask,
    redact,
    redact_arguments,
    redact_command,
    redact_text,
    secrets_of,
    short_path,
    shortened_file,
)

TOKEN = "hf_" + "aB3dE6" * 5  # as the Hub's look
PLAIN = "correct-horse-battery"  # a secret that looks like no token


@pytest.fixture(autouse=True)
def no_login(monkeypatch, tmp_path):
    """No secrets but the test's own."""
    for name in environment_secret_names():
        monkeypatch.delenv(name)
    monkeypatch.setattr("gemma_lisa.redaction.get_token", lambda: None)


def environment_secret_names():
    return [name for name in os.environ if is_secret_name(name) or name.endswith("_KEY")]


@pytest.mark.parametrize(
    "words",
    [
        ["--hub_token", PLAIN],
        [f"--hub_token={PLAIN}"],
        ["--hub-token", PLAIN],
        ["--hub_tok", PLAIN],
        [f"--hub_t={PLAIN}"],
        ["--push_to_hub_token", PLAIN],
        ["--dataset_options", json.dumps({"storage": {"password": PLAIN}})],
        ["--dataset_options=" + json.dumps({"api_key": PLAIN})],
        ["--mixture", json.dumps({"a": {"sets": {"x": {"hfToken": PLAIN}}}})],
        ["--data_dir", f"https://user:{PLAIN}@host/data"],
        ["--data_dir", f"https://host/data?token={PLAIN}&page=1"],
        ["--hubtoken", PLAIN, "--seed", "1"],  # a typing error, which is refused with its words in the error
    ],
)
def test_a_secret_of_the_command_line_is_masked_however_it_is_given(words):
    redacted = redact_arguments(["--model", "outputs/start", *words])
    assert PLAIN not in " ".join(redacted) and MASK in " ".join(redacted)
    assert redacted[:2] == ["--model", "outputs/start"]


@pytest.mark.parametrize("words", ["--max_new_tokens 64", "--push_to_hub true --hub_model_id org/x", "--seed 3"])
def test_what_is_no_secret_is_recorded_as_it_is(words):
    assert redact_arguments(words.split()) == words.split()
    assert redact_command(f"train.py {words}") == f"train.py {words}"


def test_the_secrets_of_a_run_are_those_of_its_command_line_recipe_and_environment(tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("hub_token: of-the-recipe\nenv:\n  LOGIN: of-its-environment\n  N: '1'\nmodel: outputs/start\n")
    monkeypatch.setenv("WANDB_API_KEY", "of-the-tracker")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "falsefalse")
    monkeypatch.setenv("DB_PASSWORD", "password")  # a word that stands in files by chance
    found = secrets_of(["--config", str(recipe), "--hub_token", "of-the-command"])
    assert found == {"of-the-recipe", "of-its-environment", "of-the-tracker", "of-the-command"}
    monkeypatch.setenv("PWD", "/srv/of/somebody")
    assert "/srv/of/somebody" not in environment_secrets()


def test_nested_records_lose_secrets_and_paths_and_keep_everything_else():
    record = {
        "settings": {"hub_token": PLAIN, "data_dir": "/home/alice/data/coco", "lr": 0.1, "bf16": True, "none": None},
        "env": {"CUDA_VISIBLE_DEVICES": "0"},
        "data": [f"coco: 3 rows of /home/alice/my-data/coco, by {TOKEN}", "https://host/a/b"],
        "command": f"train.py --hub_token {PLAIN} --model /home/alice/models/start",
        "pad_token": "<pad>",
        "eval_mean_token_accuracy": 0.5,
    }
    before = json.dumps(record)
    assert redact(record) == {
        "settings": {"hub_token": MASK, "data_dir": "coco", "lr": 0.1, "bf16": True, "none": None},
        "env": {"CUDA_VISIBLE_DEVICES": MASK},
        "data": [f"coco: 3 rows of coco, by {MASK}", "https://host/a/b"],
        "command": f"train.py --hub_token '{MASK}' --model start",
        "pad_token": "<pad>",
        "eval_mean_token_accuracy": 0.5,
    }
    assert json.dumps(record) == before
    assert redact(redact(record)) == redact(record)


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("/home/alice", "~"),
        ("/home/alice/", "~"),
        ("/home/alice/data/coco", "coco"),
        ("/Users/alice/x", "x"),
        (r"C:\Users\alice", "~"),
        (r"C:\Users\alice\data\coco", "coco"),
        ("file:///data/coco", "coco"),
        ("/data/run/checkpoint-5", "run/checkpoint-5"),
        ("/home/alice/checkpoint-5", "~/checkpoint-5"),
        (str(Path.cwd() / "outputs" / "run"), "outputs/run"),
        (str(Path.cwd() / "outputs" / ".." / "x"), "x"),
        ("/data/my pictures/coco", "coco"),
    ],
)
def test_a_local_path_is_recorded_by_its_last_name(path, short):
    assert short_path(path) == redact_text(path) == short


def test_from_the_root_folder_nothing_is_relative(monkeypatch):
    monkeypatch.chdir("/")
    assert short_path("/home/alice/data/coco") == "coco"


@pytest.mark.parametrize(
    "text", ["a/b and/or c", "</table> <br/> 3 / 4", "https://host:80/a/b", "s3://bucket/key", "~/x"]
)
def test_what_is_no_local_path_stays(text):
    assert redact_text(text) == text


@pytest.mark.parametrize("secret", [TOKEN, "sk-proj-" + "aB3_" * 12, "ghp_" + "a1" * 18, "AKIA" + "A1" * 8])
@pytest.mark.parametrize("place", ["text", "pickle", "torch", "zip", "between weights", "glued to letters"])
def test_what_looks_like_a_token_is_found_in_every_kind_of_file(tmp_path, secret, place):
    path = tmp_path / "file.bin"
    if place == "text":
        path.write_text(f'{{"a": "{secret}"}}')
    elif place == "pickle":
        path.write_bytes(pickle.dumps({"hub": secret}))
    elif place == "torch":
        torch.save({"hub": secret}, path)
    elif place == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.json", json.dumps([secret] * 9))
    elif place == "between weights":  # over the border of two pieces
        path.write_bytes(bytes(range(256)) * ((1 << 24) // 256))
        with open(path, "r+b") as file:
            file.seek((1 << 24) - 10)
            file.write(b"\0" + secret.encode() + b"\0" + os.urandom(5000))
    elif secret.startswith("sk-"):
        pytest.skip("sk- ends words, as mask-")
    else:
        path.write_bytes(b"xx" + secret.encode())
    assert find_secret(path) == "what looks like a token or key"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_a_value_in_use_is_found_whatever_it_looks_like(tmp_path, encoding):
    path = tmp_path / "file"
    path.write_bytes(b"\xff\x00" * 500 + PLAIN.encode(encoding))
    assert find_secret(path) is None
    assert find_secret(path, {PLAIN}) == "a token or password in use"


@pytest.mark.parametrize(
    "spelling",
    [json.dumps('say "correct-hörse"'), quote('say "correct-hörse"'), b64encode('say "correct-hörse"'.encode())],
)
def test_a_value_in_use_is_found_as_json_addresses_and_base64_spell_it(tmp_path, spelling):
    secret = 'say "correct-hörse"'
    path = tmp_path / "file"
    text = spelling if isinstance(spelling, str) else spelling.decode()
    path.write_text(f"a {text} b")
    assert find_secret(path, {secret}) == "a token or password in use"
    assert text.strip('"=') not in redact_text(f"a {text} b", {secret})


def test_a_packed_log_is_searched_and_an_encrypted_one_is_refused(tmp_path):
    with gzip.open(tmp_path / "log.gz", "wt") as file:
        file.write(TOKEN)
    assert find_secret(tmp_path / "log.gz") == "what looks like a token or key"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", "nothing")
    content = (tmp_path / "a.zip").read_bytes()
    at = content.index(b"PK\1\2") + 8
    (tmp_path / "a.zip").write_bytes(content[:at] + b"\1" + content[at + 1 :])
    assert "encrypted" in find_secret(tmp_path / "a.zip")


def test_an_address_with_a_password_is_found_and_a_masked_one_is_not(tmp_path):
    path = tmp_path / "file"
    path.write_text("see https://user:hunter2@host/x")
    assert find_secret(path) == "an address with a password"
    path.write_text(f"see {redact_text('https://user:hunter2@host/x')} and mask-rcnn-fpn-coco-{'a' * 30}")
    assert find_secret(path) is None


def test_the_projects_own_files_and_random_bytes_hold_no_secret(tmp_path):
    root = Path(__file__).parents[1]
    for path in (
        *root.glob("*_gemma_lisa.py"),
        *(root / "hub").glob("*.*"),
        *(root / "examples/shapes-tiny").iterdir(),
    ):
        assert find_secret(path) is None, path
    (tmp_path / "random.pt").write_bytes(os.urandom(1 << 20))
    (tmp_path / "empty").write_bytes(b"")
    assert find_secret(tmp_path / "random.pt") is find_secret(tmp_path / "empty") is None


def test_configurations_are_shortened_and_the_models_own_texts_are_not(tmp_path):
    config = {"_name_or_path": "/home/alice/models/start", "chat_template": "{# /home/alice/x #}", "n": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shortened = {**config, "_name_or_path": "start"}
    assert json.loads(shortened_file(tmp_path / "config.json")) == shortened
    (tmp_path / "results.samples.jsonl").write_text('{"source": "/home/alice/a/b.png"}\n{"iou": 1.0}\n')
    assert shortened_file(tmp_path / "results.samples.jsonl") == '{"source": "b.png"}\n{"iou": 1.0}\n'
    for name in ("tokenizer.json", "model.py", "template.jinja"):
        (tmp_path / name).write_text('{"/home/alice/x": 1, "b": "/home/alice/x"}')
        assert shortened_file(tmp_path / name) is None


def test_a_local_path_in_a_pickle_is_found(tmp_path):
    torch.save({"output_dir": f"{Path.home()}/runs/a"}, tmp_path / "training_args.bin")
    assert find_local_path(tmp_path / "training_args.bin") == "a local path"
    torch.save({"output_dir": "runs/a"}, tmp_path / "training_args.bin")
    assert find_local_path(tmp_path / "training_args.bin") is None


def test_a_local_record_keeps_its_paths_and_loses_its_secrets():
    record = {"model": "/home/alice/run", "dataset_options": {"api_key": PLAIN, "data_dir": "/data"}, "seed": 1}
    assert mask(record) == {**record, "dataset_options": {"api_key": MASK, "data_dir": "/data"}}

"""No secret and no local path stands in what is recorded, and a secret is found in whatever is uploaded."""

import gzip
import importlib
import json
import os
import pickle
import signal
import zipfile
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from urllib.parse import quote

import pytest
import torch

from gemma_lisa.checkpoints.hub_repository import check_no_secrets
from gemma_lisa.safety.redaction import (
    MASK,
    _named_secrets,
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
    monkeypatch.setattr("gemma_lisa.safety.redaction.get_token", lambda: None)


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
    elif secret.startswith("sk-"):  # words end so, as mask-: behind letters it is none
        path.write_bytes(b"ma" + secret.encode())
        assert not find_secret(path)
        return
    else:
        path.write_bytes(b"xx" + secret.encode())
    assert find_secret(path).startswith("what looks like a token or key (")


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
    assert find_secret(tmp_path / "log.gz") == "what looks like a token or key (hf...)"
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
    root = Path(__file__).parents[2]
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


# ---------------------------------------------------------------------------------------------------------------------
# Long texts
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def no_hang():
    """A quadratic pattern would take hours; a linear one takes about a second."""

    def end(*args):
        raise TimeoutError("the patterns take more than linear time")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


UNITS = [
    "token_",
    "1",
    "a_",
    "-sk-aa",
    "sk-",
    "sk-a-",
    "eyJ",
    "eyJ-",
    "eyJaaaaaaaaaa.",
    "://",
    "://:",
    ":",
    "://a:",
    "@",
]
UNITS += ["token=", "token: '", 'token: "a\\', "password ", "Bearer ", "bearer  ", "?a=", "&token=", "hf_a", "a.", "aB"]
UNITS += [
    "-----BEGIN A",
    "<",
    "[{",
    '{"a":',
    "/a",
    "a/",
    "~/",
    "\\\\",
    "https://a@",
    "s3://k:a/",
    "xox",
    "PK",
    " ",
    "=",
]


@pytest.mark.parametrize("unit", UNITS)
def test_a_long_text_is_masked_and_searched_in_linear_time(tmp_path, unit, no_hang):
    long = unit * (100_000 // len(unit))
    for text in (long, f"{long} x", f"x{long}@"):
        redact_text(text, {PLAIN})
        is_secret_name(text)
    (tmp_path / "file").write_text(long)
    find_secret(tmp_path / "file", {PLAIN})


def test_a_name_of_any_length_is_a_secret_name_by_its_end():
    assert PLAIN not in redact_text("x_" * 200 + f"token={PLAIN}")


@pytest.mark.parametrize("depth", [90, 600, 5000])
def test_words_that_are_nested_deep_lose_their_secrets(depth):
    word = "[" * depth + json.dumps({"token": [PLAIN]}) + "]" * depth
    assert secrets_of(["--dataset_options", word]) == ({PLAIN} if depth < 900 else set())
    for arguments in (["--dataset_options", word], [f"--dataset_options={word}"]):
        assert PLAIN not in " ".join(redact_arguments(arguments, secrets_of(arguments)))


def test_shared_and_recursive_values_are_visited_once():
    shared = [{"token": PLAIN}]
    for _ in range(60):
        shared = [shared, shared]
    shared.append(shared)
    assert _named_secrets(shared) == {PLAIN}


# ---------------------------------------------------------------------------------------------------------------------
# Which names and values are secret
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "value",
    [
        {"headers": {"Authorization": f"Bearer {PLAIN}"}},
        {"token": [PLAIN]},
        {"tokens": [{"a": PLAIN}]},
        {"api_keys": PLAIN},
        {"auth": PLAIN},
        {"auth": {"user": "a", "key": (PLAIN,)}},
        {"storage_options": {"account_key": PLAIN, "sasToken": PLAIN}},
    ],
)
def test_all_texts_below_a_secret_name_are_secret(value):
    assert PLAIN in secrets_of(["--dataset_options", json.dumps(value)])
    for masked in (redact(value), mask(value), redact(json.dumps(value)), redact_text(json.dumps(value))):
        assert PLAIN not in str(masked)


SECRET_NAMES = (
    "PGPASSWORD SSHPASS mytoken private_keys HF_TOKEN hfToken api_key apiKeys OPENAI_API_KEY DB_PASS auth pwd "
)
SECRET_NAMES += (
    "AWS_ACCESS_KEY_ID client_secret GH_TOKEN HUGGING_FACE_HUB_TOKEN REPLICATE_API_TOKEN Authorization cookie"
)
OTHER_NAMES = (
    "forward_pass token_type answer_token first_token stop_token seg_token pad_token max_new_tokens token_ids "
)
OTHER_NAMES += (
    "tokenizer TOKENIZERS_PARALLELISM mean_token_accuracy primary_key sort_key author passes compass keypoints "
)
OTHER_NAMES += "num_input_tokens_seen special_tokens seg_token_id padToken secretary monkey bypass push_to_hub_model_id"


def test_names_of_secrets_are_told_from_other_names():
    assert [name for name in SECRET_NAMES.split() if not is_secret_name(name)] == []
    assert [name for name in OTHER_NAMES.split() if is_secret_name(name)] == []


@pytest.mark.parametrize(
    "text",
    [
        *("token: foo", "special_token=abc", "token: Segmentation", "first_token: image_12345", "password: <unknown>"),
        *("forward_pass=12345678", "the bearer of news", "tokens: 123", "ssh://git@host/x", "http://host:8080/a@b"),
        *("https://host/x?page=12&size=large", "unexpected token: 'expected'", "max_new_tokens=12345678"),
    ],
)
def test_plain_words_of_error_lines_stay(text):
    assert redact_text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"https://{PLAIN}@host/x",
            f"redis://:{PLAIN}@host",
            f"https://h/x?sig={PLAIN}",
            f"https://h/x?a=1&X-Amz-Signature={PLAIN}&b=2",
        ),
        *(f"https://h/x?X-Amz-Credential={PLAIN}", f"https://h/x?key={PLAIN}", f"https://h/x?signature={PLAIN}#a"),
        *(f"s3://k:secret/{PLAIN}@h/", f"https://h/?u=https://g?token={PLAIN}", f"postgres://a:x@{PLAIN}@h/db"),
        *(f"curl -H 'Authorization: Bearer {PLAIN}'", f"bearer {PLAIN}", f"password='{PLAIN} {PLAIN}'"),
        *(
            f"msg=token={PLAIN}",
            f'{{\\"api_key\\": \\"{PLAIN}\\"}}',
            f"PGPASSWORD={PLAIN} psql",
            f"args.hub_token: {PLAIN}",
        ),
    ],
)
def test_credentials_in_texts_are_masked(text):
    assert PLAIN not in redact_text(text) and MASK in redact_text(text)
    assert redact_text(redact_text(text)) == redact_text(text)


def test_variables_that_name_columns_are_no_secrets_and_keys_are(monkeypatch):
    for name, value in (("PRIMARY_KEY", "image_id_of_the_row"), ("SORT_KEY", "created_at"), ("S_KEY", "a1" * 10)):
        monkeypatch.setenv(name, value)
    assert environment_secrets() == {"a1" * 10: "the environment variable S_KEY"}


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le", "utf-32-be", "utf-32-le"])
@pytest.mark.parametrize("secret", [PLAIN, "correct-hörse-battery"])
def test_a_value_in_use_is_found_in_wide_characters(tmp_path, encoding, secret):
    (tmp_path / "file").write_bytes(b"\1" + f"a {secret} b".encode(encoding))
    assert find_secret(tmp_path / "file", {secret})


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
def test_a_value_in_use_is_found_in_base64_and_hexadecimal_wherever_it_begins(tmp_path, before):
    content = f"{before}{PLAIN}?>more".encode()
    for text in (
        b64encode(content).decode(),
        urlsafe_b64encode(content).decode(),
        content.hex(),
        content.hex().upper(),
    ):
        (tmp_path / "file").write_text(f"x {text}")
        assert find_secret(tmp_path / "file", {PLAIN}), text


@pytest.mark.parametrize("name", ["file", "file.dat", "model.safetensors"])
@pytest.mark.parametrize("pack", ["gzip", "bz2", "lzma", "zip"])
def test_packed_files_are_known_by_their_first_bytes(tmp_path, name, pack):
    path = tmp_path / name
    if pack == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", TOKEN * 2)
    else:
        path.write_bytes(importlib.import_module(pack).compress(TOKEN.encode() * 20))
    assert find_secret(path).startswith("what looks like")


def test_a_packed_file_that_is_cut_off_is_refused(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(os.urandom(1000))[:500])
    assert "cannot be unpacked" in find_secret(tmp_path / "a.gz")


@pytest.mark.parametrize("beginning", ["npm_", "ghu_", "ghr_", "pypi-", "gsk_", "sk_live_", "ya29.", "xoxp-"])
def test_tokens_of_other_services_are_found_and_masked(tmp_path, beginning):
    secret = beginning + "aB3dE6" * 6
    (tmp_path / "file").write_text(f"x {secret}\n")
    assert find_secret(tmp_path / "file").startswith("what looks like a token or key (")
    assert secret not in redact_text(f"x {secret}")


@pytest.mark.parametrize(
    "text", ["hf_TransformersModelConfig", "hf_" + "ModelConfig" * 4, "postgres://user:password@localhost/db"]
)
def test_names_and_placeholders_are_no_secrets_of_a_file(tmp_path, text):
    (tmp_path / "README.md").write_text(f"see {text} for more")
    assert find_secret(tmp_path / "README.md") is None


def test_a_refusal_names_the_variable_and_not_its_value(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", PLAIN)
    (tmp_path / "notes.json").write_text(PLAIN)
    with pytest.raises(
        ValueError, match=r"notes.json contains .*\(the environment variable WANDB_API_KEY\)"
    ) as refusal:
        check_no_secrets(tmp_path)
    assert PLAIN not in str(refusal.value)

"""Records contain no secrets and no local paths."""

import json

import pytest

from gemma_lisa.safety.redaction import MASK, mask, redact, redact_arguments, redact_command, redact_text
from gemma_lisa.safety.secret_names import is_secret_name, secrets_of
from gemma_lisa.safety.upload_scan import find_secret

TOKEN = "hf_" + "aB3dE6" * 5  # like a token of the Hub
PLAIN = "correct-horse-battery"  # a secret that does not look like a token
pytestmark = pytest.mark.usefixtures("no_login")


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
        ["--hubtoken", PLAIN, "--seed", "1"],  # a misspelled option, which the error message repeats
    ],
)
def test_secrets_of_a_command_line_are_masked_in_every_form(words):
    redacted = redact_arguments(["--model", "outputs/start", *words])
    assert PLAIN not in " ".join(redacted) and MASK in " ".join(redacted)
    assert redacted[:2] == ["--model", "outputs/start"]


@pytest.mark.parametrize("words", ["--max_new_tokens 64", "--push_to_hub true --hub_model_id org/x", "--seed 3"])
def test_arguments_without_secrets_do_not_change(words):
    assert redact_arguments(words.split()) == words.split()
    assert redact_command(f"train.py {words}") == f"train.py {words}"


def test_only_secrets_and_paths_are_removed_from_nested_records():
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


def test_a_local_record_keeps_its_paths_but_not_its_secrets():
    record = {"model": "/home/alice/run", "dataset_options": {"api_key": PLAIN, "data_dir": "/data"}, "seed": 1}
    assert mask(record) == {**record, "dataset_options": {"api_key": MASK, "data_dir": "/data"}}


@pytest.mark.parametrize("depth", [90, 600, 5000])
def test_secrets_in_deeply_nested_json_are_masked(depth):
    word = "[" * depth + json.dumps({"token": [PLAIN]}) + "]" * depth
    assert secrets_of(["--dataset_options", word]) == ({PLAIN} if depth < 900 else set())
    for arguments in (["--dataset_options", word], [f"--dataset_options={word}"]):
        assert PLAIN not in " ".join(redact_arguments(arguments, secrets_of(arguments)))


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
def test_all_texts_under_a_secret_name_are_masked(value):
    assert PLAIN in secrets_of(["--dataset_options", json.dumps(value)])
    for masked in (redact(value), mask(value), redact(json.dumps(value)), redact_text(json.dumps(value))):
        assert PLAIN not in str(masked)


@pytest.mark.parametrize(
    "text",
    [
        *("token: foo", "special_token=abc", "token: Segmentation", "first_token: image_12345", "password: <unknown>"),
        *("forward_pass=12345678", "the bearer of news", "tokens: 123", "ssh://git@host/x", "http://host:8080/a@b"),
        *("https://host/x?page=12&size=large", "unexpected token: 'expected'", "max_new_tokens=12345678"),
    ],
)
def test_ordinary_words_of_error_messages_do_not_change(text):
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


# ---------------------------------------------------------------------------------------------------------------------
# Long texts
# ---------------------------------------------------------------------------------------------------------------------
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


def test_a_long_name_with_a_secret_ending_is_a_secret_name():
    assert PLAIN not in redact_text("x_" * 200 + f"token={PLAIN}")

"""Secrets are found in all kinds of files to upload, also compressed or encoded."""

import gzip
import importlib
import json
import os
import pickle
import zipfile
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from urllib.parse import quote

import pytest
import torch

from gemma_lisa.safety.redaction import redact_text
from gemma_lisa.safety.upload_scan import find_local_path, find_secret

TOKEN = "hf_" + "aB3dE6" * 5  # like a token of the Hub
PLAIN = "correct-horse-battery"  # a secret that does not look like a token


@pytest.mark.parametrize("secret", [TOKEN, "sk-proj-" + "aB3_" * 12, "ghp_" + "a1" * 18, "AKIA" + "A1" * 8])
@pytest.mark.parametrize("place", ["text", "pickle", "torch", "zip", "between weights", "after letters"])
def test_token_patterns_are_found_in_all_kinds_of_files(tmp_path, secret, place):
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
    elif place == "between weights":  # across the border of two pieces
        path.write_bytes(bytes(range(256)) * ((1 << 24) // 256))
        with open(path, "r+b") as file:
            file.seek((1 << 24) - 10)
            file.write(b"\0" + secret.encode() + b"\0" + os.urandom(5000))
    elif secret.startswith("sk-"):  # as in mask-: after letters it is not a token
        path.write_bytes(b"ma" + secret.encode())
        assert not find_secret(path)
        return
    else:
        path.write_bytes(b"xx" + secret.encode())
    assert find_secret(path).startswith("what looks like a token or key (")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_a_known_secret_is_found(tmp_path, encoding):
    path = tmp_path / "file"
    path.write_bytes(b"\xff\x00" * 500 + PLAIN.encode(encoding))
    assert find_secret(path) is None
    assert find_secret(path, {PLAIN}) == "a token or password in use"


@pytest.mark.parametrize(
    "spelling",
    [json.dumps('say "correct-hörse"'), quote('say "correct-hörse"'), b64encode('say "correct-hörse"'.encode())],
)
def test_a_known_secret_is_found_in_json_urls_and_base64(tmp_path, spelling):
    secret = 'say "correct-hörse"'
    path = tmp_path / "file"
    text = spelling if isinstance(spelling, str) else spelling.decode()
    path.write_text(f"a {text} b")
    assert find_secret(path, {secret}) == "a token or password in use"
    assert text.strip('"=') not in redact_text(f"a {text} b", {secret})


def test_compressed_files_are_searched_and_encrypted_ones_are_reported(tmp_path):
    with gzip.open(tmp_path / "log.gz", "wt") as file:
        file.write(TOKEN)
    assert find_secret(tmp_path / "log.gz") == "what looks like a token or key (hf...)"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", "nothing")
    content = (tmp_path / "a.zip").read_bytes()
    at = content.index(b"PK\1\2") + 8
    (tmp_path / "a.zip").write_bytes(content[:at] + b"\1" + content[at + 1 :])
    assert "encrypted" in find_secret(tmp_path / "a.zip")


def test_a_url_with_a_password_is_found_unless_it_is_masked(tmp_path):
    path = tmp_path / "file"
    path.write_text("see https://user:hunter2@host/x")
    assert find_secret(path) == "an address with a password"
    path.write_text(f"see {redact_text('https://user:hunter2@host/x')} and mask-rcnn-fpn-coco-{'a' * 30}")
    assert find_secret(path) is None


def test_files_of_the_project_and_random_bytes_contain_no_secret(tmp_path):
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


def test_a_local_path_in_a_pickle_is_found(tmp_path):
    torch.save({"output_dir": f"{Path.home()}/runs/a"}, tmp_path / "training_args.bin")
    assert find_local_path(tmp_path / "training_args.bin") == "a local path"
    torch.save({"output_dir": "runs/a"}, tmp_path / "training_args.bin")
    assert find_local_path(tmp_path / "training_args.bin") is None


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le", "utf-32-be", "utf-32-le"])
@pytest.mark.parametrize("secret", [PLAIN, "correct-hörse-battery"])
def test_a_known_secret_is_found_in_utf_16_and_utf_32(tmp_path, encoding, secret):
    (tmp_path / "file").write_bytes(b"\1" + f"a {secret} b".encode(encoding))
    assert find_secret(tmp_path / "file", {secret})


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
def test_a_known_secret_is_found_in_base64_and_hexadecimal_at_any_offset(tmp_path, before):
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
def test_compressed_files_are_recognized_by_their_first_bytes(tmp_path, name, pack):
    path = tmp_path / name
    if pack == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a", TOKEN * 2)
    else:
        path.write_bytes(importlib.import_module(pack).compress(TOKEN.encode() * 20))
    assert find_secret(path).startswith("what looks like")


def test_a_truncated_compressed_file_is_reported(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(os.urandom(1000))[:500])
    assert "cannot be decompressed" in find_secret(tmp_path / "a.gz")


@pytest.mark.parametrize("beginning", ["npm_", "ghu_", "ghr_", "pypi-", "gsk_", "sk_live_", "ya29.", "xoxp-"])
def test_tokens_of_other_services_are_found_and_masked(tmp_path, beginning):
    secret = beginning + "aB3dE6" * 6
    (tmp_path / "file").write_text(f"x {secret}\n")
    assert find_secret(tmp_path / "file").startswith("what looks like a token or key (")
    assert secret not in redact_text(f"x {secret}")


@pytest.mark.parametrize(
    "text", ["hf_TransformersModelConfig", "hf_" + "ModelConfig" * 4, "postgres://user:password@localhost/db"]
)
def test_names_and_placeholders_are_not_secrets(tmp_path, text):
    (tmp_path / "README.md").write_text(f"see {text} for more")
    assert find_secret(tmp_path / "README.md") is None

"""Absolute local paths are shortened so that they contain no names of users or machines."""

import json
from pathlib import Path

import pytest

from gemma_lisa.safety.local_paths import short_path, shortened_file
from gemma_lisa.safety.redaction import redact_text


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
def test_a_local_path_is_shortened_to_its_last_part(path, short):
    assert short_path(path) == redact_text(path) == short


def test_paths_are_not_relative_to_the_root_folder(monkeypatch):
    monkeypatch.chdir("/")
    assert short_path("/home/alice/data/coco") == "coco"


@pytest.mark.parametrize(
    "text", ["a/b and/or c", "</table> <br/> 3 / 4", "https://host:80/a/b", "s3://bucket/key", "~/x"]
)
def test_texts_without_local_paths_do_not_change(text):
    assert redact_text(text) == text


def test_configurations_are_shortened_but_texts_of_the_model_are_not(tmp_path):
    config = {"_name_or_path": "/home/alice/models/start", "chat_template": "{# /home/alice/x #}", "n": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shortened = {**config, "_name_or_path": "start"}
    assert json.loads(shortened_file(tmp_path / "config.json")) == shortened
    (tmp_path / "results.samples.jsonl").write_text('{"source": "/home/alice/a/b.png"}\n{"iou": 1.0}\n')
    assert shortened_file(tmp_path / "results.samples.jsonl") == '{"source": "b.png"}\n{"iou": 1.0}\n'
    for name in ("tokenizer.json", "model.py", "template.jinja"):
        (tmp_path / name).write_text('{"/home/alice/x": 1, "b": "/home/alice/x"}')
        assert shortened_file(tmp_path / name) is None

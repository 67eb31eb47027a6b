"""The project's language: one word per concept, short sentences. tests/plain_english.py has the rules."""

import pytest
from plain_english import findings, text_files


def test_no_forbidden_synonym_and_no_long_sentence():
    paths = text_files([])
    assert {"README.md", "train.py", "design.md", "shapes.yaml", "Makefile"} <= {path.name for path in paths}
    found = [line for path in paths for line in findings(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("# The rows a step.\n", "'rows a step' (write: per)"),
        ("left_out = 0\n", "'left out' (write: skip, omit)"),
        ('"""Whoever talks."""\n', "'talks' (write: conversation)"),
        ('"""' + "word " * 26 + '."""\n', "26 words"),
        ("# " + "word " * 13 + "\n# " + "word " * 13 + "\n", "26 words"),
    ],
)
def test_a_bad_sentence_is_found(text, named, tmp_path, monkeypatch):
    path = tmp_path / "bad.py"
    path.write_text(text)
    monkeypatch.setattr("plain_english.ROOT", tmp_path)
    assert any(named in line for line in findings(path)), findings(path)


def test_standard_terms_pass(tmp_path, monkeypatch):
    path = tmp_path / "good.md"
    path.write_text("Load the chat template. The loss rounds to bf16. `math.floor(x)` in a round trip.\n")
    monkeypatch.setattr("plain_english.ROOT", tmp_path)
    assert not findings(path)

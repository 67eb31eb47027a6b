"""The error for a damaged configuration, tokenizer or template names the file, before any weight is read."""

import shutil

import pytest

from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.scripts.init_tiny import build_tiny

FILES = ("config.json", "generation_config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    for part in build_tiny(image_size=32):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


@pytest.mark.parametrize("name", [*FILES, "chat_template.jinja"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "zeros", "list"])
def test_a_damaged_file_is_named_in_the_error(folder, name, damage):
    path = folder / name
    content = path.read_bytes()
    half = len(content) // 2
    flipped = content[:half] + bytes([content[half] ^ 0x80]) + content[half + 1 :]
    path.write_bytes({"cut": content[:half], "flipped": flipped, "zeros": b"\0" * len(content), "list": b"[]"}[damage])
    with pytest.raises(ValueError, match=f"^{path}: the file is damaged") as refusal:
        load_checkpoint(folder)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer_config.json", "tokenizer.json"])
def test_a_missing_file_is_named_in_the_error(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"^{folder / name}: the file is missing"):
        load_checkpoint(folder)


def test_a_template_that_fails_when_used_is_named_in_the_error(folder):
    (folder / "chat_template.jinja").write_text("{{ messages | no_such_filter }}")
    with pytest.raises(ValueError, match=r"chat_template.jinja: the file is damaged \(.*no_such_filter"):
        load_checkpoint(folder)


def test_an_empty_name_is_an_error():
    for name in ("", "  "):
        with pytest.raises(ValueError, match="name of the checkpoint is empty"):
            load_checkpoint(name)

"""The hash of a checkpoint changes with every byte of its weights, and includes the base model of an adapter."""

import json

import pytest

from gemma_lisa.checkpoints.adapter_base import Base, write_base
from gemma_lisa.checkpoints.checksums import write_checksums
from gemma_lisa.checkpoints.weights_hash import checkpoint_hash


def folder_with(path, content, name="model.safetensors"):
    path.mkdir()
    (path / name).write_bytes(content)
    return path


def test_one_changed_byte_changes_the_hash(tmp_path):
    first = folder_with(tmp_path / "a", b"0" * 9_000)
    other = folder_with(tmp_path / "b", b"0" * 5_000 + b"1" + b"0" * 3_999)
    (first / "config.json").write_text("{}")
    same = folder_with(tmp_path / "c", b"0" * 9_000)
    assert checkpoint_hash(first) == checkpoint_hash(str(same)) != checkpoint_hash(other)
    write_checksums(same)
    assert checkpoint_hash(first) == checkpoint_hash(same)


def test_the_hash_of_an_adapter_is_that_of_the_adapter_and_its_base(tmp_path):
    bases = [folder_with(tmp_path / name, name.encode()) for name in ("base", "other")]
    adapter = folder_with(tmp_path / "adapter", b"a", "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({}))
    write_base(adapter, Base(str(bases[0]), None, "x"))
    assert checkpoint_hash(adapter) == checkpoint_hash(bases[0], adapter) != checkpoint_hash(bases[1], adapter)
    assert checkpoint_hash(adapter) != checkpoint_hash(bases[0])


def test_a_folder_without_weights_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no .safetensors file, so its weights cannot be identified"):
        checkpoint_hash(tmp_path)

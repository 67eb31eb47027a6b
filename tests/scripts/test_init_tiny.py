import pytest

from gemma_lisa.scripts import init_tiny


def test_a_folder_that_is_not_empty_is_written_to_only_with_overwrite(tmp_path, monkeypatch, tiny):
    monkeypatch.setattr(init_tiny, "build_tiny", lambda *_, **__: tiny)
    (tmp_path / "model").mkdir()
    trained = tmp_path / "model" / "model.safetensors"
    trained.write_bytes(b"trained")
    arguments = ["--output", str(tmp_path / "model")]
    with pytest.raises(ValueError, match="the folder is not empty"):
        init_tiny.main(arguments)
    assert trained.read_bytes() == b"trained"
    init_tiny.main([*arguments, "--overwrite"])
    assert trained.read_bytes() != b"trained"

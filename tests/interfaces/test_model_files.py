"""Files that are read from the folder of a model."""

from gemma_lisa.checkpoints.adapter_base import Base, write_base
from gemma_lisa.interfaces.model_files import files_of_model, with_bases
from gemma_lisa.safety.whole_files import write_whole


def test_only_files_that_are_loaded_are_listed(tmp_path):
    for name in ("config.json", "model.safetensors", "modeling_gemma_lisa.py", "notes.txt", "SHA256SUMS"):
        (tmp_path / name).touch()
    names = {path.name for path in files_of_model(str(tmp_path))}
    assert names == {"config.json", "model.safetensors", "modeling_gemma_lisa.py", "SHA256SUMS"}
    assert files_of_model("org/name") == []


def test_the_base_model_of_an_adapter_follows_the_models(tmp_path):
    write_whole(tmp_path / "adapter_config.json", {})
    write_base(tmp_path, Base("org/base", None, "0"))
    assert with_bases([str(tmp_path), "org/name"]) == [str(tmp_path), "org/name", "org/base"]

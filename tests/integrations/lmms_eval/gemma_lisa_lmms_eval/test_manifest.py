"""The entry point that lmms-eval reads: its name, its object and the class it names."""

import tomllib
from pathlib import Path

import pytest


def test_entry_point_names_the_manifest_and_the_manifest_the_model():
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed; run `make lmms-eval`")
    from gemma_lisa_lmms_eval import manifest, model

    assert manifest.MANIFEST.model_id == "gemma_lisa"
    module, name = manifest.MANIFEST.simple_class_path.rsplit(".", 1)
    assert module == model.__name__ and issubclass(getattr(model, name), model.lmms)


def test_project_file_names_the_entry_point_and_all_packages():
    folder = Path(__file__).resolve().parents[4] / "integrations/lmms_eval"
    content = tomllib.loads((folder / "pyproject.toml").read_text())
    assert content["project"]["entry-points"]["lmms_eval.models"] == {
        "gemma_lisa": "gemma_lisa_lmms_eval.manifest:MANIFEST"
    }
    found = {
        path.parent.relative_to(folder).as_posix().replace("/", ".") for path in folder.glob("gemma*/**/__init__.py")
    }
    assert found == set(content["tool"]["setuptools"]["packages"])

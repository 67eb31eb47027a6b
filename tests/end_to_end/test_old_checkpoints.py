"""A checkpoint with code of an earlier version loads, and saving over it replaces that code."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.interfaces.run_folders import check_run_folder, is_own_run
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.scripts import export
from gemma_lisa.training.atomic_saves import folder_in_place
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

ROOT = Path(export.__file__).parents[1]
# Present name -> earlier name of code files in a checkpoint
EARLIER = {"mask_decoding_gemma_lisa": "sam_gemma_lisa", "packing_gemma_lisa": "isolation_gemma_lisa"}
# Earlier module of the class of the training arguments
EARLIER_MODULE = "gemma_lisa.training_arguments"


def code_of(folder):
    return {path.name for path in folder.glob("*_gemma_lisa.py")}


@pytest.fixture
def old(tiny, tmp_path):
    """A folder of a run of the earlier version, which differs only in the names of files and modules."""
    folder = tmp_path / "old"
    for part in tiny:
        part.save_pretrained(folder)
    for today, earlier in EARLIER.items():
        (folder / f"{today}.py").rename(folder / f"{earlier}.py")
        for path in folder.glob("*_gemma_lisa.py"):
            path.write_text(path.read_text().replace(today, earlier))
    stage = {"command": "train.py --model start", "settings": {}, "steps": 1}
    (folder / "training.json").write_text(json.dumps({"stages": [stage]}))
    return folder


@pytest.fixture
def pickled_arguments(monkeypatch):
    """Return a function that writes a training_args.bin with a class of the given module."""

    def pickled(module_name, folder):
        kind = type("GemmaLisaTrainingArguments", (), {"__module__": module_name})
        module = ModuleType(module_name)
        module.GemmaLisaTrainingArguments = kind
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, module_name, module)
            torch.save(kind(), folder / "training_args.bin")
        return (folder / "training_args.bin").read_bytes()

    return pickled


def test_the_old_folder_imports_only_its_own_files(old):
    names = {name.removesuffix(".py") for name in code_of(old)}
    assert set(EARLIER.values()) <= names and not names & set(EARLIER)
    for path in old.glob("*_gemma_lisa.py"):
        imported = set(re.findall(r"^ *from \.(\w+) import", path.read_text(), re.MULTILINE))
        assert imported <= names, path.name


def test_it_loads_with_the_present_code_and_gives_the_same_outputs(old, tiny, make_picture):
    model, processor = load_checkpoint(old)
    asked = [{"type": "image", "image": make_picture()}, {"type": "text", "text": "the red circle"}]
    said = [{"type": "text", "text": f"It is {processor.seg_token}."}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": asked}, {"role": "assistant", "content": said}], tokenize=True, return_dict=True
    )
    with torch.no_grad():
        expected, found = (one(**inputs) for one in (tiny[0], model))
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.pred_masks, expected.pred_masks, rtol=1e-4, atol=1e-4)
    assert len(found.pred_masks) == 1


def test_saving_over_it_removes_the_old_code_files(old, tiny):
    (old / "notes.txt").write_text("mine")
    with folder_in_place(old) as temporary:
        for part in tiny:
            part.save_pretrained(temporary)
        expected = code_of(temporary)
    assert code_of(old) == expected and {f"{name}.py" for name in EARLIER} <= expected
    assert (old / "notes.txt").read_text() == "mine"
    load_checkpoint(old)


def test_an_export_of_it_contains_only_present_code(old, tmp_path, make_picture):
    make_picture().save(tmp_path / "a.png")
    arguments = ["--model", str(old), "--output", str(tmp_path / "out")]
    export.main([*arguments, "--examples", str(tmp_path / "a.png"), "the red circle"])
    for name in code_of(tmp_path / "out"):
        assert (tmp_path / "out" / name).read_text() == (ROOT / name).read_text(), name
    assert {f"{name}.py" for name in EARLIER} <= code_of(tmp_path / "out")


@pytest.mark.parametrize("module", [EARLIER_MODULE, GemmaLisaTrainingArguments.__module__])
def test_a_run_folder_is_recognized_by_its_saved_arguments(old, pickled_arguments, module):
    (old / "training.json").unlink()
    with pytest.raises(UsageError, match="holds a model that was not saved by a training run"):
        check_run_folder(old, [])
    assert f"{module}\nGemmaLisaTrainingArguments".encode() in pickled_arguments(module, old)
    assert is_own_run(old)
    check_run_folder(old, [])

"""A complete checkpoint loads; otherwise an error of one line names the folder or file."""

import json
import shutil

import pytest
import torch

from gemma_lisa.checkpoints import loading
from gemma_lisa.checkpoints.loading import DTYPES, load_checkpoint, open_checkpoint


@pytest.fixture
def folder(base, tmp_path):
    """A copy of a small checkpoint, for tests that damage it."""
    return shutil.copytree(base, tmp_path / "copy")


def edit(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(("name", "dtype"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_weights_are_loaded_in_the_given_type_for_inference(base, name, dtype):
    model, processor = load_checkpoint(base, DTYPES[name])
    assert model.dtype == dtype and not model.training
    assert model.config.seg_token_id == processor.seg_token_id


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (" ", "The name of the checkpoint is empty"),
        ("no/such_model", "no/such_model: the folder does not exist, and no model with this name was found on the Hub"),
    ],
)
def test_an_unknown_name_is_an_error(name, said):
    with pytest.raises(ValueError, match=said):
        load_checkpoint(name)


def spoil_no_config(folder):
    (folder / "config.json").unlink()
    return "not a checkpoint, because it has no config.json"


def spoil_another_type(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3_text"}))
    return "of type 'gemma3_text'; expected 'gemma_lisa'. Create a Gemma-LISA checkpoint"


def spoil_unknown_type(folder):
    edit(folder / "config.json", model_type="no_such_type")
    return "its config.json cannot be used"


def spoil_fp16(folder):
    edit(folder / "config.json", dtype="float16")
    return "fp16 is not supported, because activations of Gemma 3 overflow"


def spoil_seg_token(folder):
    edit(folder / "config.json", seg_token_id=5)
    return r"the id of \[SEG\] is \d+ in the tokenizer but 5 in config.json"


def spoil_stop(folder):
    edit(folder / "generation_config.json", eos_token_id=1)
    return r"eos_token_id in generation_config.json must contain \d+, the id of <end_of_turn>"


def spoil_layers(folder):
    fields = json.loads((folder / "config.json").read_text())
    fields["text_config"] |= {"num_hidden_layers": 5, "layer_types": None}
    edit(folder / "config.json", text_config=fields["text_config"])
    return r"\d+ weights are missing, unexpected or of the wrong shape, such as model.language_model.layers.4"


SPOILS = [found for name, found in sorted(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_a_damaged_checkpoint_is_an_error_of_one_line(spoil, folder):
    message = spoil(folder)
    with pytest.raises(ValueError, match=message) as refusal:
        load_checkpoint(folder)
    assert str(refusal.value).startswith(f"{folder}: ")


def test_fp16_as_an_option_is_an_error(base):
    with pytest.raises(ValueError, match="fp16 is not supported"):
        load_checkpoint(base, torch.float16)


def test_an_adapter_option_without_an_adapter_is_an_error(base, tmp_path):
    with pytest.raises(ValueError, match="not an adapter, because it has no adapter_config.json"):
        open_checkpoint(base, adapter=tmp_path)


def test_without_a_model_option_the_example_is_loaded_with_a_note(monkeypatch, capsys):
    seen = {}
    monkeypatch.setattr(loading, "load_checkpoint", lambda path, **options: seen.update(path=path, **options))
    options = {"adapter": None, "load_in_4bit": False, "load_in_8bit": False, "device": "cpu"}
    loading.load_asked(loading.argparse.Namespace(model=None, **options))
    assert seen["path"] == loading.EXAMPLE and seen["device"] == torch.device("cpu") and seen["dtype"] == "auto"
    announced = "It knows red, green and blue circles, squares and triangles in drawings, not photographs."
    assert announced in capsys.readouterr().err
    loading.load_asked(loading.argparse.Namespace(model="some/model", **options))
    assert seen["path"] == "some/model" and "It knows" not in capsys.readouterr().err

"""What init_checkpoint.py refuses, in one line and without a trace."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stock_checkpoints import EMBEDDING, edit_json, edit_weights, init, stock_tokenizer, text_config, write_gemma
from transformers import Gemma3ForCausalLM

from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.scripts.init_checkpoint import main

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "init_checkpoint.py"


def drop(name):
    return lambda weights: {key: weight for key, weight in weights.items() if key != name}


def spoil_gemma_missing(gemma, sam):
    edit_weights(gemma, drop("language_model.model.layers.1.mlp.up_proj.weight"))
    return "1 weights are missing, the first model.language_model.layers.1.mlp.up_proj.weight"


def spoil_gemma_left_over(gemma, sam):
    edit_weights(gemma, lambda weights: {**weights, "language_model.model.extra.weight": torch.zeros(2)})
    return "1 weights are left over, the first .*extra.weight"


def spoil_gemma_two_heads(gemma, sam):
    edit_weights(gemma, lambda weights: {**weights, "language_model.lm_head.weight": -weights[EMBEDDING]})
    return "ties lm_head to the embedding, but its weights hold two different ones"


def spoil_gemma_shape(gemma, sam):
    edit_weights(gemma, lambda weights: {**weights, "language_model.model.norm.weight": torch.zeros(2)})
    return "1 weights are of another shape than config.json says, the first model.language_model.norm.weight"


def spoil_sam_missing(gemma, sam):
    edit_weights(sam, drop("vision_encoder.pos_embed"))
    return "1 weights are missing, the first vision_encoder.pos_embed"


def spoil_sam_left_over(gemma, sam):
    edit_weights(sam, lambda weights: {**weights, "mask_decoder.extra": torch.zeros(2)})
    return "1 weights are left over, the first mask_decoder.extra"


def spoil_gemma_type(gemma, sam):
    edit_json(gemma / "config.json", model_type="gemma3n")
    return "type 'gemma3n'; expected 'gemma3', a Gemma 3 that sees images"


def spoil_gemma_text_only(gemma, sam):
    shutil.rmtree(gemma)
    tokenizer = stock_tokenizer()
    Gemma3ForCausalLM(text_config(tokenizer, len(tokenizer) + 8)).save_pretrained(gemma)
    tokenizer.save_pretrained(gemma)
    return "type 'gemma3_text'; expected 'gemma3'"


def spoil_gemma_quantised(gemma, sam):
    edit_json(gemma / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    return "quantised"


def spoil_gemma_gone(gemma, sam):
    shutil.rmtree(gemma)
    return "--gemma .*: no such folder"


def spoil_sam_gone(gemma, sam):
    (sam / "config.json").unlink()
    return "no config.json that names its type; expected 'sam'"


def spoil_sam_cut_off(gemma, sam):
    path = sam / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return "sam: no weights that can be read"


def spoil_sam_is_gemma(gemma, sam):
    shutil.rmtree(sam)
    shutil.copytree(gemma, sam)
    return "--sam .*type 'gemma3'; expected 'sam'"


def spoil_sam_two(gemma, sam):
    edit_json(sam / "config.json", model_type="sam2")
    return "type 'sam2'; expected 'sam'"


def spoil_sam_file(gemma, sam):
    shutil.rmtree(sam)
    sam.write_bytes(b"")
    return "sam: torch.save did not write it, or it is cut off; expected SAM's state dict"


def spoil_sam_file_of_another_model(gemma, sam):
    shutil.rmtree(sam)
    torch.save({"encoder.weight": torch.zeros(2)}, sam)
    return "no SAM, the first of its 1 entries is 'encoder.weight'"


def spoil_sam_size(gemma, sam):
    path = sam / "processor_config.json"
    nested = json.loads(path.read_text())["image_processor"]
    edit_json(path, image_processor={**nested, "size": {"longest_edge": 64}})
    return "longest edge 64 but .* 48"


def spoil_gemma_size(gemma, sam):
    path = gemma / "processor_config.json"
    nested = json.loads(path.read_text())["image_processor"]
    edit_json(path, image_processor={**nested, "size": {"height": 64, "width": 64}})
    return r"\(64, 64\) but .* \(32, 32\)"


def spoil_gemma_tokens(gemma, sam):
    edit_json(gemma / "config.json", image_token_index=3)
    return "<image_soft_token> is token 8 of the tokenizer but 3 in config.json"


def spoil_no_spare_row(gemma, sam):
    shutil.rmtree(gemma)
    write_gemma(gemma, spare_rows=0)
    num_tokens = len(stock_tokenizer())
    return rf"\[SEG\] would be token {num_tokens}, but the embedding's {num_tokens} rows end at {num_tokens - 1}"


SPOILS = [found for name, found in sorted(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_refused_in_one_line_and_without_a_trace(spoil, copies, tmp_path):
    gemma, sam = copies
    message = spoil(gemma, sam)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message) as caught:
        init(gemma, sam, tmp_path / "start")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_sam_file_that_is_not_there_is_not_looked_for_on_the_hub(gemma, tmp_path):
    with pytest.raises(ValueError, match="^--sam sam_vit_h_4b8939.pth: no such file.$"):
        init(gemma, "sam_vit_h_4b8939.pth", tmp_path / "start")


def test_the_last_spare_row_is_enough(sam, tmp_path):
    model, _ = load_checkpoint(init(write_gemma(tmp_path / "gemma", spare_rows=1), sam, tmp_path / "start"))
    assert model.config.seg_token_id == model.config.text_config.vocab_size - 1


def test_a_folder_that_holds_something_is_not_touched_but_an_empty_one_is_filled(gemma, sam, tmp_path):
    output = tmp_path / "start"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        init(gemma, sam, output)
    assert [path.name for path in output.iterdir()] == ["notes.txt"]
    (output / "notes.txt").unlink()
    assert (init(gemma, sam, output) / "model.safetensors").is_file()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no space left on device")])
def test_an_interrupted_run_leaves_nothing(error, gemma, sam, tmp_path, monkeypatch):
    def stop(*_, **__):
        assert len(list(tmp_path.glob(".start.*/model.safetensors"))) == 1, "the weights were not written yet"
        raise error

    monkeypatch.setattr("gemma_lisa.processing_gemma_lisa.GemmaLisaProcessor.save_pretrained", stop)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        init(gemma, sam, tmp_path / "start")
    assert list(tmp_path.iterdir()) == []


def test_exit_codes_and_streams(copies, tmp_path):
    gemma, sam = copies
    spoil_sam_missing(gemma, sam)  # so that Gemma is loaded before it fails
    arguments = ["--gemma", gemma, "--sam", sam, "--output", tmp_path / "start"]
    failed = subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)
    assert failed.returncode == 1
    assert [line for line in failed.stderr.splitlines() if line.startswith("error: ")] == [
        f"error: {sam}: 1 weights are missing, the first vision_encoder.pos_embed."
    ]
    assert "Traceback" not in failed.stderr
    assert "LOAD REPORT" not in failed.stderr, "all of SAM is said to be missing while Gemma loads"
    assert not (tmp_path / "start").exists()
    with pytest.raises(SystemExit, match="2"):
        main(["--gemma", str(gemma)])

"""Errors of init_checkpoint.py are one line and leave no files."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stock_checkpoints import EMBEDDING, edit_json, edit_weights, init, stock_tokenizer, write_gemma, write_text_gemma

from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.scripts.init_checkpoint import main

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "init_checkpoint.py"


def drop(name):
    return lambda weights: {key: weight for key, weight in weights.items() if key != name}


def spoil_gemma_missing(gemma, sam):
    edit_weights(gemma, drop("language_model.model.layers.1.mlp.up_proj.weight"))
    return "1 weight is missing, such as model.language_model.layers.1.mlp.up_proj.weight"


def spoil_gemma_left_over(gemma, sam):
    edit_weights(gemma, lambda weights: {**weights, "language_model.model.extra.weight": torch.zeros(2)})
    return "1 weight is unexpected, such as .*extra.weight"


def spoil_gemma_two_heads(gemma, sam):
    edit_weights(gemma, lambda weights: {**weights, "language_model.lm_head.weight": -weights[EMBEDDING]})
    return "ties lm_head to the embedding, but the two weights differ"


def spoil_gemma_shape(gemma, sam):
    edit_weights(gemma, lambda weights: {**weights, "language_model.model.norm.weight": torch.zeros(2)})
    return "1 weight is not of the shape in config.json, such as model.language_model.norm.weight"


def spoil_sam_missing(gemma, sam):
    edit_weights(sam, drop("vision_encoder.pos_embed"))
    return "1 weight is missing, such as vision_encoder.pos_embed"


def spoil_sam_left_over(gemma, sam):
    edit_weights(sam, lambda weights: {**weights, "mask_decoder.extra": torch.zeros(2)})
    return "1 weight is unexpected, such as mask_decoder.extra"


def spoil_gemma_type(gemma, sam):
    edit_json(gemma / "config.json", model_type="gemma3n")
    return r"type 'gemma3n'; expected 'gemma3' \(4B, 12B or 27B\) or 'gemma3_text' \(270M or 1B\)"


def spoil_gemma_text_only(gemma, sam):
    shutil.rmtree(gemma)
    write_text_gemma(gemma)
    return "--gemma .*: reads text only. Add --vision with a vision encoder"


def spoil_gemma_quantized(gemma, sam):
    edit_json(gemma / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    return "its weights are quantized"


def spoil_gemma_gone(gemma, sam):
    shutil.rmtree(gemma)
    return "--gemma .*: the folder does not exist"


def spoil_sam_gone(gemma, sam):
    (sam / "config.json").unlink()
    return "no config.json with a model_type; expected 'sam', SAM 1"


def spoil_sam_cut_off(gemma, sam):
    path = sam / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return "sam: the weights cannot be read"


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
    return "sam: not a file of torch.save, or the file is truncated; expected SAM's state dict"


def spoil_sam_file_of_another_model(gemma, sam):
    shutil.rmtree(sam)
    torch.save({"encoder.weight": torch.zeros(2)}, sam)
    return "not a SAM, because its first key is 'encoder.weight'"


def spoil_sam_size(gemma, sam):
    path = sam / "processor_config.json"
    nested = json.loads(path.read_text())["image_processor"]
    edit_json(path, image_processor={**nested, "size": {"longest_edge": 64}})
    return "longest edge of its image processor is 64, but .* expects 48"


def spoil_gemma_size(gemma, sam):
    path = gemma / "processor_config.json"
    nested = json.loads(path.read_text())["image_processor"]
    edit_json(path, image_processor={**nested, "size": {"height": 64, "width": 64}})
    return r"\(height, width\) of its image processor is \(64, 64\), but .* expects \(32, 32\)"


def spoil_gemma_tokens(gemma, sam):
    edit_json(gemma / "config.json", image_token_index=3)
    return "the id of <image_soft_token> is 8 in the tokenizer but 3 in config.json"


def spoil_no_spare_row(gemma, sam):
    shutil.rmtree(gemma)
    write_gemma(gemma, spare_rows=0)
    num_tokens = len(stock_tokenizer())
    return rf"no spare row for \[SEG\]. It would be token {num_tokens}, but the embedding has {num_tokens} rows"


SPOILS = [found for name, found in sorted(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda spoil: spoil.__name__)
def test_errors_are_one_line_and_leave_no_files(spoil, copies, tmp_path):
    gemma, sam = copies
    message = spoil(gemma, sam)
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message) as caught:
        init(gemma, sam, tmp_path / "start")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "more", [["--vision", "examples/shapes-tiny"], ["--image_tokens", "16"]], ids=lambda more: more[0]
)
def test_a_vision_encoder_for_a_gemma_that_has_one_is_an_error(more, gemma, sam, tmp_path):
    with pytest.raises(ValueError, match="has its own vision encoder. Omit --vision and --image_tokens.$"):
        init(gemma, sam, tmp_path / "start", *more)


def test_a_missing_sam_file_is_not_searched_on_the_hub(gemma, tmp_path):
    with pytest.raises(ValueError, match="^--sam sam_vit_h_4b8939.pth: the file does not exist.$"):
        init(gemma, "sam_vit_h_4b8939.pth", tmp_path / "start")


def test_one_spare_row_is_enough(sam, tmp_path):
    model, _ = load_checkpoint(init(write_gemma(tmp_path / "gemma", spare_rows=1), sam, tmp_path / "start"))
    assert model.config.seg_token_id == model.config.text_config.vocab_size - 1


def test_a_non_empty_folder_is_an_error_and_an_empty_one_is_used(gemma, sam, tmp_path):
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
        f"error: {sam}: 1 weight is missing, such as vision_encoder.pos_embed."
    ]
    assert "Traceback" not in failed.stderr
    assert "LOAD REPORT" not in failed.stderr, "it lists all weights of SAM as missing"
    assert not (tmp_path / "start").exists()
    with pytest.raises(SystemExit, match="2"):
        main(["--gemma", str(gemma)])

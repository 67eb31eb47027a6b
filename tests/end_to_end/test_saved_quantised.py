"""A checkpoint that was saved with quantized weights: unsupported uses are an error of one line."""

import pytest

from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.scripts import export
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training.arguments import ModelArguments
from gemma_lisa.training.load_model import load_model


@pytest.fixture(scope="module", params=["4", "8"])
def quantized(request, tmp_path_factory):
    """Return (bits, folder) of a small model that was loaded with quantized weights and saved again."""
    at = tmp_path_factory.mktemp("quantized")
    for part in build_tiny(image_size=32):
        part.save_pretrained(at / "whole")
    for part in load_checkpoint(at / "whole", **{f"load_in_{request.param}bit": True}):
        part.save_pretrained(at / "saved")
    return request.param, at / "saved"


def test_it_loads_but_cannot_be_quantized_again(quantized):
    bits, folder = quantized
    load_checkpoint(folder, device="cpu")
    for option in ("load_in_4bit", "load_in_8bit"):
        with pytest.raises(ValueError, match=rf"quantized \({bits} bits\), so --{option} has no effect") as refusal:
            load_checkpoint(folder, **{option: True})
        assert "\n" not in str(refusal.value)


def test_it_can_be_trained_only_with_lora(quantized, tmp_path):
    bits, folder = quantized
    with pytest.raises(ValueError, match=rf"quantized \({bits} bits\) and cannot be trained. Set lora_rank"):
        load_model(ModelArguments(model=str(folder)))
    model, processor = load_model(ModelArguments(model=str(folder), lora_rank=2))
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    load_checkpoint(tmp_path)  # the adapter is not merged
    if bits == "8":
        with pytest.raises(ValueError, match="Remove use_dora"):
            load_model(ModelArguments(model=str(folder), lora_rank=2, use_dora=True))


def test_it_cannot_be_exported(quantized, tmp_path):
    bits, folder = quantized
    with pytest.raises(ValueError, match=rf"its weights are quantized \({bits} bits\) and cannot be exported"):
        export.main(["--model", str(folder), "--output", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())

"""A checkpoint that was saved quantised: what it does not allow is said in one sentence."""

import pytest

from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.scripts import export
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training.arguments import ModelArguments
from gemma_lisa.training.load_model import load_model


@pytest.fixture(scope="module", params=["4", "8"])
def quantised(request, tmp_path_factory):
    """(bits, folder) of a small model that was opened quantised and saved again."""
    at = tmp_path_factory.mktemp("quantised")
    for part in build_tiny(image_size=32):
        part.save_pretrained(at / "whole")
    for part in load_checkpoint(at / "whole", **{f"load_in_{request.param}bit": True}):
        part.save_pretrained(at / "saved")
    return request.param, at / "saved"


def test_it_opens_as_it_is_and_is_not_quantised_again(quantised):
    bits, folder = quantised
    load_checkpoint(folder, device="cpu")
    for option in ("load_in_4bit", "load_in_8bit"):
        with pytest.raises(ValueError, match=f"saved in {bits} bits, so --{option} has no effect") as refusal:
            load_checkpoint(folder, **{option: True})
        assert "\n" not in str(refusal.value)


def test_it_is_trained_below_lora_only(quantised, tmp_path):
    bits, folder = quantised
    with pytest.raises(ValueError, match=f"quantised to {bits} bits.*; set lora_rank"):
        load_model(ModelArguments(model=str(folder)))
    model, processor = load_model(ModelArguments(model=str(folder), lora_rank=2))
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    load_checkpoint(tmp_path)  # stays beside its base
    if bits == "8":
        with pytest.raises(ValueError, match="leave use_dora out"):
            load_model(ModelArguments(model=str(folder), lora_rank=2, use_dora=True))


def test_it_is_not_exported(quantised, tmp_path):
    bits, folder = quantised
    with pytest.raises(ValueError, match=f"saved in {bits} bits, which cannot be exported"):
        export.main(["--model", str(folder), "--output", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())

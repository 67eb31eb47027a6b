"""SAM from a folder, or from a Gemma-LISA."""

import json

import pytest
import torch
from stock_checkpoints import SAM_SIDE, edit_json, write_gemma
from transformers import SamModel

from gemma_lisa.checkpoints.loading import EXAMPLE, load_checkpoint
from gemma_lisa.checkpoints.sources.sam import load_sam, read_sam_config, read_sam_image_processor
from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration


def model_with(sam_config, tiny):
    """Return a Gemma-LISA in bf16 with a random SAM of a configuration."""
    fields = {**tiny[0].config.to_dict(), "sam_config": sam_config.to_dict()}
    return GemmaLisaForConditionalGeneration(GemmaLisaConfig.from_dict(fields)).to(torch.bfloat16)


@pytest.mark.parametrize("kind", ["folder", "gemma_lisa"])
def test_weights_are_those_of_the_source_and_the_positional_encoding_stays_in_fp32(kind, tiny, sam):
    name = str(sam if kind == "folder" else EXAMPLE)
    source = SamModel.from_pretrained(sam) if kind == "folder" else load_checkpoint(EXAMPLE, dtype=torch.float32)[0].sam
    model = model_with(read_sam_config(name), tiny)
    load_sam(model, name, model.config.sam_config)
    encoding = model.sam.shared_image_embedding.positional_embedding
    assert torch.equal(encoding, source.shared_image_embedding.positional_embedding)
    for key, weight in source.named_parameters():
        found = model.sam.get_parameter(key)
        if found is not encoding:
            assert found.dtype == torch.bfloat16 and torch.equal(found, weight.bfloat16()), key
    assert model.sam.prompt_encoder.shared_embedding.positional_embedding is encoding


def test_the_image_processor_is_that_of_the_source(sam):
    found, is_own = read_sam_image_processor(str(sam), read_sam_config(str(sam)))
    assert is_own and list(found.image_mean) == [0.4, 0.5, 0.6] and found.size.longest_edge == SAM_SIDE
    found, is_own = read_sam_image_processor(str(EXAMPLE), read_sam_config(str(EXAMPLE)))
    expected = json.loads((EXAMPLE / "processor_config.json").read_text())["sam_image_processor"]
    assert is_own and found.size.longest_edge == expected["size"]["longest_edge"]


def test_a_size_that_differs_from_the_prompt_encoder_is_an_error(copies):
    _, sam = copies
    config = json.loads((sam / "config.json").read_text())
    prompts = {**config["prompt_encoder_config"], "image_size": 64}
    edit_json(sam / "config.json", prompt_encoder_config=prompts)
    with pytest.raises(ValueError, match="image_size of its prompt encoder is 64, but .* expects 48.$"):
        read_sam_image_processor(str(sam), read_sam_config(str(sam)))


def test_other_checkpoints_are_errors(tmp_path, sam):
    gemma = write_gemma(tmp_path / "gemma")
    with pytest.raises(ValueError, match=r"type 'gemma3'; expected 'sam', SAM 1 \(not SAM 2\), or a Gemma-LISA.$"):
        read_sam_config(str(gemma))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="^--sam .*: this is an adapter. Merge it"):
        read_sam_config(str(adapter))

"""The configuration: its defaults, what it refuses, and that it is saved with the model."""

import pytest

from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.scripts.init_tiny import build_config


def test_configuration_comes_back_as_it_was_saved(tiny, tmp_path):
    model, processor = tiny
    fields = {"seg_state": "token", "dice_loss_weight": 0.125, "mask_loss_size": 48}
    other = GemmaLisaForConditionalGeneration(build_config(processor, 64, **fields))
    other.generation_config = model.generation_config
    other.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    config = load_checkpoint(tmp_path)[0].config
    assert {name: getattr(config, name) for name in fields} == fields
    assert config.sam_config.vision_config.image_size == 64
    assert config.text_config.hidden_size == model.config.text_config.hidden_size


def test_unknown_seg_state_is_refused():
    with pytest.raises(ValueError, match="seg_state is 'next'"):
        GemmaLisaConfig(seg_state="next")

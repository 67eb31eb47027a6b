"""The configuration: defaults, errors, and saving with the model."""

import pytest
from transformers import Gemma3Config, SamConfig

from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.scripts.init_tiny import build_config


def test_configuration_is_the_same_after_saving_and_loading(tiny, tmp_path):
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


def test_unknown_seg_state_is_an_error():
    with pytest.raises(ValueError, match="seg_state must be .*, got 'next'"):
        GemmaLisaConfig(seg_state="next")


def test_default_sam_configuration_is_vit_b():
    config = GemmaLisaConfig()
    assert isinstance(config.sam_config, SamConfig)
    assert config.sam_config.to_diff_dict() == SamConfig().to_diff_dict()
    assert config.sam_config.vision_config.hidden_size == 768


def test_sam_configuration_can_be_a_dictionary():
    given = {"vision_config": {"image_size": 64, "num_hidden_layers": 1}}
    config = GemmaLisaConfig(sam_config=given)
    again = GemmaLisaConfig(**config.to_dict())
    for sam in (config.sam_config, again.sam_config):
        assert isinstance(sam, SamConfig)
        assert (sam.vision_config.image_size, sam.vision_config.num_hidden_layers) == (64, 1)


def test_losses_have_the_weights_of_lisa_and_other_losses_are_off():
    config = GemmaLisaConfig()
    assert (config.ce_loss_weight, config.bce_loss_weight, config.dice_loss_weight) == (1.0, 2.0, 0.5)
    assert config.score_loss_weight == config.prompted_loss_weight == 0.0
    assert config.mask_loss_size == 1024


def test_fields_of_gemma_keep_their_places():
    text = {"hidden_size": 64, "num_hidden_layers": 2}
    stock, ours = Gemma3Config(text_config=text), GemmaLisaConfig(text_config=text)
    assert ours.model_type == "gemma_lisa" and isinstance(ours, Gemma3Config)
    assert ours.text_config.to_dict() == stock.text_config.to_dict()
    assert ours.vision_config.to_dict() == stock.vision_config.to_dict()
    assert ours.image_token_id == stock.image_token_id != ours.seg_token_id


@pytest.mark.parametrize("seg_state", ["token", "previous"])
def test_both_seg_states_are_accepted(seg_state):
    assert GemmaLisaConfig(seg_state=seg_state).seg_state == seg_state

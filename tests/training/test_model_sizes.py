"""The configurations of published sizes have as many parameters as the published models."""

import pytest
import torch

from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.training.model_sizes import GEMMA_SIZES, build_real_config

# Parameters of google/gemma-3-*-it, and of sam_vit_h with its positional encoding, which is a buffer there
GEMMA = {"4b": 4_300_079_472, "12b": 12_187_325_040, "27b": 27_432_406_640}
SAM_VIT_H = 641_090_608 + 2 * 128


@pytest.mark.parametrize("size", GEMMA_SIZES)
def test_a_size_has_as_many_parameters_as_the_published_model(size):
    with torch.device("meta"):
        model = GemmaLisaForConditionalGeneration(build_real_config(size))
    count = {name: sum(part.numel() for part in module.parameters()) for name, module in model.named_children()}
    assert count["model"] == GEMMA[size]
    assert count["sam"] == SAM_VIT_H


def test_fields_of_the_configuration_can_be_overridden():
    config = build_real_config("4b", seg_state="previous")
    assert config.seg_state == "previous" and config.text_config.hidden_size == 2560

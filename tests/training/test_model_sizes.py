"""The configurations of published sizes have as many parameters as the published models."""

import pytest
import torch

from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.training.model_sizes import GEMMA_SIZES, TEXT_ONLY, build_real_config, describe

# Parameters of google/gemma-3-*, and of sam_vit_b and sam_vit_h with their positional encoding, which is a buffer there
SIGLIP_BASE = 92_884_224 - 7_087_104  # google/siglip-base-patch16-224 without its pooling head


def with_siglip(text, hidden):
    """Return the parameters of a text-only Gemma with 64 more rows, SigLIP base, and the projector with its norm."""
    return text + 64 * hidden + SIGLIP_BASE + 768 * hidden + 768


GEMMA = {
    "270m": with_siglip(268_098_176, 640),
    "1b": with_siglip(999_885_952, 1152),
    "4b": 4_300_079_472,
    "12b": 12_187_325_040,
    "27b": 27_432_406_640,
}
SAM_VIT_B, SAM_VIT_H = 93_735_472 + 2 * 128, 641_090_608 + 2 * 128


@pytest.mark.parametrize("size", GEMMA_SIZES)
def test_a_size_has_as_many_parameters_as_the_published_model(size):
    with torch.device("meta"):
        model = GemmaLisaForConditionalGeneration(build_real_config(size))
    count = {name: sum(part.numel() for part in module.parameters()) for name, module in model.named_children()}
    assert count["model"] == GEMMA[size]
    assert count["sam"] == (SAM_VIT_B if size in TEXT_ONLY else SAM_VIT_H)


def test_fields_of_the_configuration_can_be_overridden():
    config = build_real_config("4b", seg_state="previous")
    assert config.seg_state == "previous" and config.text_config.hidden_size == 2560


def test_the_description_names_the_parts():
    assert describe("270m") == "Gemma 3 270M with SigLIP base and SAM ViT-B"
    assert describe("4b") == "Gemma 3 4B with SAM ViT-H"

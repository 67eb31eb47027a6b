"""The loaded model: trained parameters, data types and loss weights."""

import pytest
import torch

from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training.arguments import ModelArguments
from gemma_lisa.training.load_model import load_model

SIZE = 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with a small random Gemma-LISA."""
    folder = tmp_path_factory.mktemp("tiny")
    model, processor = build_tiny(image_size=SIZE)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_parameters_that_match_a_pattern_are_trained_and_all_others_frozen(checkpoint):
    arguments = ModelArguments(str(checkpoint), ["seg_projector.*", "sam.mask_decoder.iou_token.weight"], 3.0)
    model, _ = load_model(arguments)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {
        *(f"seg_projector.{at}.{kind}" for at in (0, 2) for kind in ("weight", "bias")),
        "sam.mask_decoder.iou_token.weight",
    }
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert (model.config.ce_loss_weight, model.config.bce_loss_weight, model.config.dice_loss_weight) == (3.0, 2.0, 0.5)

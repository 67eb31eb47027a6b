"""The fingerprint changes with everything that changes features, and with nothing else."""

import copy

import pytest
import torch

from gemma_lisa import processing_gemma_lisa
from gemma_lisa.feature_cache.encoders import GEMMA, SAM, modules_of
from gemma_lisa.feature_cache.fingerprint import fingerprint, preparation_of


@pytest.fixture
def model(small):
    return copy.deepcopy(small[0])


def mark_of(model, encoder=SAM, config=None, autocast=False, preparation="p"):
    return fingerprint(modules_of(model, encoder), config or {"layers": 2}, autocast, preparation)


@pytest.mark.parametrize("encoder", [GEMMA, SAM])
def test_the_last_bit_of_every_weight_counts(model, encoder):
    first = mark_of(model, encoder)
    assert mark_of(model, encoder) == first
    tensors = [tensor for module in modules_of(model, encoder).values() for tensor in module.parameters()]
    for tensor in (tensors[0], tensors[len(tensors) // 2], tensors[-1]):
        bits = tensor.data.view(-1)[-1:].view(torch.int32)
        bits ^= 1
        assert mark_of(model, encoder) != first
        bits ^= 1
    assert mark_of(model, encoder) == first


def test_weights_of_other_modules_do_not_count(model):
    before = mark_of(model, GEMMA), mark_of(model, SAM)
    model.lm_head.weight.data += 1
    model.sam.mask_decoder.iou_token.weight.data += 1
    assert (mark_of(model, GEMMA), mark_of(model, SAM)) == before


def test_precision_configuration_and_preparation_count(model):
    marks = {
        mark_of(model),
        mark_of(model, autocast=True),
        mark_of(model, config={"layers": 3}),
        mark_of(model, preparation="q"),
        mark_of(model.bfloat16()),
    }
    assert len(marks) == 5


def test_names_in_a_configuration_do_not_count(model):
    named = {"layers": 2, "_name_or_path": "here", "transformers_version": "6"}
    assert mark_of(model, config=named) == mark_of(model)


def test_settings_of_an_image_processor_count_for_its_encoder_only(small):
    processor = copy.deepcopy(small[1])
    before = preparation_of(processor)
    assert preparation_of(processor) == before
    processor.sam_image_processor.image_mean = [0.1, 0.2, 0.3]
    after = preparation_of(processor)
    assert after["pixel_values"] == before["pixel_values"]
    assert after["sam_pixel_values"] != before["sam_pixel_values"]


def test_code_that_prepares_images_counts(small, monkeypatch):
    before = preparation_of(small[1])
    write = processing_gemma_lisa.write_pixels
    monkeypatch.setattr(processing_gemma_lisa, "write_pixels", lambda rgb, target: write(rgb.rotate(180), target))
    after = preparation_of(small[1])
    assert all(after[name] != before[name] for name in before)

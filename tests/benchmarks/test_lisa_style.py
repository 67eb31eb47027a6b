"""LISA's way of working gives the losses, tokens and masks of this project, so times of the two can be compared."""

from dataclasses import replace

import pytest
import torch

from gemma_lisa.benchmarks.bench_inference import Inference
from gemma_lisa.benchmarks.bench_train import Step
from gemma_lisa.benchmarks.lisa_style import TRAINED
from gemma_lisa.benchmarks.stand_in_model import SEG_STEP, Work

WORK = Work(mask_size=(48, 64))
LOSSES = ("language_loss", "mask_bce_loss", "mask_dice_loss", "loss")


def disturb_lora(*models):
    """Give the LoRA layers on q and v of the models the same random weights. They start with zeros."""
    generator = torch.Generator().manual_seed(1)
    layers = len(models[0].model.language_model.layers)
    for number in range(layers):
        for name in ("q_proj", "v_proj"):
            parts = [model.model.language_model.layers[number].self_attn.get_submodule(name) for model in models]
            for matrix in ("lora_A", "lora_B"):
                weights = [getattr(part, matrix)["default"].weight.data for part in parts]
                drawn = torch.randn(weights[0].shape, generator=generator) * 0.1
                for weight in weights:
                    weight.copy_(drawn)


@pytest.mark.parametrize("seg_state", ["token", "previous"])
def test_losses_are_equal(seg_state):
    ours, lisa = (Step(way, WORK) for way in ("ours", "lisa"))
    before = ours.losses()["loss"].item()
    disturb_lora(ours.model, lisa.model)
    for step in (ours, lisa):
        step.model.config.seg_state = seg_state
    assert len(ours.batch["input_ids"]) == 2 and len(lisa.batch["input_ids"]) == 6
    expected, found = ours.losses(), lisa.losses()
    assert abs(expected["loss"].item() - before) > 1e-3  # the adapter has an effect
    for name in LOSSES:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)


def test_gradients_of_the_common_weights_are_equal():
    ours, lisa = (Step(way, WORK) for way in ("ours", "lisa"))
    disturb_lora(ours.model, lisa.model)
    for step in (ours, lisa):
        step.losses()["loss"].backward()
    expected = dict(ours.model.named_parameters())
    compared = 0
    for name, parameter in lisa.model.named_parameters():
        if "lora_" in name:
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-3, atol=1e-5)
            compared += 1
    assert compared == 4 * len(ours.model.model.language_model.layers)


def test_lisa_trains_the_whole_embedding_and_no_encoder():
    step = Step("lisa", WORK)
    step.losses()["loss"].backward()
    trained = {name for name, parameter in step.model.named_parameters() if parameter.grad is not None}
    assert all(any(part in name for part in TRAINED) for name in trained)
    embedding = step.model.get_input_embeddings().weight
    assert (embedding.grad.abs().sum(1) > 0).all()  # every row, because the head is trained too
    assert not any("vision" in name for name in trained) and any("mask_decoder" in name for name in trained)


def test_optimizer_changes_the_loss_of_both_ways():
    for way in ("ours", "lisa"):
        step = Step(way, replace(WORK, images=1, questions=1))
        before = step.losses()["loss"].item()
        step.run()
        assert step.losses()["loss"].item() != before


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("tokens", [SEG_STEP + 1, 7])  # [SEG] is the last token, or another one
def test_tokens_and_masks_are_equal(adapter, tokens):
    ours, lisa = (Inference(WORK, adapter, is_lisa, tokens) for is_lisa in (False, True))
    if adapter:
        disturb_lora(ours.model, lisa.model)
    (expected, masks), (found, lisa_masks) = ours.ours(), lisa.lisa()
    assert found.tolist() == expected.tolist() and masks.shape == lisa_masks.shape == (1, 32, 32)
    answer = found[0, -tokens:].tolist()
    assert answer[SEG_STEP] == ours.model.config.seg_token_id and len(set(answer)) > 1
    torch.testing.assert_close(lisa_masks, masks, rtol=1e-4, atol=1e-4)

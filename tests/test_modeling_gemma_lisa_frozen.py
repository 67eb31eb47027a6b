"""Frozen image encoders: no gradients, also with activation checkpointing, and features that are given."""

import pytest
import torch
from comparing import assert_close

from gemma_lisa.checkpoints.lora import add_lora
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.templates import Conversation
from gemma_lisa.scripts.init_tiny import build_tiny

TRAINED = ("model.language_model.", "seg_projector.", "sam.mask_decoder.")
ENCODERS = ("sam.vision_encoder", "model.vision_tower", "model.multi_modal_projector")


@pytest.fixture
def frozen():
    """A model in training mode whose image encoders are frozen."""
    model, _ = build_tiny(64)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED))
    return model.train()


def modules_of(model):
    return [module for name in ENCODERS for module in model.get_submodule(name).modules()]


def runs_of_encoders(model, batch, calls):
    """Return how often modules of the frozen encoders run, and how many of their outputs have a gradient."""
    outputs = []

    def watch(module, inputs, output):
        values = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else [output]
        outputs.extend(value.requires_grad for value in values if isinstance(value, torch.Tensor))

    hooks = [module.register_forward_hook(watch) for module in modules_of(model)]
    for _ in range(calls):
        model(**batch).loss.backward()
    for hook in hooks:
        hook.remove()
    return len(outputs), sum(outputs)


def gradients(model, batch):
    model.zero_grad()
    model(**batch).loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_frozen_encoders_run_once_and_are_not_in_the_backward_graph(frozen, batch, lora, checkpointing):
    model = add_lora(frozen, rank=2).train() if lora else frozen
    inner = model.get_base_model() if lora else model
    plain, _ = runs_of_encoders(inner, batch, calls=1)
    if checkpointing:
        model.gradient_checkpointing_enable()
    ran, with_gradient = runs_of_encoders(inner, batch, calls=1)
    assert ran == plain  # activation checkpointing does not run them again
    assert with_gradient == 0


def test_activation_checkpointing_does_not_change_gradients(frozen, batch):
    expected = gradients(frozen, batch)
    frozen.gradient_checkpointing_enable()
    frozen.enable_input_require_grads()
    found = gradients(frozen, batch)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("encoder", ["sam.vision_encoder", "model.vision_tower"])
def test_trained_encoders_have_gradients(frozen, batch, encoder):
    frozen.get_submodule(encoder).requires_grad_(True)
    frozen(**batch).loss.backward()
    assert any(parameter.grad is not None for parameter in frozen.get_submodule(encoder).parameters())


def test_training_fills_no_cache(frozen, batch):
    output = frozen(**batch)
    assert output.get("past_key_values") is None and output.get("cache") is None


def test_given_features_replace_the_images(frozen, batch):
    expected = frozen(**batch)
    given = dict(batch)
    given["image_features"] = frozen.encode_for_gemma(given.pop("pixel_values"))
    given["image_embeddings"] = frozen.encode_for_sam(given.pop("sam_pixel_values"))
    ran, _ = runs_of_encoders(frozen, given, calls=1)
    assert ran == 0
    torch.testing.assert_close(frozen(**given).loss, expected.loss, rtol=0, atol=0)


def test_batch_without_images_runs_no_encoder_if_it_has_empty_features(frozen, tiny):
    text = {"source": "text", "image": None, "conversations": [Conversation((("what?", "Nothing."),))], "masks": [None]}
    batch = GemmaLisaCollator(tiny[1])([text])
    batch["image_features"] = torch.zeros(0, 16, frozen.config.text_config.hidden_size)
    batch["image_embeddings"] = frozen.encode_for_sam(None)[:0]
    ran, _ = runs_of_encoders(frozen, batch, calls=1)
    assert ran == 0


def test_features_and_pixels_together_are_an_error(frozen, batch):
    features = frozen.encode_for_gemma(batch["pixel_values"])
    with pytest.raises(ValueError, match="pixel_values and image_features are two names of the same argument"):
        frozen(**batch, image_features=features)


@torch.no_grad()
def test_sam_encodes_the_images_of_a_batch_one_by_one_on_a_cpu(frozen):
    images, sizes = torch.randn(3, 3, 64, 64), []
    hook = frozen.sam.vision_encoder.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    found = frozen.encode_for_sam(images)
    hook.remove()
    assert sizes == [1, 1, 1]
    assert_close(found, frozen.sam.vision_encoder(images).last_hidden_state)


@torch.no_grad()
def test_processes_call_the_encoder_of_sam_equally_often(frozen, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    sizes = []
    hook = frozen.sam.vision_encoder.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    frozen.encode_for_sam(torch.randn(3, 3, 64, 64))
    hook.remove()
    assert sizes == [3]

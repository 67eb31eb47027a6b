"""SAM's fast layers compared with the classes of transformers."""

import copy
import importlib.util

import pytest
import torch
from transformers import SamConfig, SamModel
from transformers.models.sam import modeling_sam
from transformers.models.sam.modeling_sam import SamAttention, SamMaskDecoder, SamVisionSdpaAttention

from gemma_lisa import sam_layers_gemma_lisa
from gemma_lisa.mask_decoding_gemma_lisa import decode_masks
from gemma_lisa.sam_layers_gemma_lisa import FastMaskDecoder, FoldedAttention, use_fast_layers


@pytest.fixture(scope="module")
def stock():
    """A SAM with windows that need padding and global layers, and weights that use every term."""
    torch.manual_seed(0)
    vision = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=160, patch_size=8, window_size=7
    )
    sam = SamModel(
        SamConfig(
            vision_config={**vision, "global_attn_indexes": [1], "output_channels": 32, "num_pos_feats": 16},
            prompt_encoder_config=dict(hidden_size=32, image_size=160, patch_size=8, mask_input_channels=8),
            mask_decoder_config=dict(hidden_size=32, mlp_dim=64, num_attention_heads=4, iou_head_hidden_dim=32),
        )
    )
    for parameter in sam.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return sam


@pytest.fixture
def fast(stock):
    sam = copy.deepcopy(stock)
    use_fast_layers(sam)
    return sam


def prompts(with_prompts):
    torch.manual_seed(1)
    given = {"seg_embeddings": torch.randn(3, 32), "image_embeddings": torch.randn(3, 32, 20, 20)}
    if with_prompts:
        given |= {
            "points": torch.tensor([[[10.0, 20, 1], [90, 50, 0]]] * 3),
            "boxes": torch.tensor([[5.0, 6, 90, 80]] * 3),
        }
        given |= {"mask_inputs": torch.randn(3, 80, 80)}
    return given


def test_names_of_weights_do_not_change(stock, fast):
    assert fast.state_dict().keys() == stock.state_dict().keys()


@pytest.mark.parametrize("limit", [1, 5000, 2**22])
@pytest.mark.parametrize("learns", [False, True])
def test_image_encoder_is_bit_equal_for_every_size_of_chunks(stock, fast, monkeypatch, limit, learns):
    monkeypatch.setitem(sam_layers_gemma_lisa.BIAS_ELEMENTS, "cpu", limit)
    images = torch.randn(3, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(learns):
        expected, found = (sam.vision_encoder(images).last_hidden_state for sam in (stock, fast))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_image_encoder_has_the_same_gradients(stock, fast):
    images = torch.randn(1, 3, 160, 160)
    for sam in (stock, fast):
        sam.zero_grad()
        sam.vision_encoder(images).last_hidden_state.square().mean().backward()
    for (name, one), (_, other) in zip(stock.named_parameters(), fast.named_parameters(), strict=True):
        if name.startswith("vision_encoder."):
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_image_encoder_never_makes_the_whole_bias(fast, monkeypatch):
    monkeypatch.setitem(sam_layers_gemma_lisa.BIAS_ELEMENTS, "cpu", 2 * 400 * 20)
    largest = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watch(*inputs, attn_mask):
        largest.append(attn_mask.numel())
        return attention(*inputs, attn_mask=attn_mask)

    monkeypatch.setattr(sam_layers_gemma_lisa.F, "scaled_dot_product_attention", watch)
    fast.vision_encoder(torch.randn(2, 3, 160, 160))
    assert max(largest) <= 2 * 400 * 20


def test_attention_weights_come_from_the_class_of_transformers(stock, fast):
    states = torch.randn(1, 20, 20, 32)
    expected, found = (sam.vision_encoder.layers[1].attn(states, output_attentions=True)[0] for sam in (stock, fast))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("with_prompts", [False, True])
@pytest.mark.parametrize("multimask_output", [False, True])
def test_mask_decoder_has_the_same_masks_scores_and_gradients(stock, fast, with_prompts, multimask_output):
    given, made = prompts(with_prompts), []
    for sam in (stock, fast):
        sam.zero_grad()
        seg = given["seg_embeddings"].clone().requires_grad_()
        masks, scores = decode_masks(sam, **(given | {"seg_embeddings": seg}), multimask_output=multimask_output)
        (masks.square().mean() + scores.sum()).backward()
        made.append((masks, scores, seg.grad))
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    for (name, one), (_, other) in zip(stock.named_parameters(), fast.named_parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name  # engines wait for the gradient of every parameter
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-4, msg=name)


def test_decoder_never_projects_the_patches(fast, monkeypatch):
    lengths = []
    linear = torch.nn.Linear.forward

    def watch(layer, inputs):
        lengths.append(inputs.shape[-2])
        return linear(layer, inputs)

    monkeypatch.setattr(torch.nn.Linear, "forward", watch)
    decode_masks(fast, **prompts(with_prompts=False))
    assert max(lengths) < 20 * 20


def test_adapted_projections_use_the_class_of_transformers(stock, fast):
    class Adapted(torch.nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) + 1

    given, found = prompts(with_prompts=False), []
    for sam in (copy.deepcopy(stock), fast):
        for name in ("cross_attn_token_to_image", "cross_attn_image_to_token"):
            getattr(sam.mask_decoder.transformer.layers[0], name).v_proj.__class__ = Adapted
        found.append(decode_masks(sam, **given)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], decode_masks(stock, **given)[0])


def test_options_of_the_mask_decoder_use_the_class_of_transformers(stock, fast):
    count, size = 2, (2, 32, 20, 20)
    inputs = [torch.randn(size), torch.randn(1, *size[1:]), torch.randn(count, 1, 1, 32), torch.randn(size), False]
    target = torch.randn(count, 1, 1, 32)
    expected, found = (sam.mask_decoder(*inputs, target_embedding=target)[0] for sam in (stock, fast))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, fast.mask_decoder(*inputs)[0])


def test_another_attention_implementation_keeps_its_encoder(stock):
    config = copy.deepcopy(stock.config)
    eager = SamModel._from_config(config, attn_implementation="eager")
    use_fast_layers(eager)
    assert not any(isinstance(module, SamVisionSdpaAttention) for module in eager.modules())


def test_every_layer_of_a_model_is_fast(tiny):
    kinds = [type(module) for module in tiny[0].sam.modules()]
    assert FastMaskDecoder in kinds and FoldedAttention in kinds
    assert not {SamMaskDecoder, SamAttention, SamVisionSdpaAttention} & set(kinds)


@pytest.mark.parametrize("name", ["SamAttention", "SamMaskDecoder", "SamVisionSdpaAttention"])
def test_a_class_that_transformers_lacks_keeps_the_stock_layers_with_a_warning(stock, monkeypatch, name):
    monkeypatch.delattr(modeling_sam, name)
    spec = importlib.util.spec_from_file_location(f"without_{name}", sam_layers_gemma_lisa.__file__)
    layers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layers)
    sam = copy.deepcopy(stock)
    warnings = []
    monkeypatch.setattr(layers._logger, "warning_once", warnings.append)
    layers.use_fast_layers(sam)
    assert [f"no {name}, so these layers of SAM stay as they are" in warning for warning in warnings] == [True]
    kinds = {type(module).__name__ for module in sam.modules()}
    assert name in kinds and len(kinds & {"FastMaskDecoder", "FoldedAttention", "ChunkedVisionAttention"}) == 2
    given = prompts(with_prompts=False)
    expected, found = (decode_masks(model, **given)[0] for model in (stock, sam))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

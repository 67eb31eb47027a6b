"""The bridge heat_map: where its map looks, and the same masks in every way of calling the model."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from gemma_lisa.bridge_gemma_lisa import PADDING_LOGIT, HeatMapProjector, SegStates, Standardize, build_bridge, project
from gemma_lisa.checkpoints.lora import add_lora, whole_modules
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.mask_decoding_gemma_lisa import DecodedMasks
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.targets_gemma_lisa import losses_of_masks

HIDDEN, PROMPT, SIDE = 12, 16, 8  # D, C, and places of SAM's grid in each direction


@pytest.fixture(scope="module")
def mapped():
    """(model, processor) with the bridge heat_map, measured."""
    model, processor = build_tiny(image_size=64, seed=0, bridge="heat_map")
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, Standardize):
            size = len(module.mean)
            module.set_statistics(torch.randn(size, generator=generator), torch.rand(size, generator=generator) + 0.5)
    return model.eval(), processor


@pytest.fixture
def bridge():
    torch.manual_seed(0)
    return HeatMapProjector(HIDDEN, PROMPT)


def states_of(count=3, images=2, tokens=4, shares=((1.0, 1.0), (0.5, 1.0))):
    torch.manual_seed(1)
    return SegStates(
        states=torch.randn(count, HIDDEN),
        image_index=torch.arange(count) % images,
        image_embeddings=torch.randn(images, PROMPT, SIDE, SIDE),
        idle_state=torch.zeros(1, HIDDEN),
        image_features=torch.randn(images, tokens, HIDDEN),
        image_shares=torch.tensor(shares)[:images],
    )


# ---------------------------------------------------------------------------------------------------------------------
# The module
# ---------------------------------------------------------------------------------------------------------------------
def test_a_configuration_without_the_field_has_the_bridge_of_lisa():
    assert GemmaLisaConfig().bridge == "mlp"
    with pytest.raises(ValueError, match="bridge must be"):
        GemmaLisaConfig(bridge="two_words")


def test_the_mask_prompt_has_the_padding_logit_outside_the_image_only(bridge):
    asked = bridge(states_of())  # the second image covers the upper half of the square
    large = asked.mask_inputs
    assert asked.heat_maps.shape == (3, SIDE, SIDE) and large.shape == (3, 4 * SIDE, 4 * SIDE)
    assert (large[1, 2 * SIDE :] == PADDING_LOGIT).all() and (large[[0, 2]] != PADDING_LOGIT).all()
    assert (large[1, : 2 * SIDE] > PADDING_LOGIT).all() and (asked.heat_maps > PADDING_LOGIT).all()


@pytest.mark.parametrize("share, rows", [(1.0, SIDE), (0.5, SIDE // 2)])
def test_gemma_features_are_compared_where_their_part_of_the_image_is(bridge, share, rows):
    """One image token of 2 x 2 fits the state: the map rises in its quarter of the image, not of the square."""
    seg = states_of(count=1, images=1, shares=((share, 1.0),))
    seg.image_features.zero_()
    with torch.no_grad():
        for layer in (bridge.query, bridge.gemma_key, bridge.sam_key):
            layer.weight.zero_(), layer.bias.zero_()
        bridge.query.weight.copy_(torch.eye(PROMPT, HIDDEN)), bridge.gemma_key.weight.copy_(torch.eye(PROMPT, HIDDEN))
        bridge.mix = torch.nn.Identity()
    seg.image_features[0, 3] = 5 * seg.states[0]  # lower right
    found = bridge(seg).heat_maps[0, :rows]
    at = found.flatten().argmax()
    assert at // SIDE >= rows // 2 and at % SIDE >= SIDE // 2


def test_a_map_depends_on_its_own_image_only(bridge):
    seg = states_of()
    before = bridge(seg)
    seg.image_embeddings[1] += 1
    seg.image_features[1] += 1
    after = bridge(seg)
    assert torch.equal(before.heat_maps[[0, 2]], after.heat_maps[[0, 2]])
    assert not torch.equal(before.heat_maps[1, 0], after.heat_maps[1, 0])
    assert torch.equal(before.embeddings, after.embeddings)


def test_standardized_inputs_have_mean_0_and_deviation_1():
    torch.manual_seed(0)
    module, features = Standardize(3), torch.tensor([90.0, 0.0, -4.0]) + torch.randn(500, 3) * torch.tensor([0.1, 1, 9])
    assert not module.is_measured and torch.equal(module(features), features)
    module.set_statistics(features.mean(0), features.std(0))
    found = module(features)
    assert module.is_measured
    torch.testing.assert_close(found.mean(0), torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(found.std(0), torch.ones(3), rtol=0, atol=0.4)  # LEAST_SPREAD lowers the smallest


@pytest.mark.parametrize("missing, named", [("image_features", "pixel_values"), ("image_shares", "reshaped_input")])
def test_missing_inputs_are_named(bridge, missing, named):
    seg = states_of()
    setattr(seg, missing, None)
    with pytest.raises(ValueError, match=named):
        project(bridge, seg)


def test_the_form_is_chosen_by_the_configuration(mapped, tiny):
    assert type(build_bridge(mapped[0].config)) is HeatMapProjector
    assert type(build_bridge(tiny[0].config)) is not HeatMapProjector


# ---------------------------------------------------------------------------------------------------------------------
# The model
# ---------------------------------------------------------------------------------------------------------------------
def test_loss_reaches_the_map_and_the_image_features(mapped, samples):
    model, processor = copy.deepcopy(mapped[0]).train(), mapped[1]
    model.requires_grad_(True)
    output = model(**GemmaLisaCollator(processor)(samples[:2]))
    assert output.heat_maps.shape == (len(output.pred_masks), 8, 8)
    parts = {name: output[name] for name in output if name.endswith("_loss")}
    config = model.config
    weights = {"language": config.ce_loss_weight, "mask_bce": config.bce_loss_weight}
    weights |= {"mask_dice": config.dice_loss_weight, "score": config.score_loss_weight}
    weights |= {"heat_map": config.heat_map_loss_weight}
    torch.testing.assert_close(output.loss, sum(weights[name[:-5]] * part for name, part in parts.items()))
    output.heat_map_loss.backward()
    for name in ("query.weight", "gemma_key.weight", "sam_key.weight", "mix.2.weight"):
        assert model.get_parameter(f"seg_projector.{name}").grad.any(), name
    assert model.model.vision_tower.embeddings.patch_embedding.weight.grad.any()


def test_every_parameter_has_a_gradient_in_a_batch_on_text(mapped, samples):
    model, processor = copy.deepcopy(mapped[0]).train(), mapped[1]
    last = {name: samples[0][name][-1:] for name in ("conversations", "masks")}  # without [SEG]
    text = [samples[0] | last | {"image": None}]
    model(**GemmaLisaCollator(processor)(text)).loss.backward()
    assert all(parameter.grad is not None for parameter in model.seg_projector.parameters())


def test_a_batch_of_two_is_equal_to_two_batches_of_one(mapped, samples):
    model, collate = mapped[0], GemmaLisaCollator(mapped[1])
    together = model(**collate(samples[:2]))
    alone = [model(**collate([sample])) for sample in samples[:2]]
    for name in ("pred_masks", "heat_maps"):
        expected = torch.cat([output[name] for output in alone])
        torch.testing.assert_close(together[name], expected, rtol=1e-4, atol=1e-4)


def test_no_masks_have_no_heat_map_loss(mapped):
    empty = torch.zeros(0, 8, 8)
    parts = losses_of_masks(DecodedMasks(empty, empty, empty, torch.zeros(())), None, mapped[0].config, None)
    assert parts["heat_map_loss"] == 0


@pytest.fixture
def scripted(mapped):
    """The model, which writes a [SEG] in each answer."""
    model, processor = mapped
    script = processor.tokenizer.encode("It is [SEG].", add_special_tokens=False)
    count = {"step": 0}

    def force(module, inputs, output):
        logits = torch.zeros_like(output)
        logits[..., script[count["step"] % len(script)]] = 1
        count["step"] += 1
        return logits

    hook = model.lm_head.register_forward_hook(force)
    yield model, processor, {"max_new_tokens": len(script)}
    hook.remove()


def turns_of(image, question):
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def inputs_of(processor, *conversations):
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    return processor.apply_chat_template(list(conversations), **options)


def test_segment_session_and_shared_images_give_the_same_masks(scripted, make_picture):
    model, processor, options = scripted
    wide, high = make_picture(40, 60, 0), make_picture(90, 30, 1)
    conversations = [turns_of(wide, "the red circle"), turns_of(high, "the red circle"), turns_of(wide, "the square")]
    together = model.segment(**inputs_of(processor, *conversations), **options)
    assert len(together.pred_masks) == 3
    for at, conversation in enumerate(conversations):
        alone = model.segment(**inputs_of(processor, conversation), **options)
        torch.testing.assert_close(together.pred_masks[at : at + 1], alone.pred_masks, rtol=1e-3, atol=1e-3)
    given = inputs_of(processor, *conversations)
    shared = {name: given.pop(name)[:2] for name in ("pixel_values", "sam_pixel_values")}
    again = model.segment(**given, **shared, image_index=[0, 1, 0], **options)
    torch.testing.assert_close(again.pred_masks, together.pred_masks, rtol=1e-3, atol=1e-3)
    session = model.start(high, processor)
    session.ask("the red circle", **options)
    torch.testing.assert_close(session.masks[0].logits, together.pred_masks[1:2], rtol=1e-3, atol=1e-3)


def test_a_click_refines_the_mask_of_a_session(scripted, make_picture):
    model, processor, options = scripted
    session = model.start(make_picture(40, 60, 0), processor)
    session.ask("the red circle", **options)
    before = session.masks[0].logits
    session.correct(0, points=[(10, 10, 1)])
    assert not torch.equal(before, session.masks[0].logits)


def test_masks_are_equal_after_saving_and_loading(mapped, samples, tmp_path):
    model, processor = mapped
    model.save_pretrained(tmp_path)
    again = GemmaLisaForConditionalGeneration.from_pretrained(tmp_path).eval()
    batch = GemmaLisaCollator(processor)(samples[:1])
    assert again.config.bridge == "heat_map"
    assert torch.equal(again(**batch).pred_masks, model(**batch).pred_masks)


def test_segment_refuses_missing_sizes(scripted, make_picture):
    model, processor, options = scripted
    given = inputs_of(processor, turns_of(make_picture(40, 60, 0), "the square"))
    del given["reshaped_input_sizes"]
    with pytest.raises(ValueError, match="reshaped_input_sizes"):
        model.segment(**given, **options)


def test_forward_refuses_missing_sizes_also_when_compiled(mapped, samples):
    model, processor = mapped
    batch = GemmaLisaCollator(processor)(samples[:1])
    del batch["reshaped_input_sizes"]
    for forward in (model, torch.compile(model, backend="eager")):
        with pytest.raises(Exception, match="reshaped_input_sizes"):
            forward(**batch)


def test_a_part_of_the_bridge_cannot_be_trained_alone_with_lora(mapped):
    with pytest.raises(ValueError, match="only a part of the bridge"):
        whole_modules(mapped[0], ["seg_projector.query.*"])


def test_an_adapter_contains_the_measured_numbers(mapped, tmp_path):
    model = copy.deepcopy(mapped[0])
    add_lora(model, 2).save_pretrained(tmp_path)
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert {"mean", "spread"} <= {name.rpartition(".")[2] for name in names if "state_scale" in name}


def test_the_numbers_stay_in_fp32(mapped, tmp_path):
    mapped[0].save_pretrained(tmp_path)
    model = GemmaLisaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.seg_projector.state_scale.mean.dtype == torch.float32
    assert torch.equal(model.seg_projector.state_scale.mean, mapped[0].seg_projector.state_scale.mean)

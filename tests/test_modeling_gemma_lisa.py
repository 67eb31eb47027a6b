"""The model: batches and padding, what every batch must touch, masks and losses, saving."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from comparing import (
    assert_close,
    batches_of_all_kinds,
    both_states,
    own_batch,
    run_with_gradients,
    two_things,
    without,
    without_labels,
    without_masks,
)
from safetensors.torch import load_file

from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.losses_gemma_lisa import IGNORE_INDEX
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration

LOSS_PARTS = ("loss", "language_loss", "mask_bce_loss", "mask_dice_loss")
# Modules that every batch must call, and prefixes of parameters that must always get a gradient
MODULES = (
    "model.vision_tower",
    "model.multi_modal_projector",
    "model.language_model",
    "lm_head",
    "sam.vision_encoder",
    "seg_projector",
    "sam.mask_decoder",
)
TRAINED = ("model.", "lm_head.", "seg_projector.", "sam.vision_encoder.", "sam.mask_decoder.")
NO_MASK = "sam.prompt_encoder.no_mask_embed.weight"


def is_trained(name):
    return name.startswith(TRAINED) or name == NO_MASK


# ---------------------------------------------------------------------------------------------------------------------
# Batches and padding
# ---------------------------------------------------------------------------------------------------------------------
@both_states
def test_batch_of_two_is_equal_to_two_batches_of_one(tiny, samples, set_config, seg_state):
    model, processor = tiny
    set_config(model, seg_state=seg_state)
    collate = GemmaLisaCollator(processor)
    together = model(**collate(samples[:2]), num_items_in_batch=1, num_masks_in_batch=1)
    alone = [model(**collate([sample]), num_items_in_batch=1, num_masks_in_batch=1) for sample in samples[:2]]
    for name in ("logits", "pred_masks", "iou_scores", "image_embeddings"):
        assert_close(together[name], torch.cat([output[name] for output in alone]))
    for name in LOSS_PARTS:
        assert_close(together[name], sum(output[name] for output in alone))
    assert together.seg_image_index.tolist() == sorted(together.seg_image_index.tolist())
    assert set(together.seg_image_index.tolist()) == {0, 1}


def test_left_and_right_padding_give_the_same_results(windowed, question):
    model, processor = windowed
    answer = {"role": "assistant", "content": "It is [SEG]."}
    conversations = [[*question("the red circle"), answer], [*question("Where is the green square?", seed=1), answer]]
    options = {"tokenize": True, "return_dict": True}
    left = processor.apply_chat_template(conversations, padding_side="left", **options)
    right = processor.apply_chat_template(conversations, padding_side="right", **options)
    assert left["attention_mask"][0, 0] == 0 and right["attention_mask"][0, -1] == 0
    one, two = model(**left), model(**right)
    assert_close(one.pred_masks, two.pred_masks)
    assert_close(one.logits[left["attention_mask"] == 1], two.logits[right["attention_mask"] == 1])


def test_head_runs_on_labelled_positions_only(tiny, samples):
    model, processor = tiny
    batch = GemmaLisaCollator(processor)(samples[:2])
    learned = batch["labels"][:, 1:] != IGNORE_INDEX
    few = model(**batch)
    every = model(**without_labels(batch))
    assert few.logits.shape == (int(learned.sum()), model.config.text_config.vocab_size)
    assert every.logits.shape == (*batch["input_ids"].shape, model.config.text_config.vocab_size)
    assert_close(few.logits, every.logits[:, :-1][learned])
    assert_close(few.language_loss, F.cross_entropy(few.logits, batch["labels"][:, 1:][learned]))


def test_hidden_states_are_not_stored(tiny, samples):
    model, processor = tiny
    output = model(**GemmaLisaCollator(processor)(samples[:1]))
    assert output.hidden_states is None and output.attentions is None


def test_logits_to_keep_are_the_last(tiny, samples):
    model, processor = tiny
    batch = without_masks(without_labels(GemmaLisaCollator(processor)(samples[:1])))
    assert_close(model(**batch, logits_to_keep=1).logits, model(**batch).logits[:, -1:])


# ---------------------------------------------------------------------------------------------------------------------
# Batches without masks, [SEG] or images
# ---------------------------------------------------------------------------------------------------------------------
KINDS = ("with_masks", "without_seg", "text_only", "mixed", "words_only")


@pytest.mark.parametrize("kind", KINDS)
def test_every_trained_parameter_gets_a_gradient_from_every_batch(tiny, make_sample, kind):
    model, processor = tiny
    batch = batches_of_all_kinds(processor, make_sample)[kind]
    output, gradients = run_with_gradients(model, batch)
    assert torch.isfinite(output.loss)
    expected = {name for name, _ in model.named_parameters() if is_trained(name)}
    assert len(expected) > 100
    assert expected - gradients.keys() == set()
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    has_gradient = bool(gradients["seg_projector.0.weight"].any())
    assert has_gradient == (kind in ("with_masks", "mixed"))


def called_modules(model, batch):
    called = []
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name)) for name in MODULES
    ]
    try:
        model(**batch)
    finally:
        for hook in hooks:
            hook.remove()
    return called


@pytest.mark.parametrize("kind", KINDS)
def test_every_batch_calls_the_modules_in_the_same_order(tiny, make_sample, kind):
    model, processor = tiny
    assert called_modules(model, batches_of_all_kinds(processor, make_sample)[kind]) == list(MODULES)


def test_run_with_cached_embeddings_never_calls_the_encoder(tiny, make_sample):
    model, processor = tiny
    batches = batches_of_all_kinds(processor, make_sample)
    size = model(**batches["with_masks"]).image_embeddings.shape[1:]
    for kind in ("with_masks", "without_seg", "text_only", "mixed"):
        num_images = len(batches[kind].get("sam_pixel_values", []))
        cached = without(batches[kind], "sam_pixel_values") | {"image_embeddings": torch.zeros(num_images, *size)}
        assert called_modules(model, cached) == [name for name in MODULES if name != "sam.vision_encoder"], kind
        assert torch.isfinite(model(**cached).loss)


def test_backward_pass_of_every_batch_goes_through_a_frozen_decoder(tiny, make_sample):
    model, processor = tiny
    called = []
    hook = model.sam.mask_decoder.transformer.register_full_backward_hook(lambda *_: called.append(True))
    try:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith("model.language_model."))
        for number, batch in enumerate(batches_of_all_kinds(processor, make_sample).values(), start=1):
            model(**batch).loss.backward()
            assert len(called) == number
    finally:
        hook.remove()
        model.requires_grad_(True).zero_grad()


def test_text_only_inference_calls_no_image_encoder(tiny, make_sample):
    model, processor = tiny
    batch = without_labels(batches_of_all_kinds(processor, make_sample)["text_only"])
    assert called_modules(model, batch) == ["model.language_model", "lm_head"]
    output = model(**batch)
    assert output.pred_masks is None and output.loss is None


def test_batch_without_seg_has_mask_losses_of_zero(tiny, make_sample):
    model, processor = tiny
    output = model(**batches_of_all_kinds(processor, make_sample)["without_seg"])
    assert output.mask_bce_loss.item() == 0 and output.mask_dice_loss.item() == 0
    assert output.pred_masks.shape == (0, 32, 32) and output.iou_scores.shape == (0,)
    assert_close(output.loss, output.language_loss)


def test_image_of_another_row_is_not_used(tiny, make_sample):
    model, processor = tiny
    collate = GemmaLisaCollator(processor)
    word, thing = make_sample(["Two."], with_image=False), make_sample(["It is {seg}."], seed=3)
    mixed = model(**collate([word, thing, word, make_sample(["{seg}"], seed=4)]))
    assert mixed.seg_image_index.tolist() == [0, 1]
    assert_close(mixed.pred_masks[:1], model(**collate([thing])).pred_masks)


# ---------------------------------------------------------------------------------------------------------------------
# Inputs that do not match
# ---------------------------------------------------------------------------------------------------------------------


def test_pixel_values_without_token_type_ids_are_an_error(tiny, make_sample):
    model, processor = tiny
    batch = without(two_things(processor, make_sample), "question_ids", "token_type_ids")
    with pytest.raises(ValueError, match="pixel_values needs token_type_ids"):
        model(**batch)


def test_wrong_number_of_sam_images_is_an_error(tiny, make_sample):
    model, processor = tiny
    batch = two_things(processor, make_sample)
    batch["sam_pixel_values"] = batch["sam_pixel_values"][:1]
    with pytest.raises(ValueError, match="SAM: 1, Gemma: 2"):
        model(**batch)


def test_seg_in_a_conversation_without_an_image_is_an_error(tiny, make_sample):
    model, processor = tiny
    batch = own_batch(processor, [make_sample(["{seg}."]), make_sample(["Two."], with_image=False)])
    batch["input_ids"][1, batch["labels"][1] != IGNORE_INDEX] = processor.seg_token_id
    with pytest.raises(ValueError, match=r"\[SEG\] tokens? .*no image") as refusal:
        model(**batch)
    assert any(character.isdigit() for character in str(refusal.value))


# ---------------------------------------------------------------------------------------------------------------------
# Masks
# ---------------------------------------------------------------------------------------------------------------------
def test_cached_image_embeddings_give_the_same_masks(tiny, samples):
    model, processor = tiny
    batch = GemmaLisaCollator(processor)(samples[:2])
    first = model(**batch)
    cached = without(batch, "sam_pixel_values") | {"image_embeddings": first.image_embeddings.detach()}
    assert "sam.vision_encoder" not in called_modules(model, cached)
    second = model(**cached)
    for name in (*LOSS_PARTS, "pred_masks", "iou_scores"):
        assert torch.equal(first[name], second[name])


def test_seg_state_previous_is_the_state_before_seg(tiny, make_sample, set_config):
    model, processor = tiny
    batch = GemmaLisaCollator(processor)([make_sample(["It is {seg}."])])
    at = (batch["input_ids"][0] == processor.seg_token_id).nonzero().item()
    taken = []
    hook = model.seg_projector.register_forward_hook(lambda module, inputs, output: taken.append(inputs[0]))
    states = []
    other = model.model.register_forward_hook(lambda module, inputs, output: states.append(output.last_hidden_state))
    try:
        for seg_state in ("token", "previous"):
            set_config(model, seg_state=seg_state)
            model(**batch)
    finally:
        hook.remove()
        other.remove()
    assert torch.equal(taken[0][0], states[0][0, at])
    assert torch.equal(taken[1][0], states[0][0, at - 1])


# ---------------------------------------------------------------------------------------------------------------------
# Learning
# ---------------------------------------------------------------------------------------------------------------------
def test_loss_is_the_weighted_sum(tiny, samples, set_config):
    model, processor = tiny
    batch = GemmaLisaCollator(processor)(samples[:1])
    output = model(**batch)
    assert_close(output.loss, output.language_loss + 2.0 * output.mask_bce_loss + 0.5 * output.mask_dice_loss)
    set_config(model, ce_loss_weight=3.0, bce_loss_weight=0.25, dice_loss_weight=7.0)
    other = model(**batch)
    assert_close(other.loss, 3.0 * output.language_loss + 0.25 * output.mask_bce_loss + 7.0 * output.mask_dice_loss)
    assert_close(model(**without_masks(batch)).loss, 3.0 * output.language_loss)
    assert_close(model(**without_labels(batch)).loss, 0.25 * output.mask_bce_loss + 7.0 * output.mask_dice_loss)


def test_losses_are_divided_by_the_given_counts(tiny, samples):
    model, processor = tiny
    batch = GemmaLisaCollator(processor)(samples[:1])
    own = model(**batch)
    tokens, masks = len(own.logits), len(own.pred_masks)
    for kind in (int, torch.tensor):
        output = model(**batch, num_items_in_batch=kind(2 * tokens), num_masks_in_batch=kind(4 * masks))
        assert_close(output.language_loss * 2, own.language_loss)
        assert_close(output.mask_bce_loss * 4, own.mask_bce_loss)
        assert_close(output.mask_dice_loss * 4, own.mask_dice_loss)


def test_one_step_changes_every_trained_parameter_and_no_frozen_one(tiny, samples):
    model, processor = deepcopy(tiny)
    model.train()
    frozen = {name for name, _ in model.named_parameters() if name.startswith("model.vision_tower.")}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(**GemmaLisaCollator(processor)(samples[:2])).loss.backward()
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    # Only one of the four masks of SAM's decoder is trained, and softmax does not depend on the biases of keys
    still = {name for name in before if is_trained(name) and name not in frozen | moved}
    unused = ("output_hypernetworks_mlps.1.", "output_hypernetworks_mlps.2.", "output_hypernetworks_mlps.3.")
    assert all(any(part in name for part in (*unused, "k_proj.bias", "iou_prediction_head.")) for name in still), still
    assert moved & frozen == set() and {name.split(".")[0] for name in moved} == {"model", "seg_projector", "sam"}


# ---------------------------------------------------------------------------------------------------------------------
# Saving and loading
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for part in tiny:
        part.save_pretrained(folder)
    return folder


def test_loaded_model_gives_identical_results(tiny, saved, samples):
    model, processor = tiny
    loaded, loaded_processor = load_checkpoint(saved)
    assert type(loaded) is GemmaLisaForConditionalGeneration and not loaded.training
    expected = model(**GemmaLisaCollator(processor)(samples[:2]))
    output = loaded(**GemmaLisaCollator(loaded_processor)(samples[:2]))
    assert len(expected.pred_masks) > 0
    for name in (*LOSS_PARTS, "logits", "pred_masks", "iou_scores"):
        assert torch.equal(output[name], expected[name])


def test_saved_keys_are_the_names_of_the_modules(tiny, saved):
    model, _ = tiny
    state = load_file(saved / "model.safetensors")
    assert "lm_head.weight" not in state
    fresh = GemmaLisaForConditionalGeneration(model.config)
    result = fresh.load_state_dict(state, strict=False)
    assert result.unexpected_keys == []
    # Tied weights are stored once: the head with the embedding, SAM's positional embedding with its prompt encoder's
    assert "lm_head.weight" in result.missing_keys
    assert set(result.missing_keys) <= set(fresh.all_tied_weights_keys)
    assert torch.equal(fresh.seg_projector[0].weight, model.seg_projector[0].weight)
    assert torch.equal(fresh.lm_head.weight, model.lm_head.weight)


def test_head_is_tied_after_loading(saved):
    loaded, _ = load_checkpoint(saved)
    assert loaded.lm_head.weight.data_ptr() == loaded.get_input_embeddings().weight.data_ptr()


HEAD, EMBEDDING = "lm_head.weight", "model.language_model.embed_tokens.weight"


def saved_names(model, folder, *args, **options):
    model.save_pretrained(folder, *args, **options)
    return set(load_file(folder / "model.safetensors"))


def copied_state(model):
    """Return a state dict whose tensors share no memory, as DeepSpeed and FSDP pass it."""
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def test_copies_of_tied_weights_are_not_saved(tiny, saved, tmp_path):
    model, state = tiny[0], copied_state(tiny[0])
    expected = set(load_file(saved / "model.safetensors"))
    assert saved_names(model, tmp_path, state_dict=state) == expected
    assert saved_names(model, tmp_path, True, state) == expected


def test_tied_weight_is_saved_if_its_partner_is_missing(tiny, tmp_path):
    state = copied_state(tiny[0])
    del state[EMBEDDING]
    assert HEAD in saved_names(tiny[0], tmp_path, state_dict=state)


def test_head_that_is_no_longer_tied_is_saved(tiny, tmp_path):
    model = deepcopy(tiny[0])
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 1)
    assert {HEAD, EMBEDDING} <= saved_names(model, tmp_path, state_dict=copied_state(model))
    assert torch.equal(load_file(tmp_path / "model.safetensors")[HEAD], model.lm_head.weight)

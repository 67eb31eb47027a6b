"""The target masks of a batch, simulated clicks and boxes, and their losses."""

import re
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from comparing import assert_close, own_batch, two_things, without, without_masks

from gemma_lisa import targets_gemma_lisa
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.images_gemma_lisa import IGNORE_VALUE
from gemma_lisa.losses_gemma_lisa import bce_loss, dice_loss, sample_mask_logits
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.targets_gemma_lisa import SEG_STATES, MaskTargets, pad_masks

PROMPTS = ("point_embed", "not_a_point_embed", "mask_embed", "no_mask_embed")


@pytest.fixture
def targets():
    """Two objects of a 20 × 40 image, resized to 32 × 64 in SAM's square. The second has an ignored pixel."""
    masks = torch.zeros(2, 20, 40, dtype=torch.uint8)
    masks[0, 5:10, 10:30] = 1
    masks[1, 0:3, 0:4] = 1
    masks[1, 15, 35] = IGNORE_VALUE
    return MaskTargets(*pad_masks([masks], 1024), torch.tensor([[32, 64], [32, 64]]), side=64)


def logits_of(targets):
    return torch.where(targets.labels == 1, 5.0, -5.0)


def test_click_is_on_a_wrong_pixel_and_has_the_right_label(targets):
    logits = logits_of(targets)
    logits[0, 7, 12] = -5.0  # false negative
    logits[1, 18, 20] = 5.0  # false positive
    logits[1, 15, 35] = 5.0  # ignored, so there is never a click
    for _ in range(20):
        (first, second) = targets.clicks(logits)[:, 0].tolist()
        assert first == pytest.approx([12 * 1.6, 7 * 1.6, 1.0])
        assert second == pytest.approx([20 * 1.6, 18 * 1.6, 0.0])


def test_click_is_on_the_object_if_no_pixel_is_wrong(targets):
    places = {tuple(targets.clicks(logits_of(targets))[1, 0].tolist()) for _ in range(40)}
    assert len(places) > 3
    assert all(x < 4 * 1.6 and y < 3 * 1.6 and label == 1.0 for x, y, label in places)


def test_boxes_surround_the_objects_with_noise_and_stay_in_the_image(targets):
    drawn = torch.stack([targets.boxes() for _ in range(200)])  # (200, 2, 4)
    assert (drawn >= 0).all() and (drawn <= torch.tensor([64.0, 32.0, 64.0, 32.0])).all()
    exact = torch.tensor([10.0, 5.0, 30.0, 10.0]) * 1.6
    assert torch.allclose(drawn[:, 0].median(dim=0).values, exact, atol=1.0)
    assert drawn[:, 0].std(dim=0).min() > 0.5


def test_box_of_an_empty_target_is_the_whole_image():
    masks = torch.zeros(1, 20, 40, dtype=torch.uint8)
    targets = MaskTargets(*pad_masks([masks], 1024), torch.tensor([[32, 64]]), side=64)
    boxes = torch.stack([targets.boxes()[0] for _ in range(50)])
    assert torch.allclose(boxes.median(dim=0).values, torch.tensor([0.0, 0.0, 64.0, 32.0]), atol=8.0)
    assert targets.clicks(-torch.ones(1, 20, 40)).shape == (1, 1, 3)


@pytest.fixture
def learning(tiny, monkeypatch):
    model, processor = tiny
    monkeypatch.setattr(model.config, "prompted_loss_weight", 0.5)
    monkeypatch.setattr(model.config, "score_loss_weight", 0.25)
    torch.manual_seed(0)
    model.train()
    yield model, processor
    model.eval()
    model.zero_grad()


def prompt_gradients(model):
    return {
        name: parameter.grad
        for name, parameter in model.sam.prompt_encoder.named_parameters()
        if name.startswith(PROMPTS)
    }


def test_prompted_loss_is_part_of_the_loss_and_trains_the_prompt_encoder(learning, make_sample):
    model, processor = learning
    batch = GemmaLisaCollator(processor)([make_sample(["It is {seg}.", "{seg} and {seg}."])])
    output = model(**batch)
    parts = (output.language_loss, output.mask_bce_loss, output.mask_dice_loss, output.score_loss, output.prompted_loss)
    weights = (model.config.ce_loss_weight, model.config.bce_loss_weight, model.config.dice_loss_weight, 0.25, 0.5)
    whole = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(output.loss, whole)
    output.loss.backward()
    gradients = prompt_gradients(model)
    assert len(gradients) >= 12 and all(gradient is not None for gradient in gradients.values())
    for _ in range(8):  # foreground and background clicks with all kinds of [SEG] states
        model(**batch).loss.backward()
    moved = {name.split(".")[0] for name, gradient in gradients.items() if gradient.abs().sum() > 0}
    assert moved == set(PROMPTS)


@pytest.mark.parametrize("answers", [["No, I see none."], None])
def test_batch_without_masks_gives_zero_gradients_to_the_prompt_encoder(learning, make_sample, answers):
    model, processor = learning
    sample = make_sample(answers or ["Yes."], with_image=answers is not None)
    output = model(**GemmaLisaCollator(processor)([sample]))
    assert output.prompted_loss.item() == 0.0
    output.loss.backward()
    assert all(gradient is not None and not gradient.any() for gradient in prompt_gradients(model).values())


@pytest.mark.parametrize("seg_state", SEG_STATES)
def test_simulated_prompts_use_the_drawn_seg_state(learning, make_sample, monkeypatch, seg_state):
    model, processor = learning
    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor(SEG_STATES.index(seg_state)))
    decode, calls = model._decode_masks, []

    def spy(seg, **prompts):
        calls.append((seg.states, prompts))
        return decode(seg, **prompts)

    monkeypatch.setattr(model, "_decode_masks", spy)
    batch = GemmaLisaCollator(processor)([make_sample(["It is {seg}.", "{seg} and {seg}."])])
    model(**batch)
    (states, _), point, box, correction = calls
    assert [set(prompts) for _, prompts in (point, box, correction)] == [
        {"points"},
        {"boxes"},
        {"points", "mask_inputs"},
    ]
    for used, _ in (point, box, correction):
        expected = {"own": states, "other": states.roll(1, dims=0), "none": torch.zeros_like(states)}[seg_state]
        torch.testing.assert_close(used, expected)
    masks = batch["prepared"].mask_targets
    for number, (x, y, label) in enumerate(
        point[1]["points"][:, 0].long().tolist()
    ):  # SAM's square has 64 pixels, like the image
        assert label == 1 and masks[number, y, x] == 1


@pytest.mark.parametrize("seg_state", SEG_STATES)
def test_backward_pass_of_every_batch_goes_through_a_frozen_projector(learning, make_sample, monkeypatch, seg_state):
    model, processor = learning
    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor(SEG_STATES.index(seg_state)))
    collate = GemmaLisaCollator(processor)
    with_masks = collate([make_sample(["It is {seg}."])])
    batches = [with_masks, collate([make_sample(["No."])]), without_masks(with_masks)]
    calls = []
    hook = model.seg_projector.register_full_backward_hook(lambda *_: calls.append(1))
    frozen = [*model.seg_projector.parameters()]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for batch in batches:
            calls.clear()
            output = model(**batch)
            output.loss.backward()
            assert len(calls) == 4, "the masks themselves, and three simulated prompts"
        assert output.prompted_loss.item() == 0.0
    finally:
        hook.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)


def test_prompts_are_not_simulated_in_evaluation_or_with_zero_weight(learning, make_sample, monkeypatch):
    model, processor = learning
    batch = GemmaLisaCollator(processor)([make_sample(["It is {seg}."])])
    model.eval()
    assert model(**batch).prompted_loss is None
    model.train()
    monkeypatch.setattr(model.config, "prompted_loss_weight", 0.0)
    assert model(**batch).prompted_loss is None


def test_score_loss_is_the_squared_error_of_the_iou(targets):
    logits = logits_of(targets)
    logits[0, 5:10, 20:30] = -5.0  # half of the first object
    logits[1, 15, 35] = 5.0  # ignored
    scores = torch.tensor([0.5, 1.0])
    assert targets.score_loss(logits, scores, None).item() == 0.0
    assert targets.score_loss(logits, scores - 0.1, 4).item() == pytest.approx(2 * 0.01 / 4)


def test_prompted_loss_decreases_in_training(make_sample):
    model, processor = build_tiny(image_size=64, seed=0)
    model.config.prompted_loss_weight = 1.0
    batch = GemmaLisaCollator(processor)([make_sample(["It is {seg}.", "{seg} and {seg}."])])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.manual_seed(0)
    losses = []
    model.train()
    for _ in range(40):
        output = model(**batch)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.prompted_loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


# ---------------------------------------------------------------------------------------------------------------------
# The targets of a batch, and the losses of its masks
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("counts", [(1, 2), (2, 0), (2,), (2, 1, 0)])
def test_wrong_number_of_masks_is_an_error(tiny, make_sample, counts):
    model, processor = tiny
    batch = two_things(processor, make_sample)
    batch["mask_labels"] = [torch.zeros(count, 64, 64, dtype=torch.uint8) for count in counts]
    with pytest.raises(ValueError, match=r"\[SEG\] tokens per image: \[2, 1.*masks per image") as refusal:
        model(**batch)
    assert str(list(counts)) in str(refusal.value)


def test_masks_without_image_sizes_are_an_error(tiny, make_sample):
    model, processor = tiny
    with pytest.raises(ValueError, match="reshaped_input_sizes"):
        model(**without(two_things(processor, make_sample), "reshaped_input_sizes"))


def test_mask_losses_of_several_images_are_the_sum_of_single_images(tiny, make_sample):
    model, processor = tiny
    collate = GemmaLisaCollator(processor)
    several = [
        make_sample(["{seg} and {seg}."], size=(40, 100)),
        make_sample(["{seg}."], size=(90, 50), seed=1),
        make_sample(["No."], size=(64, 64), seed=2),
        make_sample(["{seg}."], size=(64, 64), seed=3),
    ]
    batch = collate(several)
    assert batch["prepared"].mask_sizes.tolist() == [[40, 100], [40, 100], [90, 50], [64, 64]]
    assert batch["prepared"].mask_targets.shape == (4, 90, 100)
    together = model(**batch, num_masks_in_batch=1)
    alone = [model(**collate([sample]), num_masks_in_batch=1) for sample in several]
    for name in ("mask_bce_loss", "mask_dice_loss"):
        assert_close(together[name], sum(output[name] for output in alone))


def test_mask_losses_are_those_of_the_upsampled_logits(tiny, make_sample):
    """The image has the size of SAM's square, so resizing is one interpolation."""
    model, processor = tiny
    batch = GemmaLisaCollator(processor)([make_sample(["{seg} and {seg}."])])
    batch["prepared"].mask_targets[:, 20:30, :40] = IGNORE_VALUE
    output = model(**batch)
    logits = F.interpolate(output.pred_masks[None], size=(64, 64), mode="bilinear", align_corners=False)[0]
    masks = batch["prepared"].mask_targets
    valid = masks != IGNORE_VALUE
    assert_close(output.mask_bce_loss, bce_loss(logits, masks == 1, valid).mean())
    assert_close(output.mask_dice_loss, dice_loss(logits, masks == 1, valid).mean())


def test_ignored_pixels_give_no_gradient(tiny, make_sample):
    model, processor = tiny
    batch = GemmaLisaCollator(processor)([make_sample(["{seg}."])])
    gradients = []
    for ignored in (False, True):
        if ignored:
            batch["prepared"].mask_targets[:, :, :32] = IGNORE_VALUE
        output = model(**batch)
        output.pred_masks.retain_grad()
        output.loss.backward()
        gradients.append(output.pred_masks.grad[0])
    model.zero_grad(set_to_none=True)
    # Half of the image is 16 of the decoder's 32 columns. Interpolation of a valid pixel also uses the last of them
    assert torch.all(gradients[0][:, :15] != 0)
    assert torch.all(gradients[1][:, :15] == 0) and torch.all(gradients[1][:, 16:] != 0)


def test_large_masks_are_resized_and_the_loss_stays_close(tiny, make_sample, set_config, monkeypatch):
    model, processor = tiny
    batch = own_batch(processor, [make_sample(["{seg} and {seg}."], size=(160, 240))])
    canvases = []

    def watched(*args, **options):
        logits = sample_mask_logits(*args, **options)
        canvases.append(tuple(logits.shape))
        return logits

    monkeypatch.setattr(targets_gemma_lisa, "sample_mask_logits", watched)
    losses = []
    for size in (1024, 240, 60):
        set_config(model, mask_loss_size=size)
        output = model(**batch)
        losses.append((output.mask_bce_loss.item(), output.mask_dice_loss.item()))
    assert canvases == [(2, 160, 240), (2, 160, 240), (2, 40, 60)]
    assert losses[0] == losses[1] != losses[2]
    assert losses[2] == pytest.approx(losses[0], rel=0.02)


def test_resized_masks_use_the_center_pixel(tiny, make_sample, set_config):
    model, processor = tiny
    sample = make_sample(["{seg}."], size=(192, 192))
    set_config(model, mask_loss_size=64)
    losses = []
    for rows in (slice(None), slice(1, None, 3)):
        sample["masks"][0][:] = 0
        sample["masks"][0][:, rows, rows] = 1
        losses.append(model(**own_batch(processor, [sample])).mask_bce_loss.item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("change", "error_text"),
    [
        (lambda mask: mask * 255, r"\[0, 255\]"),
        (lambda mask: mask * 7, r"\[0, 7\]"),
    ],
)
def test_masks_with_invalid_values_are_an_error(tiny, samples, change, error_text):
    model, processor = tiny
    batch = own_batch(processor, samples[:1])
    batch["mask_labels"] = [change(masks) for masks in batch["mask_labels"]]
    with pytest.raises(ValueError, match=error_text):
        model(**batch)


@pytest.mark.parametrize("values", [set(chosen) for n in (1, 2, 3) for chosen in combinations((0, 1, 2, 254, 255), n)])
def test_masks_have_the_values_0_1_and_255_but_not_0_and_255_alone(values):
    masks = torch.tensor(sorted(values), dtype=torch.uint8).repeat(2, 3, 1)
    if values <= {0, 1, IGNORE_VALUE} and values != {0, IGNORE_VALUE}:
        assert torch.equal(pad_masks([masks], 64)[0], masks)
    else:
        with pytest.raises(ValueError, match=f"masks of here have the values {re.escape(str(sorted(values)))}"):
            pad_masks([masks], 64, ["here"])


@pytest.mark.parametrize("size", [(37, 100), (101, 13), (64, 65), (300, 7)])
def test_large_masks_are_resized_to_the_nearest_pixel(size):
    masks = torch.tensor([0, 1, IGNORE_VALUE], dtype=torch.uint8)[torch.randint(3, (2, *size))]
    masks[0, 0, 0] = 1
    (resized, [target, _]) = pad_masks([masks], 50)
    expected = F.interpolate(masks[None].float(), size=target.tolist(), mode="nearest-exact")[0]
    assert resized.dtype == torch.uint8 and max(target) == 50 and torch.equal(resized.float(), expected)


def test_bool_masks_are_accepted(tiny, samples):
    model, processor = tiny
    batch = own_batch(processor, samples[:2])
    as_bool = {**batch, "mask_labels": [masks.bool() for masks in batch["mask_labels"]]}
    with torch.no_grad():
        assert_close(model(**as_bool).mask_dice_loss, model(**batch).mask_dice_loss)

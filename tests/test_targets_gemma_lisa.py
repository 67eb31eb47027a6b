"""The right masks of a batch, and what is simulated from them: clicks where a mask is wrong, boxes, their loss."""

import pytest
import torch

from gemma_lisa import modeling_gemma_lisa
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.losses_gemma_lisa import IGNORE_VALUE
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.targets_gemma_lisa import MaskTargets

PROMPTS = ("point_embed", "not_a_point_embed", "mask_embed", "no_mask_embed")


@pytest.fixture
def targets():
    """Two things of a 20 × 40 image that SAM sees as 32 × 64 in a square of 64; the second has a pixel not counted."""
    masks = torch.zeros(2, 20, 40, dtype=torch.uint8)
    masks[0, 5:10, 10:30] = 1
    masks[1, 0:3, 0:4] = 1
    masks[1, 15, 35] = IGNORE_VALUE
    return MaskTargets.of([masks], torch.tensor([[32, 64], [32, 64]]), side=64, max_size=1024)


def logits_of(targets):
    return torch.where(targets.labels == 1, 5.0, -5.0)


def test_a_click_lies_on_a_wrong_pixel_and_says_what_is_right_there(targets):
    logits = logits_of(targets)
    logits[0, 7, 12] = -5.0  # of the thing, and missed
    logits[1, 18, 20] = 5.0  # beside it, and taken for it
    logits[1, 15, 35] = 5.0  # not counted: never clicked on
    for _ in range(20):
        (first, second) = targets.clicks(logits)[:, 0].tolist()
        assert first == pytest.approx([12 * 1.6, 7 * 1.6, 1.0])
        assert second == pytest.approx([20 * 1.6, 18 * 1.6, 0.0])


def test_where_nothing_is_wrong_the_click_lies_on_the_thing(targets):
    places = {tuple(targets.clicks(logits_of(targets))[1, 0].tolist()) for _ in range(40)}
    assert len(places) > 3
    assert all(x < 4 * 1.6 and y < 3 * 1.6 and label == 1.0 for x, y, label in places)


def test_boxes_surround_the_things_roughly_and_stay_in_the_image(targets):
    drawn = torch.stack([targets.boxes() for _ in range(200)])  # (200, 2, 4)
    assert (drawn >= 0).all() and (drawn <= torch.tensor([64.0, 32.0, 64.0, 32.0])).all()
    exact = torch.tensor([10.0, 5.0, 30.0, 10.0]) * 1.6
    assert torch.allclose(drawn[:, 0].median(dim=0).values, exact, atol=1.0)
    assert drawn[:, 0].std(dim=0).min() > 0.5


def test_a_thing_without_a_counted_pixel_has_the_whole_image_for_its_box():
    masks = torch.zeros(1, 20, 40, dtype=torch.uint8)
    targets = MaskTargets.of([masks], torch.tensor([[32, 64]]), side=64, max_size=1024)
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


def test_the_loss_after_prompts_is_part_of_the_whole_and_teaches_sams_prompts(learning, make_sample):
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
    for _ in range(8):  # clicks beside the thing and on it, with any words
        model(**batch).loss.backward()
    moved = {name.split(".")[0] for name, gradient in gradients.items() if gradient.abs().sum() > 0}
    assert moved == set(PROMPTS)


@pytest.mark.parametrize("answers", [["No, I see none."], None])
def test_a_batch_without_masks_touches_the_prompts_too(learning, make_sample, answers):
    model, processor = learning
    sample = make_sample(answers or ["Yes."], with_image=answers is not None)
    output = model(**GemmaLisaCollator(processor)([sample]))
    assert output.prompted_loss.item() == 0.0
    output.loss.backward()
    assert all(gradient is not None and not gradient.any() for gradient in prompt_gradients(model).values())


@pytest.mark.parametrize("words", modeling_gemma_lisa.WORDS)
def test_hands_point_box_and_correct_beside_the_words_that_are_drawn(learning, make_sample, monkeypatch, words):
    model, processor = learning
    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor(modeling_gemma_lisa.WORDS.index(words)))
    decode, calls = model._decode_masks, []

    def spy(states, *others, **prompts):
        calls.append((states, prompts))
        return decode(states, *others, **prompts)

    monkeypatch.setattr(model, "_decode_masks", spy)
    batch = GemmaLisaCollator(processor)([make_sample(["It is {seg}.", "{seg} and {seg}."])])
    model(**batch)
    (states, _), point, box, correction = calls
    assert [set(prompts) for _, prompts in (point, box, correction)] == [
        {"points"},
        {"boxes"},
        {"points", "mask_inputs"},
    ]
    for told, _ in (point, box, correction):
        expected = {"right": states, "another's": states.roll(1, dims=0), "none": torch.zeros_like(states)}[words]
        torch.testing.assert_close(told, expected)
    masks = torch.cat(batch["mask_labels"])
    for number, (x, y, label) in enumerate(
        point[1]["points"][:, 0].long().tolist()
    ):  # in SAM's square, of 64 as the image
        assert label == 1 and masks[number, y, x] == 1


@pytest.mark.parametrize("words", modeling_gemma_lisa.WORDS)
def test_whatever_a_batch_holds_a_frozen_projector_is_gone_back_through(learning, make_sample, monkeypatch, words):
    model, processor = learning
    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor(modeling_gemma_lisa.WORDS.index(words)))
    collate = GemmaLisaCollator(processor)
    with_masks = collate([make_sample(["It is {seg}."])])
    batches = [with_masks, collate([make_sample(["No."])]), {**with_masks, "mask_labels": None}]
    visits = []
    hook = model.seg_projector.register_full_backward_hook(lambda *_: visits.append(1))
    frozen = [*model.seg_projector.parameters()]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for batch in batches:
            visits.clear()
            output = model(**batch)
            output.loss.backward()
            assert len(visits) == 4, "the masks themselves, and three hands"
        assert output.prompted_loss.item() == 0.0
    finally:
        hook.remove()
        for parameter in frozen:
            parameter.requires_grad_(True)


def test_no_prompts_are_simulated_in_evaluation_nor_unless_asked_for(learning, make_sample, monkeypatch):
    model, processor = learning
    batch = GemmaLisaCollator(processor)([make_sample(["It is {seg}."])])
    model.eval()
    assert model(**batch).prompted_loss is None
    model.train()
    monkeypatch.setattr(model.config, "prompted_loss_weight", 0.0)
    assert model(**batch).prompted_loss is None


def test_the_scores_learn_what_the_masks_are_worth(targets):
    logits = logits_of(targets)
    logits[0, 5:10, 20:30] = -5.0  # half of the first
    logits[1, 15, 35] = 5.0  # not counted
    scores = torch.tensor([0.5, 1.0])
    assert targets.score_loss(logits, scores, None).item() == 0.0
    assert targets.score_loss(logits, scores - 0.1, 4).item() == pytest.approx(2 * 0.01 / 4)


def test_clicks_and_boxes_can_be_learned(make_sample):
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

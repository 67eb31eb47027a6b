"""Questions behind one image, each as if it were alone; and where a batch has what."""

import pytest
import torch
from comparing import (
    TOLERANCE,
    assert_close,
    assert_gradients_close,
    both_states,
    own_batch,
    run_with_gradients,
    without,
)

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.losses_gemma_lisa import IGNORE_INDEX

LOSS_PARTS = ("loss", "language_loss", "mask_bce_loss", "mask_dice_loss")


def apart(sample):
    """A sample's questions as samples of their own."""
    pairs = zip(sample["chats"], sample["masks"], strict=True)
    return [{**sample, "chats": [chat], "masks": [masks]} for chat, masks in pairs]


def packed_and_plain(samples, processor):
    """Samples with all their questions in one row, and with each in a row of its own, without question_ids."""
    collate = GemmaLisaCollator(processor)
    packed = collate(samples)
    plain = collate([question for sample in samples for question in apart(sample)])
    return packed, without(plain, "question_ids")


@both_states
def test_packed_questions_equal_separate_rows(windowed, samples, set_config, seg_state):
    model, processor = windowed
    set_config(model, seg_state=seg_state)
    packed, plain = packed_and_plain(samples[:2], processor)
    assert len(packed["input_ids"]) == 2 and len(plain["input_ids"]) == 10
    assert int(packed["question_ids"].max()) == 5 and len(samples[0]["chats"][-1].rounds) == 2

    together, gradients = run_with_gradients(model, packed)
    alone, expected = run_with_gradients(model, plain)
    assert len(together.pred_masks) >= 4
    for name in (*LOSS_PARTS, "logits", "pred_masks", "iou_scores"):
        assert_close(together[name], alone[name])
    assert_gradients_close(gradients, expected)
    assert together.seg_image_index.tolist() == [at // 5 for at in alone.seg_image_index.tolist()]


def test_window_of_the_packed_test_is_short_enough_to_matter(windowed, samples, monkeypatch):
    model, processor = windowed
    packed, _ = packed_and_plain(samples[:1], processor)
    short = model(**packed).logits
    monkeypatch.setattr(model.config.text_config, "sliding_window", 512)
    assert (model(**packed).logits - short).abs().max() > 100 * TOLERANCE


def test_packed_questions_equal_separate_rows_where_attention_is_eager(windowed, samples):
    model, processor = windowed
    packed, plain = packed_and_plain(samples[:1], processor)
    model.set_attn_implementation("eager")
    try:
        together, alone = model(**packed), model(**plain)
    finally:
        model.set_attn_implementation("sdpa")
    assert_close(together.logits, alone.logits)
    assert_close(together.pred_masks, alone.pred_masks)


def test_packed_question_does_not_hear_the_others(windowed, make_sample):
    model, processor = windowed
    collate = GemmaLisaCollator(processor)
    batch = collate([make_sample(["It is {seg}.", "Here it is: {seg}."])])
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    first = (batch["question_ids"] == 1) & (batch["labels"] != IGNORE_INDEX)
    first &= batch["input_ids"] != processor.seg_token_id
    other["input_ids"][first] += 1
    one, two = model(**batch).pred_masks, model(**other).pred_masks
    assert torch.equal(one[1], two[1])
    assert (one[0] - two[0]).abs().max() > TOLERANCE


def test_questions_are_refused_where_attention_takes_no_masks(tiny, make_sample, monkeypatch):
    model, processor = tiny
    batch = GemmaLisaCollator(processor)([make_sample(["No."])])
    monkeypatch.setattr(model.config.text_config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(ValueError, match="question_ids need .* not 'flash_attention_2'"):
        model(**batch)


def test_packed_questions_may_be_padded_left(tiny, samples):
    model, processor = tiny
    right = own_batch(processor, samples[:2])
    num_pads = 7
    fills = {"input_ids": processor.tokenizer.pad_token_id, "labels": -100, "question_ids": -1}
    left = {**right}
    for name in ("input_ids", "labels", "question_ids", "attention_mask", "token_type_ids"):
        left[name] = torch.nn.functional.pad(right[name], (num_pads, 0), value=fills.get(name, 0))
    with torch.no_grad():
        expected, found = model(**right), model(**left)
    assert_close(found.pred_masks, expected.pred_masks)
    assert_close(found.language_loss, expected.language_loss)

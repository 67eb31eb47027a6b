"""Packed questions about one image are equal to separate rows; positions of tokens in a batch."""

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
from transformers import Gemma3TextConfig

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.images_gemma_lisa import images_of_rows
from gemma_lisa.losses_gemma_lisa import IGNORE_INDEX
from gemma_lisa.packing_gemma_lisa import find_learned, find_positions, isolate_questions

LOSS_PARTS = ("loss", "language_loss", "mask_bce_loss", "mask_dice_loss")


def apart(sample):
    """Return the questions of a sample as separate samples."""
    pairs = zip(sample["conversations"], sample["masks"], strict=True)
    return [{**sample, "conversations": [conversation], "masks": [masks]} for conversation, masks in pairs]


def packed_and_plain(samples, processor):
    """Batches of the same samples: all questions in one row, and each in a separate row without question_ids."""
    collate = GemmaLisaCollator(processor)
    packed = collate(samples)
    plain = collate([question for sample in samples for question in apart(sample)])
    return packed, without(plain, "question_ids")


@both_states
def test_packed_questions_are_equal_to_separate_rows(windowed, samples, set_config, seg_state):
    model, processor = windowed
    set_config(model, seg_state=seg_state)
    packed, plain = packed_and_plain(samples[:2], processor)
    assert len(packed["input_ids"]) == 2 and len(plain["input_ids"]) == 10
    assert int(packed["question_ids"].max()) == 5 and len(samples[0]["conversations"][-1].turns) == 2

    together, gradients = run_with_gradients(model, packed)
    alone, expected = run_with_gradients(model, plain)
    assert len(together.pred_masks) >= 4
    for name in (*LOSS_PARTS, "logits", "pred_masks", "iou_scores"):
        assert_close(together[name], alone[name])
    assert_gradients_close(gradients, expected)
    assert together.seg_image_index.tolist() == [at // 5 for at in alone.seg_image_index.tolist()]


def test_sliding_window_of_the_test_is_short_enough(windowed, samples, monkeypatch):
    model, processor = windowed
    packed, _ = packed_and_plain(samples[:1], processor)
    short = model(**packed).logits
    monkeypatch.setattr(model.config.text_config, "sliding_window", 512)
    assert (model(**packed).logits - short).abs().max() > 100 * TOLERANCE


def test_packed_questions_are_equal_to_separate_rows_with_eager_attention(windowed, samples):
    model, processor = windowed
    packed, plain = packed_and_plain(samples[:1], processor)
    model.set_attn_implementation("eager")
    try:
        together, alone = model(**packed), model(**plain)
    finally:
        model.set_attn_implementation("sdpa")
    assert_close(together.logits, alone.logits)
    assert_close(together.pred_masks, alone.pred_masks)


def test_packed_question_does_not_depend_on_the_others(windowed, make_sample):
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


def test_question_ids_with_unsupported_attention_are_an_error(tiny, make_sample, monkeypatch):
    model, processor = tiny
    batch = GemmaLisaCollator(processor)([make_sample(["No."])])
    monkeypatch.setattr(model.config.text_config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(ValueError, match="question_ids need .* got 'flash_attention_2'"):
        model(**batch)


def test_packed_questions_can_be_padded_left(tiny, samples):
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


# ---------------------------------------------------------------------------------------------------------------------
# Masks and positions of a small row
# ---------------------------------------------------------------------------------------------------------------------
def text_config(attention="sdpa", window=512):
    config = Gemma3TextConfig(sliding_window=window)
    config._attn_implementation = attention
    return config


def seen(mask):
    """Return a mask (1, 1, L, L) as one line of digits per token."""
    return ["".join(str(int(column)) for column in row) for row in mask[0, 0]]


def test_question_attends_to_the_prefix_and_itself():
    question_ids = torch.tensor([[0, 0, 1, 1, 2, 2]])
    no_image = torch.zeros_like(question_ids, dtype=torch.bool)
    masks, positions = isolate_questions(question_ids, no_image, text_config(), torch.float32)
    assert seen(masks["full_attention"]) == ["100000", "110000", "111000", "111100", "110010", "110011"]
    assert positions.tolist() == [[0, 1, 2, 3, 2, 3]]
    assert torch.equal(masks["sliding_attention"], masks["full_attention"])


def test_sliding_window_counts_positions_and_not_columns():
    question_ids = torch.tensor([[0, 0, 1, 1, 2, 2]])
    no_image = torch.zeros_like(question_ids, dtype=torch.bool)
    masks, _ = isolate_questions(question_ids, no_image, text_config(window=2), torch.float32)
    assert seen(masks["sliding_attention"]) == ["100000", "110000", "011000", "001100", "010010", "000011"]


def test_image_tokens_attend_to_each_other():
    question_ids = torch.tensor([[0, 0, 0, 1]])
    is_image = torch.tensor([[False, True, True, False]])
    masks, _ = isolate_questions(question_ids, is_image, text_config(), torch.float32)
    assert seen(masks["full_attention"]) == ["1000", "1110", "1110", "1111"]


def test_eager_attention_gets_additive_masks():
    question_ids = torch.tensor([[0, 1, 2]])
    no_image = torch.zeros_like(question_ids, dtype=torch.bool)
    as_bool, _ = isolate_questions(question_ids, no_image, text_config(), torch.bfloat16)
    added, _ = isolate_questions(question_ids, no_image, text_config("eager"), torch.bfloat16)
    hidden = torch.finfo(torch.bfloat16).min
    for name, mask in added.items():
        assert mask.dtype == torch.bfloat16 and set(mask.unique().tolist()) == {0.0, hidden}
        assert torch.equal(mask == 0, as_bool[name])


def test_learned_positions_are_those_that_predict_a_label():
    labels = torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, 7, 8], [5, IGNORE_INDEX, 6, IGNORE_INDEX]])
    assert find_learned(labels).tolist() == [1, 2, 5]  # no token predicts the first label of a row
    assert find_positions(labels != IGNORE_INDEX).tolist() == [2, 3, 4, 6]


def test_image_index_counts_conversations_with_an_image():
    input_ids = torch.tensor([[1, 2, 3], [9, 9, 2], [1, 1, 1], [3, 9, 9]])
    images, has_image = images_of_rows(input_ids, image_token_id=9)
    assert has_image.tolist() == [False, True, False, True]
    assert images[has_image].tolist() == [0, 1]

"""The collator: labels, the question of each token, and the mask of each [SEG]."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.datasets_builder.rows import SEG_SLOT
from gemma_lisa.datasets_builder.templates import Conversation
from gemma_lisa.images_gemma_lisa import IGNORE_VALUE
from gemma_lisa.losses_gemma_lisa import IGNORE_INDEX

TOKENS = ("input_ids", "attention_mask", "token_type_ids", "labels", "question_ids")
GEMMA_IMAGES = ("pixel_values",)
SAM_IMAGES = ("sam_pixel_values", "original_sizes", "reshaped_input_sizes")
POSITIONS = ("learned_positions", "seg_positions", "image_positions")


@pytest.fixture(scope="module")
def processor(tiny):
    return tiny[1]


@pytest.fixture(scope="module")
def collate(processor):
    return GemmaLisaCollator(processor)


def decoded(processor, ids):
    return processor.tokenizer.decode(ids).replace(processor.full_image_sequence.strip("\n"), "<image>")


def runs_of(values):
    """Return a row without repeated neighbors: 0 0 1 1 1 2 -> 0 1 2."""
    return [value for at, value in enumerate(values) if at == 0 or value != values[at - 1]]


def test_images_can_stay_uint8_and_the_model_refuses_them(tiny, collate, samples):
    model, processor = tiny
    batch, expected = GemmaLisaCollator(processor, as_bytes=True)(samples[:3]), collate(samples[:3])
    for name in (*GEMMA_IMAGES, SAM_IMAGES[0]):
        assert batch[name].dtype == torch.uint8
        with pytest.raises(ValueError, match="images are uint8. Call `processor.normalize_images"):
            model(**{**expected, name: batch[name]})


def test_batch_has_the_arguments_of_the_model(collate, samples):
    batch = collate(samples[:3])
    assert set(batch) == {*TOKENS, "prepared", *GEMMA_IMAGES, *SAM_IMAGES}
    assert all(isinstance(value, torch.Tensor) for name, value in batch.items() if name != "prepared")
    assert all(getattr(batch["prepared"], name).dtype == torch.int64 for name in POSITIONS)
    assert batch["prepared"].full_masks is None
    for name in TOKENS:
        assert batch[name].dtype == torch.int64 and batch[name].shape == batch["input_ids"].shape
    assert len(batch["input_ids"]) == len(batch["pixel_values"]) == len(batch["original_sizes"]) == 3
    prepared = batch["prepared"]
    assert prepared.num_masks == len(prepared.mask_targets) == len(prepared.mask_sizes) == len(prepared.seg_positions)


def test_sources_are_added_on_request(processor, samples):
    batch = GemmaLisaCollator(processor, with_sources=True)(samples[:2])
    assert batch["sources"] == [sample["source"] for sample in samples[:2]]


def test_row_is_the_prefix_and_its_questions(processor, collate, make_sample):
    sample = make_sample(["It is {seg}.", "No, it is not there."])
    batch = collate([sample])
    ids, numbers = batch["input_ids"][0], batch["question_ids"][0]
    assert runs_of(numbers.tolist()) == [0, 1, 2]
    assert decoded(processor, ids[numbers == 0]) == "<bos><start_of_turn>user\n\n\n<image>"
    asked = "\n\nWhere is the object?<end_of_turn>\n<start_of_turn>model\n"
    assert decoded(processor, ids[numbers == 1]) == f"{asked}It is [SEG].<end_of_turn>"
    assert decoded(processor, ids[numbers == 2]) == f"{asked}No, it is not there.<end_of_turn>"
    assert torch.equal(batch["token_type_ids"][0].bool(), ids == processor.tokenizer.image_token_id)
    assert int(batch["token_type_ids"].sum()) == processor.image_seq_length


def test_only_answers_have_labels(processor, collate, make_sample):
    conversation = Conversation((("How many?", "Two."), ("Which?", "A star and a circle.")))
    sample = make_sample(["It is {seg} and {seg}.", "No."])
    sample["conversations"].append(conversation)
    sample["masks"].append(None)
    batch = collate([sample])
    labels, ids, numbers = batch["labels"][0], batch["input_ids"][0], batch["question_ids"][0]
    learned = labels != IGNORE_INDEX
    assert torch.equal(labels[learned], ids[learned])
    expected = {
        1: "It is [SEG] and [SEG].<end_of_turn>",
        2: "No.<end_of_turn>",
        3: "Two.<end_of_turn>A star and a circle.<end_of_turn>",
    }
    for number, answers in expected.items():
        assert decoded(processor, ids[learned & (numbers == number)]) == answers
    assert not learned[numbers <= 0].any()


def test_conversation_with_several_turns_is_one_question(processor, collate, samples):
    conversation = Conversation((("How many shapes are there?", "3."), ("And circles?", "1.")))
    sample = {**samples[0], "conversations": [*samples[0]["conversations"][:-1], conversation]}
    assert [len(conversation.turns) for conversation in sample["conversations"]] == [1, 1, 1, 1, 2]
    batch = collate([sample])
    numbers, ids = batch["question_ids"][0], batch["input_ids"][0]
    assert runs_of(numbers.tolist()) == [0, 1, 2, 3, 4, 5]
    last = decoded(processor, ids[numbers == 5])
    for question, answer in sample["conversations"][-1].turns:
        assert question in last and answer in last


def test_rows_are_padded_right(processor, collate, make_sample):
    batch = collate([make_sample(["No."]), make_sample(["It is {seg}, {seg}, {seg} and {seg}."], seed=1)])
    padding = batch["attention_mask"][0] == 0
    assert padding.any() and not padding[: int((~padding).sum())].any()
    assert batch["attention_mask"][1].all()
    assert torch.all(batch["input_ids"][0][padding] == processor.tokenizer.pad_token_id)
    assert torch.all(batch["labels"][0][padding] == IGNORE_INDEX)
    assert torch.all(batch["question_ids"][0][padding] == -1)
    assert not batch["token_type_ids"][0][padding].any()


def test_masks_are_in_the_order_of_the_seg_tokens(processor, collate, make_sample):
    """The k-th [SEG] of a row, over all its questions, belongs to the k-th mask of its image."""
    samples = [make_sample(["{seg}, {seg}.", "No.", "{seg}."]), make_sample(["No.", "{seg} {seg}"], seed=1)]
    value = 0
    for sample in samples:
        for masks in sample["masks"]:
            for mask in masks:
                mask[:] = 0
                mask[value] = 1  # one row of pixels, different for each mask
                value += 1
    batch = collate(samples)
    assert batch["prepared"].mask_targets.shape == (5, 64, 64)
    rows = [mask.any(1).nonzero().item() for mask in batch["prepared"].mask_targets]
    assert rows == [0, 1, 2, 3, 4]
    is_seg = batch["input_ids"] == processor.seg_token_id
    assert batch["question_ids"][0][is_seg[0]].tolist() == [1, 1, 3]
    assert batch["question_ids"][1][is_seg[1]].tolist() == [2, 2]


def test_masks_keep_their_values_and_sizes(collate, make_sample):
    sample = make_sample(["{seg}."], size=(30, 50))
    sample["masks"][0][0, :5] = IGNORE_VALUE
    batch = collate([sample, make_sample(["{seg}."], size=(20, 70)), make_sample(["No."], size=(80, 90))])
    assert batch["prepared"].mask_targets.dtype == torch.uint8 and batch["prepared"].mask_targets.shape == (2, 30, 70)
    assert batch["prepared"].mask_sizes.tolist() == [[30, 50], [20, 70]]
    np.testing.assert_array_equal(batch["prepared"].mask_targets[0, :, :50], sample["masks"][0][0])
    assert (batch["prepared"].mask_targets[0, :, 50:] == IGNORE_VALUE).all()
    assert (batch["prepared"].mask_targets[1, 20:] == IGNORE_VALUE).all()
    assert batch["original_sizes"].tolist() == [[30, 50], [20, 70], [80, 90]]


def test_numbers_of_seg_tokens_and_masks_are_equal_for_every_row(processor, collate, samples):
    for sample in samples:
        batch = collate([sample])
        num_seg = int((batch["input_ids"] == processor.seg_token_id).sum())
        assert num_seg == len(batch["prepared"].mask_targets) == sum(len(t["masks"]) for t in targets_of(sample))


def targets_of(sample):
    return [target for conversation in sample["conversations"] for target in conversation.targets]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_wrong_number_of_masks_is_an_error_that_names_the_row(collate, make_sample, count):
    sample = make_sample(["No.", "{seg} and {seg}."], source="some_set/val/000041")
    sample["masks"][1] = np.zeros((count, 64, 64), dtype=np.uint8)
    with pytest.raises(
        ValueError, match=rf"some_set/val/000041: answers and masks do not match .\[SEG\] tokens: 2, masks: {count}"
    ):
        collate([make_sample(["{seg}."], source="some_set/val/000040"), sample])


def test_number_of_masks_is_checked_per_question(collate, make_sample):
    sample = make_sample(["{seg}.", "{seg} and {seg}."])
    sample["masks"].reverse()
    with pytest.raises(ValueError, match=r"answers and masks do not match .\[SEG\] tokens: 1, masks: 2"):
        collate([sample])


def test_seg_in_a_conversation_without_masks_is_an_error(collate, make_sample):
    sample = make_sample([])
    sample["conversations"], sample["masks"] = [Conversation((("Where?", f"It is {SEG_SLOT}."),))], [None]
    with pytest.raises(
        ValueError, match=r"some_set/train/000007: answers and masks do not match .\[SEG\] tokens: 1, masks: 0"
    ):
        collate([sample])


def test_seg_slot_in_a_question_stays_text(processor, collate, make_sample):
    sample = make_sample(["No."])
    (conversation,) = sample["conversations"]
    sample["conversations"] = [replace(conversation, turns=(("Where is [SEG] {seg}?", "No."),))]
    batch = collate([sample])
    assert not (batch["input_ids"] == processor.seg_token_id).any()
    assert "Where is [SEG] {seg}?" in decoded(processor, batch["input_ids"][0])


def test_row_without_a_question_is_an_error(collate, make_sample):
    with pytest.raises(ValueError, match="some_set/train/000007: the row has no question"):
        collate([make_sample(["{seg}."]), make_sample([])])


def test_language_only_training_omits_sam(processor, collate, make_sample):
    samples = [make_sample(["It is {seg}.", "No."])]
    words = GemmaLisaCollator(processor, learn_masks=False)(samples)
    whole = collate(samples)
    assert set(words) == {*TOKENS, "prepared", *GEMMA_IMAGES}
    for name in (*TOKENS, *GEMMA_IMAGES):
        assert torch.equal(words[name], whole[name])
    for name in POSITIONS:
        assert torch.equal(getattr(words["prepared"], name), getattr(whole["prepared"], name))
    assert words["prepared"].mask_targets is None and words["prepared"].num_masks == 0


def test_text_only_row_has_no_image(processor, collate, make_sample):
    text_only = make_sample(["Two."], with_image=False)
    batch = collate([text_only])
    assert set(batch) == {*TOKENS, "prepared"} and len(batch["prepared"].image_positions) == 0
    numbers, ids = batch["question_ids"][0], batch["input_ids"][0]
    assert decoded(processor, ids[numbers == 0]) == "<bos>"
    assert decoded(processor, ids[batch["labels"][0] != IGNORE_INDEX]) == "Two.<end_of_turn>"


def test_images_are_those_of_the_rows_with_an_image(collate, make_sample):
    samples_with_image = [make_sample(["{seg}."], seed=1), make_sample(["No."], seed=2)]
    words = make_sample(["Two."], with_image=False)
    mixed, alone = collate([samples_with_image[0], words, samples_with_image[1]]), collate(samples_with_image)
    assert mixed["token_type_ids"].any(1).tolist() == [True, False, True]
    for name in ("pixel_values", "sam_pixel_values", "original_sizes", "reshaped_input_sizes"):
        assert torch.equal(mixed[name], alone[name])
    assert torch.equal(mixed["prepared"].mask_targets, alone["prepared"].mask_targets)
    assert mixed["prepared"].num_masks == 1


def test_several_questions_share_one_image(processor, collate, samples):
    batch = collate(samples[:1])
    assert len(samples[0]["conversations"]) == 5
    assert len(batch["pixel_values"]) == 1
    assert int((batch["input_ids"] == processor.tokenizer.boi_token_id).sum()) == 1


def test_system_prompt_of_the_processor_is_in_the_prefix(processor, collate, make_sample, monkeypatch):
    monkeypatch.setattr(processor, "system_prompt", "Point at samples_with_image.")
    sample = make_sample(["{seg}.", "No."])
    batch = collate([sample])
    prefix = batch["input_ids"][0][batch["question_ids"][0] == 0]
    assert decoded(processor, prefix).startswith("<bos><start_of_turn>user\nPoint at samples_with_image.\n\n")


def test_evaluation_samples_have_their_index(collate, rows):
    questions = EvaluationQuestions(rows, with_conversations=False)
    assert len(questions) == 4 * len(rows)
    batch = collate([questions[5], questions[2]])
    assert batch["sample_ids"].tolist() == [5, 2]
    assert int(batch["question_ids"].max()) == 1


def test_tokens_of_a_question_are_those_of_a_separate_conversation(processor, collate, samples, make_sample):
    """The prefix and question k have the tokens that the processor returns for this conversation alone."""
    sample = samples[1]
    batch = collate([sample])
    ids, numbers = batch["input_ids"][0], batch["question_ids"][0]
    for number, conversation in enumerate(sample["conversations"], start=1):
        messages = []
        for question, answer in conversation.turns:
            messages.append({"role": "user", "content": [{"type": "text", "text": question}]})
            messages.append({"role": "assistant", "content": answer.replace(SEG_SLOT, "[SEG]")})
        messages[0]["content"].insert(0, {"type": "image", "image": sample["image"]})
        expected = processor.apply_chat_template(messages, tokenize=True)[0].tolist()
        own = ids[(numbers == 0) | (numbers == number)].tolist()
        # The template's text after the last answer is removed
        assert own == expected[: len(own)]
        assert processor.tokenizer.decode(expected[len(own) :]) == "\n"


def test_positions_are_those_of_labels_images_and_seg_tokens(processor, collate, samples, make_sample):
    batch = collate([make_sample(["Two."], with_image=False), *samples[:2]])
    ids, labels = batch["input_ids"].flatten(), batch["labels"].flatten()
    prepared = batch["prepared"]
    learned = labels[prepared.learned_positions + 1]
    assert torch.equal(learned, batch["labels"][:, 1:][batch["labels"][:, 1:] != IGNORE_INDEX])
    assert (ids[prepared.seg_positions] == processor.seg_token_id).all()
    assert len(prepared.seg_positions) == int((ids == processor.seg_token_id).sum()) > 1
    assert torch.equal(prepared.image_positions, batch["token_type_ids"].flatten().nonzero()[:, 0])


def test_large_masks_are_resized_to_the_maximum_side(processor, make_sample):
    sample = make_sample(["{seg} and {seg}."], size=(160, 240))
    prepared = GemmaLisaCollator(processor, mask_loss_size=60)([sample])["prepared"]
    assert prepared.mask_targets.shape == (2, 40, 60) and prepared.mask_sizes.tolist() == [[40, 60]] * 2
    assert prepared.mask_loss_size == 60


def test_masks_with_invalid_values_are_an_error_of_the_collator(collate, make_sample):
    sample = make_sample(["{seg}."], source="some_set/val/000041")
    sample["masks"][0] *= 7
    words = make_sample(["Two."], with_image=False)
    with pytest.raises(ValueError, match=r"masks of some_set/val/000041 have the values \[0, 7\]"):
        collate([words, make_sample(["{seg}."], source="some_set/val/000040"), sample])


def test_evaluation_also_keeps_masks_at_their_own_sizes(processor, rows):
    questions = EvaluationQuestions(rows, with_conversations=False)
    samples = [questions[5], questions[2]]
    batch = GemmaLisaCollator(processor, mask_loss_size=32)(samples)
    full_masks = batch["prepared"].full_masks
    assert [len(masks) for masks in full_masks] == [len(sample["masks"][0]) for sample in samples]
    for masks, sample in zip(full_masks, samples, strict=True):
        np.testing.assert_array_equal(masks, sample["masks"][0])
    assert max(batch["prepared"].mask_targets.shape[1:]) == 32


def test_a_repeated_text_is_encoded_once_and_gives_the_same_batch(processor, samples, monkeypatch):
    collate, counts = GemmaLisaCollator(processor), []
    encode = processor.encode_conversations
    monkeypatch.setattr(processor, "encode_conversations", lambda many: counts.append(len(many)) or encode(many))
    first = collate(samples[:3])
    textless = {**samples[0], "image": None, "masks": [None], "conversations": [Conversation((("Why?", "So."),))]}
    again, shown = collate(samples[:3]), collate([{**textless, "image": samples[0]["image"]}])
    without_image = collate([textless])
    assert counts[1:] == [0, 1, 1]
    assert all(torch.equal(first[name], again[name]) for name in TOKENS)
    assert shown["input_ids"].shape[1] > without_image["input_ids"].shape[1]


def test_encoded_texts_are_deleted_when_they_have_too_many_tokens(processor, samples, monkeypatch):
    monkeypatch.setattr("gemma_lisa.collator.MAX_ENCODED_TOKENS", 10)
    collate, counts = GemmaLisaCollator(processor), []
    encode = processor.encode_conversations
    monkeypatch.setattr(processor, "encode_conversations", lambda many: counts.append(len(many)) or encode(many))
    batches = [collate(samples[:1]) for _ in range(2)]
    assert counts[0] == counts[1] > 0
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in TOKENS)

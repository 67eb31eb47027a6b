"""Answers: masks of the image sizes, and texts, phrases and status from the generated tokens."""

import numpy as np
import pytest
import torch
from conversations import IMAGE, encode
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from gemma_lisa.generation_gemma_lisa import SegmentOutput

SIZES = {"landscape": (48, 100), "portrait": (90, 31), "square": (70, 70)}  # (height, width) in pixels


def output_of(processor, inputs, answers, image_of=(), side=32, seed=0):
    """Return a SegmentOutput with these answers; image_of: index of the image of each mask."""
    tokens = [processor.tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
    length = max(map(len, tokens))
    tokens = [ids + [processor.tokenizer.pad_token_id] * (length - len(ids)) for ids in tokens]
    generator = torch.Generator().manual_seed(seed)
    count = len(image_of)
    return SegmentOutput(
        sequences=torch.cat([inputs["input_ids"], torch.tensor(tokens)], dim=1),
        pred_masks=torch.randn(count, side, side, generator=generator),
        iou_scores=torch.rand(count, generator=generator),
        seg_image_index=torch.tensor(image_of, dtype=torch.long),
    )


def test_masks_have_the_sizes_of_their_images_and_are_equal_to_sams(processor, make_conversation, make_picture):
    conversations = [make_conversation(("user", IMAGE, "Q"), picture=make_picture(*size)) for size in SIZES.values()]
    conversations.insert(1, make_conversation(("user", "Q")))
    inputs = encode(processor, conversations, add_generation_prompt=True)
    generated = ["[SEG] [SEG]<end_of_turn>", "Hi.<end_of_turn>", "[SEG]<end_of_turn>", "[SEG]<end_of_turn>"]
    output = output_of(processor, inputs, generated, image_of=[0, 0, 1, 2])
    answers = processor.post_process_segmentation(output, inputs)
    assert len(answers) == 4 and answers[1]["masks"].shape == (0, 0, 0) and answers[1]["scores"].shape == (0,)

    masks = [output.pred_masks[:2, None], output.pred_masks[2:3, None], output.pred_masks[3:, None]]
    expected = SamImageProcessorPil.post_process_masks(
        processor.sam_image_processor,
        masks,
        inputs["original_sizes"],
        inputs["reshaped_input_sizes"],
        binarize=False,
    )
    scores = [output.iou_scores[:2], output.iou_scores[2:3], output.iou_scores[3:]]
    with_image = [answers[0], answers[2], answers[3]]
    for image, (answer, logits, score) in enumerate(zip(with_image, expected, scores, strict=True)):
        height, width = list(SIZES.values())[image]
        assert answer["masks"].shape == (len(score), height, width) and answer["masks"].dtype == torch.bool
        assert torch.equal(answer["masks"], logits[:, 0] > 0)
        assert 0 < answer["masks"].float().mean() < 1
        assert torch.equal(answer["scores"], score)
        reshaped = inputs["reshaped_input_sizes"][image].tolist()
        own = processor.masks_to_image(masks[image][:, 0], (height, width), reshaped)
        assert torch.equal(own, logits[:, 0])


def test_threshold_applies_to_logits(processor, make_conversation):
    inputs = encode(processor, make_conversation(("user", IMAGE, "Q")))
    output = output_of(processor, inputs, ["[SEG]"], image_of=[0])
    logits = processor.masks_to_image(output.pred_masks, (64, 64), (64, 64))
    for threshold in (-0.5, 0.0, 0.7):
        (answer,) = processor.post_process_segmentation(output, inputs, threshold=threshold)
        assert torch.equal(answer["masks"], logits > threshold)


def test_masks_can_be_encoded_one_at_a_time(processor, make_conversation, make_picture):
    conversations = [make_conversation(("user", IMAGE, "Q"), picture=make_picture(*size)) for size in SIZES.values()]
    inputs = encode(processor, conversations, add_generation_prompt=True)
    output = output_of(processor, inputs, ["[SEG] [SEG]", "No.", "[SEG]"], image_of=[0, 0, 2])
    plain = processor.post_process_segmentation(output, inputs, 0.3)
    encoded = processor.post_process_segmentation(output, inputs, 0.3, encode_mask=lambda mask: mask.numpy().tobytes())
    assert [len(answer["masks"]) for answer in encoded] == [2, 0, 1]
    for one, other in zip(plain, encoded, strict=True):
        assert [mask.numpy().tobytes() for mask in one["masks"]] == other["masks"]


WORDS = {
    # generated: (text, raw_text, phrases, complete)
    "It is [SEG].<end_of_turn>": ("It is.", "It is [SEG].", [""], True),
    "It is [SEG], a red circle.<end_of_turn>": (
        "It is, a red circle.",
        "It is [SEG], a red circle.",
        ["a red circle"],
        True,
    ),
    "They are [SEG], a cup, [SEG], a jug.<end_of_turn>": (
        "They are, a cup, a jug.",
        "They are [SEG], a cup, [SEG], a jug.",
        ["a cup", "a jug"],
        True,
    ),
    "They are [SEG], [SEG] and [SEG].<end_of_turn>": (
        "They are.",
        "They are [SEG], [SEG] and [SEG].",
        ["", "", ""],
        True,
    ),
    "[SEG]<end_of_turn>": ("", "[SEG]", [""], True),
    "the cat [SEG] on the mat [SEG]<end_of_turn>": (
        "the cat on the mat",
        "the cat [SEG] on the mat [SEG]",
        ["the cat", "on the mat"],
        True,
    ),
    "They are [SEG] cup in blue and [SEG] jug.<end_of_turn>": (
        "They are cup in blue and jug.",
        "They are [SEG] cup in blue and [SEG] jug.",
        ["cup in blue", "jug"],
        True,
    ),
    "Sure, the island [SEG] and there is a mat, [SEG]<end_of_turn>": (
        "Sure, the island and there is a mat,",
        "Sure, the island [SEG] and there is a mat, [SEG]",
        ["the island", "a mat"],
        True,
    ),
    "The red shape: [SEG] upper left circle.<end_of_turn>": (
        "The red shape: upper left circle.",
        "The red shape: [SEG] upper left circle.",
        ["The red shape"],
        True,
    ),
    "The red shapes: [SEG] upper left circle, [SEG] lower right star.<end_of_turn>": (
        "The red shapes: upper left circle, lower right star.",
        "The red shapes: [SEG] upper left circle, [SEG] lower right star.",
        ["upper left circle", "lower right star"],
        True,
    ),
    "The cup: [SEG], the jug: [SEG].<end_of_turn>": (
        "The cup:, the jug:.",
        "The cup: [SEG], the jug: [SEG].",
        ["The cup", "the jug"],
        True,
    ),
    "No, it is not there.<end_of_turn>": ("No, it is not there.", "No, it is not there.", [], True),
    "It is [SEG] and": ("It is and", "It is [SEG] and", [""], False),
    "Sure.<eos>": ("Sure.", "Sure.", [], True),
    "<end_of_turn>": ("", "", [], True),
}


@pytest.mark.parametrize("generated", WORDS)
def test_text_and_phrases_of_an_answer_are_read_from_its_tokens(processor, make_conversation, generated):
    inputs = encode(processor, make_conversation(("user", IMAGE, "Q")), add_generation_prompt=True)
    text, raw_text, phrases, complete = WORDS[generated]
    output = output_of(processor, inputs, [generated], image_of=[0] * len(phrases))
    (answer,) = processor.post_process_segmentation(output, inputs)
    assert set(answer) == {"text", "raw_text", "phrases", "masks", "scores", "complete", "status"}
    assert (answer["text"], answer["raw_text"], answer["phrases"], answer["complete"]) == WORDS[generated]
    assert answer["masks"].shape == (len(phrases), 64, 64) and answer["scores"].shape == (len(phrases),)


STATUSES = {
    # answer: (logit of each mask, score of each mask, status)
    "It is [SEG].<end_of_turn>": ([1.0], [0.9], "found"),
    "[SEG]<end_of_turn>": ([1.0], [0.4], "low confidence"),
    "It is [SEG], a cup.<end_of_turn>": ([-1.0], [0.9], "nothing found"),
    "They are [SEG] and [SEG].<end_of_turn>": ([-1.0, 1.0], [0.1, 0.9], "found"),
    "It is [SEG] and": ([1.0], [0.9], "incomplete"),
    "It is [SEG] a a a cup.<end_of_turn>": ([1.0], [0.9], "incomplete"),
    "No, I see none.<end_of_turn>": ([], [], "not there"),
    "No, I I I see none.<end_of_turn>": ([], [], "incomplete"),
    "2.<end_of_turn>": ([], [], "text only"),
}


@pytest.mark.parametrize("encode_mask", [None, lambda mask: "encoded"], ids=["tensors", "encoded"])
def test_status_of_an_answer_follows_from_its_masks_and_scores(processor, make_conversation, encode_mask):
    inputs = encode(processor, [make_conversation(("user", IMAGE, "Q"))] * len(STATUSES), add_generation_prompt=True)
    images = [image for image, (logits, _, _) in enumerate(STATUSES.values()) for _ in logits]
    output = output_of(processor, inputs, list(STATUSES), image_of=images)
    for at, (logit, score) in enumerate(
        pair for logits, scores, _ in STATUSES.values() for pair in zip(logits, scores, strict=True)
    ):
        output.pred_masks[at], output.iou_scores[at] = logit, score
    answers = processor.post_process_segmentation(output, inputs, encode_mask=encode_mask)
    assert [answer["status"] for answer in answers] == [status for _, _, status in STATUSES.values()]
    assert [len(answer["masks"]) for answer in answers] == [len(logits) for logits, _, _ in STATUSES.values()]
    assert all(answer["complete"] == (answer["status"] != "incomplete") for answer in answers)


def test_earlier_turns_are_not_part_of_the_answer(processor, make_conversation):
    conversation = make_conversation(("user", IMAGE, "Q"), ("assistant", "It is [SEG]."), ("user", "R"))
    inputs = encode(processor, [conversation, make_conversation(("user", "Hi"))], add_generation_prompt=True)
    output = output_of(processor, inputs, ["No.<end_of_turn>", "Hello there.<end_of_turn>"])
    first, second = processor.post_process_segmentation(output, inputs)
    assert (first["raw_text"], second["raw_text"]) == ("No.", "Hello there.")
    assert first["masks"].shape == (0, 64, 64)


def test_answers_of_a_batch_have_masks_of_their_image_sizes(tiny, make_conversation, make_picture):
    model, processor = tiny
    conversations = [
        make_conversation(("user", IMAGE, "the red circle"), picture=make_picture(30, 50)),
        make_conversation(("user", "Hi.")),
        make_conversation(("user", IMAGE, "the star"), picture=make_picture(64, 20, seed=1)),
    ]
    inputs = encode(processor, conversations, add_generation_prompt=True)
    output = model.segment(**inputs, max_new_tokens=6)
    answers = processor.post_process_segmentation(output, inputs)
    assert [tuple(answer["masks"].shape[1:]) for answer in answers] == [(30, 50), (0, 0), (64, 20)]
    assert sum(len(answer["masks"]) for answer in answers) == len(output.pred_masks)
    assert all(len(a["masks"]) == len(a["scores"]) == len(a["phrases"]) for a in answers if np.prod(a["masks"].shape))


LONG = 100_000
UNITS = [*(" ", "\n", "\t", "\u3000", ",", " ,", ", ", ",\n", "and", " and", "and ", "is", "there ", "here are "), "と"]
UNITS += [
    *("それらは", "。", "a", ".", "the red circle ", "yes, ", "[SEG]", "<end_of_turn>", "data:", "A+", "://"),
]


@pytest.mark.parametrize("unit", UNITS)
def test_long_answer_is_read_in_linear_time(processor, unit, no_hang, monkeypatch):
    """A cubic pattern took 114 s for 4,000 spaces."""
    long = unit * (LONG // len(unit))
    generated = {}
    monkeypatch.setattr(processor.tokenizer, "decode", lambda ids, **options: generated[ids[0]])
    sure, one, other = range(300, 303)  # tokens of words
    for texts in (("Sure, ", long, long), ("Sure, ", f"{long}x", f"x{long}x"), (long, f",{long}x", f"and{long}x")):
        generated |= zip((sure, one, other), texts, strict=True)
        seg = processor.seg_token_id
        answer = processor.read_answer([sure, seg, one, seg, other, seg, sure])
        assert len(answer["phrases"]) == 3 and not answer["complete"]

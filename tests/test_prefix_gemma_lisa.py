"""Several questions about one image: the prefix is read once, and nothing else changes."""

import pytest
import torch
from comparing import assert_close, both_states, without
from generating import ask, forced_answers

from gemma_lisa import generation_gemma_lisa
from gemma_lisa.packing_gemma_lisa import masks_of_prompts

TEXTS = ["the red circle", "Where is the large green square in the corner?", "the star", "the blue one"]
IMAGES = [0, 1, 0, 0]  # image of each question


def with_shared_images(processor, question, images=IMAGES, texts=TEXTS):
    """Return prompts with each image once and `image_index`, and the same prompts with an image each."""
    conversations = [question(text, seed=image, size=(40, 90)) for text, image in zip(texts, images, strict=True)]
    separate = dict(ask(processor, *conversations))
    shared = dict(separate, image_index=torch.tensor(images))
    for name in ("pixel_values", "sam_pixel_values"):
        shared[name] = separate[name][[images.index(image) for image in range(max(images) + 1)]]
    return shared, separate


@pytest.fixture
def read(tiny, monkeypatch):
    """The (rows, tokens) that each pass of Gemma reads."""
    sizes, language_model = [], tiny[0].model.language_model
    forward = language_model.forward

    def watch(*args, **given):
        sizes.append(tuple(given["inputs_embeds"].shape[:2]))
        return forward(*args, **given)

    monkeypatch.setattr(language_model, "forward", watch)
    return sizes


@both_states
def test_answers_are_equal_to_those_of_separate_images(tiny, question, set_config, read, seg_state):
    model, processor = tiny
    set_config(model, seg_state=seg_state)
    shared, separate = with_shared_images(processor, question)
    answers = ["They are [SEG], [SEG]", "It is [SEG].", "[SEG]", "No."]
    with forced_answers(model, processor, *answers) as scripts:
        expected = model.segment(**separate, max_new_tokens=len(scripts[0]))
    read.clear()
    with forced_answers(model, processor, *answers):
        found = model.segment(**shared, max_new_tokens=len(scripts[0]))
    length = separate["input_ids"].shape[1]
    (images, prefix), (rows, rest) = read[:2]
    assert (images, rows, prefix + rest) == (2, 4, length) and prefix > rest
    assert torch.equal(found.sequences, expected.sequences)
    assert_close(found.pred_masks, expected.pred_masks)
    assert_close(found.iou_scores, expected.iou_scores)
    assert torch.equal(found.seg_image_index, expected.seg_image_index)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"num_beams": 3, "num_return_sequences": 2}])
def test_free_answers_are_equal(tiny, question, read, options):
    model, processor = tiny
    shared, separate = with_shared_images(processor, question)
    expected = model.segment(**separate, max_new_tokens=8, **options)
    read.clear()
    found = model.segment(**shared, max_new_tokens=8, **options)
    assert read[0][0] == 2
    assert torch.equal(found.sequences, expected.sequences)


def test_samples_are_equal(tiny, question):
    model, processor = tiny
    outputs = []
    for inputs in with_shared_images(processor, question):
        torch.manual_seed(0)
        options = {"do_sample": True, "num_return_sequences": 2}
        outputs.append(model.segment(**inputs, max_new_tokens=8, **options).sequences)
    assert torch.equal(*outputs)


def test_logits_are_equal_within_rounding(tiny, question):
    model, processor = tiny
    found = []
    for inputs in with_shared_images(processor, question):
        seen = []
        hook = model.lm_head.register_forward_hook(lambda module, given, logits, seen=seen: seen.append(logits[:, -1]))
        model.segment(**inputs, max_new_tokens=5)
        hook.remove()
        found.append(torch.stack(seen))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"cache_implementation": "static"}, {"use_cache": False}, {"max_new_tokens": 10_000}],
    ids=["static cache", "no cache", "beyond the window"],
)
def test_other_ways_of_reading_return_the_same(tiny, question, read, options):
    model, processor = tiny
    shared, separate = with_shared_images(processor, question)
    options = {"max_new_tokens": 6, **options}
    with forced_answers(model, processor, *["It is [SEG]."] * 4):
        expected = model.segment(**separate, **options)
    read.clear()
    with forced_answers(model, processor, *["It is [SEG]."] * 4):
        found = model.segment(**shared, **options)
    assert read[0] == (4, shared["input_ids"].shape[1])
    assert torch.equal(found.sequences, expected.sequences)
    assert_close(found.pred_masks, expected.pred_masks)


def test_prompts_beyond_the_sliding_window_return_the_same(windowed, question):
    model, processor = windowed
    shared, separate = with_shared_images(processor, question)
    found, expected = (model.segment(**inputs, max_new_tokens=8).sequences for inputs in (shared, separate))
    assert torch.equal(found, expected)


def test_different_texts_before_the_image_are_read_with_each_prompt(tiny, question, read):
    model, processor = tiny
    shared, _ = with_shared_images(processor, question, images=[0, 0], texts=["the circle", "the star"])
    shared["input_ids"][0, shared["attention_mask"][0].argmax() + 1] += 1
    length = shared["input_ids"].shape[1]
    model.segment(**shared, max_new_tokens=2)
    assert read[0] == (2, length)


def test_masks_of_prompts_are_those_of_transformers(tiny, question, monkeypatch):
    model, processor = tiny
    inputs = ask(processor, question(), question("Where is the star?", with_image=False), question("a", seed=1))
    found = []
    for make in (generation_gemma_lisa.masks_of_prompts, lambda mask, *_: mask):
        monkeypatch.setattr(generation_gemma_lisa, "masks_of_prompts", make)
        given = without(inputs, "sam_pixel_values", "original_sizes", "reshaped_input_sizes")
        output = model.generate(
            **given, max_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        found.append(torch.stack(output.logits))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_prompts_of_equal_length_share_the_prefix_too(tiny, question, read):
    model, processor = tiny
    shared, separate = with_shared_images(processor, question, texts=["the red circle"] * 4)
    assert shared["attention_mask"].all()  # `generate` drops such a mask
    expected = model.segment(**separate, max_new_tokens=4).sequences
    read.clear()
    shared["image_index"] = shared["image_index"].tolist()
    assert torch.equal(model.segment(**shared, max_new_tokens=4).sequences, expected)
    assert read[0][0] == 2


def test_several_images_in_a_row_are_left_to_transformers(tiny):
    is_image, mask = torch.tensor([[0, 1, 0, 1, 0]]), torch.ones(1, 5, dtype=torch.long)
    assert masks_of_prompts(mask, is_image, tiny[0].config.text_config) is mask


def test_prompts_cannot_be_read_in_chunks(tiny, question):
    model, processor = tiny
    with pytest.raises(ValueError, match="does not support prefill_chunk_size"):
        model.segment(**ask(processor, question()), prefill_chunk_size=8)


def test_conversations_without_an_image_can_have_an_empty_image_index(tiny):
    model, processor = tiny
    message = [{"role": "user", "content": [{"type": "text", "text": "How many corners has a square?"}]}]
    plain = processor.apply_chat_template(
        [message, message], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    given = {name: value for name, value in plain.items() if name in ("input_ids", "attention_mask", "token_type_ids")}
    expected = model.segment(**given, max_new_tokens=3)
    found = model.segment(**given, image_index=torch.empty(0, dtype=torch.long), max_new_tokens=3)
    assert torch.equal(found.sequences, expected.sequences)

"""The chat template: rendered text, assistant masks, and errors of invalid conversations."""

import pytest
import torch
from conversations import END, IMAGE, MODEL, USER, decode, encode
from transformers import Gemma3Processor

from gemma_lisa.chat_template_gemma_lisa import images_of, user_turn
from gemma_lisa.images_gemma_lisa import images_of_rows

# ---------------------------------------------------------------------------------------------------------------------
# Rendered text
# ---------------------------------------------------------------------------------------------------------------------
RENDERED = {
    "image_and_text_with_spaces": (
        [("user", IMAGE, "  Where is the cat? ")],
        True,
        f"<bos>{USER}<start_of_image>Where is the cat?{END}{MODEL}",
    ),
    "system_user_assistant": (
        [("system", "SYS"), ("user", IMAGE, "Q"), ("assistant", "A [SEG].")],
        False,
        f"<bos>{USER}SYS\n\n<start_of_image>Q{END}{MODEL}A [SEG].{END}",
    ),
    "text_then_image": (
        [("user", "Q ", IMAGE)],
        True,
        f"<bos>{USER}Q<start_of_image>{END}{MODEL}",
    ),
    "several_turns": (
        [("user", IMAGE, "Q"), ("assistant", " A "), ("user", "R"), ("assistant", "B"), ("user", "S")],
        True,
        f"<bos>{USER}<start_of_image>Q{END}{MODEL}A{END}{USER}R{END}{MODEL}B{END}{USER}S{END}{MODEL}",
    ),
}


@pytest.mark.parametrize("case", RENDERED)
def test_template_renders_the_format_of_gemma(processor, make_conversation, case):
    turns, add_generation_prompt, expected = RENDERED[case]
    conversation = make_conversation(*turns)
    assert processor.apply_chat_template(conversation, add_generation_prompt=add_generation_prompt) == expected
    batch = encode(processor, conversation, add_generation_prompt=add_generation_prompt)
    assert decode(processor, batch["input_ids"][0]) == expected.replace("<start_of_image>", "<image>")


def test_content_can_be_a_string(processor, make_conversation):
    turns = [("system", "SYS"), ("user", "Q"), ("assistant", "A")]
    plain = [{"role": role, "content": content} for role, content in turns]
    assert processor.apply_chat_template(plain) == processor.apply_chat_template(make_conversation(*turns))
    assert torch.equal(encode(processor, plain)["input_ids"], encode(processor, make_conversation(*turns))["input_ids"])


@pytest.mark.parametrize("case", RENDERED)
def test_tokens_are_equal_to_those_of_gemmas_processor(processor, make_conversation, case):
    turns, add_generation_prompt, _ = RENDERED[case]
    conversation = make_conversation(*turns)
    text = processor.apply_chat_template(conversation, add_generation_prompt=add_generation_prompt)
    plain = Gemma3Processor(processor.image_processor, processor.tokenizer, image_seq_length=processor.image_seq_length)
    image = next(part["image"] for message in conversation for part in message["content"] if part["type"] == "image")
    expected = plain(images=[image], text=[text], return_tensors="pt", add_special_tokens=False)
    batch = encode(processor, conversation, add_generation_prompt=add_generation_prompt)
    for name in ("input_ids", "attention_mask", "token_type_ids", "pixel_values"):
        assert torch.equal(batch[name], expected[name])
    called = processor(images=[image], text=[text])
    for name in batch:
        assert torch.equal(called[name], batch[name])


def test_text_only_conversation_has_no_pixels(processor, make_conversation):
    batch = encode(processor, make_conversation(("user", "Say hello.")), add_generation_prompt=True)
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    assert not batch["token_type_ids"].any()


def test_image_tokens_are_marked_and_have_the_number_of_the_model(tiny, make_conversation):
    model, processor = tiny
    batch = encode(processor, make_conversation(("user", IMAGE, "Q")))
    is_image = batch["input_ids"] == model.config.image_token_id
    assert torch.equal(batch["token_type_ids"], is_image.long())
    assert int(is_image.sum()) == model.config.mm_tokens_per_image
    assert batch["pixel_values"].shape == batch["sam_pixel_values"].shape == (1, 3, 64, 64)


# ---------------------------------------------------------------------------------------------------------------------
# Assistant masks
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("with_image", [True, False], ids=["image", "text_only"])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_assistant_mask_covers_the_model_turns_including_their_end(
    processor, make_conversation, with_image, padding_side
):
    image = [IMAGE] if with_image else []
    long = make_conversation(
        ("system", "Be brief. <end_of_turn>"),
        ("user", *image, "Where is [SEG]?"),
        ("assistant", "It is [SEG] and [SEG]."),
        ("user", "And the model\n?"),
        ("assistant", "No, it is not there."),
        ("user", "Sure?"),
        ("assistant", "[SEG]"),
    )
    short = make_conversation(("user", "Q"), ("assistant", "A"))
    batch = encode(processor, [long, short], return_assistant_tokens_mask=True, padding_side=padding_side)
    assert batch["assistant_masks"].shape == batch["input_ids"].shape
    answers = ["It is [SEG] and [SEG].<end_of_turn>", "No, it is not there.<end_of_turn>", "[SEG]<end_of_turn>"]
    for row, expected in enumerate([answers, ["A<end_of_turn>"]]):
        mask = batch["assistant_masks"][row].tolist()
        runs, last = [], 0
        for token, is_assistant in zip(batch["input_ids"][row].tolist(), mask, strict=True):
            if is_assistant and not last:
                runs.append([])
            if is_assistant:
                runs[-1].append(token)
            last = is_assistant
        assert [processor.tokenizer.decode(run) for run in runs] == expected


def test_assistant_mask_is_only_returned_on_request(processor, make_conversation):
    assert "assistant_masks" not in encode(processor, make_conversation(("user", "Q"), ("assistant", "A")))


def test_typed_special_tokens_stay_text_with_other_templates(processor, make_conversation):
    template = (
        "{{ bos_token }}{% for m in messages %}{% for p in m.content %}{{ p.text | upper }}|{% endfor %}{% endfor %}"
    )
    ((ids, is_assistant),) = processor.encode_conversations(
        [make_conversation(("user", "a [SEG] <bos>"))], chat_template=template
    )
    assert processor.tokenizer.decode(ids) == "<bos>A [SEG] <BOS>|" and not any(is_assistant)
    assert processor.seg_token_id not in ids


# ---------------------------------------------------------------------------------------------------------------------
# Errors
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("change", ["[:3]", "[2:]", "| replace('[', '\ue000')"])
def test_template_that_cuts_texts_is_an_error(processor, make_conversation, change):
    template = processor.chat_template.replace("part.text | trim", f"part.text{change}")
    with pytest.raises(ValueError, match="template cuts or changes the text"):
        processor.encode_conversations([make_conversation(("user", "a [SEG] b"))], chat_template=template)


@pytest.mark.parametrize("tokenize", [True, False])
def test_two_images_are_an_error_of_one_line(processor, make_conversation, tokenize):
    for conversation in (
        make_conversation(("user", IMAGE, IMAGE, "Q")),
        make_conversation(("user", IMAGE, "Q"), ("assistant", "A"), ("user", IMAGE, "R")),
    ):
        with pytest.raises(ValueError, match="has 2 images, but Gemma-LISA supports one") as refusal:
            processor.apply_chat_template(conversation, tokenize=tokenize, return_dict=tokenize)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "roles",
    [
        ("user", "user"),
        ("assistant",),
        ("assistant", "user"),
        ("system", "assistant"),
        ("user", "tool"),
        ("user", "model"),
        ("user", "system"),
    ],
)
@pytest.mark.parametrize("tokenize", [True, False])
def test_turns_that_do_not_alternate_are_an_error_of_one_line(processor, make_conversation, roles, tokenize):
    with pytest.raises(ValueError, match="alternate") as refusal:
        processor.apply_chat_template(
            make_conversation(*((role, "words") for role in roles)), tokenize=tokenize, return_dict=tokenize
        )
    assert ", ".join(roles) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("message", "error_text"),
    [
        ("words", "A message must be"),
        ({"role": "user"}, "A message must be"),
        ({"content": "words"}, "A message must be"),
        ({"role": "user", "content": None}, "a string or a list of parts"),
        ({"role": "user", "content": 3}, "a string or a list of parts"),
        ({"role": "user", "content": ["words"]}, "a string or a list of parts"),
        ({"role": 3, "content": "words"}, "a string or a list of parts"),
        ({"role": "user", "content": [{"text": "words"}]}, "parts of type None"),
        ({"role": "user", "content": [{"type": ["text"], "text": "words"}]}, r"parts of type \['text'\]"),
        ({"role": "user", "content": [{"type": "text"}]}, '"text": a string'),
        ({"role": "user", "content": [{"type": "text", "text": b"words"}]}, '"text": a string'),
        ({"role": "user", "content": "half \ud800"}, r"U\+D800, a lone surrogate"),
        ({"role": "user", "content": [{"type": "text", "text": "\udfff"}]}, r"U\+DFFF, a lone surrogate"),
    ],
)
@pytest.mark.parametrize("tokenize", [True, False])
def test_invalid_messages_are_an_error_of_one_line(processor, message, error_text, tokenize):
    with pytest.raises(ValueError, match=error_text) as refusal:
        processor.apply_chat_template([message], tokenize=tokenize, return_dict=tokenize)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("message", "error_text"),
    [
        ({"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}, "video"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "a"}]}, "image_url"),
        ({"role": "system", "content": [{"type": "image", "image": "a.png"}]}, "role system has parts of type image"),
    ],
)
def test_parts_of_unsupported_types_are_an_error(processor, message, error_text):
    with pytest.raises(ValueError, match=error_text):
        processor.apply_chat_template([message], tokenize=True, return_dict=True)


@pytest.mark.parametrize("nothing", [[], [[]]])
def test_conversation_without_messages_is_an_error(processor, nothing):
    with pytest.raises(ValueError, match="no messages|no conversation"):
        processor.apply_chat_template(nothing, tokenize=True, return_dict=True)


def test_all_parts_of_a_system_message_are_rendered(processor):
    system = {"role": "system", "content": [{"type": "text", "text": "One. "}, {"type": "text", "text": "Two."}]}
    text = processor.apply_chat_template([system, {"role": "user", "content": "Q"}])
    assert "One. Two.\n\nQ" in text


# ---------------------------------------------------------------------------------------------------------------------
# Messages and their images
# ---------------------------------------------------------------------------------------------------------------------
def test_image_of_a_user_turn_comes_before_its_text(processor, make_picture):
    picture = make_picture()
    assert processor.apply_chat_template([user_turn("Q", picture)]) == f"<bos>{USER}<start_of_image>Q{END}"
    assert processor.apply_chat_template([user_turn("Q")]) == f"<bos>{USER}Q{END}"
    assert images_of([user_turn("Q", picture)]) == [picture] and images_of([user_turn("Q")]) == []


def test_each_conversation_of_a_batch_has_the_index_of_its_image(processor, make_conversation):
    with_image, without = make_conversation(("user", IMAGE, "Q")), make_conversation(("user", "Q"))
    batch = encode(processor, [without, with_image, without, with_image])
    image_of_row, has_image = images_of_rows(batch["input_ids"], processor.tokenizer.image_token_id)
    assert has_image.tolist() == [False, True, False, True]
    assert image_of_row[has_image].tolist() == [0, 1]
    assert processor.image_of_each_row(batch["input_ids"]) == [None, 0, None, 1]

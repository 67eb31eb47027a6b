"""`segment`: generated answers and masks are equal to those of one forward pass."""

import pytest
import torch
from comparing import TOLERANCE, assert_close, both_states, without
from generating import ask, forced_answers, teacher_forced

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.scripts.init_tiny import build_tiny

ANSWERS = ["It is [SEG].", "[SEG]", "[SEG], [SEG] and [SEG].", "Sure, here: [SEG] [SEG]"]


@both_states
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "cut_off"])
def test_generated_masks_are_equal_to_those_of_one_forward_pass(
    windowed, question, set_config, answer, ended, seg_state
):
    model, processor = windowed
    set_config(model, seg_state=seg_state)
    inputs = ask(processor, question())
    with forced_answers(model, processor, answer) as (script,):
        # Cut off at the last token of the answer, which is [SEG] in half of the cases
        output = model.segment(**inputs, max_new_tokens=len(script) + 3 if ended else len(script) - 1)
    new_tokens = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    assert new_tokens == (script if ended else script[:-1])
    expected = teacher_forced(model, inputs, output.sequences)
    assert output.pred_masks.shape == (answer.count("[SEG]"), 32, 32)
    for name in ("pred_masks", "iou_scores", "image_embeddings"):
        assert_close(output[name], expected[name])
    assert torch.equal(output.seg_image_index, expected.seg_image_index)


def test_masks_of_one_answer_differ_from_each_other(windowed, question):
    model, processor = windowed
    with forced_answers(model, processor, "It is [SEG], [SEG].") as (script,):
        output = model.segment(**ask(processor, question()), max_new_tokens=len(script))
    assert (output.pred_masks[0] - output.pred_masks[1]).abs().max() > 100 * TOLERANCE


@both_states
def test_batch_returns_the_same_as_single_conversations(windowed, question, set_config, seg_state):
    model, processor = windowed
    set_config(model, seg_state=seg_state)
    conversations = [
        question("the red circle"),
        question("Say something.", with_image=False),
        question("Where is the large green square in the corner?", seed=1, size=(40, 90)),
        question("the star", seed=2),
    ]
    # The first (short prompt) and the third (longest prompt) are cut off at a [SEG]. The fourth ends much earlier
    answers = ["They are [SEG], [SEG], [SEG]", "One [SEG] two [SEG]", "They are [SEG], [SEG], [SEG]", "It is [SEG]."]
    inputs = ask(processor, *conversations)
    with forced_answers(model, processor, *answers) as scripts:
        longest = len(scripts[2]) - 1
        together = model.segment(**inputs, max_new_tokens=longest)
    assert together.seg_image_index.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert together.sequences[[0, 2], -1].tolist() == [processor.seg_token_id] * 2
    assert inputs["attention_mask"][0, 0] == 0
    prompt = inputs["input_ids"].shape[1]
    masks, scores = [], []
    for row, (conversation, answer) in enumerate(zip(conversations, answers, strict=True)):
        one = ask(processor, conversation)
        with forced_answers(model, processor, answer):
            alone = model.segment(**one, max_new_tokens=longest)
        expected_tokens = alone.sequences[0, one["input_ids"].shape[1] :].tolist()
        new_tokens = together.sequences[row, prompt:].tolist()
        assert new_tokens[: len(expected_tokens)] == expected_tokens
        assert set(new_tokens[len(expected_tokens) :]) <= {processor.tokenizer.pad_token_id}
        if alone.pred_masks is not None:
            masks.append(alone.pred_masks)
            scores.append(alone.iou_scores)
    assert_close(together.pred_masks, torch.cat(masks))
    assert_close(together.iou_scores, torch.cat(scores))


def test_free_generation_of_a_batch_returns_the_same_as_single_conversations(windowed, question):
    model, processor = windowed
    conversations = [question("the red circle"), question("Where is the green square?", seed=1)]
    together = model.segment(**ask(processor, *conversations), max_new_tokens=8)
    for row, conversation in enumerate(conversations):
        alone = model.segment(**ask(processor, conversation), max_new_tokens=8)
        assert together.sequences[row, -8:].tolist() == alone.sequences[0, -8:].tolist()


def test_answer_without_seg_has_no_masks(tiny, question):
    model, processor = tiny
    with forced_answers(model, processor, "No, it is not there."):
        output = model.segment(**ask(processor, question()), max_new_tokens=20)
    assert output.pred_masks.shape == (0, 32, 32)
    assert output.iou_scores.shape == output.seg_image_index.shape == (0,)


def test_seg_of_an_earlier_turn_has_no_mask(windowed, question):
    model, processor = windowed
    conversation = [*question(), {"role": "assistant", "content": "[SEG] and [SEG]."}, *question(with_image=False)]
    inputs = ask(processor, conversation)
    assert int((inputs["input_ids"] == processor.seg_token_id).sum()) == 2
    with forced_answers(model, processor, "It is [SEG]."):
        output = model.segment(**inputs, max_new_tokens=20)
    expected = teacher_forced(model, inputs, output.sequences)
    assert len(expected.pred_masks) == 3
    assert_close(output.pred_masks, expected.pred_masks[2:])


def test_image_embeddings_can_be_reused(tiny, question):
    model, processor = tiny
    inputs = ask(processor, question())
    with forced_answers(model, processor, "It is [SEG]."):
        first = model.segment(**inputs, max_new_tokens=20)
    cached = without(inputs, "sam_pixel_values")
    with forced_answers(model, processor, "It is [SEG]."):
        second = model.segment(**cached, image_embeddings=first.image_embeddings, max_new_tokens=20)
    assert torch.equal(first.pred_masks, second.pred_masks)


def test_text_only_conversation_has_no_masks(tiny, question):
    model, processor = tiny
    with forced_answers(model, processor, "Hello [SEG]."):
        output = model.segment(**ask(processor, question("Say hello.", with_image=False)), max_new_tokens=20)
    assert output.pred_masks is None and output.seg_image_index is None


def test_generate_accepts_all_outputs_of_the_processor_and_never_calls_sam(tiny, question):
    model, processor = tiny
    inputs = ask(processor, question(), question("the star", seed=1))
    called = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in model.named_modules()
        if name.startswith(("sam.", "seg_projector"))
    ]
    try:
        with forced_answers(model, processor, "It is [SEG].", "No."):
            sequences = model.generate(**inputs, max_new_tokens=10, do_sample=False)
    finally:
        for hook in hooks:
            hook.remove()
    assert called == []
    text = processor.tokenizer.decode(sequences[0, inputs["input_ids"].shape[1] :])
    assert text.startswith("It is [SEG].<end_of_turn>")


def test_inputs_of_segment_that_do_not_match_are_an_error(tiny, make_picture):
    model, processor = tiny
    ask = [{"role": "user", "content": [{"type": "image", "image": make_picture()}, {"type": "text", "text": "a"}]}]
    inputs = dict(processor.apply_chat_template(ask, add_generation_prompt=True, tokenize=True, return_dict=True))
    with pytest.raises(ValueError, match=r"sam_pixel_values must have one image .*\(1\), got 2"):
        model.segment(**{**inputs, "sam_pixel_values": inputs["sam_pixel_values"].repeat(2, 1, 1, 1)})
    with pytest.raises(ValueError, match="pixel_values is missing"):
        model.segment(**{**inputs, "pixel_values": None})
    padded = {**inputs, "attention_mask": inputs["attention_mask"].clone()}
    padded["attention_mask"][:, -1] = 0
    with pytest.raises(ValueError, match="padded on the left"):
        model.segment(**padded)


def test_bf16_weights_can_be_trained_and_segment(samples, make_picture):
    model, processor = build_tiny(64, seed=0)
    model = model.to(torch.bfloat16)
    batch = GemmaLisaCollator(processor)(samples[:2])
    loss = model(**batch).loss
    loss.backward()
    assert torch.isfinite(loss) and model.seg_projector[0].weight.grad.abs().sum() > 0
    ask = [{"role": "user", "content": [{"type": "image", "image": make_picture()}, {"type": "text", "text": "a"}]}]
    inputs = processor.apply_chat_template(ask, add_generation_prompt=True, tokenize=True, return_dict=True)
    model.eval()
    with forced_answers(model, processor, "It is [SEG]."):
        output = model.segment(**inputs, max_new_tokens=8)
    assert len(output.pred_masks) == 1 and torch.isfinite(output.pred_masks).all()

"""`segment`: answers and masks of conversations by generation, equal to one pass over them."""

import copy
import functools
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from comparing import TOLERANCE, assert_close, both_states, without
from torch._dynamo.utils import counters
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, GenerationConfig, StoppingCriteriaList

from gemma_lisa import generation_gemma_lisa, mask_decoding_gemma_lisa
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.scripts.init_tiny import build_config, build_tiny, initialize


@contextmanager
def saying(model, processor, *answers):
    """Makes the model say the given texts, one for each conversation, then end its turn."""
    encode = processor.tokenizer.encode
    scripts = [encode(answer, add_special_tokens=False) + encode("<end_of_turn>") for answer in answers]
    steps = iter(range(1000))

    def say(module, inputs, output):
        at = next(steps)
        logits = torch.zeros_like(output)
        for row, script in enumerate(scripts):
            logits[row, -1, script[min(at, len(script) - 1)]] = 1
        return logits

    hook = model.lm_head.register_forward_hook(say)
    try:
        yield scripts
    finally:
        hook.remove()


def ask(processor, *conversations):
    return processor.apply_chat_template(
        list(conversations), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


def teacher_forced(model, inputs, sequences):
    """The model's pass over prompts with their answers: what `segment` must agree with."""
    added = sequences.shape[1] - inputs["input_ids"].shape[1]
    return model(
        **without(inputs, "input_ids", "attention_mask", "token_type_ids"),
        input_ids=sequences,
        attention_mask=F.pad(inputs["attention_mask"], (0, added), value=1),
        token_type_ids=F.pad(inputs["token_type_ids"], (0, added), value=0),
    )


ANSWERS = ["It is [SEG].", "[SEG]", "[SEG], [SEG] and [SEG].", "Sure, here: [SEG] [SEG]"]


@both_states
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "cut_off"])
def test_generated_masks_equal_those_of_one_pass_over_the_answer(
    windowed, question, set_config, answer, ended, seg_state
):
    model, processor = windowed
    set_config(model, seg_state=seg_state)
    inputs = ask(processor, question())
    with saying(model, processor, answer) as (script,):
        # Cut off: the last token allowed is the answer's last, which is [SEG] itself in half of them
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
    with saying(model, processor, "It is [SEG], [SEG].") as (script,):
        output = model.segment(**ask(processor, question()), max_new_tokens=len(script))
    assert (output.pred_masks[0] - output.pred_masks[1]).abs().max() > 100 * TOLERANCE


@both_states
def test_batch_of_conversations_gives_what_each_gives_alone(windowed, question, set_config, seg_state):
    model, processor = windowed
    set_config(model, seg_state=seg_state)
    conversations = [
        question("the red circle"),
        question("Say something.", with_image=False),
        question("Where is the large green square in the corner?", seed=1, size=(40, 90)),
        question("the star", seed=2),
    ]
    # The first, of a short prompt, and the third, of the longest, are cut off at a [SEG]; the fourth ends long before
    answers = ["They are [SEG], [SEG], [SEG]", "One [SEG] two [SEG]", "They are [SEG], [SEG], [SEG]", "It is [SEG]."]
    inputs = ask(processor, *conversations)
    with saying(model, processor, *answers) as scripts:
        longest = len(scripts[2]) - 1
        together = model.segment(**inputs, max_new_tokens=longest)
    assert together.seg_image_index.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert together.sequences[[0, 2], -1].tolist() == [processor.seg_token_id] * 2
    assert inputs["attention_mask"][0, 0] == 0
    prompt = inputs["input_ids"].shape[1]
    masks, scores = [], []
    for row, (conversation, answer) in enumerate(zip(conversations, answers, strict=True)):
        one = ask(processor, conversation)
        with saying(model, processor, answer):
            alone = model.segment(**one, max_new_tokens=longest)
        spoken = alone.sequences[0, one["input_ids"].shape[1] :].tolist()
        new_tokens = together.sequences[row, prompt:].tolist()
        assert new_tokens[: len(spoken)] == spoken
        assert set(new_tokens[len(spoken) :]) <= {processor.tokenizer.pad_token_id}
        if alone.pred_masks is not None:
            masks.append(alone.pred_masks)
            scores.append(alone.iou_scores)
    assert_close(together.pred_masks, torch.cat(masks))
    assert_close(together.iou_scores, torch.cat(scores))


def test_free_generation_of_a_batch_gives_what_each_gives_alone(windowed, question):
    model, processor = windowed
    conversations = [question("the red circle"), question("Where is the green square?", seed=1)]
    together = model.segment(**ask(processor, *conversations), max_new_tokens=8)
    for row, conversation in enumerate(conversations):
        alone = model.segment(**ask(processor, conversation), max_new_tokens=8)
        assert together.sequences[row, -8:].tolist() == alone.sequences[0, -8:].tolist()


def test_answer_without_seg_has_no_masks(tiny, question):
    model, processor = tiny
    with saying(model, processor, "No, it is not there."):
        output = model.segment(**ask(processor, question()), max_new_tokens=20)
    assert output.pred_masks.shape == (0, 32, 32)
    assert output.iou_scores.shape == output.seg_image_index.shape == (0,)


def test_seg_of_an_earlier_turn_gives_no_mask(windowed, question):
    model, processor = windowed
    conversation = [*question(), {"role": "assistant", "content": "[SEG] and [SEG]."}, *question(with_image=False)]
    inputs = ask(processor, conversation)
    assert int((inputs["input_ids"] == processor.seg_token_id).sum()) == 2
    with saying(model, processor, "It is [SEG]."):
        output = model.segment(**inputs, max_new_tokens=20)
    expected = teacher_forced(model, inputs, output.sequences)
    assert len(expected.pred_masks) == 3
    assert_close(output.pred_masks, expected.pred_masks[2:])


def test_images_can_be_asked_again_by_their_embeddings(tiny, question):
    model, processor = tiny
    inputs = ask(processor, question())
    with saying(model, processor, "It is [SEG]."):
        first = model.segment(**inputs, max_new_tokens=20)
    cached = without(inputs, "sam_pixel_values")
    with saying(model, processor, "It is [SEG]."):
        second = model.segment(**cached, image_embeddings=first.image_embeddings, max_new_tokens=20)
    assert torch.equal(first.pred_masks, second.pred_masks)


def test_text_alone_is_answered_without_masks(tiny, question):
    model, processor = tiny
    with saying(model, processor, "Hello [SEG]."):
        output = model.segment(**ask(processor, question("Say hello.", with_image=False)), max_new_tokens=20)
    assert output.pred_masks is None and output.seg_image_index is None


def test_generate_takes_all_that_the_processor_gives_and_never_calls_sam(tiny, question):
    model, processor = tiny
    inputs = ask(processor, question(), question("the star", seed=1))
    called = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in model.named_modules()
        if name.startswith(("sam.", "seg_projector"))
    ]
    try:
        with saying(model, processor, "It is [SEG].", "No."):
            sequences = model.generate(**inputs, max_new_tokens=10, do_sample=False)
    finally:
        for hook in hooks:
            hook.remove()
    assert called == []
    said = processor.tokenizer.decode(sequences[0, inputs["input_ids"].shape[1] :])
    assert said.startswith("It is [SEG].<end_of_turn>")


def test_segment_refuses_what_does_not_belong_together(tiny, make_picture):
    model, processor = tiny
    ask = [{"role": "user", "content": [{"type": "image", "image": make_picture()}, {"type": "text", "text": "a"}]}]
    inputs = dict(processor.apply_chat_template(ask, add_generation_prompt=True, tokenize=True, return_dict=True))
    with pytest.raises(ValueError, match="2 sam_pixel_values but 1 conversations"):
        model.segment(**{**inputs, "sam_pixel_values": inputs["sam_pixel_values"].repeat(2, 1, 1, 1)})
    with pytest.raises(ValueError, match="pixel_values did not come"):
        model.segment(**{**inputs, "pixel_values": None})
    padded = {**inputs, "attention_mask": inputs["attention_mask"].clone()}
    padded["attention_mask"][:, -1] = 0
    with pytest.raises(ValueError, match="padded on the left"):
        model.segment(**padded)


def test_bf16_weights_learn_and_segment(samples, make_picture):
    model, processor = build_tiny(64, seed=0)
    model = model.to(torch.bfloat16)
    batch = GemmaLisaCollator(processor)(samples[:2])
    loss = model(**batch).loss
    loss.backward()
    assert torch.isfinite(loss) and model.seg_projector[0].weight.grad.abs().sum() > 0
    ask = [{"role": "user", "content": [{"type": "image", "image": make_picture()}, {"type": "text", "text": "a"}]}]
    inputs = processor.apply_chat_template(ask, add_generation_prompt=True, tokenize=True, return_dict=True)
    model.eval()
    with saying(model, processor, "It is [SEG]."):
        output = model.segment(**inputs, max_new_tokens=8)
    assert len(output.pred_masks) == 1 and torch.isfinite(output.pred_masks).all()


# ---------------------------------------------------------------------------------------------------------------------
# Other ways to generate than the greedy search
# ---------------------------------------------------------------------------------------------------------------------
def prefer_seg(module, inputs, output):
    """Makes `[SEG]` likely enough that a random model writes several."""
    output = output.clone()
    output[..., prefer_seg.token] = output.amax(-1) + 6
    return output


@pytest.fixture
def pointing(windowed):
    """A model that often writes `[SEG]`, and its processor."""
    model, processor = windowed
    prefer_seg.token = processor.seg_token_id
    hook = model.lm_head.register_forward_hook(prefer_seg)
    yield model, processor
    hook.remove()


WAYS = {
    "sampling": {"do_sample": True, "temperature": 2.0},
    "several samples": {"do_sample": True, "temperature": 2.0, "num_return_sequences": 3},
    "beams": {"num_beams": 3},
    "several beams": {"num_beams": 4, "num_return_sequences": 2},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "generation_config": {"generation_config": GenerationConfig(max_new_tokens=9, do_sample=True, temperature=2.0)},
}


@both_states
@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_masks_follow_the_sequence_that_was_generated(pointing, question, set_config, options, seg_state):
    model, processor = pointing
    set_config(model, seg_state=seg_state)
    inputs = ask(processor, question(), question("the star", seed=1, size=(40, 90)))
    options = {"max_new_tokens": 9} | options if "generation_config" not in options else options
    output = model.segment(**inputs, **options)
    each = len(output.sequences) // 2
    repeated = {name: value.repeat_interleave(each, dim=0) for name, value in inputs.items()}
    expected = teacher_forced(model, repeated, output.sequences)
    assert len(expected.pred_masks) > each  # or the test would show nothing
    assert_close(output.pred_masks, expected.pred_masks)
    assert output.seg_image_index.tolist() == (expected.seg_image_index // each).tolist()
    answers = processor.post_process_segmentation(output, inputs)
    assert [len(answer["masks"]) for answer in answers] == torch.bincount(
        expected.seg_image_index, minlength=2 * each
    ).tolist()
    assert answers[0]["masks"].shape[1:] == (64, 64) and answers[-1]["masks"].shape[1:] == (40, 90)


@pytest.mark.parametrize("prompts", [{}, {"boxes": [(5, 5, 40, 40), None]}], ids=["words", "a box"])
def test_many_masks_are_decoded_a_few_at_a_time_with_the_same_result(pointing, question, monkeypatch, prompts):
    model, processor = pointing
    inputs = ask(processor, question(), question("the star", seed=1))
    expected = model.segment(**inputs, max_new_tokens=9, **prompts)
    assert len(expected.pred_masks) > 8
    for module in (generation_gemma_lisa, mask_decoding_gemma_lisa):
        monkeypatch.setattr(module, "MASKS_AT_ONCE", 2)
    found = model.segment(**inputs, max_new_tokens=9, **prompts)
    assert_close(found.pred_masks, expected.pred_masks)
    assert torch.equal(found.seg_image_index, expected.seg_image_index)


def test_assisted_generation_gives_the_masks_of_the_greedy_search(pointing, question):
    model, processor = pointing
    inputs = ask(processor, question())
    greedy = model.segment(**inputs, max_new_tokens=9)
    assisted = model.segment(**inputs, max_new_tokens=9, assistant_model=copy.deepcopy(model))
    assert torch.equal(assisted.sequences, greedy.sequences) and len(greedy.pred_masks) > 1
    assert_close(assisted.pred_masks, greedy.pred_masks)


def test_an_assistant_of_another_class_gives_the_masks_of_the_greedy_search(pointing, question):
    model, processor = pointing
    assistant = Gemma3ForConditionalGeneration(Gemma3Config(**without(model.config.to_dict(), "model_type"))).eval()
    assistant.generation_config = model.generation_config
    inputs = ask(processor, question())
    greedy = model.segment(**inputs, max_new_tokens=6)
    assisted = model.segment(**inputs, max_new_tokens=6, assistant_model=assistant)
    assert torch.equal(assisted.sequences, greedy.sequences) and len(greedy.pred_masks) > 1
    assert_close(assisted.pred_masks, greedy.pred_masks)


def test_states_are_kept_where_every_step_writes_into_the_same_memory(pointing, question, set_config, monkeypatch):
    model, processor = pointing
    set_config(model, seg_state="previous")  # all states are those of the steps
    inputs = ask(processor, question())
    expected = model.segment(**inputs, max_new_tokens=6)
    forward, memory = model.forward, torch.empty(1, 1, model.config.text_config.hidden_size)

    @functools.wraps(forward)  # generate reads the signature
    def reusing(**given):
        output = forward(**given)
        output.last_hidden_state = memory.copy_(output.last_hidden_state[:, -1:])
        return output

    monkeypatch.setattr(model, "forward", reusing)
    assert_close(model.segment(**inputs, max_new_tokens=6).pred_masks, expected.pred_masks)


def test_a_generation_configuration_is_passed_alone_and_left_as_it_was(tiny, question, caplog):
    model, processor = tiny
    config = GenerationConfig(do_sample=False)
    before = config.to_dict()
    model.segment(**ask(processor, question()), generation_config=config, max_new_tokens=2)
    assert config.to_dict() == before and "deprecated" not in caplog.text


def test_options_that_ask_for_nothing_are_taken(tiny, question):
    model, processor = tiny
    off = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "output_scores": False}
    model.segment(**ask(processor, question()), max_new_tokens=2, **off)


def test_a_streamer_is_given_the_prompt_and_every_token(tiny, question):
    model, processor = tiny
    inputs = ask(processor, question())
    told = []

    class Streamer:
        put = staticmethod(lambda value: told.append(value.flatten().tolist()))
        end = staticmethod(lambda: told.append("end"))

    with saying(model, processor, "It is [SEG].") as (script,):
        output = model.segment(**inputs, max_new_tokens=20, streamer=Streamer())
    assert told == [inputs["input_ids"][0].tolist(), *([token] for token in script), "end"]
    assert len(output.pred_masks) == 1


def test_a_stopping_criterion_at_the_mask_token_still_gives_the_mask(windowed, question):
    model, processor = windowed
    inputs = ask(processor, question())
    stop = StoppingCriteriaList([lambda ids, scores: ids[:, -1] == processor.seg_token_id])
    with saying(model, processor, "It is [SEG] and [SEG]."):
        output = model.segment(**inputs, stopping_criteria=stop)
        expected = teacher_forced(model, inputs, output.sequences)
    assert output.sequences[0, -1] == processor.seg_token_id
    assert_close(output.pred_masks, expected.pred_masks)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"temperature": 0.7}, "temperature has no effect without sampling; pass do_sample=True"),
        ({"temperature": 0.7, "generation_config": GenerationConfig(do_sample=False)}, "temperature has no effect"),
        ({"length_penalty": 2.0}, "length_penalty has no effect without beams; pass num_beams"),
        ({"top_p": 0.9, "do_sample": False}, "top_p has no effect"),
        ({"output_scores": True}, "segment does not return what output_scores asks for"),
        ({"temprature": 0.7}, "temprature"),
    ],
)
def test_an_option_without_effect_is_refused(tiny, question, options, complaint):
    model, processor = tiny
    with pytest.raises(ValueError, match=complaint):
        model.segment(**ask(processor, question()), **options)


def test_training_with_activation_checkpointing_is_refused(question, make_picture):
    model, processor = build_tiny(64, seed=0)
    inputs = ask(processor, question())
    model.gradient_checkpointing_enable()
    model.eval()
    model.segment(**inputs, max_new_tokens=2)
    session = model.start(make_picture(), processor)
    model.train()
    for refused in (
        lambda: model.segment(**inputs),
        lambda: model.start(make_picture(), processor),
        lambda: session.ask("the circle"),
    ):
        with pytest.raises(ValueError, match=r"drops the KV cache. Call model.eval\(\) first"):
            refused()


# ---------------------------------------------------------------------------------------------------------------------
# Compiled
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def shallow(tiny):
    """A fresh model of one layer in each tower, and its processor: tracing takes seconds a layer."""
    _, processor = tiny
    config = build_config(processor, image_size=64)
    config.text_config.num_hidden_layers, config.text_config.layer_types = 1, ["full_attention"]
    config.vision_config.num_hidden_layers = config.sam_config.vision_config.num_hidden_layers = 1
    model = GemmaLisaForConditionalGeneration(config)
    initialize(model)
    model.generation_config = tiny[0].generation_config
    return model.eval(), processor


def graphs_of(call):
    """How many graphs torch.compile makes in a call."""
    torch._dynamo.reset()
    counters.clear()
    call()
    return counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_segment_compiles_no_more_graphs_than_generate(shallow, question, cache):
    model, processor = shallow
    model.compile(backend="eager", dynamic=True)
    options = {"max_new_tokens": 6, "do_sample": False}
    if cache == "static":
        options["cache_implementation"] = "static"
    inputs = ask(processor, question())
    of_generate = graphs_of(lambda: model.generate(**inputs, **options))
    assert 0 < graphs_of(lambda: model.segment(**inputs, **options)) <= of_generate


@pytest.mark.slow
def test_forward_is_one_graph(shallow, question, samples, make_sample):
    model, processor = shallow
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    inputs = ask(processor, question(), question("the star", seed=1))
    batch = GemmaLisaCollator(processor)(samples[:2])
    single = GemmaLisaCollator(processor)([make_sample(["It is {seg}."])])
    for given in (inputs, single, batch):
        torch._dynamo.reset()
        expected, output = model(**given), compiled(**given)
        assert_close(output.logits, expected.logits)
        assert_close(output.pred_masks, expected.pred_masks)
    assert_close(output.loss, expected.loss)

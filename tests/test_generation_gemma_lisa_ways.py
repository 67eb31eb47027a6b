"""`segment` with generation methods other than greedy search, with options of `generate`, and compiled."""

import copy
import functools

import pytest
import torch
from comparing import assert_close, both_states, without
from generating import ask, forced_answers, teacher_forced
from torch._dynamo.utils import counters
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, GenerationConfig, StoppingCriteriaList

from gemma_lisa import generation_gemma_lisa, mask_decoding_gemma_lisa
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.scripts.init_tiny import build_config, build_tiny, initialize


# ---------------------------------------------------------------------------------------------------------------------
# Other generation methods
# ---------------------------------------------------------------------------------------------------------------------
def prefer_seg(module, inputs, output):
    """Make `[SEG]` so likely that a random model generates several."""
    output = output.clone()
    output[..., prefer_seg.token] = output.amax(-1) + 6
    return output


@pytest.fixture
def pointing(windowed):
    """A model that often generates `[SEG]`, and its processor."""
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
def test_masks_belong_to_the_generated_sequences(pointing, question, set_config, options, seg_state):
    model, processor = pointing
    set_config(model, seg_state=seg_state)
    inputs = ask(processor, question(), question("the star", seed=1, size=(40, 90)))
    options = {"max_new_tokens": 9} | options if "generation_config" not in options else options
    output = model.segment(**inputs, **options)
    each = len(output.sequences) // 2
    repeated = {name: value.repeat_interleave(each, dim=0) for name, value in inputs.items()}
    expected = teacher_forced(model, repeated, output.sequences)
    assert len(expected.pred_masks) > each  # otherwise the test would be trivial
    assert_close(output.pred_masks, expected.pred_masks)
    assert output.seg_image_index.tolist() == (expected.seg_image_index // each).tolist()
    answers = processor.post_process_segmentation(output, inputs)
    assert [len(answer["masks"]) for answer in answers] == torch.bincount(
        expected.seg_image_index, minlength=2 * each
    ).tolist()
    assert answers[0]["masks"].shape[1:] == (64, 64) and answers[-1]["masks"].shape[1:] == (40, 90)


@pytest.mark.parametrize("prompts", [{}, {"boxes": [(5, 5, 40, 40), None]}], ids=["no prompts", "a box"])
def test_masks_are_decoded_in_chunks_with_the_same_result(pointing, question, monkeypatch, prompts):
    model, processor = pointing
    inputs = ask(processor, question(), question("the star", seed=1))
    expected = model.segment(**inputs, max_new_tokens=9, **prompts)
    assert len(expected.pred_masks) > 8
    for module in (generation_gemma_lisa, mask_decoding_gemma_lisa):
        monkeypatch.setattr(module, "MASKS_AT_ONCE", 2)
    found = model.segment(**inputs, max_new_tokens=9, **prompts)
    assert_close(found.pred_masks, expected.pred_masks)
    assert torch.equal(found.seg_image_index, expected.seg_image_index)


def test_assisted_generation_returns_the_masks_of_greedy_search(pointing, question):
    model, processor = pointing
    inputs = ask(processor, question())
    greedy = model.segment(**inputs, max_new_tokens=9)
    assisted = model.segment(**inputs, max_new_tokens=9, assistant_model=copy.deepcopy(model))
    assert torch.equal(assisted.sequences, greedy.sequences) and len(greedy.pred_masks) > 1
    assert_close(assisted.pred_masks, greedy.pred_masks)


def test_assistant_of_another_class_returns_the_masks_of_greedy_search(pointing, question):
    model, processor = pointing
    assistant = Gemma3ForConditionalGeneration(Gemma3Config(**without(model.config.to_dict(), "model_type"))).eval()
    assistant.generation_config = model.generation_config
    inputs = ask(processor, question())
    greedy = model.segment(**inputs, max_new_tokens=6)
    assisted = model.segment(**inputs, max_new_tokens=6, assistant_model=assistant)
    assert torch.equal(assisted.sequences, greedy.sequences) and len(greedy.pred_masks) > 1
    assert_close(assisted.pred_masks, greedy.pred_masks)


def test_states_are_copied_if_every_step_writes_to_the_same_memory(pointing, question, set_config, monkeypatch):
    model, processor = pointing
    set_config(model, seg_state="previous")  # all states are those of generation steps
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


def test_generation_configuration_is_passed_alone_and_not_changed(tiny, question, caplog):
    model, processor = tiny
    config = GenerationConfig(do_sample=False)
    before = config.to_dict()
    model.segment(**ask(processor, question()), generation_config=config, max_new_tokens=2)
    assert config.to_dict() == before and "deprecated" not in caplog.text


def test_disabled_options_are_accepted(tiny, question):
    model, processor = tiny
    off = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "output_scores": False}
    model.segment(**ask(processor, question()), max_new_tokens=2, **off)


def test_streamer_receives_the_prompt_and_every_token(tiny, question):
    model, processor = tiny
    inputs = ask(processor, question())
    received = []

    class Streamer:
        put = staticmethod(lambda value: received.append(value.flatten().tolist()))
        end = staticmethod(lambda: received.append("end"))

    with forced_answers(model, processor, "It is [SEG].") as (script,):
        output = model.segment(**inputs, max_new_tokens=20, streamer=Streamer())
    assert received == [inputs["input_ids"][0].tolist(), *([token] for token in script), "end"]
    assert len(output.pred_masks) == 1


def test_stopping_criterion_at_the_seg_token_still_returns_the_mask(windowed, question):
    model, processor = windowed
    inputs = ask(processor, question())
    stop = StoppingCriteriaList([lambda ids, scores: ids[:, -1] == processor.seg_token_id])
    with forced_answers(model, processor, "It is [SEG] and [SEG]."):
        output = model.segment(**inputs, stopping_criteria=stop)
        expected = teacher_forced(model, inputs, output.sequences)
    assert output.sequences[0, -1] == processor.seg_token_id
    assert_close(output.pred_masks, expected.pred_masks)


@pytest.mark.parametrize(
    ("options", "error_text"),
    [
        ({"temperature": 0.7}, "temperature has no effect without sampling. Also pass do_sample=True"),
        ({"temperature": 0.7, "generation_config": GenerationConfig(do_sample=False)}, "temperature has no effect"),
        ({"length_penalty": 2.0}, "length_penalty has no effect without beam search. Also pass num_beams"),
        ({"top_p": 0.9, "do_sample": False}, "top_p has no effect"),
        ({"output_scores": True}, "segment does not support output_scores"),
        ({"temprature": 0.7}, "temprature"),
    ],
)
def test_option_without_effect_is_an_error(tiny, question, options, error_text):
    model, processor = tiny
    with pytest.raises(ValueError, match=error_text):
        model.segment(**ask(processor, question()), **options)


def test_training_mode_with_activation_checkpointing_is_an_error(question, make_picture):
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
        with pytest.raises(ValueError, match=r"disables the KV cache. Call model.eval\(\) first"):
            refused()


# ---------------------------------------------------------------------------------------------------------------------
# Compiled
# ---------------------------------------------------------------------------------------------------------------------
@pytest.fixture
def shallow(tiny):
    """A new model with one layer in each part, and its processor. Tracing takes seconds per layer."""
    _, processor = tiny
    config = build_config(processor, image_size=64)
    config.text_config.num_hidden_layers, config.text_config.layer_types = 1, ["full_attention"]
    config.vision_config.num_hidden_layers = config.sam_config.vision_config.num_hidden_layers = 1
    model = GemmaLisaForConditionalGeneration(config)
    initialize(model)
    model.generation_config = tiny[0].generation_config
    return model.eval(), processor


def graphs_of(call):
    """Return the number of graphs that torch.compile creates in a call."""
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

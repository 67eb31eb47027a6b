"""compatibility_gemma_lisa.py: the code of a checkpoint with a newer transformers that passes more arguments."""

import copy
import functools
import logging
import pickle
from unittest.mock import patch

import pytest
import torch
from picture_files import SCENE
from torch.utils import _pytree as pytree
from transformers import DynamicCache, Gemma3ForConditionalGeneration, Gemma3Model, pipeline
from transformers.modeling_outputs import BaseModelOutputWithPast

from gemma_lisa.checkpoints.loading import EXAMPLE
from gemma_lisa.compatibility_gemma_lisa import CACHE_NAME, known_name, repeated_outputs
from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.generation_gemma_lisa import SegmentOutput
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration, GemmaLisaOutput


@pytest.fixture
def warnings():
    """Warnings of the code's logger, with the memory of earlier warnings cleared."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("transformers.gemma_lisa")
    logger.addHandler(handler)
    logging.Logger.warning_once.cache_clear()
    yield messages
    logger.removeHandler(handler)


@pytest.fixture
def question(tiny, make_picture):
    """The inputs of one conversation with a generation prompt."""
    content = [{"type": "image", "image": make_picture()}, {"type": "text", "text": "the red circle"}]
    messages = [{"role": "user", "content": content}]
    return tiny[1].apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(found[name], value), name


# ---------------------------------------------------------------------------------------------------------------------
# Outputs
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("output_class", [GemmaLisaOutput, SegmentOutput])
def test_output_accepts_an_undeclared_field(output_class):
    masks, new = torch.zeros(1, 2, 2), torch.ones(3)
    output = output_class(pred_masks=masks, new_field=new, empty_field=None)
    assert output.new_field is new and output["new_field"] is new and output.empty_field is None
    assert list(output.keys()) == ["pred_masks", "new_field"] and len(output.to_tuple()) == 2
    for again in (
        copy.copy(output),
        pickle.loads(pickle.dumps(output)),
        pytree.tree_map(lambda value: value.clone(), output),
        output_class(**output),
    ):
        assert torch.equal(again.new_field, new) and torch.equal(again.pred_masks, masks)


@pytest.mark.parametrize("output_class", [GemmaLisaOutput, SegmentOutput])
def test_output_accepts_both_names_of_the_cache(output_class):
    cache = DynamicCache()
    assert output_class(cache=cache)["cache"] is cache
    assert output_class(past_key_values=cache)["past_key_values"] is cache


def test_first_fields_of_the_output_are_those_of_stock_models():
    output = GemmaLisaOutput(language_loss=torch.ones(()), logits=torch.ones(2), loss=torch.zeros(()))
    assert list(output.keys())[:2] == ["loss", "logits"]


def test_output_has_new_fields_of_gemmas_output(tiny, question, monkeypatch):
    forward, new = Gemma3Model.forward, torch.ones(2)

    def newer(self, *args, **kwargs):
        outputs = forward(self, *args, **kwargs)
        outputs["new_output"] = new
        return outputs

    monkeypatch.setattr(Gemma3Model, "forward", newer)
    with torch.no_grad():
        output = tiny[0](**question)
        assert output.new_output is new and output[CACHE_NAME] is not None
        assert len(tiny[0].segment(**question, max_new_tokens=3).sequences) == 1


def test_states_and_image_features_are_not_returned():
    outputs = BaseModelOutputWithPast(last_hidden_state=torch.ones(1), hidden_states=(torch.ones(1),))
    outputs["image_outputs"] = outputs["image_hidden_states"] = torch.ones(1)
    assert list(repeated_outputs(outputs)) == ["hidden_states"]


# ---------------------------------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------------------------------
def test_known_name_is_the_first_that_gemma_accepts():
    assert known_name(("cache", "past_key_values"), ["input_ids", "past_key_values", "cache"]) == "cache"
    assert known_name(("cache", "past_key_values"), ["input_ids", "past_key_values"]) == "past_key_values"
    with pytest.raises(ImportError, match="because it lacks the argument cache"):
        known_name(("cache", "past_key_values"), ["input_ids", "kv"])


def test_forward_accepts_both_names_of_the_cache(tiny, question):
    model, _ = tiny
    prompt = question["input_ids"].shape[1]
    logits = []
    with torch.no_grad():
        for name in ("past_key_values", "cache"):
            cache = DynamicCache()
            model(**question, **{name: cache})
            assert cache.get_seq_length() == prompt
            logits.append(model(input_ids=question["input_ids"][:, -1:], **{name: cache}).logits)
            assert cache.get_seq_length() == prompt + 1
    assert torch.equal(*logits)
    with pytest.raises(ValueError, match="two names of the same argument"):
        model(**question, past_key_values=DynamicCache(), cache=DynamicCache())


def test_forward_passes_unknown_arguments_to_gemma(tiny, question):
    with torch.no_grad():
        assert_same(tiny[0](**question, new_keyword=True), tiny[0](**question))


def test_generation_accepts_unknown_arguments(tiny, question, monkeypatch):
    expected = tiny[0].segment(**question, max_new_tokens=4)
    stock, seen = Gemma3ForConditionalGeneration.prepare_inputs_for_generation, []

    def newer(self, *args, new_option, **kwargs):
        seen.append(new_option)
        return {**stock(self, *args, **kwargs), "new_input": 1}

    monkeypatch.setattr(Gemma3ForConditionalGeneration, "prepare_inputs_for_generation", newer)
    ours = GemmaLisaForConditionalGeneration.prepare_inputs_for_generation

    @functools.wraps(ours)  # generate reads its signature
    def called_by_newer(self, *args, **kwargs):
        return ours(self, *args, new_option=7, **kwargs)

    monkeypatch.setattr(GemmaLisaForConditionalGeneration, "prepare_inputs_for_generation", called_by_newer)
    assert_same(tiny[0].segment(**question, max_new_tokens=4), expected)
    assert seen == [7] * 4


def test_saving_passes_unknown_arguments_to_transformers_and_returns_its_value(tiny, tmp_path):
    with patch.object(Gemma3ForConditionalGeneration, "save_pretrained", return_value="saved") as stock:
        assert tiny[0].save_pretrained(tmp_path, True, new_keyword=1) == "saved"
    stock.assert_called_once_with(tmp_path, True, None, new_keyword=1, save_original_format=False)


def test_loading_accepts_unknown_arguments_of_the_model(tiny, tmp_path, monkeypatch):
    tiny[0].save_pretrained(tmp_path)
    stock, seen = Gemma3ForConditionalGeneration.__init__, []

    def newer(self, config, new_keyword=None):
        seen.append(new_keyword)
        stock(self, config)

    monkeypatch.setattr(Gemma3ForConditionalGeneration, "__init__", newer)
    model = GemmaLisaForConditionalGeneration.from_pretrained(tmp_path, new_keyword=3)
    assert seen == [3]
    assert torch.equal(model.lm_head.weight, tiny[0].lm_head.weight)


def test_configuration_keeps_unknown_fields(tiny):
    saved = {**tiny[0].config.to_dict(), "new_field": {"a": 1}}
    config = GemmaLisaConfig.from_dict(saved)
    assert config.new_field == {"a": 1} and config.to_dict()["new_field"] == {"a": 1}


def test_processor_ignores_an_unknown_argument_with_one_warning(tiny, make_picture, warnings):
    processor = tiny[1]
    content = [{"type": "image", "image": make_picture()}, {"type": "text", "text": "the red circle"}]
    ask = dict(conversation=[{"role": "user", "content": content}], tokenize=True, return_dict=True)
    expected = processor.apply_chat_template(**ask)
    assert_same(processor.apply_chat_template(**ask, switched_off=False, not_given=None), expected)
    assert warnings == []
    for _ in range(2):
        assert_same(processor.apply_chat_template(**ask, new_keyword=True), expected)
    assert len(warnings) == 1 and "apply_chat_template ignores unknown arguments: new_keyword" in warnings[0]


def test_processor_call_and_saving_accept_unknown_arguments(tiny, make_picture, tmp_path):
    processor = tiny[1]
    text = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}])
    expected = processor(images=make_picture(), text=text)
    assert_same(processor(images=make_picture(), text=text, new_keyword=True), expected)
    processor.save_pretrained(tmp_path, new_keyword=True)
    again = type(processor).from_pretrained(tmp_path, new_keyword=True)
    assert_same(again(images=make_picture(), text=text), expected)


def test_pipeline_ignores_unknown_arguments_with_a_warning(warnings):
    open_pipeline = dict(task="reasoning-segmentation", model=str(EXAMPLE), trust_remote_code=True)
    expected = pipeline(**open_pipeline)(images=SCENE, text="the red circle")
    found = pipeline(**open_pipeline, new_keyword=True)(images=SCENE, text="the red circle")
    assert found["text"] == expected["text"] and len(found["segments"]) == len(expected["segments"]) == 1
    assert [message for message in warnings if "The pipeline ignores unknown arguments: new_keyword" in message]


@pytest.mark.slow
def test_output_compiles_in_one_graph(tiny, question):
    compiled = torch.compile(tiny[0].forward, backend="eager", fullgraph=True)
    names = ("input_ids", "attention_mask", "token_type_ids", "pixel_values")
    inputs = {**{name: question[name] for name in names}, "use_cache": False}
    with torch.no_grad():
        expected, found = tiny[0](**inputs), compiled(**inputs)
    assert torch.allclose(found.logits, expected.logits, atol=1e-5)

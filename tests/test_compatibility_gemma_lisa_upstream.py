"""Internals of transformers that the Hub files depend on. A test fails when upstream changes one of them.

docs/design.md lists the same internals. tests/test_generation_gemma_lisa_ways.py tests behavior: the states of every
generation method, and compiled steps.
"""

import inspect

import pytest
import torch
from accelerate import cpu_offload
from accelerate.utils import align_module_device
from generating import ask, forced_answers
from transformers import (
    BitsAndBytesConfig,
    Cache,
    DynamicCache,
    Gemma3ForConditionalGeneration,
    Gemma3Model,
    GenerationMixin,
    Pipeline,
    SamModel,
    Trainer,
    TrainingArguments,
    integrations,
    pipelines,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.utils.chat_template_utils import render_jinja_template

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.compatibility_gemma_lisa import CACHE_NAME
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.pipeline_gemma_lisa import ReasoningSegmentationPipeline

HINT = "transformers changed an internal that the Hub files depend on: "


def parameters_of(function):
    return set(inspect.signature(function).parameters)


def assert_takes(function, *names, used_for):
    missing = set(names) - parameters_of(function)
    assert not missing, f"{HINT}{function.__qualname__} no longer accepts {sorted(missing)}, but {used_for} needs them."


def test_generation_passes_every_output_to_the_hook_that_stores_states(tiny, question):
    """In this hook, `segment` collects the states at [SEG] (generation_gemma_lisa.py)."""
    hook = GenerationMixin._update_model_kwargs_for_generation
    assert_takes(hook, "outputs", "model_kwargs", "num_new_tokens", used_for="segment")
    model, processor = tiny
    steps = []
    with forced_answers(model, processor, "It is [SEG].") as (script,):
        model.generate(**ask(processor, question()), max_new_tokens=len(script), do_sample=False, seg_steps=steps)
    assert len(steps) == len(script), f"{HINT}_update_model_kwargs_for_generation is not called once per step."
    assert {tuple(step.shape) for step in steps} == {(1, 1, model.config.text_config.hidden_size)}


def test_generation_passes_extra_arguments_to_prepare_inputs_only(tiny, question, monkeypatch):
    """`seg_steps` reaches `prepare_inputs_for_generation` and the hook, and never `forward`."""
    model, processor = tiny
    seen, forward = [], Gemma3Model.forward

    def watched(self, *args, **kwargs):
        seen.append(set(kwargs))
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Gemma3Model, "forward", watched)
    model.segment(**ask(processor, question()), max_new_tokens=2)
    assert seen and not any("seg_steps" in names for names in seen)
    assert_takes(
        Gemma3ForConditionalGeneration.prepare_inputs_for_generation, "input_ids", "kwargs", used_for="generation"
    )


def test_generation_returns_what_segment_reads(tiny, question):
    model, processor = tiny
    options = {"max_new_tokens": 2, "do_sample": False, "return_dict_in_generate": True}
    greedy = model.generate(**ask(processor, question()), **options)
    beams = model.generate(**ask(processor, question()), num_beams=2, **options)
    assert greedy.get("beam_indices") is None and len(greedy.sequences) == 1
    assert beams.get("beam_indices") is not None, f"{HINT}generate does not return beam_indices of a beam search."


def test_gemma_accepts_image_features_and_returns_its_states(tiny, question):
    assert_takes(Gemma3Model.forward, "mm_encoder_outputs", "inputs_embeds", CACHE_NAME, used_for="forward")
    model, processor = tiny
    inputs = ask(processor, question())
    with torch.no_grad():
        features = model.model.get_image_features(inputs["pixel_values"], return_dict=True)
        shape = (1, processor.image_seq_length, model.config.text_config.hidden_size)
        assert features.pooler_output.shape == shape, f"{HINT}get_image_features gives no pooler_output {shape}."
        gemma = {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        shown = model.model(**gemma, mm_encoder_outputs={"image": features}).last_hidden_state
        stock = model.model(**gemma, pixel_values=inputs["pixel_values"]).last_hidden_state
    assert torch.equal(shown, stock), f"{HINT}mm_encoder_outputs is not read as the features of the images."


def test_gemma_accepts_a_mask_for_each_kind_of_attention(tiny, make_sample, monkeypatch):
    """Packed questions pass their own masks and positions (packing_gemma_lisa.py)."""
    model, processor = tiny
    taken, forward = [], type(model.model.language_model).forward

    def watched(self, *args, attention_mask=None, **kwargs):
        taken.append(attention_mask)
        return forward(self, *args, attention_mask=attention_mask, **kwargs)

    monkeypatch.setattr(type(model.model.language_model), "forward", watched)
    model(**GemmaLisaCollator(processor)([make_sample(["No.", "{seg}."])]))
    assert isinstance(taken[0], dict), f"{HINT}Gemma3Model makes its own masks although it was given a dict."
    kinds = {"full_attention", "sliding_attention"}
    assert set(taken[0]) == kinds and set(model.config.text_config.layer_types) <= kinds
    assert model.config.text_config._attn_implementation == "sdpa", f"{HINT}_attn_implementation has another name."


def test_cache_without_a_configuration_can_be_cropped():
    """A session crops wrong guesses (session_gemma_lisa.py)."""
    assert issubclass(DynamicCache, Cache)
    cache, states = DynamicCache(), torch.randn(1, 1, 5, 4)
    cache.update(states, states, 0)
    cache.crop(-2)
    keys, _ = cache.update(states[:, :, :1], states[:, :, :1], 0)
    assert keys.shape[2] == 4, f"{HINT}DynamicCache.crop(-2) does not remove the last two tokens."


def test_sam_has_the_modules_that_are_used_by_name(tiny):
    sam = tiny[0].sam
    used_for = "mask_decoding_gemma_lisa.py"
    prompts = ("input_points", "input_labels", "input_boxes", "input_masks")
    assert tuple(inspect.signature(sam.prompt_encoder.forward).parameters)[:4] == prompts, f"{HINT}SAM's prompt encoder"
    names = ("image_embeddings", "image_positional_embeddings", "sparse_prompt_embeddings", "dense_prompt_embeddings")
    assert_takes(sam.mask_decoder.forward, *names, "multimask_output", used_for=used_for)
    assert isinstance(sam, SamModel) and callable(sam.get_image_wide_positional_embeddings)
    weights = dict(sam.named_parameters()) | dict(sam.named_buffers())
    for name in (
        "mask_decoder.iou_token.weight",
        "prompt_encoder.mask_embed.conv1.weight",
        "vision_encoder.patch_embed.projection.weight",
        "shared_image_embedding.positional_embedding",
    ):
        assert name in weights, f"{HINT}SAM has no {name}; {used_for} reads it."


@pytest.mark.parametrize("accepts", [False, True])
def test_the_trainer_reads_accepts_loss_kwargs(tiny, tmp_path, monkeypatch, accepts):
    model = tiny[0]
    assert type(model).accepts_loss_kwargs is False
    monkeypatch.setattr(type(model), "accepts_loss_kwargs", accepts)
    trainer = Trainer(model, TrainingArguments(str(tmp_path), use_cpu=True, report_to=[]))
    assert trainer.model_accepts_loss_kwargs is accepts, f"{HINT}Trainer does not read accepts_loss_kwargs."


def test_quantizers_read_keep_in_fp32_modules(tiny, monkeypatch):
    model, taken = tiny[0], {}
    monkeypatch.setattr(integrations, "replace_with_bnb_linear", lambda model, **options: taken.update(options))
    quantizer = Bnb4BitHfQuantizer(BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["other"]))
    quantizer._process_model_before_weight_loading(model, device_map=None)
    skipped = set(taken["modules_to_not_convert"])
    missing = {"sam", "seg_projector", "lm_head", "model.vision_tower", "model.multi_modal_projector"} - skipped
    assert not missing, f"{HINT}a quantizer would convert {sorted(missing)} although _keep_in_fp32_modules names them."


def test_keep_in_fp32_modules_strict_keeps_the_positional_embedding_in_fp32(base):
    model = GemmaLisaForConditionalGeneration.from_pretrained(base, dtype=torch.bfloat16)
    code = model.sam.shared_image_embedding.positional_embedding
    assert model.dtype == torch.bfloat16
    assert code.dtype == torch.float32, f"{HINT}_keep_in_fp32_modules_strict does not keep a module in fp32."


def test_tied_weights_are_read_from_the_configuration(tiny, set_config):
    model = tiny[0]
    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    state = model.state_dict()
    assert tied.pop("lm_head.weight") == "model.language_model.embed_tokens.weight" and len(tied) == 1
    ((name, source),) = tied.items()
    assert name.startswith("sam.") and torch.equal(state[name], state[source])
    set_config(model, tie_word_embeddings=False)
    assert "lm_head.weight" not in model.get_expanded_tied_weights_keys(all_submodels=True)


def test_accelerate_marks_and_loads_offloaded_weights():
    """mask_decoding_gemma_lisa.py loads offloaded weights of SAM, and keeps images on the CPU for them."""
    (module,) = cpu_offload(torch.nn.Sequential(torch.nn.Linear(2, 2)), execution_device=torch.device("cpu"))
    assert module.weight.is_meta
    assert "_hf_hook" in vars(module), f"{HINT}Accelerate does not call its hook _hf_hook."
    with align_module_device(module):
        assert not module.weight.is_meta, f"{HINT}align_module_device does not load offloaded weights."
    assert module.weight.is_meta


def test_saving_can_use_the_names_of_the_modules():
    assert "save_original_format" in inspect.getsource(PreTrainedModel.save_pretrained), (
        f"{HINT}save_pretrained has no save_original_format, and would rename the language model's weights."
    )


def test_activation_checkpointing_is_visible_on_the_modules(tiny):
    """Generation with it is an error, because it disables the KV cache (generation_gemma_lisa.py)."""
    model = tiny[0]
    model.gradient_checkpointing_enable()
    try:
        is_seen = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    finally:
        model.gradient_checkpointing_disable()
    assert is_seen, f"{HINT}no module has gradient_checkpointing set when it is enabled."


def test_templates_are_rendered_with_the_spans_of_the_model_turns():
    """The spans are the source of the labels (chat_template_gemma_lisa.py)."""
    names = ("conversations", "chat_template", "return_assistant_tokens_mask", "add_generation_prompt")
    assert_takes(render_jinja_template, *names, "continue_final_message", used_for="encode_conversations")


@pytest.mark.parametrize("name", ["processor", "tokenizer", "image_processor", "feature_extractor", "video_processor"])
def test_pipeline_selects_by_flags_what_is_loaded(name):
    flag = f"_load_{name}"
    assert flag in vars(Pipeline) and flag in vars(ReasoningSegmentationPipeline)
    assert f'"{flag}"' in inspect.getsource(pipelines), f"{HINT}pipeline() does not read {flag}."


@pytest.mark.parametrize("name", ["_sanitize_parameters", "preprocess", "_forward", "postprocess"])
def test_pipeline_has_the_methods_that_are_overridden(name):
    assert name in vars(Pipeline), f"{HINT}Pipeline has no {name}, which pipeline_gemma_lisa.py overrides."

"""The model is loaded, quantized, offloaded, trained and saved by other libraries, without programs of this project."""

import json
import re

import accelerate
import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModel, LoraConfig, get_peft_model
from picture_files import SCENE
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig, pipeline
from trl import SFTConfig, SFTTrainer

from gemma_lisa.checkpoints.adapter_base import identify
from gemma_lisa.checkpoints.loading import EXAMPLE
from gemma_lisa.checkpoints.lora import TEXT_LINEARS, add_lora

QUESTIONS = ["the red circle", "all the blue triangles", "the green square", "the yellow star"]
SURE = (0, 2)  # questions for one object that is there


@pytest.fixture(scope="module")
def example():
    """Return (model, processor) of the example, loaded with the Auto classes."""
    model = AutoModel.from_pretrained(EXAMPLE, trust_remote_code=True).eval()
    return model, AutoProcessor.from_pretrained(EXAMPLE, trust_remote_code=True)


@pytest.fixture(scope="module")
def inputs(example):
    content = [{"type": "image", "image": Image.open(SCENE).convert("RGB")}]
    conversations = [
        [{"role": "user", "content": [*content, {"type": "text", "text": question}]}] for question in QUESTIONS
    ]
    return example[1].apply_chat_template(conversations, add_generation_prompt=True, tokenize=True, return_dict=True)


def answers_of(model, processor, inputs, **options):
    return processor.post_process_segmentation(model.segment(**inputs, **options), inputs)


@pytest.fixture(scope="module")
def expected(example, inputs):
    return answers_of(*example, inputs)


def mean_iou(answers, expected):
    """Return the mean IoU of all masks, with 0 for a mask that only one side has."""
    ious = []
    for found, right in zip(answers, expected, strict=True):
        count = max(len(found["masks"]), len(right["masks"]))
        pairs = zip(found["masks"], right["masks"], strict=False)
        ious += [float((one & other).sum() / (one | other).sum().clamp(min=1)) for one, other in pairs]
        ious += [0.0] * (count - min(len(found["masks"]), len(right["masks"])))
    assert ious
    return sum(ious) / len(ious)


# ---------------------------------------------------------------------------------------------------------------------
# Quantized
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("skip", [None, ["lm_head"]], ids=["default skip list", "only the head skipped"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_masks_of_a_quantized_model_do_not_depend_on_the_skip_list(example, inputs, expected, bits, skip, dtype):
    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8, llm_int8_skip_modules=skip)
    options = {"quantization_config": config, "dtype": dtype}
    model = AutoModel.from_pretrained(EXAMPLE, trust_remote_code=True, **options).eval()
    kinds = {name: type(part).__name__ for name, part in model.named_modules()}
    quantized = {name for name, kind in kinds.items() if kind in ("Linear4bit", "Linear8bitLt")}
    assert quantized == {name for name in kinds if re.fullmatch(TEXT_LINEARS, name)}
    for name in quantized:  # bitsandbytes' repacking on CPUs with AVX512-BF16 fails for such short rows
        model.get_submodule(name).support_avx512bf16_for_cpu = False
    # How 4 bits are rounded depends on the CPU, and the language model is small: only its surest answers are compared
    answers = answers_of(model, example[1], inputs)
    assert mean_iou([answers[at] for at in SURE], [expected[at] for at in SURE]) >= 0.95


# ---------------------------------------------------------------------------------------------------------------------
# Offloaded
# ---------------------------------------------------------------------------------------------------------------------
def offload_all(folder):
    model = AutoModel.from_pretrained(EXAMPLE, trust_remote_code=True).eval()
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


def offload_parts(folder):
    places = {
        **dict.fromkeys(("model.language_model", "lm_head", "sam.mask_decoder", "sam.prompt_encoder"), "disk"),
        **dict.fromkeys(("model.vision_tower", "model.multi_modal_projector", "seg_projector"), "cpu"),
        **dict.fromkeys(("sam.vision_encoder", "sam.shared_image_embedding"), "disk"),
    }
    return AutoModel.from_pretrained(EXAMPLE, trust_remote_code=True, device_map=places, offload_folder=folder).eval()


def offload_what_exceeds_the_memory(folder):
    options = {"device_map": "auto", "max_memory": {"cpu": "2MB"}, "offload_folder": folder}
    return AutoModel.from_pretrained(EXAMPLE, trust_remote_code=True, **options).eval()


@pytest.mark.parametrize("offload", [offload_all, offload_parts, offload_what_exceeds_the_memory])
def test_an_offloaded_model_gives_the_same_masks(example, inputs, tmp_path, offload):
    model, processor = offload(tmp_path), example[1]
    assert any(weight.is_meta for weight in model.sam.parameters())
    prompts = {"points": [[(10, 10, 1)], None, None, None], "boxes": [None, (5, 5, 60, 60), None, None]}
    for options in ({}, prompts):
        found, right = model.segment(**inputs, **options), example[0].segment(**inputs, **options)
        torch.testing.assert_close(found.pred_masks, right.pred_masks, atol=1e-3, rtol=1e-4)
    picture = Image.open(SCENE).convert("RGB")
    asked = [one.start(picture, processor).ask(QUESTIONS[0]) for one in (model, example[0])]
    assert torch.equal(asked[0]["masks"], asked[1]["masks"]) and len(asked[0]["masks"]) == 1


# ---------------------------------------------------------------------------------------------------------------------
# fp16
# ---------------------------------------------------------------------------------------------------------------------
def test_fp16_is_an_error_in_every_form(tiny, question, make_picture):
    with pytest.raises(ValueError, match="float16 is not supported"):
        AutoModel.from_pretrained(EXAMPLE, trust_remote_code=True, dtype=torch.float16)
    model, processor = tiny
    inputs = processor.apply_chat_template(question(), add_generation_prompt=True, tokenize=True, return_dict=True)
    with torch.autocast("cpu", torch.float16), pytest.raises(ValueError, match="float16 is not supported"):
        model(**inputs)
    halved = AutoModel.from_pretrained(EXAMPLE, trust_remote_code=True).half()
    processor = AutoProcessor.from_pretrained(EXAMPLE, trust_remote_code=True)
    for use in (
        lambda: halved(**inputs),
        lambda: halved.segment(**inputs),
        lambda: halved.start(make_picture(), processor),
    ):
        with pytest.raises(ValueError, match="float16 is not supported"):
            use()


# ---------------------------------------------------------------------------------------------------------------------
# Saved again
# ---------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("auto", [AutoModel, AutoModelForImageTextToText])
def test_a_model_saved_by_one_auto_class_loads_with_both(auto, tmp_path):
    auto.from_pretrained(EXAMPLE, trust_remote_code=True).save_pretrained(tmp_path)
    places = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert places["AutoModel"] == places["AutoModelForImageTextToText"]
    assert places["AutoModel"] == "modeling_gemma_lisa.GemmaLisaForConditionalGeneration"
    for again in (AutoModel, AutoModelForImageTextToText):
        assert type(again.from_pretrained(tmp_path, trust_remote_code=True)).__name__ == places["AutoModel"][20:]


def test_a_model_whose_class_fsdp2_replaced_saves_code_that_loads(tmp_path):
    model = AutoModel.from_pretrained(EXAMPLE, trust_remote_code=True)
    written = type(model)
    model.__class__ = type(f"FSDP{written.__name__}", (written,), {"__module__": "torch.distributed.fsdp"})
    model.save_pretrained(tmp_path)
    places = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert places["AutoModel"] == places["AutoModelForImageTextToText"] == f"modeling_gemma_lisa.{written.__name__}"
    assert not list(tmp_path.glob("_fsdp*.py")) and (tmp_path / "modeling_gemma_lisa.py").is_file()


# ---------------------------------------------------------------------------------------------------------------------
# Pipelines and trainers of other libraries
# ---------------------------------------------------------------------------------------------------------------------
def test_the_image_text_to_text_pipeline_answers(example):
    pipe = pipeline("image-text-to-text", model=example[0], processor=example[1])
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "image": Image.open(SCENE)}, {"type": "text", "text": QUESTIONS[0]}],
        }
    ]
    (answer,) = pipe(text=messages, max_new_tokens=20, return_full_text=False)
    assert answer["generated_text"].startswith("It is")
    begun = [*messages, {"role": "assistant", "content": [{"type": "text", "text": "It is"}]}]
    (continued,) = pipe(text=begun, max_new_tokens=20, return_full_text=False)
    assert not continued["generated_text"].startswith("It is") and "bottom left" in continued["generated_text"]


def test_sft_trainer_trains_the_language_model(tiny, make_picture, tmp_path):
    for part in tiny:
        part.save_pretrained(tmp_path / "start")
    model = AutoModel.from_pretrained(tmp_path / "start", trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(tmp_path / "start", trust_remote_code=True)
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "the red circle"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "It is [SEG]."}]},
    ]
    rows = Dataset.from_list([{"images": [make_picture()], "messages": messages}] * 4)
    before = model.lm_head.weight.detach().clone()
    args = SFTConfig(
        output_dir=tmp_path / "out",
        max_length=None,
        max_steps=2,
        learning_rate=1e-3,
        per_device_train_batch_size=2,
        assistant_only_loss=True,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(model=model, args=args, train_dataset=rows, processing_class=processor)
    assert 0 < trainer.train().training_loss < 20
    assert not torch.equal(model.lm_head.weight, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processor_kwargs": {"truncation": True, "max_length": 10}}, "max_length is 10. Truncation is not supported"),
        ({"processor_kwargs": {"padding": False}}, "padding=False is not supported"),
        ({"padding": "max_length"}, "padding='max_length' is not supported"),
    ],
)
def test_unsupported_tokenizer_options_are_an_error(tiny, question, options, message):
    with pytest.raises(ValueError, match=message):
        tiny[1].apply_chat_template(question(), tokenize=True, return_dict=True, **options)


def test_unknown_tokenizer_options_give_a_warning(tiny, question, caplog):
    tiny[1].apply_chat_template(
        question(), tokenize=True, return_dict=True, future_option=3, processor_kwargs={"do_pan_and_scan": True}
    )
    assert "apply_chat_template ignores unknown arguments: do_pan_and_scan, future_option" in caplog.text


def test_tokenizer_options_are_used(tiny, question):
    options = {"padding": True, "padding_side": "right", "pad_to_multiple_of": 64, "truncation": False}
    batch = tiny[1].apply_chat_template(
        [question(), question("a longer question")],
        tokenize=True,
        return_dict=True,
        processor_kwargs={**options, "max_length": None, "add_special_tokens": False},
        load_audio_from_video=False,
    )
    assert batch["input_ids"].shape[1] % 64 == 0
    assert batch["attention_mask"][:, 0].all() and not batch["attention_mask"][:, -1].any()


def test_an_adapter_of_this_project_loads_with_peft_alone(tiny, tmp_path):
    for part in tiny:
        part.save_pretrained(tmp_path / "base")
    model = AutoModel.from_pretrained(tmp_path / "base", trust_remote_code=True)
    adapted = add_lora(model, rank=2, base=identify(tmp_path / "base"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    adapted.save_pretrained(tmp_path / "adapter")
    opened = AutoPeftModel.from_pretrained(tmp_path / "adapter", trust_remote_code=True)
    found, right = (part.get_base_model().state_dict() for part in (opened, adapted))
    assert any("lora_B" in name for name in right)
    assert found.keys() == right.keys() and all(torch.equal(found[name], right[name]) for name in right)


def test_lora_of_peft_alone_trains_and_merges(example, inputs, expected):
    model = AutoModel.from_pretrained(EXAMPLE, trust_remote_code=True)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    batch = {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids", "pixel_values")}
    adapted(**batch, labels=inputs["input_ids"]).loss.backward()
    assert any(weight.grad is not None for weight in adapted.parameters())
    merged = adapted.merge_and_unload().eval()
    assert mean_iou(answers_of(merged, example[1], inputs), expected) == 1.0

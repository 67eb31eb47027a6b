"""Training adapters: precision, resuming, starting from an adapter, and options that cannot be combined."""

import json

import pytest
import torch
from adapter_runs import RANK, answers_of, moved_between, trainer_of
from transformers.integrations import HfDeepSpeedConfig

from gemma_lisa.checkpoints.adapter_base import identify
from gemma_lisa.checkpoints.loading import load_checkpoint
from gemma_lisa.checkpoints.lora import AdaptedGemmaLisa, type_of
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.training.arguments import ModelArguments, parse
from gemma_lisa.training.describe_run import describe
from gemma_lisa.training.load_model import load_model
from gemma_lisa.training.previews import PreviewCallback
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments


@pytest.mark.parametrize(
    ("options", "trained", "frozen"),
    [
        ({"lora_rank": RANK}, {"fp32"}, {"bf16"}),
        ({"lora_rank": RANK, "load_in_4bit": True}, {"fp32"}, {"bf16", "nf4"}),
        ({"trainable": ["seg_projector.*"]}, {"fp32"}, {"bf16"}),
        ({}, {"fp32"}, {"fp32"}),
    ],
    ids=["LoRA", "QLoRA", "bridge", "full"],
)
def test_trained_weights_are_in_fp32_and_frozen_weights_in_bf16(base, options, trained, frozen):
    model, _ = load_model(ModelArguments(str(base), **options), torch.bfloat16, torch.device("cpu"))
    types = {True: set(), False: set()}
    for name, parameter in model.named_parameters():
        if "shared_" in name:  # SAM's positional encoding is always in fp32
            assert type_of(parameter) == "fp32"
        else:
            types[parameter.requires_grad].add(type_of(parameter))
    assert types == {True: trained, False: frozen}
    text = describe(model, [], GemmaLisaTrainingArguments("out", use_cpu=True, bf16=True))
    assert "weights in fp32" in text and ("bf16" in text.split("weights in")[1].split(", computed")[0]) == (
        "bf16" in frozen
    )


def test_the_loss_falls_with_lora_bf16_and_activation_checkpointing(base, rows, tmp_path):
    model, processor = load_model(ModelArguments(str(base), lora_rank=RANK), torch.bfloat16)
    trainer = trainer_of(model, processor, rows, tmp_path, bf16=True, max_steps=6, activation_checkpointing=True)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]


def test_the_trainer_gives_equal_scores_for_an_adapted_and_a_merged_model(base, rows, lora, tmp_path):
    model, folder = lora
    merged, processor = load_checkpoint(folder)
    trainer = trainer_of(model, processor, rows, tmp_path)
    trainer.add_callback(PreviewCallback(processor, [trainer.eval_dataset[0]], max_new_tokens=4))
    mine, theirs = trainer.evaluate(), trainer_of(merged, processor, rows, tmp_path).evaluate()
    assert mine["eval_loss"] == pytest.approx(theirs["eval_loss"], rel=1e-5)
    assert {name: mine[name] for name in ("eval_gIoU", "eval_count", "eval_N-acc")} == {
        name: theirs[name] for name in ("eval_gIoU", "eval_count", "eval_N-acc")
    }
    assert (tmp_path / "previews" / "step-000000.png").stat().st_size > 0


def test_before_the_first_step_the_loss_of_an_adapted_model_equals_that_of_its_base(base, tiny, rows, tmp_path):
    model, processor = load_model(ModelArguments(str(base), lora_rank=RANK))
    first = trainer_of(model, processor, rows, tmp_path, max_steps=1)
    whole, _ = load_model(ModelArguments(str(base)))
    second = trainer_of(whole, processor, rows, tmp_path, max_steps=1)
    for trainer in (first, second):
        trainer.train()
    losses = [trainer.state.log_history[0]["loss"] for trainer in (first, second)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_resumed_lora_run_equals_an_uninterrupted_one(base, rows, tmp_path):
    def run(folder, resume=None, steps=4):
        torch.manual_seed(0)
        options = ModelArguments(str(base), lora_rank=RANK, lora_dropout=0.1, use_dora=True)
        model, processor = load_model(options)
        trainer = trainer_of(
            model, processor, rows, folder, max_steps=steps, save_strategy="steps", save_steps=2, warmup_steps=2
        )
        trainer.train(resume_from_checkpoint=resume)
        return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    whole = run(tmp_path / "whole")
    resumed = run(tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-2"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_training_can_start_from_an_adapter_without_other_options(train, lora, batch):
    model, folder = lora
    loaded, _ = load_model(ModelArguments(str(folder)))
    assert torch.equal(answers_of(loaded, batch), answers_of(model, batch))
    trained = {name for name, p in loaded.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}
    _, further = train(model=folder)
    assert json.loads((further / "base.json").read_text()) == json.loads((folder / "base.json").read_text())
    assert (answers_of(load_checkpoint(further)[0], batch) - answers_of(model, batch)).abs().max() > 0.01


def test_training_can_start_from_a_merged_checkpoint(train, lora, tmp_path):
    merged, processor = load_checkpoint(lora[1])
    for part in (merged, processor):
        part.save_pretrained(tmp_path)
    model, _ = train(model=tmp_path, lora_rank=RANK)
    assert model.base == identify(tmp_path)
    train(model=tmp_path, trainable=["seg_projector.*"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lora_rank": 8}, "lora_rank 4, not 8; lora_alpha 8, not 16"),
        ({"lora_mlp": True}, "lora_mlp False, not True"),
        ({"lora_rank": RANK, "use_dora": True}, "use_dora False, not True"),
        (
            {"trainable": ["seg_projector.*"]},
            "fully trained modules sam.mask_decoder, seg_projector, not seg_projector",
        ),
    ],
    ids=["rank", "mlp", "dora", "trainable"],
)
def test_options_that_differ_from_those_of_the_adapter_are_an_error(lora, options, said):
    with pytest.raises(ValueError, match=said):
        load_model(ModelArguments(str(lora[1]), **options))


def test_options_equal_to_those_of_the_adapter_are_accepted(lora):
    options = {"lora_rank": RANK, "lora_alpha": 8.0, "trainable": ["sam.mask_decoder.*", "seg_projector.*"]}
    assert isinstance(load_model(ModelArguments(str(lora[1]), **options))[0], AdaptedGemmaLisa)


def test_all_modules_that_can_be_trained_in_full_are_trained(base, rows, tmp_path):
    patterns = ["seg_projector.*", "sam.vision_encoder.*", "model.vision_tower.*", "model.multi_modal_projector.*"]
    patterns += ["sam.mask_decoder.*", "sam.prompt_encoder.no_mask_embed.*"]
    model, processor = load_model(ModelArguments(str(base), patterns, lora_rank=RANK), torch.bfloat16)
    trainer = trainer_of(model, processor, rows, tmp_path, bf16=True)
    trainer.train()
    trainer.save_model()
    moved = moved_between(load_checkpoint(base, torch.bfloat16)[0], load_checkpoint(tmp_path, torch.bfloat16)[0])
    for prefix in ("sam.vision_encoder.", "model.vision_tower.", "model.multi_modal_projector.", "sam.prompt_encoder."):
        assert any(name.startswith(prefix) for name in moved), prefix


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--load_in_4bit", "true"], "load_in_4bit needs LoRA"),
        (["--load_in_8bit", "true"], "load_in_8bit needs LoRA"),
        (["--load_in_4bit", "true", "--load_in_8bit", "true", "--lora_rank", "4"], "cannot be combined"),
        (["--load_in_8bit", "true", "--lora_rank", "4", "--use_dora", "true"], "use_dora with load_in_8bit"),
        (["--lora_rank", "0"], "lora_rank"),
        (["--lora_mlp", "true", "--lora_dropout", "0.1"], "lora_dropout, lora_mlp: only LoRA has"),
    ],
)
def test_options_that_cannot_be_combined_are_usage_errors(tmp_path, arguments, word):
    with pytest.raises(UsageError, match=word):
        parse(["--model", "some/model", "--output_dir", str(tmp_path), "--use_cpu", "true", *arguments])


@pytest.mark.parametrize("kind", ["load_in_4bit", "load_in_8bit"])
def test_quantized_weights_are_an_error_with_zero_3_but_not_with_zero_2(tmp_path, kind):
    arguments = ["--model", "some/model", "--output_dir", str(tmp_path), "--use_cpu", "true", "--lora_rank", "4"]
    for stage in (2, 3):
        engine = HfDeepSpeedConfig({"zero_optimization": {"stage": stage}})  # makes transformers report ZeRO as active
        if stage == 2:
            parse([*arguments, f"--{kind}", "true"])
            continue
        with pytest.raises(UsageError, match=f"{kind} with ZeRO-3 is not supported: .*Use ZeRO-2"):
            parse([*arguments, f"--{kind}", "true"])
        del engine

"""The recipe and the command line: which value of an option is used, and messages about the others."""

import json
import logging
import os
from dataclasses import fields

import pytest
import yaml
from transformers import TrainingArguments

from gemma_lisa.safety.errors import UsageError
from gemma_lisa.training.arguments import (
    DataArguments,
    ModelArguments,
    check_output_dir,
    given_lora_options,
    given_options,
    parse,
)
from gemma_lisa.training.option_checks import COMMAND_LINE, RECIPE
from gemma_lisa.training.resume import settings_of
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

OPTIONS = {"image_size": 32, "train_rows": 6, "validation_rows": 2, "test_rows": 1}


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe and returns the arguments for it."""

    def write(**content):
        path = tmp_path / "recipe.yaml"
        defaults = {"model": "some", "output_dir": str(tmp_path / "out"), "use_cpu": True}
        path.write_text(yaml.safe_dump({**defaults, **content}))
        return ["--config", str(path)]

    return write


def test_each_given_option_is_listed_with_its_source(recipe):
    arguments = [*recipe(seed=42, max_steps=7, bf16=False), "--max-steps", "9", "--no_learn_masks"]
    given = given_options(arguments)
    assert given == {
        **dict.fromkeys(("model", "output_dir", "use_cpu", "seed", "bf16"), RECIPE),
        **dict.fromkeys(("max_steps", "learn_masks"), COMMAND_LINE),
    }
    model_args, data_args, args = parse(arguments)
    assert (args.max_steps, data_args.learn_masks, model_args.model) == (9, False, "some")


def test_config_accepts_an_equals_sign(recipe):
    _, path = recipe(seed=3)
    assert parse([f"--config={path}"])[2].seed == 3


def test_num_train_epochs_on_the_command_line_overrides_max_steps_of_the_recipe(recipe, caplog):
    with caplog.at_level(logging.WARNING):
        args = parse([*recipe(max_steps=7), "--num_train_epochs", "2"])[2]
    assert (args.max_steps, args.num_train_epochs) == (-1, 2.0)
    assert caplog.messages == ["options of the recipe that the command line overrides: max_steps"]


def test_max_steps_on_the_command_line_overrides_num_train_epochs_of_the_recipe(recipe, caplog):
    with caplog.at_level(logging.WARNING):
        args = parse([*recipe(num_train_epochs=7), "--max_steps", "2"])[2]
    assert args.max_steps == 2
    assert caplog.messages == ["options of the recipe that the command line overrides: num_train_epochs"]


@pytest.mark.parametrize("in_recipe", [True, False])
def test_num_train_epochs_with_max_steps_of_the_same_source_is_refused(recipe, in_recipe):
    options = {"max_steps": 7, "num_train_epochs": 2}
    on_line = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    with pytest.raises(UsageError, match="num_train_epochs 2.* needs an unset max_steps"):
        parse(recipe(**options) if in_recipe else [*recipe(), *on_line])


def test_overridden_options_of_the_recipe_are_printed_and_not_recorded(recipe, caplog):
    path = recipe(lr_scheduler_type="cosine", warmup_steps=5, adam_beta2=0.95, eval_strategy="steps", eval_steps=3)
    with caplog.at_level(logging.WARNING):
        parts = parse(
            [*path, "--lr_scheduler_type", "constant", "--optim", "adafactor", "--eval_strategy", "no"],
        )
    assert caplog.messages == [
        "options of the recipe that the command line overrides: adam_beta2, eval_steps, warmup_steps"
    ]
    settings = settings_of(list(parts[:2]), parts[2])
    assert (settings["warmup_steps"], settings["adam_beta2"]) == (0, 0.999)
    with pytest.raises(UsageError, match="warmup_steps 6.0 has no effect here"):
        parse([*path, "--lr_scheduler_type", "constant", "--warmup_steps", "6"])


def test_a_contradictory_recipe_is_refused(recipe):
    with pytest.raises(UsageError, match="eval_steps 3.0 has no effect here: it needs eval_strategy steps"):
        parse(recipe(eval_steps=3))


def test_a_recipe_works_for_one_and_for_several_processes(recipe, caplog):
    path = recipe(ddp_timeout=14400, ddp_backend="gloo", dataloader_pin_memory=True)
    assert parse(path)[2].ddp_timeout == 14400
    assert caplog.messages == []
    with pytest.raises(UsageError, match="ddp_timeout 3 has no effect here: it needs several processes with a GPU"):
        parse([*path, "--ddp_timeout", "3"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1, 2]", "must contain options as `name: value`"),
        ("3: 4", "must contain options as `name: value`"),
        ("a: [", "recipe.yaml cannot be read as YAML (while parsing"),
        ("env: 3", "env must contain variables"),
        ("warmup_ratio: 0.1", "Use warmup_steps"),
        ("learning-rate: 0.1", "Did you mean learning_rate"),
        ("max_steps: 7.5", "argument --max_steps/--max-steps: invalid int value: '7.5'"),
        ("max_grad_norm:", "max_grad_norm is empty"),
        ("eval_strategy: no", "False is not a valid"),
        ("label_smoothing_factor: 0.1", "label_smoothing_factor is not supported, got 0.1"),
    ],
)
def test_an_invalid_recipe_is_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(UsageError) as refusal:
        parse(["--config", str(path), "--model", "some"])
    assert words in " ".join(str(refusal.value).split())


def test_env_of_a_recipe_is_set(recipe, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert parse(recipe(env={"ACCELERATE_MIXED_PRECISION": "bf16"}))[2].bf16
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_the_precision_of_accelerate_launch_is_recorded(recipe, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    parts = parse(recipe())
    assert parts[2].bf16 and settings_of(list(parts[:2]), parts[2])["bf16"] is True
    with pytest.raises(UsageError, match="bf16 is false, but accelerate launch has --mixed_precision bf16"):
        parse([*recipe(), "--bf16", "false"])
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert parse([*recipe(), "--bf16", "true"])[2].bf16


def test_json_options_are_read_from_recipe_and_command_line(recipe):
    given = {"image_size": 128}
    assert parse(recipe(dataset_options=given))[1].dataset_options == given
    assert parse([*recipe(), "--dataset_options", json.dumps(given)])[1].dataset_options == given


def test_the_command_line_overrides_the_recipe_and_the_recipe_overrides_the_defaults(recipe):
    path = recipe(model="some/model", dataset_options=OPTIONS, learning_rate=0.5, trainable=["a.*", "b"], max_steps=7)
    model_args, data_args, training_args = parse(
        [*path, "--max_steps", "9", "--eval_rows", "3", "--eval_strategy", "epoch"]
    )
    assert model_args == ModelArguments(model="some/model", trainable=["a.*", "b"])
    assert data_args == DataArguments(dataset="shapes", dataset_options=OPTIONS, eval_rows=3)
    assert (training_args.learning_rate, training_args.max_steps) == (0.5, 9)
    options = json.dumps({"image_size": 128})
    assert parse([*path, "--dataset_options", options])[1].dataset_options == {"image_size": 128}
    assert parse([*path, "--trainable", "c", "d.*"])[0].trainable == ["c", "d.*"]


def test_the_list_of_own_options():
    own = [name for part in (ModelArguments, DataArguments, GemmaLisaTrainingArguments) for name in names_of(part)]
    assert len(own) == len(set(own))
    assert set(own) - names_of(TrainingArguments) == {
        "model",
        "cache_features",
        "cache_gb",
        "trainable",
        "adapter",
        "lora_rank",
        "lora_alpha",
        "lora_dropout",
        "lora_mlp",
        "use_rslora",
        "use_dora",
        "load_in_4bit",
        "load_in_8bit",
        "ce_loss_weight",
        "bce_loss_weight",
        "dice_loss_weight",
        "score_loss_weight",
        "prompted_loss_weight",
        "conversation_share",
        "hub_license",
        "dataset",
        "mixture",
        "epoch_length",
        "streaming",
        "data_dir",
        "dataset_options",
        "max_bad",
        "train_split",
        "eval_dataset",
        "eval_split",
        "eval_rows",
        "allow_leakage",
        "languages",
        "translations",
        "max_questions",
        "learn_masks",
        "learn_text",
        "preview_samples",
        "max_new_tokens",
        "muon_learning_rate",
        "fresh",
        "self_check",
        "expected_processes",
        "lora_learning_rate",
        "bridge_learning_rate",
        "decoder_learning_rate",
        "global_batch_size",
    }


def test_the_list_of_defaults_that_differ_from_transformers():
    theirs = {field.name: field.default for field in fields(TrainingArguments)}
    ours = GemmaLisaTrainingArguments(output_dir="out", use_cpu=True)
    assert (ours.remove_unused_columns, ours.label_names) == (False, ["labels"])
    assert (ours.ddp_find_unused_parameters, ours.logging_nan_inf_filter) == (False, False)
    assert ours.report_to == []
    changed = {"remove_unused_columns", "label_names", "ddp_find_unused_parameters", "logging_nan_inf_filter"}
    changed |= {"report_to", "muon_learning_rate", "global_batch_size", "gradient_accumulation_steps"}
    changed |= {"lora_learning_rate", "bridge_learning_rate", "decoder_learning_rate"}
    changed |= {"fresh", "self_check"}
    assert {f.name for f in fields(GemmaLisaTrainingArguments) if f.default != theirs.get(f.name)} <= changed


def names_of(arguments):
    return {field.name for field in fields(arguments)}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lora_rank": 0}, "lora_rank must be at least 1, got 0"),
        ({"lora_alpha": 8.0, "use_dora": True}, "lora_alpha, use_dora: only LoRA has this option. Add --lora_rank"),
        (
            {"lora_rank": 2, "load_in_4bit": True, "load_in_8bit": True},
            "load_in_4bit and load_in_8bit cannot be combined",
        ),
        ({"load_in_4bit": True}, "load_in_4bit needs LoRA"),
        ({"lora_rank": 2, "load_in_8bit": True, "use_dora": True}, "use_dora with load_in_8bit"),
        ({"lora_rank": 2, "push_to_hub": True}, "push_to_hub is not supported for an adapter"),
        ({"fresh": True, "resume_from_checkpoint": "some"}, "cannot be combined. Remove one of them"),
        ({"train_split": " "}, "train_split is empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_unsupported_combinations_of_options_are_refused(recipe, options, words):
    with pytest.raises(UsageError, match=words):
        parse(recipe(**options))


def test_given_lora_options_are_listed():
    assert given_lora_options(ModelArguments("some", lora_rank=2)) == []
    assert given_lora_options(ModelArguments("some", lora_mlp=True, lora_dropout=0.5)) == ["lora_dropout", "lora_mlp"]


def test_output_dir_must_not_be_the_model_to_start_from(tmp_path):
    model, other = tmp_path / "model", tmp_path / "other"
    model.mkdir()
    check_output_dir(ModelArguments(str(model)), other)
    for arguments in (ModelArguments(str(model)), ModelArguments("org/base", adapter=str(model))):
        with pytest.raises(UsageError, match="holds the model that the training starts from"):
            check_output_dir(arguments, tmp_path / "other" / ".." / "model")

"""Options that are refused at the start: unknown names, numbers out of range, values that would be ignored."""

import numpy as np
import pytest
from transformers import EvalPrediction

from gemma_lisa.safety.errors import UsageError
from gemma_lisa.training.arguments import parse
from gemma_lisa.training.option_checks import RECIPE, SCORES, refuse_unknown, refuse_unsupported
from gemma_lisa.training.trainer import scores_of_counts


@pytest.fixture
def refusal(tmp_path):
    """Parses a wrong command line; returns the error as one line."""

    def call(*arguments):
        with pytest.raises(UsageError) as found:
            parse(["--model", "some", "--output_dir", str(tmp_path), "--use_cpu", "true", *arguments])
        return " ".join(str(found.value).split())

    return call


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--evaluation_strategy", "eval_strategy"),
        ("--warmup_ratio", "warmup_steps"),
        ("--lr", "learning_rate"),
        ("--per_gpu_train_batch_size", "per_device_train_batch_size"),
        ("--torch_dtype", "bf16"),
        ("--no_cuda", "use_cpu"),
        ("--logging_dir", "TENSORBOARD_LOGGING_DIR"),
        ("--overwrite_output_dir", "fresh"),
        ("--batch-size", "global_batch_size"),
        ("--epochs", "num_train_epochs"),
        ("--lora_r", "lora_rank"),
        ("--group_by_length", "train_sampling_strategy"),
        ("--gradient_checkpointing", "activation_checkpointing"),
        ("--fp16", "bf16"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(refusal, old, new):
    for arguments in ([old, "true"], [old], [f"{old}=true"]):
        said = refusal(*arguments)
        assert old.lstrip("-") in said and f"use {new}" in said.lower().replace(
            "use the environment variable ", "use "
        ).replace(new.lower(), new), said


def test_a_name_that_was_removed_is_refused_with_the_reason(refusal):
    assert "checkpoints are always safetensors" in refusal("--save_safetensors", "true")
    assert "training on TPU is not supported" in refusal("--tpu_num_cores", "8")


def test_a_misspelled_name_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match="^learning_rte is not an option. Did you mean learning_rate"):
        refuse_unknown(["learning_rte"], ["learning_rate", "seed"])
    with pytest.raises(UsageError, match="^zzz is not an option. --help lists"):
        refuse_unknown(["zzz"], ["learning_rate", "seed"])
    refuse_unknown(["seed"], ["learning_rate", "seed"])


def test_abbreviated_names_are_refused(refusal):
    assert "Did you mean max_steps" in refusal("--max_step", "3")


def test_messages_do_not_contain_secrets(refusal):
    assert "hf_secret" not in refusal("--hub_token", "hf_secret")


def test_an_empty_value_is_refused(refusal):
    assert refusal("--adapter", "") == "--adapter is empty. Give it a value or remove it."


def test_a_long_value_is_cut_in_the_message():
    value = [list(range(1000))] * 1000
    with pytest.raises(UsageError) as found:
        refuse_unsupported({"use_cache": value}, {"use_cache": RECIPE}, {"use_cache": False})
    assert len(str(found.value)) < 400


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max_steps", "0"], "max_steps must be at least 1, got 0"),
        (["--eval_accumulation_steps", "0"], "eval_accumulation_steps must be at least 1, got 0"),
        (["--seed", "-1"], "seed must be at least 0, got -1"),
        (["--adam_beta1", "1.5"], "adam_beta1 must be below 1, got 1.5"),
        (["--learning_rate", "inf"], "learning_rate must be finite, got inf"),
        (["--num_train_epochs", "0"], "num_train_epochs must be above 0, got 0.0"),
        (["--per_device_train_batch_size", "0"], "per_device_train_batch_size must be at least 1, got 0"),
        (["--gradient_accumulation_steps", "0"], "gradient_accumulation_steps must be at least 1, got 0"),
        (["--learning_rate", "-1"], "learning_rate must be at least 0, got -1.0"),
        (["--learning_rate", "nan"], "learning_rate must be finite, got nan"),
        (["--max_grad_norm", "-1"], "max_grad_norm must be at least 0, got -1.0"),
        (["--save_steps", "0"], "save_steps must be above 0, got 0"),
        (["--save_total_limit", "-1"], "save_total_limit must be at least 0, got -1"),
        (["--warmup_steps", "1.5"], "warmup_steps must be a whole number or a fraction below 1, got 1.5"),
    ],
)
def test_a_number_out_of_range_is_refused(refusal, arguments, words):
    assert words in refusal(*arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--train_sampling_strategy", "group_by_length"], "Use random or sequential"),
        (["--train_sampling_strategy", "batch_rebalance"], "Use random or sequential"),
        (["--accelerator_config", '{"split_batches": true}'], "accelerator_config split_batches True is not supp"),
        (["--accelerator_config", '{"dispatch_batches": true}'], "dispatch_batches True is not supported"),
        (["--accelerator_config", '{"even_batches": false}'], "even_batches False is not supported"),
        (["--accelerator_config", '{"gradient_accumulation_kwargs": {"num_steps": 2}}'], "is not supported"),
        (["--accelerator_config", '{"no_such": 1}'], "no_such"),
        (["--debug", "tpu_metrics_debug"], "tpu_metrics_debug is not supported"),
        (["--local_rank", "2"], "local_rank is 2, but this process has local rank 0"),
        (["--save_strategy", "best"], "save_strategy best needs metric_for_best_model"),
        (["--save_strategy", "best", "--metric_for_best_model", "gIoU"], "needs metric_for_best_model, and eval_st"),
        (["--lr_scheduler_type", "cosine_with_min_lr"], "min_lr_rate should be set"),
        (["--lr_scheduler_kwargs", '{"min_lr": 1}'], "unexpected keyword argument 'min_lr'"),
        (["--optim", "galore_adamw"], "makes its own parameter groups. Use an AdamW"),
        (["--optim", "adamw_torch_8bit"], "torchao"),
        (["--optim_args", "momentum"], "expected name=value"),
        (["--report_to", "no_such"], "report_to must be one of"),
        (["--report_to", "neptune"], "report_to neptune: the package is not installed"),
        (["--learn_masks", "false", "--eval_on_start", "true"], "so there are no masks to evaluate"),
        (["--lora_rank", "2", "--push_to_hub", "true"], "push_to_hub is not supported for an adapter"),
        (["--fresh", "true", "--resume_from_checkpoint", "some"], "cannot be combined. Remove one of them"),
        (["stray"], "stray does not belong to an option"),
    ],
)
def test_values_that_transformers_refuses_late_or_ignores_are_refused_at_the_start(refusal, arguments, words):
    assert words in refusal(*arguments)


def test_an_unknown_metric_is_refused_with_the_list_of_metrics(refusal):
    said = refusal("--metric_for_best_model", "giou", "--eval_strategy", "epoch")
    assert "must be one of loss, gIoU, " in said and "got giou" in said


def test_the_list_of_scores_is_that_of_an_evaluation():
    counts = np.array([[1, 2, 2, 1, 1], [0, 0, 0, 0, 1]])  # two masks; nothing
    assert set(SCORES) == {"loss", *scores_of_counts(EvalPrediction(counts, np.arange(2)))}


def test_a_cache_of_features_is_refused_for_a_stream(refusal):
    mixture = '{"a": {"weight": 1, "sets": {"some/rows": {}}}}'
    arguments = ["--mixture", mixture, "--streaming", "true", "--max_steps", "3", "--eval_dataset", "shapes"]
    assert refusal(*arguments, "--cache_features", "some").startswith(
        "cache_features with streaming is not supported: the images of a stream are unknown until they are read."
    )


@pytest.mark.parametrize("value", ["0", "-2", "nan"])
def test_the_size_of_the_cache_must_be_above_zero(refusal, value):
    assert "cache_gb must be" in refusal("--cache_features", "some", "--cache_gb", value)

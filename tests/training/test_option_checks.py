"""What is refused at the start: names that do not exist, numbers out of range, values that would be ignored."""

import numpy as np
import pytest
from transformers import EvalPrediction

from gemma_lisa.safety.errors import UsageError
from gemma_lisa.training.arguments import parse
from gemma_lisa.training.option_checks import RECIPE, SCORES, refuse_unknown, refuse_unsupported
from gemma_lisa.training.trainer import scores_of_counts


@pytest.fixture
def refusal(tmp_path):
    """Parses a command line that is wrong; gives the one line that is said."""

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
        assert old.lstrip("-") in said and f"use {new}" in said.replace("use the environment variable ", "use "), said


def test_a_name_that_was_removed_is_refused_with_the_reason(refusal):
    assert "checkpoints are always safetensors" in refusal("--save_safetensors", "true")
    assert "there is no training on TPU" in refusal("--tpu_num_cores", "8")


def test_a_name_that_is_nearly_right_is_refused_with_the_right_one():
    with pytest.raises(UsageError, match="^learning_rte is not an option; did you mean learning_rate"):
        refuse_unknown(["learning_rte"], ["learning_rate", "seed"])
    with pytest.raises(UsageError, match="^zzz is not an option; --help lists"):
        refuse_unknown(["zzz"], ["learning_rate", "seed"])
    refuse_unknown(["seed"], ["learning_rate", "seed"])


def test_the_beginning_of_a_name_is_no_name(refusal):
    assert "did you mean max_steps" in refusal("--max_step", "3")


def test_a_secret_is_in_no_message(refusal):
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
        (["--warmup_steps", "1.5"], "warmup_steps must be a whole number or a share below 1, got 1.5"),
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
        (["--local_rank", "2"], "local_rank 2, but this is process 0"),
        (["--save_strategy", "best"], "save_strategy best needs metric_for_best_model"),
        (["--save_strategy", "best", "--metric_for_best_model", "gIoU"], "needs metric_for_best_model, and eval_st"),
        (["--lr_scheduler_type", "cosine_with_min_lr"], "min_lr_rate should be set"),
        (["--lr_scheduler_kwargs", '{"min_lr": 1}'], "unexpected keyword argument 'min_lr'"),
        (["--optim", "galore_adamw"], "makes its own groups of parameters; use an AdamW"),
        (["--optim", "adamw_torch_8bit"], "torchao"),
        (["--optim_args", "momentum"], "expected name=value"),
        (["--report_to", "no_such"], "report_to must be among"),
        (["--report_to", "neptune"], "report_to neptune: the package is not installed"),
        (["--learn_masks", "false", "--eval_on_start", "true"], "has no masks to evaluate"),
        (["--lora_rank", "2", "--push_to_hub", "true"], "an adapter alone does not open by its name"),
        (["--fresh", "true", "--resume_from_checkpoint", "some"], "choose one of them"),
        (["stray"], "stray belongs to no option"),
    ],
)
def test_what_transformers_would_refuse_late_or_ignore_is_refused_at_the_start(refusal, arguments, words):
    assert words in refusal(*arguments)


def test_a_metric_that_no_evaluation_gives_is_refused_with_those_that_are(refusal):
    said = refusal("--metric_for_best_model", "giou", "--eval_strategy", "epoch")
    assert "must be one of loss, gIoU, " in said and "got giou" in said


def test_the_scores_to_choose_from_are_those_of_an_evaluation():
    counts = np.array([[1, 2, 2, 1, 1], [0, 0, 0, 0, 1]])  # two masks; nothing
    assert set(SCORES) == {"loss", *scores_of_counts(EvalPrediction(counts, np.arange(2)))}

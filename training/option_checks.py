"""Refuse options of train.py at the start: unknown names, options without an effect, numbers out of range.

`option_table` has the options; this file has their conditions and the errors.
"""

import difflib
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import get_scheduler
from transformers.debug_utils import DebugOption
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_pt_utils import AcceleratorConfig

from gemma_lisa.datasets_builder.mixture import sets_of, tolerating
from gemma_lisa.datasets_builder.templates import ENGLISH
from gemma_lisa.evaluation.metrics import NUM_COUNTS, summarize_counts
from gemma_lisa.safety.errors import UsageError

from .distributed import engine_of
from .optimizers import optimizer_options, reads_optim_args, reads_optimizer_option
from .option_table import BEST, EVALUATED, NAMED, NAMED_RUNS, OPTIONS, REMOVED, RENAMED, SHARED_OUT, Option
from .training_arguments import GemmaLisaTrainingArguments

DEFAULT, RECIPE, COMMAND_LINE = range(3)  # where an option's value comes from; the later one wins
LAUNCHER = "launcher"  # how the processes were started; a recipe does not know it
SECRETS = ("hub_token",)  # never in a message
NO_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")
BY_SCORE = ("reduce_lr_on_plateau", "greedy")  # schedules that follow a score
# Smallest value of an option; None is always allowed
MINIMUM = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "save_total_limit": 0,
    "dataloader_num_workers": 0,
    "dataloader_prefetch_factor": 1,
    "eval_accumulation_steps": 1,
    "max_new_tokens": 1,
    "seed": 0,
    "data_seed": 0,
    "adam_beta1": 0,
    "adam_beta2": 0,
    "adam_epsilon": 0,
}
BELOW_ONE = ("adam_beta1", "adam_beta2")
# Keys of accelerator_config that change how batches are distributed
SHARING = ("split_batches", "dispatch_batches", "even_batches", "use_seedable_sampler", "gradient_accumulation_kwargs")
# Scores of an evaluation (`trainer.scores_of_counts`)
SCORES = ("loss", *(name for name in summarize_counts(np.zeros((0, NUM_COUNTS), np.int64)) if name != "gIoU_all"))
ALWAYS_THERE = ("flyte", "kubeflow")  # integrations whose packages transformers does not check
ABOVE_ZERO = ("num_train_epochs", "logging_steps", "eval_steps", "save_steps", "cache_gb")


@dataclass(frozen=True)
class Condition:
    """What must hold for an option to have an effect.

    Args:
        decided_by: the options that decide it, or LAUNCHER.
        holds: returns whether it holds, given the training, model and data arguments.
    """

    decided_by: tuple[str, ...]
    holds: Callable[[GemmaLisaTrainingArguments, Any, Any], bool]


def is_evaluated(args: GemmaLisaTrainingArguments) -> bool:
    return args.eval_strategy != "no" or args.eval_on_start


def _may_skip_files(data: Any) -> bool:
    names = [data.dataset, data.eval_dataset, *sets_of(data.mixture or {})]
    return any(tolerating(name, None, 1) for name in names if name)


# Keys complete the sentence "it needs ..."
CONDITIONS = {
    "an unset `max_steps`": Condition(("max_steps",), lambda args, *_: args.max_steps < 1),
    EVALUATED: Condition(("eval_strategy", "eval_on_start"), lambda args, *_: is_evaluated(args)),
    "`eval_strategy` steps or epoch": Condition(("eval_strategy",), lambda args, *_: args.eval_strategy != "no"),
    "`eval_strategy` steps": Condition(("eval_strategy",), lambda args, *_: args.eval_strategy == "steps"),
    "evaluation and `preview_samples` above 0": Condition(
        ("eval_strategy", "eval_on_start", "preview_samples"),
        lambda args, _, data: is_evaluated(args) and data.preview_samples > 0,
    ),
    "`logging_strategy` steps": Condition(
        ("logging_strategy", "eval_strategy"),
        # transformers uses it as eval_steps if that is not given
        lambda args, *_: (
            args.logging_strategy == "steps"
            or (args.eval_strategy == "steps" and args.eval_steps == args.logging_steps)
        ),
    ),
    "`save_strategy` steps": Condition(("save_strategy",), lambda args, *_: args.save_strategy == "steps"),
    "a `save_strategy` other than no": Condition(("save_strategy",), lambda args, *_: args.save_strategy != "no"),
    BEST: Condition(
        ("eval_strategy", "save_strategy", "lr_scheduler_type"),
        lambda args, *_: (
            args.eval_strategy != "no" and (args.save_strategy != "no" or args.lr_scheduler_type in BY_SCORE)
        ),
    ),
    "`metric_for_best_model`, `eval_strategy` and `save_strategy` other than no": Condition(
        ("metric_for_best_model", "eval_strategy", "save_strategy"),
        lambda args, *_: (
            args.metric_for_best_model is not None and args.eval_strategy != "no" and args.save_strategy != "no"
        ),
    ),
    "`push_to_hub`": Condition(("push_to_hub",), lambda args, *_: args.push_to_hub),
    "`push_to_hub`, and for checkpoints a `save_strategy` other than no": Condition(
        ("push_to_hub", "save_strategy"),
        lambda args, *_: (
            args.push_to_hub and (args.save_strategy != "no" or args.hub_strategy in ("end", "every_save"))
        ),
    ),
    "`push_to_hub` of checkpoints (`save_strategy` other than no, `hub_strategy` other than end)": Condition(
        ("push_to_hub", "save_strategy", "hub_strategy"),
        lambda args, *_: args.push_to_hub and args.save_strategy != "no" and args.hub_strategy != "end",
    ),
    "`push_to_hub` or `report_to` trackio": Condition(
        ("push_to_hub", "report_to"), lambda args, *_: args.push_to_hub or "trackio" in args.report_to
    ),
    "`report_to` trackio": Condition(("report_to",), lambda args, *_: "trackio" in args.report_to),
    NAMED: Condition(("report_to",), lambda args, *_: bool(set(NAMED_RUNS) & set(args.report_to))),
    "an `lr_scheduler_type` that warms up": Condition(
        ("lr_scheduler_type",), lambda args, *_: args.lr_scheduler_type not in NO_WARMUP
    ),
    "an `lr_scheduler_type` that has options": Condition(
        ("lr_scheduler_type",), lambda args, *_: args.lr_scheduler_type not in ("constant", "constant_with_warmup")
    ),
    "an unset `muon_learning_rate`": Condition(
        ("muon_learning_rate",), lambda args, *_: args.muon_learning_rate is None
    ),
    "an `optim` that has betas": Condition(
        ("optim", "muon_learning_rate"), lambda args, *_: reads_optimizer_option(args, "betas")
    ),
    "an `optim` that reads `adam_epsilon`": Condition(
        ("optim", "muon_learning_rate"), lambda args, *_: reads_optimizer_option(args, "eps")
    ),
    "an `optim` that reads each of them": Condition(
        ("optim", "muon_learning_rate"), lambda args, *_: reads_optim_args(args)
    ),
    "`activation_checkpointing`": Condition(
        ("activation_checkpointing",), lambda args, *_: args.activation_checkpointing
    ),
    "`dataloader_num_workers` above 0": Condition(
        ("dataloader_num_workers",), lambda args, *_: args.dataloader_num_workers > 0
    ),
    "`dataloader_num_workers` above 0 and no `streaming`": Condition(
        ("dataloader_num_workers", "streaming"),
        lambda args, _, data: args.dataloader_num_workers > 0 and not data.streaming,
    ),
    "no `streaming` and no evaluation (which must have all samples)": Condition(
        ("streaming", "eval_strategy", "eval_on_start"),
        lambda args, _, data: not (data.streaming or is_evaluated(args)),
    ),
    "one data set (a mixture has its own order)": Condition(("mixture",), lambda args, _, data: data.mixture is None),
    "a GPU": Condition((LAUNCHER,), lambda args, *_: args.device.type != "cpu"),
    "DDP, in several processes": Condition((LAUNCHER,), lambda args, *_: engine_of(args) == "DDP"),
    "several processes": Condition(
        (LAUNCHER, "deepspeed"), lambda args, *_: args.world_size > 1 and not args.deepspeed
    ),
    "several processes with a GPU each": Condition(
        (LAUNCHER,), lambda args, *_: args.world_size > 1 and args.device.type != "cpu"
    ),
    "`fsdp`": Condition(("fsdp",), lambda args, *_: bool(args.fsdp)),
    "`cache_features`": Condition(("cache_features",), lambda args, *_: args.cache_features is not None),
    "`learn_masks`": Condition(("learn_masks",), lambda args, _, data: data.learn_masks),
    "`learn_text`": Condition(("learn_text",), lambda args, _, data: data.learn_text),
    "`languages` other than English": Condition(
        ("languages",), lambda args, _, data: bool(set(data.languages or {}) - {ENGLISH})
    ),
    "a data set that reads files": Condition(
        ("dataset", "mixture", "eval_dataset"), lambda args, _, data: _may_skip_files(data)
    ),
}


def refuse_unknown(names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse options that do not exist, and name the replacement if there is one.

    Raises:
        UsageError: for the first of `names` that is not in `known`.
    """
    known = set(known)
    for name in names:
        plain = name.replace("-", "_")
        if name in known:
            continue
        if plain in RENAMED:
            raise UsageError(f"{name} is not an option of train.py. Use {RENAMED[plain]}.")
        if plain in REMOVED:
            raise UsageError(f"{name} is not an option of train.py: {REMOVED[plain]}.")
        near = difflib.get_close_matches(plain, known, n=1, cutoff=0.75)
        advice = f"Did you mean {near[0]}?" if near else "--help lists the options."
        raise UsageError(f"{reprlib.repr(name)[1:-1]} is not an option. {advice}")


def refuse_unsupported(values: Mapping[str, Any], given: Mapping[str, int], defaults: Mapping[str, Any]) -> None:
    """Refuse options that are not supported, and empty values.

    Args:
        values: option -> parsed value.
        given: name of each given option -> RECIPE or COMMAND_LINE.
        defaults: option -> default.

    Raises:
        UsageError: for the first of them.
    """
    for name in given:
        value, option = values[name], OPTIONS.get(name)
        if value == "" or (value is None and defaults[name] is not None):
            raise UsageError(f"{name} is empty. Give it a value or remove it.")
        if option is None:
            raise UsageError(f"{name} is not supported yet: it is new in this release of transformers. Remove it.")
        if option.reader is None and (option.is_never_given or value != defaults[name]):
            advice = "" if option.reason.startswith("use ") else " Remove it."
            raise UsageError(f"{name} is not supported, got {_shown(name, value)}: {option.reason}.{advice}")


def without_effect(
    args: GemmaLisaTrainingArguments,
    model_args: Any,
    data_args: Any,
    values: Mapping[str, Any],
    given: Mapping[str, int],
    defaults: Mapping[str, Any],
) -> list[str]:
    """Return the recipe's options that have no effect because of the command line.

    A recipe can hold options for a GPU or for several processes; elsewhere they have no effect and are no error.

    Raises:
        UsageError: an option without an effect was given together with, or after, the option that it depends on.
    """
    superseded = []
    for name, level in given.items():
        option = OPTIONS[name]
        if option.only_with is None or _asks_for_nothing(values[name], defaults[name], option):
            continue
        condition = CONDITIONS[option.only_with]
        if condition.holds(args, model_args, data_args):
            continue
        if level == RECIPE and LAUNCHER in condition.decided_by:
            continue  # one recipe serves one GPU and several machines
        if level == COMMAND_LINE or level >= max(given.get(by, DEFAULT) for by in condition.decided_by):
            needed = option.only_with.replace("`", "")
            raise UsageError(
                f"{name} {_shown(name, values[name])} has no effect here: it needs {needed}. Set that, or remove "
                f"{name}."
            )
        superseded.append(name)
    return superseded


def _asks_for_nothing(value: Any, default: Any, option: Option) -> bool:
    return value is None or (not value and value == default) or value in option.neutral


def _shown(name: str, value: Any) -> str:
    return "***" if name in SECRETS else reprlib.repr(value)


def check_numbers(args: GemmaLisaTrainingArguments, data_args: Any) -> None:
    """Refuse numbers that are out of range or would be rounded silently.

    Raises:
        UsageError: for the first of them.
    """
    values = {**vars(data_args), **vars(args)}
    for name in (*MINIMUM, *ABOVE_ZERO):
        if isinstance(values[name], float) and not math.isfinite(values[name]):
            raise UsageError(f"{name} must be finite, got {values[name]}.")
    for name in BELOW_ONE:
        if not values[name] < 1:
            raise UsageError(f"{name} must be below 1, got {values[name]}.")
    for name, least in MINIMUM.items():
        if values[name] is not None and not values[name] >= least:
            raise UsageError(f"{name} must be at least {least}, got {values[name]}.")
    for name in ABOVE_ZERO:
        if values[name] is not None and not values[name] > 0:
            raise UsageError(f"{name} must be above 0, got {values[name]}.")
    if args.max_steps != -1 and args.max_steps < 1:
        raise UsageError(f"max_steps must be at least 1, got {args.max_steps}. Or remove it and use num_train_epochs.")
    if args.warmup_steps >= 1 and args.warmup_steps != int(args.warmup_steps):
        raise UsageError(f"warmup_steps must be a whole number or a fraction below 1, got {args.warmup_steps}.")


def check_training(args: GemmaLisaTrainingArguments) -> None:
    """Refuse values that transformers would ignore, or refuse only after model and data are loaded.

    Raises:
        UsageError: for the first of them.
    """
    if args.train_sampling_strategy in ("group_by_length", "batch_rebalance"):
        raise UsageError(
            f"train_sampling_strategy {args.train_sampling_strategy} is not supported: the length of a sample is "
            "known only when its questions are drawn. Use random or sequential."
        )
    if DebugOption.TPU_METRICS_DEBUG in args.debug:
        raise UsageError("debug tpu_metrics_debug is not supported, because TPUs are not supported. Remove it.")
    if args.local_rank not in (-1, args.local_process_index):
        raise UsageError(
            f"local_rank is {args.local_rank}, but this process has local rank {args.local_process_index}. Remove "
            "local_rank: launchers set LOCAL_RANK."
        )
    for name in SHARING:
        if (value := getattr(args.accelerator_config, name)) != getattr(AcceleratorConfig, name):
            raise UsageError(f"accelerator_config {name} {value} is not supported: {SHARED_OUT}. Remove it.")
    _check_best_model(args)
    _check_schedule(args)
    _check_optimizer(args)
    for name in args.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            raise UsageError(f"report_to must be one of {', '.join(INTEGRATION_TO_CALLBACK)}, got {name}.")
        if name not in (*get_available_reporting_integrations(), *ALWAYS_THERE):
            raise UsageError(f"report_to {name}: the package is not installed. Install it, or remove report_to.")


def check_cache(args: GemmaLisaTrainingArguments, data_args: Any) -> None:
    """Refuse a cache of features for a stream.

    Raises:
        UsageError: both are given.
    """
    if args.cache_features is not None and data_args.streaming:
        raise UsageError(
            "cache_features with streaming is not supported: the images of a stream are unknown until they are read. "
            "Remove one of them."
        )


def _check_best_model(args: GemmaLisaTrainingArguments) -> None:
    metric = args.metric_for_best_model
    if metric is not None and metric.removeprefix("eval_") not in SCORES:
        raise UsageError(f"metric_for_best_model must be one of {', '.join(SCORES)}, got {metric}.")
    if args.save_strategy == "best" and (metric is None or args.eval_strategy == "no"):
        raise UsageError("save_strategy best needs metric_for_best_model, and eval_strategy steps or epoch.")


def _check_schedule(args: GemmaLisaTrainingArguments) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 0, 1, args.lr_scheduler_kwargs)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"lr_scheduler_kwargs {reprlib.repr(args.lr_scheduler_kwargs)} for lr_scheduler_type "
            f"{args.lr_scheduler_type.value}: {error}"
        ) from error


def _check_optimizer(args: GemmaLisaTrainingArguments) -> None:
    try:
        optimizer_options(args)
    except (ImportError, ValueError) as error:
        raise UsageError(f"optim {args.optim.value}, optim_args {args.optim_args}: {error}") from error

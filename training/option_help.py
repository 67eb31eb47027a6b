"""Texts of `train.py --help` and `--help_all`."""

import textwrap
import types
import typing
from dataclasses import MISSING, Field, fields
from enum import Enum
from typing import Any, NamedTuple

from transformers import TrainingArguments

from .option_table import OPTIONS

WIDTH, COLUMN = 120, 38  # characters of a line, and of options before their texts
INTRODUCTION = """\
usage: python train.py [--config RECIPE] --model MODEL [--output_dir FOLDER] [--OPTION VALUE ...]

Train or fine-tune a Gemma-LISA model. A recipe (a YAML file, see configs/) sets the options, and options on the command
line override it. An unknown option, or one that would have no effect, is an error.

Examples:
  Fine-tune on your own photos (docs/data.md shows how to lay out the folder):
    python train.py --config configs/finetune-your-data.yaml --model MODEL --data_dir my_photos --output_dir OUT
  Resume a stopped run: repeat its command. Or choose the checkpoint:
    python train.py ... --resume_from_checkpoint OUT/checkpoint-500
  Several processes, one per GPU (docs/engines.md has FSDP2 and DeepSpeed):
    torchrun --nproc_per_node 2 train.py --config RECIPE --model MODEL --output_dir OUT --expected_processes 2
"""
FOOTER = "--help_all lists every option, also those of transformers that are not supported, with the reason."
# Group -> its options, in the order of --help
GROUPS = {
    "Recipe and folders": ("config", "output_dir", "resume_from_checkpoint", "fresh", "expected_processes"),
    "Data": (
        *("dataset", "data_dir", "dataset_options", "train_split", "mixture", "epoch_length", "streaming", "max_bad"),
        *("max_questions", "conversation_share", "languages", "translations", "learn_masks", "learn_text"),
        "allow_leakage",
    ),
    "Model and LoRA": (
        *("model", "trainable", "adapter", "lora_rank", "lora_alpha", "lora_dropout", "lora_mlp", "use_rslora"),
        *("use_dora", "load_in_4bit", "load_in_8bit", "activation_checkpointing"),
    ),
    "Losses": ("ce_loss_weight", "bce_loss_weight", "dice_loss_weight", "score_loss_weight", "prompted_loss_weight"),
    "Batch, optimizer and schedule": (
        *("max_steps", "num_train_epochs", "global_batch_size", "per_device_train_batch_size"),
        *("gradient_accumulation_steps", "learning_rate", "lora_learning_rate", "bridge_learning_rate"),
        *("decoder_learning_rate", "muon_learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay"),
        *("max_grad_norm", "seed"),
    ),
    "Evaluation": (
        *("eval_strategy", "eval_steps", "eval_dataset", "eval_split", "eval_rows", "per_device_eval_batch_size"),
        *("preview_samples", "max_new_tokens", "metric_for_best_model", "load_best_model_at_end"),
    ),
    "Logging and saving": (
        *("logging_steps", "report_to", "run_name", "disable_tqdm", "save_strategy", "save_steps"),
        *("save_total_limit", "push_to_hub", "hub_model_id", "hub_license"),
    ),
    "Hardware": ("bf16", "use_cpu", "dataloader_num_workers", "cache_features", "cache_gb", "self_check"),
}
PROGRAM = {
    "config": "recipe: YAML file with `option: value` lines (default: none)",
    "help": "print this text and exit",
    "help_all": "print every option and exit",
    "debug": "print the traceback of an error; `--debug underflow_overflow` is the option of transformers",
}
# Options of transformers, in shorter words than its own
SHORT = {
    "output_dir": "folder for the checkpoints and the final model (default: trainer_output)",
    "resume_from_checkpoint": "checkpoint folder to resume from (default: the newest one of the same run)",
    "max_steps": "number of optimizer steps; -1: num_train_epochs decides (default: -1)",
    "num_train_epochs": "number of epochs, can be a fraction (default: 3.0)",
    "per_device_train_batch_size": "samples per forward pass on each device (default: 8)",
    "per_device_eval_batch_size": "questions per forward pass on each device during evaluation (default: 8)",
    "learning_rate": "peak learning rate of AdamW, for all parts without their own rate (default: 5e-05)",
    "lr_scheduler_type": "schedule: linear, cosine, constant_with_warmup, ... (default: linear)",
    "warmup_steps": "warm-up in steps; below 1: as a fraction of all steps (default: 0)",
    "weight_decay": "weight decay of weight matrices (default: 0.0)",
    "max_grad_norm": "gradient norm to clip to; 0: no clipping (default: 1.0)",
    "seed": "random seed (default: 42)",
    "activation_checkpointing": "recompute activations in the backward pass: less memory, slower (default: false)",
    "eval_strategy": "when to evaluate: no, steps or epoch (default: no)",
    "eval_steps": "steps between evaluations with eval_strategy steps (default: logging_steps)",
    "metric_for_best_model": "score that decides the best checkpoint, such as gIoU (default: loss, if needed)",
    "load_best_model_at_end": "end with the best checkpoint instead of the last one (default: false)",
    "logging_steps": "steps between log lines; below 1: as a fraction of all steps (default: 500)",
    "report_to": "experiment tracker: tensorboard, wandb, ... or none (default: none)",
    "run_name": "name of the run in the tracker (default: output_dir)",
    "disable_tqdm": "hide progress bars (default: false)",
    "save_strategy": "when to save a checkpoint: no, steps, epoch or best (default: steps)",
    "save_steps": "steps between checkpoints with save_strategy steps (default: 500)",
    "save_total_limit": "number of checkpoints to keep; older ones are deleted (default: all)",
    "push_to_hub": "push checkpoints and the final model to the Hugging Face Hub (default: false)",
    "hub_model_id": "Hub repository to push to, as owner/name (default: your account and the folder's name)",
    "bf16": "compute in bf16 instead of fp32 (default: false)",
    "use_cpu": "train on the CPU, even if a GPU is available (default: false)",
    "dataloader_num_workers": "processes per device that prepare batches; 0: the training process (default: 0)",
}
# Type of an option -> placeholder of its value
PLACEHOLDERS = {list: "TEXT ...", dict: "JSON", bool: "BOOL", int: "INT", float: "FLOAT"}


class Known(NamedTuple):
    """An option: its field and its type."""

    field: Field
    kind: Any


def options_of(classes: tuple[type, ...]) -> dict[str, Known]:
    """Return the options of dataclasses by name; a later class wins where two have the same option."""
    return {
        found.name: Known(found, typing.get_type_hints(part)[found.name])
        for part in classes
        for found in fields(part)
        if found.init
    }


def help_lines(classes: tuple[type, ...], with_all: bool = False) -> list[str]:
    """Return the lines of `--help`, or of `--help_all`.

    Args:
        classes: dataclasses of the options.
        with_all: list every option, with what it needs, and the unsupported ones with the reason.
    """
    known = options_of(classes)
    lines = INTRODUCTION.splitlines()
    for group, names in GROUPS.items():
        lines += ["", f"{group}:", *(line for name in names for line in _entry(name, known, with_all))]
    lines += ["", *(line for name in ("help", "help_all", "debug") for line in _entry(name, known, with_all))]
    if not with_all:
        return [*lines, "", FOOTER]
    listed = {*PROGRAM, *(name for names in GROUPS.values() for name in names)}
    others = [name for name in OPTIONS if name in known and name not in listed]
    others += sorted(known.keys() - listed - OPTIONS.keys())  # of a newer release of transformers
    supported = [name for name in others if name in OPTIONS and OPTIONS[name].reader is not None]
    lines += ["", "Other options of transformers' TrainingArguments:"]
    lines += [line for name in supported for line in _entry(name, known, True)]
    lines += ["", "Not supported:"]
    for name in others:
        if name not in supported:
            reason = OPTIONS[name].reason if name in OPTIONS else "it is new in this release of transformers"
            lines += _wrapped(f"--{name}", f"{reason}.")
    return lines


def help_of(name: str, known: dict[str, Known]) -> str:
    """Return the help text of an option, with its default; "" where there is none."""
    if name in PROGRAM:
        return PROGRAM[name]
    if name in SHORT:
        return SHORT[name]
    found = known[name].field
    theirs = TrainingArguments.__dataclass_fields__.get(name)
    text = found.metadata.get("help") or (theirs.metadata.get("help") if theirs else None) or ""
    text = " ".join(text.split()).rstrip(".").replace("%%", "%")
    return (
        text if not text or "(default: " in text or "(required)" in text else f"{text} (default: {_default_of(found)})"
    )


def _entry(name: str, known: dict[str, Known], with_conditions: bool) -> list[str]:
    text = help_of(name, known)
    option = OPTIONS.get(name)
    if with_conditions and option is not None and name not in PROGRAM:
        text += "".join(
            f"; {words}" for words in (f"needs {option.only_with}" if option.only_with else "", option.reason) if words
        ).replace("`", "")
    return _wrapped(f"--{name}{_value_of(name, known)}", text)


def _wrapped(head: str, text: str) -> list[str]:
    """Return the lines of an option: the option on the left, its text in a column on the right."""
    lines = textwrap.wrap(text, WIDTH - COLUMN, break_on_hyphens=False, break_long_words=False)
    if len(head) > COLUMN - 4:
        return [f"  {head}", *(" " * COLUMN + line for line in lines)]
    return [f"{f'  {head}' if at == 0 else '':{COLUMN}}{line}" for at, line in enumerate(lines)]


def _value_of(name: str, known: dict[str, Known]) -> str:
    """Return the placeholder of an option's value, as in " INT"."""
    if name in PROGRAM:
        return " FILE" if name == "config" else ""
    kind = known[name].kind
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    kinds = {typing.get_origin(part) or part for part in (typing.get_args(kind) if is_union else (kind,))}
    return " " + next((word for found, word in PLACEHOLDERS.items() if found in kinds), "TEXT")


def _default_of(found: Field) -> str:
    default: Any = found.default
    if default is MISSING:
        default = None if found.default_factory is MISSING else found.default_factory()
    if isinstance(default, Enum):
        default = default.value
    if isinstance(default, bool):
        return str(default).lower()
    return "none" if default in (None, [], {}, "") else str(default)

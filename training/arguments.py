"""Parse the arguments of train.py, and refuse combinations of them that are not supported."""

import argparse
import logging
import os
import sys
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from transformers.integrations import is_deepspeed_zero3_enabled
from trl import TrlParser

from gemma_lisa.checkpoints.adapter_base import is_adapter, read_base
from gemma_lisa.safety.errors import UsageError, check_not_empty
from gemma_lisa.safety.parsing import parse_json, read_yaml
from gemma_lisa.safety.short_text import show

from .distributed import asks_for_fsdp, check_engine, check_processes
from .option_checks import (
    COMMAND_LINE,
    RECIPE,
    check_cache,
    check_numbers,
    check_training,
    refuse_unknown,
    refuse_unsupported,
    without_effect,
)
from .option_help import help_lines
from .training_arguments import GemmaLisaTrainingArguments

logger = logging.getLogger(__name__)

JSON_FIELDS = ("dataset_options", "mixture", "languages")
# Not reset where it has no effect: a run can be extended by max_steps, and later by epochs again
KEPT = ("num_train_epochs",)


@dataclass
class ModelArguments:
    """The model, and which of its parameters are trained."""

    model: str = field(
        metadata={"help": "folder or Hub name of a Gemma-LISA checkpoint, or folder of an adapter (required)"}
    )
    trainable: list[str] | None = field(
        default=None,
        metadata={
            "help": "patterns of parameter names to train; all others are frozen (default: seg_projector, SAM's mask "
            "decoder and, without LoRA, the language model)"
        },
    )
    ce_loss_weight: float | None = field(
        default=None, metadata={"help": "weight of the language loss (default: the checkpoint's)"}
    )
    bce_loss_weight: float | None = field(
        default=None, metadata={"help": "weight of the masks' binary cross-entropy (default: the checkpoint's)"}
    )
    dice_loss_weight: float | None = field(
        default=None, metadata={"help": "weight of the masks' Dice loss (default: the checkpoint's)"}
    )
    score_loss_weight: float | None = field(
        default=None,
        metadata={"help": "weight of the loss that makes SAM's scores estimate mask IoU (default: the checkpoint's)"},
    )
    prompted_loss_weight: float | None = field(
        default=None,
        metadata={"help": "weight of masks from simulated points, boxes and corrections (default: the checkpoint's)"},
    )
    adapter: str | None = field(
        default=None,
        metadata={"help": "folder of an adapter to train further. Only needed if its base model was moved to --model"},
    )
    lora_rank: int | None = field(
        default=None,
        metadata={"help": "rank of LoRA in the language model; also trains the embedding of [SEG] (default: no LoRA)"},
    )
    lora_alpha: float | None = field(default=None, metadata={"help": "scale of LoRA (default: twice the rank)"})
    lora_dropout: float = field(default=0.0, metadata={"help": "dropout probability of LoRA's inputs"})
    lora_mlp: bool = field(
        default=False, metadata={"help": "also add LoRA to gate_proj, up_proj and down_proj, not only to q, k, v and o"}
    )
    use_rslora: bool = field(
        default=False, metadata={"help": "rank-stabilized LoRA: scale by alpha / sqrt(rank), for high ranks"}
    )
    use_dora: bool = field(default=False, metadata={"help": "DoRA: train magnitudes separately from directions"})
    load_in_4bit: bool = field(
        default=False, metadata={"help": "quantize the language model's base weights to 4-bit nf4 (QLoRA)"}
    )
    load_in_8bit: bool = field(
        default=False, metadata={"help": "quantize the language model's base weights to 8-bit integers"}
    )


@dataclass
class DataArguments:
    """The data sets, and how questions are asked about their images."""

    dataset: str | None = field(
        default=None,
        metadata={"help": "name of a data set: folder (your own images), shapes/easy, ade20k, ... (default: shapes)"},
    )
    mixture: dict | str | None = field(
        default=None,
        metadata={"help": "data sets in weighted groups, or path of a recipe that has a mixture; replaces dataset"},
    )
    epoch_length: int | None = field(
        default=None, metadata={"help": "number of samples per epoch of a mixture (default: none; a mixture needs it)"}
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "stream the mixture's prepared rows instead of copying them to the cache; needs max_steps"},
    )
    data_dir: str | None = field(default=None, metadata={"help": "folder of the data set's original files"})
    dataset_options: dict | str | None = field(
        default=None, metadata={"help": "options of the data set as JSON, such as '{\"image_size\": 128}'"}
    )
    max_bad: int | None = field(
        default=None, metadata={"help": "maximum number of bad files or records to skip and list (default: 0)"}
    )
    train_split: str = field(default="train", metadata={"help": "split to train on"})
    eval_dataset: str | None = field(
        default=None, metadata={"help": "data set to evaluate on; a mixture needs it (default: dataset)"}
    )
    eval_split: str = field(default="validation", metadata={"help": "split to evaluate on"})
    eval_rows: int | None = field(
        default=None, metadata={"help": "number of rows (images) to evaluate on, from the start (default: all)"}
    )
    max_questions: int = field(
        default=4, metadata={"help": "maximum number of questions about an image in one sample, isolated by attention"}
    )
    allow_leakage: bool = field(
        default=False,
        metadata={"help": "also train on photos of validation and test splits; results.json records it"},
    )
    languages: dict | str | None = field(
        default=None,
        metadata={"help": 'shares of the languages of questions as JSON: \'{"en": 4, "ja": 1}\' (default: English)'},
    )
    conversation_share: float = field(
        default=0.0, metadata={"help": "fraction of samples whose questions are turns of one conversation, 0 to 1"}
    )
    translations: str | None = field(
        default=None, metadata={"help": 'JSON file with translations of phrases, such as {"ja": {"wall": "壁"}}'}
    )
    learn_masks: bool = field(default=True, metadata={"help": "train masks; false: train on text only"})
    learn_text: bool = field(default=True, metadata={"help": "train on text; false: masks only, texts are read once"})
    preview_samples: int = field(
        default=8, metadata={"help": "number of held-out questions to draw at each evaluation; 0: none"}
    )
    max_new_tokens: int = field(default=64, metadata={"help": "maximum number of tokens per answer in a preview"})


CLASSES = (ModelArguments, DataArguments, GemmaLisaTrainingArguments)


def parse(arguments: list[str]) -> tuple[ModelArguments, DataArguments, GemmaLisaTrainingArguments]:
    """Return the options of the recipe and the command line as dataclasses. Print the help and exit if it is asked for.

    Raises:
        UsageError: an option is unknown, not supported or without effect, or the recipe does not exist.
    """
    _print_help(arguments)
    check_not_empty(arguments)
    parser, values, given = _read(arguments)
    superseded = _prefer_later_length(values, given)
    refuse_unsupported(values, given, _defaults())
    try:
        model_args, data_args, training_args = parser.parse_dict(values)
        for name in JSON_FIELDS:
            if isinstance(value := getattr(data_args, name), str):
                is_path = name == "mixture" and value.endswith((".yaml", ".yml"))
                setattr(data_args, name, _mixture_of(value) if is_path else _from_json(name, value))
    except (ValueError, TypeError, OSError) as error:
        raise UsageError(str(error)) from error
    for part in (model_args, data_args, training_args):
        _check_names(part)
    check_numbers(training_args, data_args)
    _check_model(model_args, training_args)
    _check_data(data_args, training_args)
    if not (data_args.learn_masks or data_args.learn_text):
        raise UsageError("learn_masks and learn_text are both false, so there is nothing to learn.")
    if not data_args.learn_masks and (training_args.eval_strategy != "no" or training_args.eval_on_start):
        raise UsageError("learn_masks is false, so there are no masks to evaluate. Set eval_strategy to no.")
    if training_args.fp16 or training_args.fp16_full_eval or training_args.mixed_precision == "fp16":
        raise UsageError("fp16 is not supported: Gemma 3's activations overflow to NaN. Use --bf16 true.")
    if training_args.bf16 and given.get("bf16") == COMMAND_LINE and not values["bf16"]:
        raise UsageError("bf16 is false, but accelerate launch has --mixed_precision bf16. Give only one of them.")
    if training_args.fresh and training_args.resume_from_checkpoint:
        raise UsageError("fresh and resume_from_checkpoint cannot be combined. Remove one of them.")
    check_processes(training_args)
    check_engine(training_args)
    check_training(training_args)
    check_cache(training_args, data_args)
    superseded += _reset_without_effect(model_args, data_args, training_args, values, given)
    if superseded and training_args.should_log:
        logger.warning("options of the recipe that the command line overrides: %s", ", ".join(superseded))
    return model_args, data_args, training_args


def _print_help(arguments: list[str]) -> None:
    """Print the help and exit, if an argument asks for it."""
    if asked := {"-h", "--help", "--help_all"} & set(arguments):
        print("\n".join(help_lines(CLASSES, with_all="--help_all" in asked)))
        sys.exit(0)


def given_options(arguments: list[str]) -> dict[str, int]:
    """Return the name of each given option -> `option_checks.RECIPE` or `COMMAND_LINE`, whichever decides its value."""
    return _read(arguments)[2]


def _read(arguments: list[str]) -> tuple[TrlParser, dict[str, Any], dict[str, int]]:
    """Return the parser, the values of all options, and where the given ones come from (`given_options`)."""
    recipe, arguments = _recipe_of(arguments)
    parser = TrlParser(CLASSES, allow_abbrev=False)
    parser.error = _refuse  # argparse would print a usage of a hundred lines first
    names = list(_defaults())
    refuse_unknown(recipe, names)
    # As text, numbers are converted and checked like those of the command line
    defaults = {name: str(value) if type(value) in (int, float) else value for name, value in recipe.items()}
    parser.set_defaults_with_config(**defaults)
    namespace, extra = parser.parse_known_args(arguments)
    refuse_unknown((word.partition("=")[0].lstrip("-") for word in extra if word.startswith("--")), names)
    if extra:
        raise UsageError(f"{extra[0]} does not belong to an option. --help lists the options.")
    nothing = object()
    parser.set_defaults(**dict.fromkeys(names, nothing))
    typed = vars(parser.parse_known_args(arguments)[0])
    given = dict.fromkeys(recipe, RECIPE)
    given |= {name: COMMAND_LINE for name, value in typed.items() if value is not nothing}
    return parser, vars(namespace), given


def _recipe_of(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the recipe's content, {} without one, and the other arguments. Put its `env` into the environment."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.error = _refuse
    finder.add_argument("--config", type=Path)
    found, others = finder.parse_known_args(arguments)
    if found.config is None:
        return {}, others
    if not found.config.is_file():
        raise UsageError(f"--config {found.config}: no such file. The recipes are in configs/.")
    try:
        recipe = read_yaml(found.config)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not isinstance(recipe, dict) or not all(isinstance(name, str) for name in recipe):
        raise UsageError(f"--config {found.config} must contain options as `name: value`.")
    environment = recipe.pop("env", {})
    if not isinstance(environment, dict):
        raise UsageError(f"--config {found.config}: env must contain variables as `NAME: value`.")
    os.environ.update({str(name): str(value) for name, value in environment.items()})
    return recipe, others


def _defaults() -> dict[str, Any]:
    """Return option -> default, of all options."""
    return {
        found.name: found.default if found.default_factory is MISSING else found.default_factory()
        for part in CLASSES
        for found in fields(part)
        if found.init
    }


def _prefer_later_length(values: dict[str, Any], given: dict[str, int]) -> list[str]:
    """Let num_train_epochs of the command line replace the recipe's max_steps, which transformers would prefer.

    Returns the names of the replaced options.
    """
    if (given.get("num_train_epochs"), given.get("max_steps")) != (COMMAND_LINE, RECIPE):
        return []
    values["max_steps"] = GemmaLisaTrainingArguments.max_steps
    del given["max_steps"]
    return ["max_steps"]


def _reset_without_effect(
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: GemmaLisaTrainingArguments,
    values: dict[str, Any],
    given: dict[str, int],
) -> list[str]:
    """Reset the recipe's options that have no effect because of the command line, so that they are not recorded."""
    defaults = _defaults()
    names = without_effect(training_args, model_args, data_args, values, given, defaults)
    for part in (model_args, data_args, training_args):
        for name in {found.name for found in fields(part)} & set(names) - set(KEPT):
            setattr(part, name, defaults[name])
    return names


def _from_json(name: str, text: str) -> dict:
    try:
        return parse_json(text)
    except ValueError as error:
        raise UsageError(f"{name}: {show(text)} is not valid JSON ({error}).") from error


def _mixture_of(path: str) -> dict | None:
    """Return the mixture of another recipe."""
    try:
        content = read_yaml(path) if Path(path).is_file() else None
    except ValueError as error:
        raise UsageError(f"mixture: {error}") from error
    if not isinstance(content, dict) or "mixture" not in content:
        raise UsageError(f"mixture: {path} does not exist or has no key `mixture`.")
    return content["mixture"]


def _check_names(part: Any) -> None:
    """Refuse options whose value is empty, as where a shell variable is not set."""
    for found in fields(part):
        value = getattr(part, found.name)
        if isinstance(value, str) and not value.strip() and found.default != value:
            raise UsageError(f"{found.name} is empty. Give it a value or remove it.")


def _check_model(model_args: ModelArguments, training_args: GemmaLisaTrainingArguments) -> None:
    """Refuse combinations of model arguments that are not supported."""
    starts_adapter, has_adapter = model_args.lora_rank is not None, model_args.adapter or is_adapter(model_args.model)
    if starts_adapter and model_args.lora_rank < 1:
        raise UsageError(f"lora_rank must be at least 1, got {model_args.lora_rank}.")
    if (starts_adapter or has_adapter) and training_args.push_to_hub:
        raise UsageError("push_to_hub is not supported for an adapter. Merge it with scripts/export.py and push that.")
    if not (starts_adapter or has_adapter) and (options := given_lora_options(model_args)):
        raise UsageError(f"{', '.join(options)}: only LoRA has this option. Add --lora_rank 16, or remove it.")
    if model_args.load_in_4bit and model_args.load_in_8bit:
        raise UsageError("load_in_4bit and load_in_8bit cannot be combined. Remove one of them.")
    if not (model_args.load_in_4bit or model_args.load_in_8bit):
        return
    name = "load_in_4bit" if model_args.load_in_4bit else "load_in_8bit"
    if not (starts_adapter or has_adapter):
        raise UsageError(f"{name} needs LoRA, because quantized weights cannot be trained. Set lora_rank.")
    if model_args.load_in_8bit and model_args.use_dora:
        raise UsageError(
            "use_dora with load_in_8bit is not supported: PEFT loses the scale of int8 weights. Use load_in_4bit."
        )
    if model_args.load_in_8bit and asks_for_fsdp(training_args):
        raise UsageError(
            "load_in_8bit with FSDP2 is not supported: int8 weights cannot be sharded with their scales. Use "
            "load_in_4bit."
        )
    if is_deepspeed_zero3_enabled():
        raise UsageError(
            f"{name} with ZeRO-3 is not supported: bitsandbytes packs weights with their scales, and ZeRO-3 would "
            "separate them. Use ZeRO-2, or FSDP2 with load_in_4bit."
        )


def given_lora_options(model_args: ModelArguments) -> list[str]:
    """Return the names of LoRA's options, without its rank, that are not at their defaults."""
    names = ("lora_alpha", "lora_dropout", "lora_mlp", "use_rslora", "use_dora")
    return [name for name in names if getattr(model_args, name) != getattr(ModelArguments, name)]


def _check_data(data_args: DataArguments, training_args: GemmaLisaTrainingArguments) -> None:
    """Refuse data arguments that are out of range, and combinations that are not supported."""
    for name in JSON_FIELDS:
        if not isinstance(value := getattr(data_args, name), dict | None):
            raise UsageError(f"{name} must be a JSON object, such as {{...}}, got {show(value)}.")
    for name, least in (("eval_rows", 1), ("preview_samples", 0), ("max_bad", 0), ("max_questions", 1)):
        if (value := getattr(data_args, name)) is not None and value < least:
            raise UsageError(f"{name} must be at least {least}, got {value}.")
    if data_args.mixture is None:
        data_args.dataset = data_args.dataset or "shapes"
        if data_args.epoch_length is not None or data_args.streaming:
            raise UsageError("epoch_length and streaming need a mixture. Remove them, or give a mixture.")
        return
    if data_args.dataset or data_args.dataset_options:
        raise UsageError(
            "mixture replaces dataset and dataset_options. Remove these two; put their options into the mixture."
        )
    if data_args.streaming:
        if data_args.epoch_length is not None or training_args.max_steps < 1:
            raise UsageError("streaming has no epochs. Give max_steps, and remove epoch_length.")
        if "epoch" in (training_args.eval_strategy, training_args.save_strategy):
            raise UsageError("streaming has no epochs. Set eval_strategy and save_strategy to steps or no.")
    elif not isinstance(data_args.epoch_length, int) or data_args.epoch_length < 1:
        raise UsageError("mixture needs epoch_length, the number of samples per epoch, or streaming.")
    if not data_args.mixture:
        raise UsageError("mixture must have at least one group of data sets.")
    if data_args.eval_dataset is None:
        raise UsageError("mixture needs eval_dataset, the data set to evaluate on.")


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"{message}. --help lists the options.")


def check_output_dir(model_args: ModelArguments, output_dir: Path) -> None:
    """Refuse an output_dir that holds the model or adapter to start from."""
    sources = [source for source in (model_args.model, model_args.adapter) if source is not None]
    sources += [read_base(source).name for source in sources if is_adapter(source)]
    if any(Path(source).is_dir() and Path(source).resolve() == output_dir.resolve() for source in sources):
        raise UsageError(f"output_dir {output_dir} holds the model that the training starts from. Give another folder.")

"""The arguments of train.py: which model, which data, and what of them does not go together."""

import argparse
import logging
import os
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
    check_numbers,
    check_training,
    refuse_unknown,
    refuse_unsupported,
    without_effect,
)
from .training_arguments import GemmaLisaTrainingArguments

logger = logging.getLogger(__name__)

JSON_FIELDS = ("dataset_options", "mixture", "languages")
# An option without effect that keeps its value: a run may be extended by max_steps and later by epochs again
KEPT = ("num_train_epochs",)


@dataclass
class ModelArguments:
    """Which model, and what of it learns."""

    model: str = field(metadata={"help": "folder or Hub name of a Gemma-LISA checkpoint, or folder of an adapter"})
    trainable: list[str] | None = field(
        default=None,
        metadata={
            "help": "patterns of parameter names that are trained, all others are frozen; by default seg_projector, "
            "SAM's mask decoder and the language model, beside LoRA without the last"
        },
    )
    ce_loss_weight: float | None = field(default=None, metadata={"help": "instead of the checkpoint's"})
    bce_loss_weight: float | None = field(default=None, metadata={"help": "instead of the checkpoint's"})
    dice_loss_weight: float | None = field(default=None, metadata={"help": "instead of the checkpoint's"})
    score_loss_weight: float | None = field(
        default=None, metadata={"help": "of SAM's scores as estimates of each mask's IoU; instead of the checkpoint's"}
    )
    prompted_loss_weight: float | None = field(
        default=None, metadata={"help": "of masks by simulated points, boxes, corrections; instead of the checkpoint's"}
    )
    adapter: str | None = field(
        default=None, metadata={"help": "folder of an adapter to go on with, where its base, --model, has moved"}
    )
    lora_rank: int | None = field(
        default=None, metadata={"help": "train LoRA layers of this rank in the language model, and the row of [SEG]"}
    )
    lora_alpha: float | None = field(default=None, metadata={"help": "scale of LoRA; by default twice the rank"})
    lora_dropout: float = 0.0
    lora_mlp: bool = field(default=False, metadata={"help": "LoRA in gate, up, down too, not in q, k, v, o only"})
    use_rslora: bool = field(default=False, metadata={"help": "scale by alpha / sqrt(rank), for high ranks"})
    use_dora: bool = field(default=False, metadata={"help": "DoRA: magnitudes are learned apart from directions"})
    load_in_4bit: bool = field(default=False, metadata={"help": "quantise the language model to nf4 below LoRA"})
    load_in_8bit: bool = field(default=False, metadata={"help": "quantise the language model to int8 below LoRA"})


@dataclass
class DataArguments:
    """Which data, and how they are asked."""

    dataset: str | None = field(default=None, metadata={"help": "name of a data set, as in shapes or shapes/easy"})
    mixture: dict | str | None = field(
        default=None, metadata={"help": "instead: groups of sets with weights, or a recipe that has them"}
    )
    epoch_length: int | None = field(default=None, metadata={"help": "samples an epoch of a mixture has"})
    streaming: bool = field(
        default=False,
        metadata={"help": "the mixture's sets are prepared rows and stay where they are; needs max_steps"},
    )
    data_dir: str | None = field(default=None, metadata={"help": "folder of the original files, if there are any"})
    dataset_options: dict | str | None = field(
        default=None, metadata={"help": "options of its builder; on the command line as JSON: '{\"image_size\": 128}'"}
    )
    max_bad: int | None = field(
        default=None,
        metadata={"help": "so many bad files or records a data set may have; they are left out and listed. 0"},
    )
    train_split: str = "train"
    eval_dataset: str | None = field(default=None, metadata={"help": "another data set to evaluate on"})
    eval_split: str = "validation"
    eval_rows: int | None = field(default=None, metadata={"help": "evaluate on the first so many rows only"})
    max_questions: int = field(default=4, metadata={"help": "targets asked of an image at once, each isolated"})
    allow_leakage: bool = field(
        default=False, metadata={"help": "train on photos of validation and test splits too; results.json will say so"}
    )
    languages: dict | str | None = field(
        default=None, metadata={"help": 'shares of the languages asked in, as {"en": 4, "ja": 1}; English by default'}
    )
    conversation_share: float = field(
        default=0.0, metadata={"help": "how often the targets of an image are asked as turns of one dialogue"}
    )
    translations: str | None = field(
        default=None, metadata={"help": 'JSON file: what a language says for a phrase, {"ja": {"wall": "壁"}}'}
    )
    learn_masks: bool = field(
        default=True, metadata={"help": "false: learn words only; SAM sees one blank image a step"}
    )
    preview_samples: int = field(default=8, metadata={"help": "held-out questions drawn at each evaluation; 0 = none"})
    max_new_tokens: int = field(default=64, metadata={"help": "maximum number of tokens of an answer in a preview"})


CLASSES = (ModelArguments, DataArguments, GemmaLisaTrainingArguments)


def parse(arguments: list[str]) -> tuple[ModelArguments, DataArguments, GemmaLisaTrainingArguments]:
    """The recipe and the command line as dataclasses.

    Raises:
        UsageError: an unknown or unsupported option, one without an effect, a recipe that is not there, or what this
            model cannot do.
    """
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
    if not data_args.learn_masks and (training_args.eval_strategy != "no" or training_args.eval_on_start):
        raise UsageError("learn_masks: false has no masks to evaluate; use eval_strategy: no, and eval.py afterwards.")
    if training_args.fp16 or training_args.fp16_full_eval or training_args.mixed_precision == "fp16":
        raise UsageError("fp16: Gemma 3's activations exceed its range and become NaN; use --bf16 true.")
    if training_args.bf16 and given.get("bf16") == COMMAND_LINE and not values["bf16"]:
        raise UsageError("bf16 false, but accelerate launch was given mixed_precision bf16; give only one of them.")
    if training_args.fresh and training_args.resume_from_checkpoint:
        raise UsageError("fresh begins anew and resume_from_checkpoint does not; choose one of them.")
    check_processes(training_args)
    check_engine(training_args)
    check_training(training_args)
    superseded += _reset_without_effect(model_args, data_args, training_args, values, given)
    if superseded and training_args.should_log:
        logger.warning("the recipe's %s: without effect, as the command line decides", ", ".join(superseded))
    return model_args, data_args, training_args


def given_options(arguments: list[str]) -> dict[str, int]:
    """Name of each option that was given -> `option_checks.RECIPE` or `COMMAND_LINE`, whichever counts."""
    return _read(arguments)[2]


def _read(arguments: list[str]) -> tuple[TrlParser, dict[str, Any], dict[str, int]]:
    """The parser, the values of all options, and where those that were given come from (`given_options`)."""
    recipe, arguments = _recipe_of(arguments)
    parser = TrlParser(CLASSES, allow_abbrev=False)
    parser.error = _refuse  # argparse's own prints the usage first: a hundred lines here
    names = list(_defaults())
    refuse_unknown(recipe, names)
    # As words, numbers are converted and checked as those of the command line are
    defaults = {name: str(value) if type(value) in (int, float) else value for name, value in recipe.items()}
    parser.set_defaults_with_config(**defaults)
    namespace, extra = parser.parse_known_args(arguments)
    refuse_unknown((word.partition("=")[0].lstrip("-") for word in extra if word.startswith("--")), names)
    if extra:
        raise UsageError(f"{extra[0]} belongs to no option; --help lists what there is.")
    nothing = object()
    parser.set_defaults(**dict.fromkeys(names, nothing))
    typed = vars(parser.parse_known_args(arguments)[0])
    given = dict.fromkeys(recipe, RECIPE)
    given |= {name: COMMAND_LINE for name, value in typed.items() if value is not nothing}
    return parser, vars(namespace), given


def _recipe_of(arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The content of the recipe, {} without one, and the other arguments. Its `env` is set as the environment."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.error = _refuse
    finder.add_argument("--config", type=Path)
    found, others = finder.parse_known_args(arguments)
    if found.config is None:
        return {}, others
    if not found.config.is_file():
        raise UsageError(f"--config {found.config}: no such file; the recipes are in configs/.")
    try:
        recipe = read_yaml(found.config)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not isinstance(recipe, dict) or not all(isinstance(name, str) for name in recipe):
        raise UsageError(f"--config {found.config} must hold options as `name: value`.")
    environment = recipe.pop("env", {})
    if not isinstance(environment, dict):
        raise UsageError(f"--config {found.config}: env must hold variables as `NAME: value`.")
    os.environ.update({str(name): str(value) for name, value in environment.items()})
    return recipe, others


def _defaults() -> dict[str, Any]:
    """Option -> its default, of all options."""
    return {
        found.name: found.default if found.default_factory is MISSING else found.default_factory()
        for part in CLASSES
        for found in fields(part)
        if found.init
    }


def _prefer_later_length(values: dict[str, Any], given: dict[str, int]) -> list[str]:
    """Let epochs of the command line win over the recipe's max_steps, which would win in transformers."""
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
    """Reset the recipe's options that have no effect beside the later ones, so that none of them is recorded."""
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
        raise UsageError(f"{name}: {show(text)} is not JSON ({error}).") from error


def _mixture_of(path: str) -> dict | None:
    """The mixture of another recipe."""
    try:
        content = read_yaml(path) if Path(path).is_file() else None
    except ValueError as error:
        raise UsageError(f"mixture: {error}") from error
    if not isinstance(content, dict) or "mixture" not in content:
        raise UsageError(f"mixture: {path} is not there or has no mixture in it.")
    return content["mixture"]


def _check_names(part: Any) -> None:
    """Refuse fields that are given an empty text, as a recipe with an unset variable does."""
    for found in fields(part):
        value = getattr(part, found.name)
        if isinstance(value, str) and not value.strip() and found.default != value:
            raise UsageError(f"{found.name} is empty; give it a value or leave it out.")


def _check_model(model_args: ModelArguments, training_args: GemmaLisaTrainingArguments) -> None:
    """Refuse model arguments that do not go together."""
    starts_adapter, has_adapter = model_args.lora_rank is not None, model_args.adapter or is_adapter(model_args.model)
    if starts_adapter and model_args.lora_rank < 1:
        raise UsageError("lora_rank counts from 1 on.")
    if (starts_adapter or has_adapter) and training_args.push_to_hub:
        raise UsageError("push_to_hub: an adapter alone does not open by its name; push what scripts/export.py makes.")
    if not (starts_adapter or has_adapter) and (options := given_lora_options(model_args)):
        raise UsageError(f"{', '.join(options)} without LoRA; set lora_rank, as --lora_rank 16.")
    if model_args.load_in_4bit and model_args.load_in_8bit:
        raise UsageError("load_in_4bit and load_in_8bit: choose one of them.")
    if not (model_args.load_in_4bit or model_args.load_in_8bit):
        return
    name = "load_in_4bit" if model_args.load_in_4bit else "load_in_8bit"
    if not (starts_adapter or has_adapter):
        raise UsageError(f"{name} without LoRA: steps are too small for quantised weights; set lora_rank.")
    if model_args.load_in_8bit and model_args.use_dora:
        raise UsageError("use_dora with load_in_8bit: PEFT loses the scale of int8 weights there; use load_in_4bit.")
    if model_args.load_in_8bit and asks_for_fsdp(training_args):
        raise UsageError(
            "load_in_8bit with FSDP2: int8 weights cannot be cut apart from their scales; use load_in_4bit."
        )
    if is_deepspeed_zero3_enabled():
        raise UsageError(
            f"{name} with ZeRO-3: it cuts weights apart that bitsandbytes has packed with their scales; use ZeRO-2, "
            "or FSDP2 with load_in_4bit."
        )


def given_lora_options(model_args: ModelArguments) -> list[str]:
    """Names of the options of LoRA, beside its rank, that are not at their defaults."""
    names = ("lora_alpha", "lora_dropout", "lora_mlp", "use_rslora", "use_dora")
    return [name for name in names if getattr(model_args, name) != getattr(ModelArguments, name)]


def _check_data(data_args: DataArguments, training_args: GemmaLisaTrainingArguments) -> None:
    """Refuse data arguments that do not go together."""
    for name in JSON_FIELDS:
        if not isinstance(value := getattr(data_args, name), dict | None):
            raise UsageError(f"{name}: {show(value)}; names and values are needed, as {{...}}.")
    if data_args.eval_rows is not None and data_args.eval_rows < 1 or data_args.preview_samples < 0:
        raise UsageError("eval_rows counts from 1 on, preview_samples from 0 on.")
    if data_args.max_bad is not None and data_args.max_bad < 0:
        raise UsageError("max_bad counts from 0 on.")
    if data_args.max_questions < 1:
        raise UsageError("max_questions counts from 1 on.")
    if data_args.mixture is None:
        data_args.dataset = data_args.dataset or "shapes"
        if data_args.epoch_length is not None or data_args.streaming:
            raise UsageError("epoch_length and streaming are of a mixture; an epoch of one data set is all its rows.")
        return
    if data_args.dataset or data_args.dataset_options:
        raise UsageError("mixture names its data sets and their options itself; leave dataset and its options out.")
    if data_args.streaming:
        if data_args.epoch_length is not None or training_args.max_steps < 1:
            raise UsageError("streaming: a stream has no epochs; give max_steps, and no epoch_length.")
        if "epoch" in (training_args.eval_strategy, training_args.save_strategy):
            raise UsageError("streaming: a stream has no epochs; set eval_strategy and save_strategy to steps or no.")
    elif not isinstance(data_args.epoch_length, int) or data_args.epoch_length < 1:
        raise UsageError("mixture needs epoch_length, the number of samples in an epoch; or streaming.")
    if not data_args.mixture:
        raise UsageError("mixture needs a group of data sets.")
    if data_args.eval_dataset is None:
        raise UsageError("mixture: eval_dataset names the data set to evaluate on.")


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"{message}; --help lists what there is.")


def check_output_dir(model_args: ModelArguments, output_dir: Path) -> None:
    """Refuse to write over what the training starts from."""
    sources = [source for source in (model_args.model, model_args.adapter) if source is not None]
    sources += [read_base(source).name for source in sources if is_adapter(source)]
    if any(Path(source).is_dir() and Path(source).resolve() == output_dir.resolve() for source in sources):
        raise UsageError(f"output_dir {output_dir}: the training starts from what is there; give another folder.")

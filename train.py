"""Train or fine-tune a Gemma-LISA.

    python train.py --config configs/shapes.yaml --model outputs/demo/words --output_dir outputs/shapes
    torchrun --nproc_per_node 2 train.py --config configs/shapes.yaml --model outputs/demo/words \
        --output_dir outputs/shapes --per_device_train_batch_size 8

The recipe (YAML) sets defaults, the command line overrides them, an unknown key is an error. What is not listed here
is a field of transformers' TrainingArguments.
"""

import logging
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from gemma_lisa.checkpoints.adapter_base import identify, is_adapter
from gemma_lisa.checkpoints.loading import open_checkpoint
from gemma_lisa.checkpoints.lora import (
    TRAINED_WITH_LORA,
    AdaptedGemmaLisa,
    add_lora,
    check_trainable,
    count_weights,
    hold_in,
    options_of,
    part_of_weight,
    trained_names,
    trained_whole,
    type_of,
    whole_modules,
)
from gemma_lisa.checkpoints.training_record import Record, command_of
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.leakage import held_out_images
from gemma_lisa.datasets_builder.mixture import load_mixture, load_rows, load_training_rows, sets_of, tolerating
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, MixtureQuestions, TrainingQuestions
from gemma_lisa.datasets_builder.streams import StreamedQuestions
from gemma_lisa.datasets_builder.templates import ENGLISH, Phrasing
from gemma_lisa.interfaces.command_line import run
from gemma_lisa.interfaces.output_checks import check_run_folder
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.secret_names import secrets_of
from gemma_lisa.training.arguments import (
    DataArguments,
    ModelArguments,
    check_output_dir,
    given_lora_options,
    given_options,
    parse,
)
from gemma_lisa.training.distributed import engine_of, hold_constants, whole_weights
from gemma_lisa.training.optimizers import build_muon, describe_groups
from gemma_lisa.training.overfit_check import self_check
from gemma_lisa.training.previews import PreviewCallback
from gemma_lisa.training.resume import ForgetCallback, begin, settings_of
from gemma_lisa.training.run_lock import run_locked
from gemma_lisa.training.trainer import GemmaLisaTrainer, groups_of, measured_scores
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

logger = logging.getLogger("gemma_lisa.train")

# Patterns of what is trained by default, without LoRA.
TRAINED_WHOLE = ["model.language_model.*", "seg_projector.*", "sam.mask_decoder.*"]
# Parameters of a model, and rows of a step, that do not go together
LARGE_MODEL, SMALL_BATCH = 1_000_000_000, 64


# ---------------------------------------------------------------------------------------------------------------------
# Model and data
# ---------------------------------------------------------------------------------------------------------------------
def load_model(
    model_args: ModelArguments, compute_dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> tuple[GemmaLisaForConditionalGeneration | AdaptedGemmaLisa, GemmaLisaProcessor]:
    """The checkpoint, with what is trainable set so and held in fp32. What is frozen is in `compute_dtype`, unless the
    language model itself is trained: then all is in fp32.

    Raises:
        ValueError: a checkpoint that is not whole (`load_checkpoint`); a pattern that matches no parameter; an adapter
            other than the options of LoRA say.
    """
    quantization = {"load_in_4bit": model_args.load_in_4bit, "load_in_8bit": model_args.load_in_8bit, "device": device}
    uses_adapter = model_args.lora_rank is not None or model_args.adapter or is_adapter(model_args.model)
    dtype = compute_dtype if uses_adapter else torch.float32
    model, processor = open_checkpoint(model_args.model, dtype, model_args.adapter, **quantization, is_trainable=True)
    check_trainable(model, model_args.lora_rank is not None, model_args.use_dora, model_args.model)
    for name in ("ce", "bce", "dice", "score", "prompted"):
        name = f"{name}_loss_weight"
        if (weight := getattr(model_args, name)) is not None:
            setattr(model.config, name, weight)

    if isinstance(model, AdaptedGemmaLisa):
        check_adapter(model, model_args)
    elif model_args.lora_rank is not None:
        model = add_lora(
            model,
            model_args.lora_rank,
            model_args.lora_alpha,
            model_args.lora_dropout,
            model_args.lora_mlp,
            model_args.use_rslora,
            model_args.use_dora,
            model_args.trainable or TRAINED_WITH_LORA,
            identify(model_args.model),
        )
    else:
        trained = trained_names(model, model_args.trainable or TRAINED_WHOLE)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        if not any(name.startswith("model.language_model.") for name in trained):
            hold_in(model, compute_dtype, only_frozen=True)
    return model, processor


def check_adapter(model: AdaptedGemmaLisa, model_args: ModelArguments) -> None:
    """The adapter that is gone on with is what the arguments ask for, as far as they do.

    Raises:
        ValueError: it was made with other options.
    """
    made = options_of(model)
    asked = made if model_args.lora_rank is not None else given_lora_options(model_args)
    wanted = {name: getattr(model_args, name) for name in asked}
    if wanted.get("lora_alpha", 0) is None:
        wanted["lora_alpha"] = 2 * model_args.lora_rank
    wrong = [f"{name} {made[name]}, not {value}" for name, value in wanted.items() if made[name] != value]
    trainable = model_args.trainable or (TRAINED_WITH_LORA if model_args.lora_rank is not None else None)
    if trainable is not None and (found := trained_whole(model)) != set(
        modules := whole_modules(model.get_base_model(), trainable)
    ):
        wrong.append(f"trained whole {', '.join(sorted(found))}, not {', '.join(modules)}")
    if wrong:
        raise ValueError(
            f"{model_args.adapter or model_args.model}: an adapter made with {'; '.join(wrong)}. Leave the options out "
            "to go on with it; to start another on top, merge it with scripts/export.py first."
        )


def find_held_out(data_args: DataArguments) -> dict[int, str] | None:
    """The photos that must not be trained on (`leakage.held_out_images`), {} where no split is known; none: all may."""
    if data_args.allow_leakage:
        return None
    folders = [data_args.data_dir, *(options.get("data_dir") for options in sets_of(data_args.mixture or {}).values())]
    held_out = {}
    for folder in dict.fromkeys(folder for folder in folders if folder is not None):
        if (Path(folder) / "refer_seg").is_dir():
            held_out |= held_out_images(folder)
    return held_out


def load_questions(
    data_args: DataArguments, args: GemmaLisaTrainingArguments, held_out: dict[int, str] | None
) -> tuple[TrainingQuestions | MixtureQuestions | StreamedQuestions, EvaluationQuestions]:
    """What is trained on, and what is evaluated on.

    Raises:
        ValueError: what is wrong with the data or with what they are called.
    """
    translations = {}
    if data_args.translations is not None:
        try:
            translations = parse_json(Path(data_args.translations).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"translations: {data_args.translations} cannot be read as JSON ({error}).") from error
        if not isinstance(translations, dict):
            raise ValueError(f"translations: {data_args.translations} is no table of languages, as {{'ja': ...}}.")
    phrasing = Phrasing(data_args.languages or {ENGLISH: 1.0}, translations, data_args.dialogue_share)
    place = (data_args.train_split, data_args.data_dir)
    if data_args.mixture is None:
        options = tolerating(data_args.dataset, data_args.dataset_options, data_args.max_bad)
        rows = load_training_rows(data_args.dataset, *place, options, held_out)
        asked = TrainingQuestions(rows, args.order_seed, data_args.max_questions, phrasing)
    else:
        parts = load_mixture(data_args.mixture, *place, held_out, data_args.streaming, data_args.max_bad)
        if data_args.streaming:
            readers = (args.process_index, args.world_size, args.dataloader_num_workers)
            asked = StreamedQuestions(parts, args.order_seed, data_args.max_questions, phrasing, *readers)
        else:
            asked = MixtureQuestions(parts, args.order_seed, data_args.max_questions, data_args.epoch_length, phrasing)

    name = data_args.eval_dataset or data_args.dataset
    options = data_args.dataset_options if name == data_args.dataset else sets_of(data_args.mixture or {}).get(name)
    options = tolerating(name, options, data_args.max_bad)
    eval_rows = load_rows(name, data_args.eval_split, options.pop("data_dir", data_args.data_dir), options)
    if data_args.eval_rows is not None:
        eval_rows = eval_rows.select(range(min(data_args.eval_rows, len(eval_rows))))
    questions = EvaluationQuestions(eval_rows, with_conversations=False)
    if not len(questions):
        raise ValueError(f"{name} {data_args.eval_split} asks for no mask; eval_dataset names a data set that does.")
    return asked, questions


def check_best_metric(args: GemmaLisaTrainingArguments, questions: EvaluationQuestions) -> None:
    """Refuse a `metric_for_best_model` that these questions cannot measure.

    Raises:
        UsageError: which one, and those that they can.
    """
    if args.metric_for_best_model is None or args.eval_strategy == "no":
        return
    measured = measured_scores(questions)
    if (name := args.metric_for_best_model.removeprefix("eval_")) not in measured:
        raise UsageError(
            f"metric_for_best_model {name}: the evaluation questions do not measure it; use one of "
            f"{', '.join(sorted(measured))}."
        )


def check_learning_rate(model: torch.nn.Module, args: GemmaLisaTrainingArguments, given: dict[str, int]) -> None:
    """Refuse a `learning_rate` that no trained part has because each has its own.

    Raises:
        UsageError: which rates replace it.
    """
    own = [name for name in given if name in {f"{part}_learning_rate" for part in args.part_rates}]
    if args.muon_learning_rate is not None or given.get("learning_rate", 0) < max(map(given.get, own), default=1):
        return
    if all(args.part_rates.get(group["part"]) is not None for group in groups_of(model, args)):
        raise UsageError(
            f"learning_rate {args.learning_rate} has no effect: every trained part has a rate of its own. Change "
            f"{', '.join(own)}, or remove learning_rate."
        )


def describe_data(
    data_args: DataArguments,
    train_questions: TrainingQuestions | MixtureQuestions | StreamedQuestions,
    eval_questions: EvaluationQuestions,
) -> list[str]:
    """What is trained and evaluated on, a line each."""
    if data_args.mixture is None:
        count = f"{len(train_questions):,} rows (images, each asked several questions)"
        lines = [f"{data_args.dataset} {data_args.train_split}: {count}"]
    else:
        lines = train_questions.describe()
    name = data_args.eval_dataset or data_args.dataset
    return [*lines, f"{name} {data_args.eval_split}: {len(eval_questions):,} questions"]


def describe(model, data: list[str], args: GemmaLisaTrainingArguments) -> str:
    """What is about to happen, in a few lines. data: those about the data."""
    trained, total = Counter(), Counter()
    types = {True: Counter(), False: Counter()}
    for name, parameter in model.named_parameters():
        if (part := part_of_weight(name)) is not None:
            total[part] += count_weights(parameter)
            trained[part] += count_weights(parameter) * parameter.requires_grad
            types[parameter.requires_grad][type_of(parameter)] += count_weights(parameter)
    held = {
        is_trained: " and ".join(name for name, count in found.most_common() if 100 * count >= found.total())
        for is_trained, found in types.items()
    }  # what is held in a type of less than 1 % is not told
    rates = describe_groups(groups_of(model, args)) if args.muon_learning_rate is None else []
    if sum(total.values()) > LARGE_MODEL and args.rows_a_step < SMALL_BATCH:
        rates.append(
            f"WARNING: {args.rows_a_step} rows a step are few for a model of this size. LISA's paper has 160, and "
            "small steps are what its users failed with; raise global_batch_size, which costs no memory."
        )
    return "\n".join(
        [
            *(f"  {line}" for line in data),
            f"  {sum(trained.values()):,} of {sum(total.values()):,} parameters are trained:",
            *(f"    {part:32s} {trained[part]:>14,} of {total[part]:>14,}" for part in total),
            f"  {args.world_size} process(es), {engine_of(args)}, on {_device_name(args)}, weights in "
            f"{held[True]}{f' (frozen: {held[False]})' if held[False] not in ('', held[True]) else ''}, "
            f"computed in {'bf16' if args.bf16 else 'fp32'}",
            f"  {args.rows_a_step} rows a step = {args.train_batch_size} a device × "
            f"{args.gradient_accumulation_steps} micro-batches × {args.world_size} process(es)",
            *(f"  {line}" for line in rates),
        ]
    )


def muon_of(args: GemmaLisaTrainingArguments) -> tuple[Callable, dict[str, Any]] | None:
    """What tells Trainer to use Muon, where the arguments give it a rate."""
    if args.muon_learning_rate is None:
        return None
    options = {
        "muon_lr": args.muon_learning_rate,
        "adamw_lr": args.learning_rate,
        "weight_decay": args.weight_decay,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
    }
    return lambda: build_muon, options  # Trainer calls a factory with the whole model


def _device_name(args: GemmaLisaTrainingArguments) -> str:
    return torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else f"cpu, {os.cpu_count()} cores"


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------
def main(arguments: list[str]) -> None:
    model_args, data_args, training_args = parse(arguments)
    check_output_dir(model_args, Path(training_args.output_dir))
    read = [data_args.data_dir, (data_args.dataset_options or {}).get("data_dir")]
    check_run_folder(Path(training_args.output_dir), read, draws=bool(data_args.preview_samples))
    with run_locked(training_args):
        train(arguments, model_args, data_args, training_args)


def train(
    arguments: list[str],
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: GemmaLisaTrainingArguments,
) -> None:
    """Train in a folder that no other run writes to."""
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO if training_args.should_log else logging.WARNING)
    set_seed(training_args.seed)
    # Confident masks and attention make numbers below 1e-38, on which a CPU computes several times slower
    torch.set_flush_denormal(training_args.device.type == "cpu")
    compute_dtype = torch.bfloat16 if training_args.bf16 else torch.float32
    with whole_weights(training_args):
        model, processor = load_model(model_args, compute_dtype, training_args.device)
    hold_constants(model)

    with training_args.main_process_first(desc="preparing the data"):
        held_out = find_held_out(data_args)
        train_questions, eval_questions = load_questions(data_args, training_args, held_out)
    check_best_metric(training_args, eval_questions)
    check_learning_rate(model, training_args, given_options(arguments))
    data = describe_data(data_args, train_questions, eval_questions)
    logger.info("%s", describe(model, data, training_args))

    settings = settings_of(
        [model_args, data_args],
        training_args,
        secrets_of(arguments),
        weights=identify(model_args.adapter or model_args.model).fingerprint,
        rows_a_step=training_args.rows_a_step,
        rows=data[:-1],  # the last is what is evaluated on
    )
    start = begin(training_args, settings, command_of(arguments))
    for line in start.says:
        logger.info("%s", line)
    if start.is_finished:
        return
    record = Record(
        model_args.adapter or model_args.model,
        arguments,
        start.checkpoint,
        seed=training_args.seed,
        rows_a_step=training_args.rows_a_step,
        processes=training_args.world_size,
        device=_device_name(training_args),
        data=data,
        settings=settings,
        allow_leakage=data_args.allow_leakage,
        held_out=sorted({split.rpartition("/")[0] for split in (held_out or {}).values()}),
    )
    callbacks = [ForgetCallback(start)]
    if data_args.preview_samples:
        count = min(data_args.preview_samples, len(eval_questions))
        samples = [eval_questions[at] for at in range(0, len(eval_questions), len(eval_questions) // count)][:count]
        callbacks.append(PreviewCallback(processor, samples, data_args.max_new_tokens))
    trainer = GemmaLisaTrainer(
        model=model,
        args=training_args,
        data_collator=GemmaLisaCollator(
            processor,
            data_args.learn_masks,
            with_sources=True,
            as_bytes=True,
            mask_loss_size=model.config.mask_loss_size,
        ),
        train_dataset=train_questions,
        eval_dataset=eval_questions,
        processing_class=processor,
        callbacks=callbacks,
        optimizer_cls_and_kwargs=muon_of(training_args),
        record=record,
    )
    if training_args.self_check and start.checkpoint is None:
        self_check(
            trainer,
            lambda folder: load_model(
                replace(model_args, model=str(folder), adapter=None), compute_dtype, training_args.device
            )[0],
        )
        logger.info("self-check passed")
    trainer.train(resume_from_checkpoint=start.checkpoint)
    trainer.save_model()
    if trainer.is_world_process_zero():
        print(f"saved {training_args.output_dir}", file=sys.stderr)


if __name__ == "__main__":
    run(main)

"""Describe a run: in a few printed lines before it starts, and in its training record."""

from collections import Counter
from typing import Any

from gemma_lisa.checkpoints.lora import count_weights, part_of_weight, type_of
from gemma_lisa.checkpoints.training_record import Record
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, MixtureQuestions, TrainingQuestions
from gemma_lisa.datasets_builder.streams import StreamedQuestions
from gemma_lisa.safety.short_text import count_of

from .arguments import DataArguments, ModelArguments
from .distributed import device_name, engine_of
from .optimizers import describe_groups
from .trainer import groups_of
from .training_arguments import GemmaLisaTrainingArguments

# Models with more parameters than this need more samples per optimizer step than that
LARGE_MODEL, SMALL_BATCH = 1_000_000_000, 64


def record_of(
    arguments: list[str],
    model_args: ModelArguments,
    data_args: DataArguments,
    args: GemmaLisaTrainingArguments,
    checkpoint: str | None,
    *,
    data: list[str],
    settings: dict[str, Any],
    held_out: dict[int, str] | None,
) -> Record:
    """Return the training record to save in every folder of the run.

    Args:
        checkpoint: checkpoint to resume from, or None.
        data: lines of `describe_data`.
        settings: result of `resume.settings_of`.
        held_out: photos that are not trained on (`find_held_out`).
    """
    return Record(
        model_args.adapter or model_args.model,
        arguments,
        checkpoint,
        seed=args.seed,
        global_batch_size=args.samples_per_step,
        processes=args.world_size,
        device=device_name(args),
        data=data,
        settings=settings,
        allow_leakage=data_args.allow_leakage,
        held_out=sorted({split.rpartition("/")[0] for split in (held_out or {}).values()}),
    )


def describe_data(
    data_args: DataArguments,
    train_questions: TrainingQuestions | MixtureQuestions | StreamedQuestions,
    eval_questions: EvaluationQuestions,
) -> list[str]:
    """Return lines about the data for training and evaluation."""
    if data_args.mixture is None:
        count = f"{count_of(len(train_questions), 'row')} (images, each with several questions)"
        lines = [f"{data_args.dataset} {data_args.train_split}: {count}"]
    else:
        lines = train_questions.describe()
    name = data_args.eval_dataset or data_args.dataset
    return [*lines, f"{name} {data_args.eval_split}: {count_of(len(eval_questions), 'question')}"]


def describe(model, data: list[str], args: GemmaLisaTrainingArguments) -> str:
    """Return a few lines about the run. data: lines of `describe_data`."""
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
    }  # data types of less than 1% of the parameters are not listed
    rates = describe_groups(groups_of(model, args)) if args.muon_learning_rate is None else []
    if sum(total.values()) > LARGE_MODEL and args.samples_per_step < SMALL_BATCH:
        rates.append(
            f"WARNING: {count_of(args.samples_per_step, 'sample')} per optimizer step is low for a model of this "
            "size. LISA's paper uses 160. Set a larger global_batch_size; it needs no more memory."
        )
    return "\n".join(
        [
            *(f"  {line}" for line in data),
            f"  {sum(trained.values()):,} of {sum(total.values()):,} parameters are trained:",
            *(f"    {part:32s} {trained[part]:>14,} of {total[part]:>14,}" for part in total),
            f"  {count_of(args.world_size, 'process', 'processes')}, {engine_of(args)}, on {device_name(args)}, "
            f"weights in {held[True]}{f' (frozen: {held[False]})' if held[False] not in ('', held[True]) else ''}, "
            f"computed in {'bf16' if args.bf16 else 'fp32'}",
            f"  {count_of(args.samples_per_step, 'sample')} per optimizer step = {args.train_batch_size} per device × "
            f"{count_of(args.gradient_accumulation_steps, 'micro-batch', 'micro-batches')} × "
            f"{count_of(args.world_size, 'process', 'processes')}",
            *(f"  {line}" for line in rates),
        ]
    )

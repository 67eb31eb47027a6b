"""Describe a run: to people in a few lines before it begins, and in its training record."""

from collections import Counter
from typing import Any

from gemma_lisa.checkpoints.lora import count_weights, part_of_weight, type_of
from gemma_lisa.checkpoints.training_record import Record
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, MixtureQuestions, TrainingQuestions
from gemma_lisa.datasets_builder.streams import StreamedQuestions

from .arguments import DataArguments, ModelArguments
from .distributed import device_name, engine_of
from .optimizers import describe_groups
from .trainer import groups_of
from .training_arguments import GemmaLisaTrainingArguments

# Parameters of a model, and samples per optimizer step, that do not go together
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
    """Return the training record that every folder of the run gets.

    Args:
        checkpoint: to resume from, or None.
        data: lines of `describe_data`.
        settings: of `resume.settings_of`.
        held_out: photos that are not trained on (`find_held_out`).
    """
    return Record(
        model_args.adapter or model_args.model,
        arguments,
        checkpoint,
        seed=args.seed,
        global_batch_size=args.rows_a_step,
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
            f"WARNING: {args.rows_a_step} samples per optimizer step are few for a model of this size. LISA's paper "
            "has 160, and small steps are what its users failed with; raise global_batch_size, which costs no memory."
        )
    return "\n".join(
        [
            *(f"  {line}" for line in data),
            f"  {sum(trained.values()):,} of {sum(total.values()):,} parameters are trained:",
            *(f"    {part:32s} {trained[part]:>14,} of {total[part]:>14,}" for part in total),
            f"  {args.world_size} process(es), {engine_of(args)}, on {device_name(args)}, weights in "
            f"{held[True]}{f' (frozen: {held[False]})' if held[False] not in ('', held[True]) else ''}, "
            f"computed in {'bf16' if args.bf16 else 'fp32'}",
            f"  {args.rows_a_step} samples per optimizer step = {args.train_batch_size} a device × "
            f"{args.gradient_accumulation_steps} micro-batches × {args.world_size} process(es)",
            *(f"  {line}" for line in rates),
        ]
    )

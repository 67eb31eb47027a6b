"""Fill the feature cache before a training (`--cache_features`)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from gemma_lisa.checkpoints.lora import AdaptedGemmaLisa
from gemma_lisa.datasets_builder.questions import EvaluationQuestions, MixtureQuestions, TrainingQuestions
from gemma_lisa.feature_cache.cache import FeatureCache
from gemma_lisa.feature_cache.encoders import GEMMA, SAM, WORDS, is_trained, open_cache
from gemma_lisa.feature_cache.filling import Processes, Rows, fill
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.short_text import count_of

from .arguments import DataArguments
from .distributed import engine_of, shards_weights
from .option_checks import is_evaluated
from .training_arguments import GemmaLisaTrainingArguments


def open_filled(
    model: nn.Module,
    processor: GemmaLisaProcessor,
    questions: tuple[TrainingQuestions | MixtureQuestions, EvaluationQuestions],
    data_args: DataArguments,
    args: GemmaLisaTrainingArguments,
    log: Callable[[str], None],
) -> FeatureCache | None:
    """Return the cache with the features of all images of the run, or None without `cache_features`.

    The questions then find their images in it. All processes encode a share of the missing images.

    Args:
        model: before an engine wraps it.
        questions: those to train on, and those to evaluate on.
        log: prints a line.

    Raises:
        UsageError: both image encoders are trained, or the cache is incomplete and the engine shards the model.
        ValueError: an image cannot be read, or the processes do not share the folder.
        WriteError: the cache cannot be written.
    """
    if args.cache_features is None:
        return None
    plain = model.get_base_model() if isinstance(model, AdaptedGemmaLisa) else model
    encoders = frozen_encoders(plain, data_args, log)
    cache = open_cache(args.cache_features, plain, processor, encoders, args.bf16)
    missing = fill(
        cache,
        plain,
        processor,
        rows_of_run(questions, args),
        max_gb=args.cache_gb,
        device=args.device,
        use_bf16=args.bf16,
        workers=args.dataloader_num_workers,
        processes=Processes(args.process_index, args.world_size, gather),
        show_progress=args.should_log and not args.disable_tqdm,
        log=log,
    )
    cache.must_be_complete = shards_weights(args)
    if missing and cache.must_be_complete:
        raise UsageError(
            f"cache_features with {engine_of(args)} needs the features of all images, but {count_of(missing, 'image')} "
            "did not fit. Free disk space or raise cache_gb, or remove cache_features."
        )
    for part in questions:
        part.cache = cache
    return cache


def frozen_encoders(model: nn.Module, data_args: DataArguments, log: Callable[[str], None]) -> list[str]:
    """Return the encoders that the run uses and does not train.

    Raises:
        UsageError: there is none.
    """
    used = [GEMMA, SAM] if data_args.learn_masks else [GEMMA]
    trained = [WORDS[encoder] for encoder in used if is_trained(model, encoder)]
    if len(trained) == len(used):
        raise UsageError(
            f"cache_features has no effect: the features of {' and of '.join(trained)} change, because `trainable` "
            "matches them. Remove cache_features, or freeze an encoder."
        )
    if trained:
        log(f"the features of {trained[0]} are not cached, because it is trained")
    return [encoder for encoder in used if not is_trained(model, encoder)]


def rows_of_run(
    questions: tuple[TrainingQuestions | MixtureQuestions, EvaluationQuestions], args: GemmaLisaTrainingArguments
) -> Rows:
    """Return the data sets with the indices of the rows that the run reads."""
    to_train, to_evaluate = questions
    epochs = math.ceil(args.num_train_epochs)
    if args.max_steps > 0:
        epochs = math.ceil(args.max_steps * args.samples_per_step / len(to_train))
    rows = to_train.rows_of_epochs(epochs)
    return rows + to_evaluate.rows_of_epochs(1) if is_evaluated(args) else rows


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, by rank."""
    if not torch.distributed.is_initialized():
        return [value]
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values

"""Answer and judge the questions of a data set with a model."""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from gemma_lisa.checkpoints.loading import load_asked
from gemma_lisa.checkpoints.training_record import circumstances, leakage_of
from gemma_lisa.checkpoints.weights_hash import checkpoint_hash
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.feature_cache import filling
from gemma_lisa.feature_cache.encoders import GEMMA, SAM, open_cache
from gemma_lisa.safety.freed_memory import keep_freed_memory

from .benchmark import Benchmark
from .judging import judge
from .processes import Processes
from .protocols import by_generation, likelihoods, teacher_forced
from .records import Judged, Prediction
from .running import answer_all, plan_batches

GENERATE = "generate"


@dataclass(frozen=True)
class Opened:
    """A loaded model, and what is recorded about it.

    Args:
        model, processor: of a Gemma-LISA.
        facts: model, adapter, weights, checkpoint_hash, leakage and device, as in the results file.
    """

    model: Any
    processor: Any
    facts: dict[str, Any]


def open_model(args: argparse.Namespace, processes: Processes) -> Opened:
    """Load the model of the options (`command_line.add_model_options`) on the device of this process."""
    asked = argparse.Namespace(**{**vars(args), "device": processes.device(args.device)})
    with processes.printing():
        model, processor = load_asked(asked)
    if model.device.type == "cpu":
        keep_freed_memory()
    facts = {
        "model": str(args.model),
        "adapter": args.adapter,
        "weights": "nf4" if args.load_in_4bit else "int8" if args.load_in_8bit else None,
        "checkpoint_hash": checkpoint_hash(args.model, args.adapter),
        "leakage": leakage_of(args.adapter or args.model),
        "device": str(model.device),
    }
    return Opened(model, processor, facts)


def answer_and_judge(
    opened: Opened,
    rows: Dataset,
    benchmark: Benchmark,
    args: argparse.Namespace,
    split: str,
    folder: Path,
    processes: Processes,
) -> tuple[list[Judged], dict[str, Any]]:
    """Return the judged answers to all questions, in order, and facts about the run. Other processes return [].

    Args:
        opened: the model.
        rows, benchmark: the data set, and its questions.
        args: options: protocol, max_new_tokens, batch_size, cache_features, cache_gb, fresh.
        split: name of the split.
        folder: of the answers so far, see `parts`.
        processes: those that share the questions.
    """
    start = time.perf_counter()
    samples = EvaluationQuestions(rows, with_conversations=args.protocol == GENERATE)
    questions = list(benchmark)
    if len(samples) != len(questions):
        raise AssertionError(f"{len(samples)} samples, but {len(questions)} questions.")
    if args.cache_features is not None:
        samples.cache = _filled_cache(opened, samples, args, processes)
    # VQA questions are in their own batches: they need no SAM, and the likelihoods of several are one forward pass
    images = [
        None if question.size is None else (row, question.targets is None)
        for question, (row, _) in zip(questions, samples.questions.tolist(), strict=True)
    ]
    prompts = [
        " ".join([*(text for turn in benchmark.history(number) for text in turn), question.text])
        for number, question in enumerate(questions)
    ]
    batches = plan_batches(prompts, images, args.batch_size)
    settings = {
        **{name: opened.facts[name] for name in ("checkpoint_hash", "weights", "device")},
        **{name: getattr(args, name) for name in ("protocol", "max_new_tokens", "batch_size")},
        **{"dataset": benchmark.dataset, "split": split, "fingerprint": benchmark.fingerprint},
        **{"cached": samples.cache is not None, "type": str(opened.model.dtype)},
        **{name: value for name, value in circumstances().items() if name in ("commit", "versions")},
    }
    settings["device"] = opened.model.device.type
    predictions = answer_all(
        samples,
        [question.id for question in questions],
        batches,
        lambda batch: _answer(opened, batch, args, samples.cache),
        folder,
        settings,
        processes,
        args.fresh,
    )
    facts = {"seconds": round(time.perf_counter() - start, 1), "processes": processes.count}
    if not processes.is_first:
        return [], facts
    return [judge(*pair) for pair in zip(questions, predictions, strict=True)], facts


def _answer(opened: Opened, samples: list[dict[str, Any]], args: argparse.Namespace, cache) -> list[Prediction]:
    """Return the predictions for a batch of samples under the protocol."""
    if args.protocol != GENERATE:
        return teacher_forced(opened.model, opened.processor, samples, cache)
    predictions = by_generation(opened.model, opened.processor, samples, args.max_new_tokens, cache)
    measured = likelihoods(opened.model, opened.processor, samples, cache)
    return [replace(prediction, likelihood=value) for prediction, value in zip(predictions, measured, strict=True)]


def _filled_cache(opened: Opened, samples: EvaluationQuestions, args: argparse.Namespace, processes: Processes):
    """Return the cache with the features of all images of the questions, as far as they fit."""
    # Not by its class, whose import takes seconds
    has_adapter = hasattr(opened.model, "get_base_model")
    plain = opened.model.get_base_model() if has_adapter else opened.model
    cache = open_cache(args.cache_features, plain, opened.processor, [GEMMA, SAM])
    filling.fill(
        cache,
        plain,
        opened.processor,
        samples.rows_of_epochs(1),
        max_gb=args.cache_gb,
        processes=filling.Processes(processes.rank, processes.count, processes.gather),
        show_progress=processes.is_first,
        log=print if processes.is_first else lambda line: None,
    )
    return cache

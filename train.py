"""Train or fine-tune a Gemma-LISA model.

    python train.py --config configs/shapes.yaml --model outputs/demo/words --output_dir outputs/shapes
    torchrun --nproc_per_node 2 train.py --config configs/shapes.yaml --model outputs/demo/words \
        --output_dir outputs/shapes --per_device_train_batch_size 8

The recipe (YAML) sets options, and the command line overrides them. --help lists the most important options,
--help_all lists all of them.
"""

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import transformers
from torch.utils.data import Dataset, IterableDataset

from gemma_lisa.checkpoints.adapter_base import identify
from gemma_lisa.checkpoints.training_record import Record, command_of
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import EvaluationQuestions
from gemma_lisa.feature_cache.cache import FeatureCache
from gemma_lisa.interfaces.command_line import run
from gemma_lisa.interfaces.run_folders import check_run_folder
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.safety.freed_memory import keep_freed_memory
from gemma_lisa.safety.secret_names import secrets_of
from gemma_lisa.training.arguments import DataArguments, ModelArguments, check_output_dir, given_options, parse
from gemma_lisa.training.cache_filling import open_filled
from gemma_lisa.training.describe_run import describe, describe_data, record_of
from gemma_lisa.training.distributed import hold_constants, whole_weights
from gemma_lisa.training.late_checks import check_loaded
from gemma_lisa.training.load_model import load_model
from gemma_lisa.training.load_questions import find_held_out, load_questions
from gemma_lisa.training.optimizers import muon_of
from gemma_lisa.training.overfit_check import self_check
from gemma_lisa.training.previews import PreviewCallback
from gemma_lisa.training.progress import summary_lines
from gemma_lisa.training.resume import DeletePickleCallback, Start, begin, settings_of
from gemma_lisa.training.run_lock import run_locked
from gemma_lisa.training.text_states import TextStates, freeze_text_model
from gemma_lisa.training.trainer import GemmaLisaTrainer
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

logger = logging.getLogger("gemma_lisa.train")


def main(arguments: list[str]) -> None:
    model_args, data_args, args = parse(arguments)
    check_output_dir(model_args, Path(args.output_dir))
    read = [data_args.data_dir, (data_args.dataset_options or {}).get("data_dir")]
    check_run_folder(Path(args.output_dir), read, draws=bool(data_args.preview_samples))
    with run_locked(args):
        train(arguments, model_args, data_args, args)


def train(
    arguments: list[str], model_args: ModelArguments, data_args: DataArguments, args: GemmaLisaTrainingArguments
) -> None:
    """Train in a locked output folder."""
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO if args.should_log else logging.WARNING)
    transformers.set_seed(args.seed)  # imported here, after `quiet_libraries`: it imports bitsandbytes
    # Numbers below 1e-38, from confident masks and attention, make a CPU several times slower
    torch.set_flush_denormal(args.device.type == "cpu")
    if args.device.type == "cpu":
        keep_freed_memory()
    loaded_as = (torch.bfloat16 if args.bf16 else torch.float32, args.device)
    with whole_weights(args):
        model, processor = load_model(model_args, *loaded_as)
    if not data_args.learn_text:
        freeze_text_model(model, args)
    hold_constants(model)
    with args.main_process_first(desc="preparing the data"):
        held_out = find_held_out(data_args)
        questions = load_questions(data_args, args, held_out)
    check_loaded(model, questions[1], args, given_options(arguments))
    data = describe_data(data_args, *questions)
    logger.info("%s", describe(model, data, args))

    weights = identify(model_args.adapter or model_args.model).fingerprint
    facts = {
        "weights": weights,
        "global_batch_size": args.samples_per_step,
        "rows": data[:-1],
    }  # without the evaluation data
    settings = settings_of([model_args, data_args], args, secrets_of(arguments), **facts)
    start = begin(args, settings, command_of(arguments))
    for line in start.messages:
        logger.info("%s", line)
    if start.is_finished:
        return
    run_facts = {"data": data, "settings": settings, "held_out": held_out}
    record = record_of(arguments, model_args, data_args, args, start.checkpoint, **run_facts)
    cache = open_filled(model, processor, questions, data_args, args, logger.info)
    trainer = build_trainer(model, processor, questions, data_args, args, start, record, cache)
    if args.self_check and start.checkpoint is None:
        saved_args = partial(replace, model_args, adapter=None)
        self_check(trainer, lambda folder: load_model(saved_args(model=str(folder)), *loaded_as)[0])
        logger.info("self-check passed")
    trainer.train(resume_from_checkpoint=start.checkpoint)
    trainer.save_model()
    if trainer.is_world_process_zero():
        print("\n".join(summary_lines(trainer.state, args, data_args)), flush=True)


def build_trainer(
    model: transformers.PreTrainedModel,
    processor: GemmaLisaProcessor,
    questions: tuple[Dataset | IterableDataset, EvaluationQuestions],
    data_args: DataArguments,
    args: GemmaLisaTrainingArguments,
    start: Start,
    record: Record,
    cache: FeatureCache | None = None,
) -> GemmaLisaTrainer:
    """Return the trainer of a run. questions: those to train on, and those to evaluate on; cache: of their images."""
    train_questions, eval_questions = questions
    callbacks = [DeletePickleCallback(start)]
    if data_args.preview_samples:
        callbacks.append(PreviewCallback.of(processor, eval_questions, data_args, cache))
    return GemmaLisaTrainer(
        model=model,
        args=args,
        data_collator=GemmaLisaCollator(
            processor,
            data_args.learn_masks,
            with_sources=True,
            as_bytes=True,
            mask_loss_size=model.config.mask_loss_size,
            cache=cache,
        ),
        train_dataset=train_questions,
        eval_dataset=eval_questions,
        processing_class=processor,
        callbacks=callbacks,
        optimizer_cls_and_kwargs=muon_of(args),
        record=record,
        text_states=None if data_args.learn_text else TextStates(model),
    )


if __name__ == "__main__":
    run(main)

"""Shared by the trainer's tests: rows of small scenes, a trainer of a tiny model, and its logged values."""

import copy

import numpy as np
from datasets import Dataset

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import TrainingQuestions
from gemma_lisa.datasets_builder.rows import ROW_FEATURES
from gemma_lisa.datasets_builder.synthetic.shapes import row_of_scene
from gemma_lisa.datasets_builder.synthetic.shapes_easy import draw_scene
from gemma_lisa.training.optimizers import build_muon
from gemma_lisa.training.trainer import GemmaLisaTrainer
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

SIZE = 32  # height and width in pixels
PARTS = ("loss", "language_loss", "mask_bce_loss", "mask_dice_loss")
MUON = (lambda: build_muon, {"muon_lr": 0.01, "adamw_lr": 1e-3, "weight_decay": 0.01, "betas": (0.9, 0.98)})


def scene_row(number):
    generator = np.random.default_rng(number)
    return row_of_scene(draw_scene(generator, SIZE), generator, True, f"drawn/{number}")


def without_masks(row):
    """Return a row with a conversation about its image and without targets."""
    return {**row, "targets": []}


def without_image(row):
    return {**row, "targets": [], "image": None}


def dataset_of(rows):
    return Dataset.from_list(rows, features=ROW_FEATURES)


class Recorded(TrainingQuestions):
    """Training questions that record every question."""

    def __init__(self, *args):
        super().__init__(*args)
        self.asked = []

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        self.asked.append(words_of(sample))
        return sample


def words_of(sample):
    return sample["source"], tuple(conversation.turns for conversation in sample["conversations"])


def trainer_of(
    small, train, folder, kind=GemmaLisaTrainer, evaluation=None, optimizer=None, callbacks=(), args=None, **options
):
    """Return a trainer of a copy of the tiny model. args: training arguments, in place of `options`."""
    model, processor = small
    arguments = {
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        **options,
    }
    return kind(
        model=copy.deepcopy(model),
        args=args or GemmaLisaTrainingArguments(output_dir=str(folder), **arguments),
        data_collator=GemmaLisaCollator(processor),
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=processor,
        callbacks=list(callbacks),
        optimizer_cls_and_kwargs=optimizer,
    )


def logged(trainer, *names):
    return [[entry[name] for name in names] for entry in trainer.state.log_history if "language_loss" in entry]

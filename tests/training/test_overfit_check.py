"""The self-check leaves a good run unchanged, and reports a broken one in one line."""

import copy
import random

import numpy as np
import pytest
import torch
from datasets import Dataset

from gemma_lisa.checkpoints.adapter_base import identify
from gemma_lisa.checkpoints.loading import open_checkpoint
from gemma_lisa.checkpoints.lora import add_lora
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import TrainingQuestions
from gemma_lisa.datasets_builder.rows import ROW_FEATURES
from gemma_lisa.datasets_builder.synthetic.shapes import row_of_scene
from gemma_lisa.datasets_builder.synthetic.shapes_easy import draw_scene
from gemma_lisa.losses_gemma_lisa import IGNORE_INDEX
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training import overfit_check as checking
from gemma_lisa.training.overfit_check import self_check
from gemma_lisa.training.trainer import GemmaLisaTrainer
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

SIZE = 32  # height and width in pixels
TRAINED = ("model.language_model.", "seg_projector.", "sam.mask_decoder.")


def scene_row(number):
    generator = np.random.default_rng(number)
    return row_of_scene(draw_scene(generator, SIZE), generator, True, f"drawn/{number}")


@pytest.fixture(scope="module")
def tiny():
    model, processor = build_tiny(image_size=SIZE)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED))
    return model, processor


@pytest.fixture
def trainer_of(tiny, tmp_path):
    """Makes a trainer with ten rows, of the small model or another."""

    def make(model=None, collator=None, rows=None, **options):
        rows = rows or [scene_row(number) for number in range(10)]
        arguments = {"learning_rate": 5e-3, "per_device_train_batch_size": 4, "disable_tqdm": True, **options}
        return GemmaLisaTrainer(
            model=copy.deepcopy(tiny[0]) if model is None else model,
            args=GemmaLisaTrainingArguments(
                output_dir=str(tmp_path / "out"), use_cpu=True, dataloader_pin_memory=False, **arguments
            ),
            data_collator=collator or GemmaLisaCollator(tiny[1], with_sources=True),
            train_dataset=TrainingQuestions(Dataset.from_list(rows, features=ROW_FEATURES), 0, 2),
            processing_class=tiny[1],
        )

    return make


def reload(folder):
    return open_checkpoint(folder, is_trainable=True)[0]


def drawn():
    return random.random(), np.random.random(), torch.rand(()).item()


def test_a_good_run_passes_and_is_unchanged(trainer_of, tmp_path):
    trainer = trainer_of()
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = drawn()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    self_check(trainer, reload)
    assert drawn() == expected
    after = trainer.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert trainer.optimizer is None and list((tmp_path / "out").iterdir()) == []


def test_a_run_with_lora_passes(tiny, trainer_of, tmp_path):
    tiny[0].save_pretrained(tmp_path / "base")
    tiny[1].save_pretrained(tmp_path / "base")
    model = add_lora(copy.deepcopy(tiny[0]), rank=8, base=identify(tmp_path / "base"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = trainer_of(model, learning_rate=2e-2)
    self_check(trainer, reload)
    after = trainer.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def refusal_of(trainer, reload=reload):
    with pytest.raises(ValueError, match="^self-check: ") as refusal:
        self_check(trainer, reload)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


class Unlabelled(GemmaLisaCollator):
    """Leaves some tokens without a label."""

    removes = staticmethod(lambda labels: torch.ones_like(labels, dtype=torch.bool))

    def __call__(self, samples):
        batch = super().__call__(samples)
        batch["labels"][self.removes(batch["labels"])] = IGNORE_INDEX
        return batch


def test_empty_labels_are_reported(tiny, trainer_of):
    line = refusal_of(trainer_of(collator=Unlabelled(tiny[1], with_sources=True)))
    assert "labels empty: no token of drawn/0" in line


def test_a_seg_token_without_a_label_is_reported(tiny, trainer_of):
    collator = Unlabelled(tiny[1], with_sources=True)
    collator.removes = lambda labels: labels == tiny[1].seg_token_id
    assert "no [SEG] learned" in refusal_of(trainer_of(collator=collator))


def test_rows_without_masks_are_reported(trainer_of):
    rows = [{**scene_row(number), "targets": []} for number in range(10)]
    assert "none of 10 rows has a mask" in refusal_of(trainer_of(rows=rows))


def test_weights_that_are_not_loaded_are_reported(tiny, trainer_of, tmp_path):
    trainer = trainer_of()
    assert "weights not loaded" in refusal_of(trainer, lambda folder: copy.deepcopy(tiny[0]))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_too_small_learning_rate_is_reported(trainer_of, monkeypatch):
    monkeypatch.setattr(checking, "STEPS", 5)
    assert "the language loss does not fall" in refusal_of(trainer_of(learning_rate=1e-6))


def test_a_seg_token_that_is_not_learned_is_reported(trainer_of, monkeypatch):
    monkeypatch.setattr(checking, "STEPS", 5)
    losses_of = checking.losses_of

    def others_fall(*args):
        others_fall.times += 1
        return {**losses_of(*args), "language loss": 1.0 / others_fall.times}

    others_fall.times = 0
    monkeypatch.setattr(checking, "losses_of", others_fall)
    assert "no [SEG] learned: its loss does not fall" in refusal_of(trainer_of(learning_rate=1e-6))


def test_a_constant_mask_loss_is_reported(tiny, trainer_of, monkeypatch):
    monkeypatch.setattr(checking, "STEPS", 5)
    model = copy.deepcopy(tiny[0])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("seg_projector."))
    assert "the mask loss does not fall" in refusal_of(trainer_of(model, learning_rate=1e-6))


def test_trainable_parameters_that_do_not_move_are_reported(tiny, trainer_of, monkeypatch):
    monkeypatch.setattr(checking, "STEPS", 5)
    assert "has a gradient but did not move" in refusal_of(trainer_of(learning_rate=0.0))
    model = copy.deepcopy(tiny[0])
    model.sam.prompt_encoder.point_embed[0].weight.requires_grad_(True)
    assert "sam.prompt_encoder is trainable but did not move" in refusal_of(trainer_of(model, weight_decay=0.0))


def test_frozen_parameters_that_move_are_reported(trainer_of, monkeypatch):
    monkeypatch.setattr(checking, "STEPS", 5)
    trainer = trainer_of()
    frozen = trainer.model.sam.vision_encoder.pos_embed
    memorize = checking.memorize

    def careless(*args):
        with torch.no_grad():
            frozen[0, 0, 0, 0] += 1e-6
        return memorize(*args)

    monkeypatch.setattr(checking, "memorize", careless)
    assert "sam.vision_encoder.pos_embed, one of 1 parameter, is frozen but moved" in refusal_of(trainer)

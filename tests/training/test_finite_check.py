"""A loss or gradient that is not finite ends the run, and its rows are named."""

import json

import pytest
import torch
from safetensors.torch import load_file
from training_runs import dataset_of, scene_row, trainer_of

from gemma_lisa.datasets_builder.questions import TrainingQuestions
from gemma_lisa.training.trainer import GemmaLisaTrainer


class Spoiled(GemmaLisaTrainer):
    """Trainer whose loss is NaN in the second micro-batch of the second step."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        is_it = (self.state.global_step, len(self.step_losses)) == (1, 1)
        hook = model.register_forward_hook(lambda *_: _spoil(_[2])) if is_it else None
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if hook is not None:
            hook.remove()
        return result


def _spoil(outputs):
    outputs["language_loss"] = outputs["language_loss"] * float("nan")
    outputs["loss"] = outputs["loss"] * float("nan")
    return outputs


def test_a_non_finite_loss_ends_the_run_and_names_its_rows(small, tmp_path):
    questions = TrainingQuestions(dataset_of([scene_row(number) for number in range(8)]), 0, 4)
    trainer = trainer_of(
        small,
        questions,
        tmp_path,
        Spoiled,
        max_steps=3,
        gradient_accumulation_steps=2,
        save_strategy="steps",
        save_steps=1,
        train_sampling_strategy="sequential",
    )
    trainer.data_collator.with_sources = True
    with pytest.raises(
        FloatingPointError, match=r"step 2: the loss is not finite.*without saving this step.*checkpoint-1"
    ) as stop:
        trainer.train()
    assert "\n" not in str(stop.value)
    found = json.loads((tmp_path / "nonfinite.json").read_text())
    assert (found["step"], found["grad_norm"]) == (2, "nan")
    assert [batch["sources"] for batch in found["micro_batches"]] == [["drawn/4", "drawn/5"], ["drawn/6", "drawn/7"]]
    good, bad = found["micro_batches"]
    assert isinstance(good["loss"], float) and (bad["loss"], bad["language_loss"], bad["rank"]) == ("nan", "nan", 0)
    assert isinstance(bad["mask_dice_loss"], float)
    saved = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    for name, parameter in trainer.model.named_parameters():
        if name in saved:
            assert torch.equal(parameter, saved[name]), name  # the weights were not updated


def test_an_overflow_ends_the_run(small, tmp_path):
    questions = TrainingQuestions(dataset_of([scene_row(number) for number in range(4)]), 0, 4)
    trainer = trainer_of(small, questions, tmp_path, max_steps=6, learning_rate=1e30)
    with pytest.raises(FloatingPointError, match="is not finite.*--fresh true"):
        trainer.train()
    assert trainer.state.global_step < 6
    assert (tmp_path / "nonfinite.json").exists()


class Huge(GemmaLisaTrainer):
    """Trainer whose gradient has finite values but an infinite norm."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return 1e30 * super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


def test_a_gradient_norm_that_overflows_ends_the_run(small, tmp_path):
    questions = TrainingQuestions(dataset_of([scene_row(number) for number in range(2)]), 0, 4)
    trainer = trainer_of(small, questions, tmp_path, Huge, max_steps=1)
    with pytest.raises(FloatingPointError, match="step 1: the gradient is not finite"):
        trainer.train()
    assert json.loads((tmp_path / "nonfinite.json").read_text())["grad_norm"] == "inf"
    before = dict(small[0].named_parameters())
    assert all(torch.equal(parameter, before[name]) for name, parameter in trainer.model.named_parameters())

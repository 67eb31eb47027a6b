"""The inputs of a new bridge are measured before the first step, once."""

import pytest
import torch
from training_runs import SIZE, dataset_of, scene_row, trainer_of, without_masks

from gemma_lisa.bridge_gemma_lisa import Standardize
from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import TrainingQuestions
from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training import measure_bridge


@pytest.fixture(scope="module")
def mapped():
    return build_tiny(image_size=SIZE, bridge="heat_map")


@pytest.fixture
def questions():
    return TrainingQuestions(dataset_of([scene_row(number) for number in range(8)]), 0, 4)


def inputs_of_bridge(model, processor, questions):
    """Return the inputs of each Standardize module, (N, size) each, for all rows."""
    found = {name: [] for name, module in model.named_modules() if isinstance(module, Standardize)}
    for name, taken in found.items():
        hook = lambda module, inputs, taken=taken: taken.append(inputs[0].flatten(0, -2))  # noqa: E731
        model.get_submodule(name).register_forward_pre_hook(hook)
    with torch.no_grad():
        model.eval()(**GemmaLisaCollator(processor)([questions[at] for at in range(8)]))
    return {name: torch.cat(taken) for name, taken in found.items()}


def run(mapped, questions, folder, **options):
    trainer = trainer_of(mapped, questions, folder, **{"max_steps": 1, "learning_rate": 0.0, **options})
    trainer.train()
    return trainer


def test_each_input_has_the_mean_and_deviation_of_the_training_data(mapped, questions, tmp_path, monkeypatch):
    monkeypatch.setattr(measure_bridge, "ENOUGH_STATES", 10_000)  # all rows
    model = run(mapped, questions, tmp_path).model
    found = inputs_of_bridge(model, mapped[1], questions)
    assert set(found) == {f"seg_projector.{name}_scale" for name in ("state", "sam", "gemma")}
    for name, inputs in found.items():
        module = model.get_submodule(name)
        torch.testing.assert_close(module.mean, inputs.mean(0), rtol=1e-3, atol=1e-4)
        deviation = inputs.std(0, correction=0)
        assert (module.spread >= 0.999 * deviation).all() and (
            module.spread < deviation + 0.02 * deviation.mean()
        ).all()


def test_measured_modules_keep_their_numbers(mapped, questions, tmp_path):
    first = run(mapped, questions, tmp_path / "first").model
    before = {name: buffer.clone() for name, buffer in first.named_buffers() if "_scale." in name}
    others = TrainingQuestions(dataset_of([scene_row(number) for number in range(20, 28)]), 0, 4)
    again = run((first, mapped[1]), others, tmp_path / "again").model
    assert len(before) == 6
    assert all(torch.equal(again.get_buffer(name), value) for name, value in before.items())


def test_a_training_without_masks_measures_nothing(mapped, tmp_path):
    text = TrainingQuestions(dataset_of([without_masks(scene_row(number)) for number in range(4)]), 0, 4)
    model = run(mapped, text, tmp_path).model
    assert not any(module.is_measured for module in model.modules() if isinstance(module, Standardize))


def test_the_training_data_and_their_order_do_not_change(mapped, questions, tmp_path, monkeypatch):
    losses = []
    for most in (32, 0):  # with and without measuring; a learning rate of 0 keeps the weights
        monkeypatch.setattr(measure_bridge, "MOST_BATCHES", most)
        trainer = run(mapped, questions, tmp_path / str(most), max_steps=3)
        losses.append([entry["language_loss"] for entry in trainer.state.log_history if "language_loss" in entry])
    assert losses[0] == losses[1]


def test_a_model_without_such_modules_reads_no_batch(small, questions, tmp_path):
    trainer = trainer_of(small, questions, tmp_path)
    measure_bridge.measure_bridge(trainer, iter(()))

"""The description of a run counts every parameter once, and warns of a small global batch size."""

import pytest

from gemma_lisa.scripts.init_tiny import build_tiny
from gemma_lisa.training import describe_run
from gemma_lisa.training.arguments import ModelArguments
from gemma_lisa.training.describe_run import describe
from gemma_lisa.training.load_model import load_model
from gemma_lisa.training.training_arguments import GemmaLisaTrainingArguments

SIZE = 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with a small random Gemma-LISA."""
    folder = tmp_path_factory.mktemp("tiny")
    model, processor = build_tiny(image_size=SIZE)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_the_description_counts_every_parameter_once(checkpoint):
    model, _ = load_model(ModelArguments(str(checkpoint)))
    args = GemmaLisaTrainingArguments("out", use_cpu=True, per_device_train_batch_size=3, gradient_accumulation_steps=2)
    text = describe(model, ["shapes train: 1,234 rows (images)"], args)
    counts = [line.replace(",", "").split() for line in text.splitlines() if line.startswith("    ")]
    assert sum(int(line[3]) for line in counts) == model.num_parameters()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert sum(int(line[1]) for line in counts) == trained
    assert f"{trained:,} of {model.num_parameters():,} parameters are trained" in text
    assert "shapes train: 1,234 rows (images)" in text
    assert "6 samples per optimizer step = 3 per device × 2 micro-batches × 1 process" in text
    assert "bridge     learning rate 5.0e-05" in text
    assert "WARNING" not in text


def test_a_small_global_batch_for_a_large_model_gives_a_warning(checkpoint, monkeypatch):
    monkeypatch.setattr(describe_run, "LARGE_MODEL", 1000)
    model, _ = load_model(ModelArguments(str(checkpoint)))
    for rows, warned in ((56, True), (64, False)):
        args = GemmaLisaTrainingArguments("out", use_cpu=True, global_batch_size=rows)
        assert (f"WARNING: {rows} samples per optimizer step is low" in describe(model, [], args)) == warned

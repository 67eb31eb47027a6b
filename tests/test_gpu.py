"""What only a GPU can show; run by `pytest -m gpu`, and by benchmarks/bench_gpu.py."""

import numpy as np
import pytest
import torch

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.mixture import TrainingQuestions
from gemma_lisa.datasets_builder.shapes import draw_scene, row_of_scene
from gemma_lisa.scripts.init_tiny import build_tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.fixture(scope="module")
def batch_and_model():
    model, processor = build_tiny()
    rows = []
    for seed in range(4):
        generator = np.random.default_rng(seed)
        rows.append(row_of_scene(draw_scene(generator, 64), generator, training=True, source=f"shapes/{seed}"))
    questions = TrainingQuestions(rows, seed=0, max_questions=4)
    return GemmaLisaCollator(processor)([questions[at] for at in range(4)]), model


def to(batch, device):
    return {
        name: [part.to(device) for part in value] if isinstance(value, list) else value.to(device)
        for name, value in batch.items()
    }


def test_a_gpu_gives_the_losses_of_the_cpu(batch_and_model):
    batch, model = batch_and_model
    model.to("cpu")
    on_cpu = model(**batch)
    model.to("cuda")
    on_gpu = model(**to(batch, "cuda"))
    for name in ("language_loss", "mask_bce_loss", "mask_dice_loss"):
        torch.testing.assert_close(on_gpu[name].cpu(), on_cpu[name], rtol=1e-3, atol=1e-3)


def test_bf16_autocast_trains_every_touched_parameter(batch_and_model):
    batch, model = batch_and_model
    model.to("cuda")
    model.zero_grad()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = model(**to(batch, "cuda")).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.seg_projector[0].weight.grad.abs().sum() > 0


def test_segment_runs_on_a_gpu_in_bf16(batch_and_model):
    batch, model = batch_and_model
    model.to("cuda", torch.bfloat16).eval()
    inputs = to({name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}, "cuda")
    output = model.segment(
        **inputs,
        pixel_values=batch["pixel_values"].to("cuda", torch.bfloat16),
        sam_pixel_values=batch["sam_pixel_values"].to("cuda"),
        max_new_tokens=4,
    )
    assert output.sequences.shape[1] <= batch["input_ids"].shape[1] + 4
    model.float()

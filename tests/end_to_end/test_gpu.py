"""Tests that need a GPU. Run them with `pytest -m gpu` or benchmarks/bench_gpu.py."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from PIL import Image

from gemma_lisa.collator import GemmaLisaCollator
from gemma_lisa.datasets_builder.questions import TrainingQuestions
from gemma_lisa.datasets_builder.synthetic.shapes import row_of_scene
from gemma_lisa.datasets_builder.synthetic.shapes_easy import draw_scene
from gemma_lisa.evaluation.protocols import to_device
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


def test_losses_are_equal_on_gpu_and_cpu(batch_and_model):
    batch, model = batch_and_model
    model.to("cpu")
    on_cpu = model(**batch)
    model.to("cuda")
    on_gpu = model(**to_device(batch, torch.device("cuda")))
    for name in ("language_loss", "mask_bce_loss", "mask_dice_loss"):
        torch.testing.assert_close(on_gpu[name].cpu(), on_cpu[name], rtol=1e-3, atol=1e-3)


def test_gradients_are_finite_with_bf16_autocast(batch_and_model):
    batch, model = batch_and_model
    model.to("cuda")
    model.zero_grad()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = model(**to_device(batch, torch.device("cuda"))).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert model.seg_projector[0].weight.grad.abs().sum() > 0


def test_a_training_step_does_not_synchronize_with_the_gpu(batch_and_model):
    """With cached embeddings, because SAM's encoder in transformers copies relative positions to the device."""
    batch, model = batch_and_model
    model = deepcopy(model).to("cuda").train()
    model.config.prompted_loss_weight = model.config.score_loss_weight = 0.5
    batch = to_device(batch, torch.device("cuda"))
    with torch.no_grad():
        batch["image_embeddings"] = model.encode_for_sam(batch.pop("sam_pixel_values"))
    counts = {name: torch.tensor(8, device="cuda") for name in ("num_items_in_batch", "num_masks_in_batch")}
    model(**batch, **counts).loss.backward()  # the first step loads libraries and chooses kernels
    model.zero_grad(set_to_none=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        output = model(**batch, **counts)
        output.loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(output.loss) and model.seg_projector[0].weight.grad.abs().sum() > 0


def test_segment_gives_the_same_answer_on_gpu_and_cpu():
    model, processor = build_tiny()
    generator = np.random.default_rng(0)
    picture = Image.fromarray(draw_scene(generator, 64).image)
    ask = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "the circle"}]}]
    inputs = processor.apply_chat_template(ask, add_generation_prompt=True, tokenize=True, return_dict=True)
    on_cpu = model.eval().segment(**inputs, max_new_tokens=8)
    on_gpu = model.to("cuda").segment(**to_device(inputs, torch.device("cuda")), max_new_tokens=8)
    assert on_gpu.sequences.tolist() == on_cpu.sequences.tolist()
    assert on_gpu.pred_masks.shape == on_cpu.pred_masks.shape

"""New weights depend on the seed only, and have the size that the other weights need."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import Gemma3Config, SiglipVisionConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3MultiModalProjector

from gemma_lisa.bridge_gemma_lisa import HeatMapProjector
from gemma_lisa.checkpoints.sources.new_weights import (
    initialize_projector,
    initialize_seg_projector,
    initialize_seg_row,
    mean_row,
)


class TwoTables(nn.Module):
    """A model with an embedding (6, 4), and a head that is tied to it or not."""

    def __init__(self, is_tied):
        super().__init__()
        self.rows, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        if is_tied:
            self.head.weight = self.rows.weight

    def get_input_embeddings(self):
        return self.rows

    def get_output_embeddings(self):
        return self.head


@pytest.mark.parametrize("rows", [1, 8192, 20_001])
def test_the_mean_row_is_exact(rows):
    table = torch.randn(rows, 3) + 100  # fp32 sums of this size would lose digits
    expected = table.double().mean(0)
    found = mean_row(table)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_row_of_seg_is_the_mean_of_the_tokens_in_embedding_and_head(is_tied):
    model = TwoTables(is_tied)
    before = [model.rows.weight.clone(), model.head.weight.clone()]
    initialize_seg_row(model, seg_token_id=4, num_tokens=3)
    for old, new in zip(before, [model.rows.weight, model.head.weight], strict=True):
        torch.testing.assert_close(new[4], old[:3].mean(0))
        assert torch.equal(new[[0, 1, 2, 3, 5]], old[[0, 1, 2, 3, 5]])


def test_seg_projector_has_the_random_numbers_of_numpy():
    projectors = [nn.Sequential(nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 4)) for _ in range(3)]
    for seed, projector in zip((0, 0, 1), projectors, strict=True):
        initialize_seg_projector(projector, seed)
    first, again, other = ([weight.detach() for weight in projector.parameters()] for projector in projectors)
    expected = np.random.default_rng((0, 0)).uniform(-0.25, 0.25, (9, 16))  # 0.25 = 1 / √16
    np.testing.assert_array_equal(first[0].numpy(), expected.astype(np.float32))
    for weight, same, different in zip(first, again, other, strict=True):
        assert torch.equal(weight, same) and not (weight == different).any()
    assert first[2].abs().max() <= 1 / 3 < first[2].abs().max() + 0.1  # inputs of the second layer: 9


def test_image_tokens_have_the_size_of_text_tokens():
    config = Gemma3Config(
        text_config={"hidden_size": 96},
        vision_config=SiglipVisionConfig(hidden_size=64, image_size=32, patch_size=4).to_dict(),
        mm_tokens_per_image=16,
    )
    projector = Gemma3MultiModalProjector(config)
    table = torch.randn(500, 96) * 0.05
    initialize_projector(projector, table, seed=0)
    with torch.no_grad():
        tokens = projector(torch.randn(4, 64, 64))  # (images, patches, vision size)
    text = table * 96**0.5  # as Gemma scales the rows of its embedding
    assert tokens.shape == (4, 16, 96)
    assert tokens.square().mean().sqrt() == pytest.approx(text.square().mean().sqrt().item(), rel=0.1)

    matrix = projector.mm_input_projection_weight.detach().clone()
    initialize_projector(projector, table, seed=0)
    assert torch.equal(projector.mm_input_projection_weight, matrix)
    initialize_projector(projector, table, seed=1)
    assert not (projector.mm_input_projection_weight == matrix).any()


def test_measured_numbers_of_a_bridge_start_at_0_and_1():
    """transformers leaves buffers that a checkpoint lacks uninitialized."""
    projector = HeatMapProjector(6, 8)
    projector.state_scale.set_statistics(torch.full((6,), torch.nan), torch.zeros(6))
    initialize_seg_projector(projector, 0)
    assert not projector.state_scale.is_measured and torch.isfinite(projector.state_scale.mean).all()

"""Initialize the weights of a Gemma-LISA that none of its sources has.

The random numbers are NumPy's, in fp64. Those of torch differ in the last digit between CPUs, and an adapter must find
the same base model on every machine.
"""

import numpy as np
import torch
from torch import nn

from gemma_lisa.bridge_gemma_lisa import Standardize
from gemma_lisa.modeling_gemma_lisa import GemmaLisaForConditionalGeneration


@torch.no_grad()
def initialize_seg_row(model: GemmaLisaForConditionalGeneration, seg_token_id: int, num_tokens: int) -> None:
    """Set the row of `[SEG]` to the mean of the first `num_tokens` rows, which are those of the other tokens.

    The logit of `[SEG]` is then the mean of all logits: at first it is never the largest, but it can be learned.
    Google initialized the spare rows near this mean, but fine-tuned checkpoints can contain other values.
    """
    rows = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight  # the same tensor if they are tied, as in Gemma 3
    for weight in [rows] if head is rows else [rows, head]:
        weight[seg_token_id] = mean_row(weight[:num_tokens])


def mean_row(table: torch.Tensor) -> torch.Tensor:
    """Return the mean (D,) of the rows of a table (N, D), in its type, the same on every CPU."""
    total = torch.zeros(table.shape[1], dtype=torch.float64)
    for part in table.split(8192):  # 262,145 rows in fp64 at once would take gigabytes
        total += part.double().sum(0)
    return (total / len(table)).to(table.dtype)


def initialize_seg_projector(projector: nn.Module, seed: int) -> None:
    """Set the weights as `nn.Linear` and `nn.Conv2d` do: uniform, up to 1/√(number of inputs)."""
    generator = np.random.default_rng((seed, 0))
    for module in projector.modules():
        if isinstance(module, Standardize):  # transformers leaves missing buffers uninitialized
            module.reset()
        if isinstance(module, nn.Linear | nn.Conv2d):
            bound = module.weight[0].numel() ** -0.5
            for parameter in (module.weight, module.bias):
                _copy(parameter, generator.uniform(-bound, bound, tuple(parameter.shape)))


def initialize_projector(projector: nn.Module, table: torch.Tensor, seed: int) -> None:
    """Set Gemma's image projector so that image tokens have the size of text tokens, not zero as in transformers.

    Args:
        projector: its matrix is (vision size, D). It is applied to vectors whose values have a mean square of 1.
        table: (V, D) rows of the embedding, which Gemma multiplies with √D.
        seed: of the random numbers.
    """
    matrix = projector.mm_input_projection_weight
    inputs, outputs = matrix.shape
    size_of_text = table[:8192].double().square().mean().sqrt().item() * outputs**0.5
    _copy(matrix, np.random.default_rng((seed, 1)).normal(0, size_of_text * inputs**-0.5, (inputs, outputs)))


@torch.no_grad()
def _copy(parameter: torch.Tensor, values: np.ndarray) -> None:
    parameter.copy_(torch.from_numpy(values))

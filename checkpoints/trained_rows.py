"""Train single rows of an embedding matrix without copying the matrix.

PEFT's `TrainableTokensLayer` copies the whole matrix in each call, for the embedding and for the head that is tied to
it: 2 × 262,208 rows at each generated token. Its gradient is as large. The layer here has the same weights and files.
"""

import torch
from peft.tuners.trainable_tokens import TrainableTokensLayer
from torch import nn


class TrainedRows(TrainableTokensLayer):
    """PEFT's layer for trained rows of an embedding, or of a linear layer that is tied to it, without copies."""

    def forward_adapters(self, x: torch.Tensor, active_adapters: list[str], *args, **kwargs) -> torch.Tensor:
        """Return what PEFT's layer returns: embeddings (..., D) of tokens, or logits (..., V) of states (..., D)."""
        is_plain = self.disable_adapters or not active_adapters or self.merged
        if is_plain or not isinstance(self.base_layer, nn.Embedding | nn.Linear):
            return super().forward_adapters(x, active_adapters, *args, **kwargs)
        self._check_overlapping_tokens(active_adapters)
        result = self.base_layer(x, *args, **kwargs)
        for name in active_adapters:
            rows = self.trainable_tokens_delta[name].to(result.dtype)  # (T, D)
            if isinstance(self.base_layer, nn.Embedding):
                result = self._with_rows(result, x, rows, self.token_indices[name])
            else:
                at = torch.tensor(self.token_indices[name], device=result.device)
                logits = nn.functional.linear(x, rows)  # (..., T)
                # In place: nothing else reads the product, and its gradient does not need it
                result = result.index_copy_(-1, at, logits.to(result.dtype))
        return result

    def _with_rows(
        self, embeddings: torch.Tensor, tokens: torch.Tensor, rows: torch.Tensor, indices: list[int]
    ) -> torch.Tensor:
        """Return embeddings (..., D) in which the tokens (...) with these indices have the rows (T, D)."""
        if (scale := self._get_embed_scale()) is not None:  # Gemma multiplies its embeddings
            rows = rows * scale.to(rows.dtype)
        for row, index in zip(rows, indices, strict=True):
            embeddings = torch.where((tokens == index)[..., None], row, embeddings)
        return embeddings


def replace_rows_without_copies(model: nn.Module) -> None:
    """Change the class of PEFT's layers for trained rows in a model, in place. Names of weights do not change."""
    for module in model.modules():
        if type(module) is TrainableTokensLayer:
            module.__class__ = TrainedRows

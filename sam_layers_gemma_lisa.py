"""SAM's layers in fewer operations: the same weights, and the same results up to rounding.

`use_fast_layers` changes the classes of a `SamModel`'s layers, so names of weights and checkpoints stay the same. Each
layer falls back to the class of transformers for options, or modules of an adapter, that it does not know.

Letters of the image encoder: I images or windows, H and W rows and columns of patches, E heads, d size of a head.
Letters of the mask decoder: S prompted masks, T tokens of a prompt, N patches (4096), C its width (256).
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import SamModel
from transformers.models.sam import modeling_sam
from transformers.utils import logging

_logger = logging.get_logger("transformers.gemma_lisa")


class _Missing(nn.Module):
    """Stands for a class that this release of transformers does not have. No layer has this class."""


_REPLACED = ("SamAttention", "SamMaskDecoder", "SamVisionSdpaAttention")
SamAttention, SamMaskDecoder, SamVisionSdpaAttention = (getattr(modeling_sam, name, _Missing) for name in _REPLACED)
# Elements of an attention bias that are in memory at once. On a CPU, they should fit in its cache.
BIAS_ELEMENTS = {"cpu": 2**22}
BIAS_ELEMENTS_OF_ACCELERATOR = 2**28
# A cross-attention is folded if one side is at least this many times longer than the other.
MIN_RATIO = 16


def use_fast_layers(sam: SamModel) -> None:
    """Change the classes of SAM's layers in place. Layers of another attention implementation are not changed.

    Layers whose class this release of transformers does not have are not changed either, with a warning.
    """
    if missing := [name for name in _REPLACED if not hasattr(modeling_sam, name)]:
        _logger.warning_once(
            f"This release of transformers has no {', '.join(missing)}, so these layers of SAM stay as they are. They "
            "are slower, with the same results."
        )
    fast = {SamVisionSdpaAttention: ChunkedVisionAttention, SamMaskDecoder: FastMaskDecoder}
    for module in sam.modules():
        if type(module) in fast:
            module.__class__ = fast[type(module)]
    for module in sam.mask_decoder.modules():
        if type(module) is SamAttention:
            module.__class__ = FoldedAttention


class ChunkedVisionAttention(SamVisionSdpaAttention):
    """Attention of SAM's image encoder that makes its N × N relative-position bias in chunks of query rows.

    Bit-equal to the class of transformers, which makes the whole bias at once: 0.5 GiB per image for ViT-H in bf16.
    """

    def forward(self, hidden_states: torch.Tensor, output_attentions: bool = False) -> tuple[torch.Tensor, None]:
        """Return the attention output for hidden_states (I, H, W, E · d), of the same shape, and None."""
        if output_attentions or not self.use_rel_pos:
            return super().forward(hidden_states, output_attentions)
        images, height, width, _ = hidden_states.shape
        qkv = self.qkv(hidden_states).view(images, height * width, 3, self.num_attention_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (I, E, H * W, d) each
        by_row, by_column = self._relative_positions(query, height, width)
        images_at_once, rows = self._chunks(hidden_states.device, height, width)
        buffer = None  # reused, because new memory of this size costs as much as the sums in it
        attended = []
        for start in range(0, images, images_at_once):
            some = slice(start, start + images_at_once)
            parts = []
            for row in range(0, height, rows):
                chunk = slice(row, row + rows)
                sums = by_row[some, :, chunk, :, :, None], by_column[some, :, chunk, :, None, :]
                if buffer is None:
                    bias = sums[0] + sums[1]  # (I, E, rows, W, H, W)
                    buffer = None if torch.is_grad_enabled() else bias
                else:
                    bias = torch.add(*sums, out=buffer[: len(sums[0])])
                chosen = query[some, :, row * width : (row + rows) * width]  # (I, E, rows * W, d)
                bias = bias.flatten(4).flatten(2, 3)  # (I, E, rows * W, H * W)
                parts.append(F.scaled_dot_product_attention(chosen, key[some], value[some], attn_mask=bias))
            attended.append(torch.cat(parts, dim=2))
        attended = torch.cat(attended).transpose(1, 2)  # (I, H * W, E, d)
        return self.proj(attended.reshape(images, height, width, -1)), None

    def _relative_positions(self, query: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the bias of queries (I, E, H * W, d) by rows and columns: (I, E, H, W, H) and (I, E, H, W, W)."""
        query = query.unflatten(2, (height, width))
        by_row = torch.einsum("iehwc,hkc->iehwk", query, self.get_rel_pos(height, height, self.rel_pos_h))
        by_column = torch.einsum("iehwc,wkc->iehwk", query, self.get_rel_pos(width, width, self.rel_pos_w))
        return by_row.contiguous(), by_column.contiguous()

    def _chunks(self, device: torch.device, height: int, width: int) -> tuple[int, int]:
        """Return how many images, and how many rows of their queries, to process at once. The rows divide H."""
        limit = BIAS_ELEMENTS.get(device.type, BIAS_ELEMENTS_OF_ACCELERATOR)
        per_row = self.num_attention_heads * width * height * width
        rows = next(
            rows for rows in range(height, 0, -1) if height % rows == 0 and (rows * per_row <= limit or rows == 1)
        )
        return max(1, limit // (height * per_row)), rows


class FoldedAttention(SamAttention):
    """Attention between a few tokens and all patches that never projects the patches.

    The product of two linear maps is a linear map. Therefore, the projections of the long side are folded into the few
    tokens: (patches · Wq) · (tokens · Wk)ᵀ is patches · (tokens · Wk · Wqᵀ)ᵀ, and the same for values and output.
    """

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_similarity: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, None]:
        """Return the attention output, of the shape of the query, and None.

        Args:
            query: (I, P, Q, C) for P prompts of each image. Its first two dimensions have S elements in total.
            key, value: (I, P, K, C), or (S, 1, K, C).
            attention_similarity: added to the attention; only the class of transformers supports it.
        """
        num_queries, num_keys = query.shape[2], key.shape[2]
        projections = (self.q_proj, self.k_proj, self.v_proj, self.out_proj)
        is_known = attention_similarity is None and all(_is_whole(layer, nn.Linear) for layer in projections)
        if is_known and num_keys >= MIN_RATIO * num_queries:
            attend = self._read_patches
        elif is_known and num_queries >= MIN_RATIO * num_keys:
            attend = self._write_patches
        else:
            return super().forward(query, key, value, attention_similarity, **kwargs)
        flat = (side.flatten(0, 1) for side in (query, key, value))  # (S, Q, C), (S, K, C), (S, K, C)
        return attend(*flat).view_as(query), None

    def _read_patches(self, tokens: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return (S, T, C): tokens (S, T, C) attend to patches, with keys and values (S, N, C)."""
        query = self._heads(self.q_proj(tokens) * self.scaling)  # (S, E, T, d)
        folded = (query @ self._by_head(self.k_proj)).flatten(1, 2)  # (S, E * T, C)
        # The bias adds the same to all patches, so softmax ignores it; but each parameter needs a gradient
        offset = (query @ self.k_proj.bias.view(self.num_attention_heads, -1, 1)).flatten(1, 2)  # (S, E * T, 1)
        scores = folded @ key.transpose(1, 2) + offset  # (S, E * T, N)
        read = (_softmax(scores) @ value).view(*query.shape[:3], -1)  # (S, E, T, C)
        read = read @ self._by_head(self.v_proj).transpose(1, 2)  # (S, E, T, d)
        return self.out_proj(read.transpose(1, 2).flatten(2) + self.v_proj.bias)

    def _write_patches(self, patches: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return (S, N, C): patches (S, N, C) attend to tokens, with keys and values (S, T, C)."""
        heads = self.num_attention_heads
        key = self._heads(self.k_proj(key) * self.scaling)  # (S, E, T, d)
        folded = (key @ self._by_head(self.q_proj)).flatten(1, 2)  # (S, E * T, C)
        offset = (key @ self.q_proj.bias.view(heads, -1, 1)).flatten(1)  # (S, E * T)
        scores = patches @ folded.transpose(1, 2) + offset[:, None]  # (S, N, E * T)
        chances = _softmax(scores.unflatten(-1, (heads, -1))).flatten(-2)  # (S, N, E * T)
        output = self.out_proj.weight.view(-1, heads, self.internal_dim // heads).permute(1, 2, 0)  # (E, d, C)
        written = (self._heads(self.v_proj(value)) @ output).flatten(1, 2)  # (S, E * T, C)
        return chances @ written + self.out_proj.bias

    def _heads(self, projected: torch.Tensor) -> torch.Tensor:
        """Return projected tokens (S, T, E · d) by head, (S, E, T, d)."""
        return projected.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)

    def _by_head(self, layer: nn.Linear) -> torch.Tensor:
        """Return the weight of a projection by head, (E, d, C)."""
        return layer.weight.view(self.num_attention_heads, -1, self.hidden_size)


def _is_whole(layer: nn.Module, layer_class: type[nn.Module]) -> bool:
    """Return whether a layer has exactly this class, and its weight can be read without calling the layer.

    The weight is empty if DeepSpeed ZeRO-3 shards it and the model is called without the engine, as in generation.
    """
    return type(layer) is layer_class and layer.weight.numel() > 0


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    """Return the softmax over the last dimension, in the dtype of the scores.

    `torch.softmax` returns fp32 under autocast, although it computes in fp32 in any case.
    """
    return torch.ops.aten._softmax(scores, -1, False)


class FastMaskDecoder(SamMaskDecoder):
    """SAM's mask decoder with channels last and no rearranging before the masks.

    Its transposed convolutions do not overlap (kernel 2, stride 2), so each is a linear layer per pixel. Pixels stay
    grouped by patch until there is only one channel left.
    """

    def forward(
        self,
        image_embeddings: torch.Tensor,
        image_positional_embeddings: torch.Tensor,
        sparse_prompt_embeddings: torch.Tensor,
        dense_prompt_embeddings: torch.Tensor,
        multimask_output: bool,
        **options,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mask logits (S, 1, M, 4 · H, 4 · W) and scores (S, 1, M), as the class of transformers does.

        Args:
            image_embeddings: (S, C, H, W).
            image_positional_embeddings: (1, C, H, W).
            sparse_prompt_embeddings: (S, 1, T, C). Several prompts per image need the class of transformers.
            dense_prompt_embeddings: (S, C, H, W), or (1, C, H, W).
            multimask_output: return three masks instead of one.
        """
        convolutions = (self.upscale_conv1, self.upscale_conv2)
        is_known = sparse_prompt_embeddings is not None and sparse_prompt_embeddings.shape[1] == 1
        is_known = is_known and all(value is None for value in options.values())
        if not is_known or not all(_is_whole(layer, nn.ConvTranspose2d) for layer in convolutions):
            return super().forward(
                image_embeddings,
                image_positional_embeddings,
                sparse_prompt_embeddings,
                dense_prompt_embeddings,
                multimask_output,
                **options,
            )
        count, _, height, width = image_embeddings.shape
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(count, 1, -1, -1)  # (S, 1, 5, C)
        tokens = torch.cat([tokens, sparse_prompt_embeddings.to(tokens.dtype)], dim=2)  # (S, 1, 5 + T, C)
        tokens, patches = self.transformer(
            point_embeddings=tokens,
            image_embeddings=image_embeddings + dense_prompt_embeddings,
            image_positional_embeddings=image_positional_embeddings,
            attention_similarity=None,
        )  # (S, 1, 5 + T, C), (S, 1, H * W, C)
        norm = self.upscale_layer_norm
        pixels = _upscale(patches[:, 0], self.upscale_conv1)  # (S, H * W, 4, C / 4)
        pixels = self.activation(F.layer_norm(pixels, norm.normalized_shape, norm.weight, norm.bias, norm.eps))
        pixels = self.activation(_upscale(pixels, self.upscale_conv2))  # (S, H * W, 4, 4, C / 8)
        # All kernels, because each parameter needs a gradient; but only the chosen masks
        kernels = [mlp(tokens[:, 0, 1 + at]) for at, mlp in enumerate(self.output_hypernetworks_mlps)]
        chosen = slice(1, None) if multimask_output else slice(0, 1)
        kernels = torch.stack(kernels, dim=2)[..., chosen]  # (S, C / 8, M)
        masks = pixels.flatten(1, 3) @ kernels  # (S, H * W * 4 * 4, M)
        # From (S, H, W, row, column, row, column, M) to (S, M, H, row, row, W, column, column)
        masks = masks.view(count, height, width, 2, 2, 2, 2, -1).permute(0, 7, 1, 3, 5, 2, 4, 6)
        scores = self.iou_prediction_head(tokens[:, :, 0])[..., chosen]  # (S, 1, M)
        return masks.reshape(count, 1, -1, 4 * height, 4 * width), scores


def _upscale(pixels: torch.Tensor, convolution: nn.ConvTranspose2d) -> torch.Tensor:
    """Return pixels (..., C) after a transposed convolution with kernel 2 and stride 2, (..., 4, C').

    The four are the upper left, upper right, lower left and lower right pixel.
    """
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2 * 2 * C', C)
    return F.linear(pixels, weight, convolution.bias.repeat(4)).unflatten(-1, (4, -1))

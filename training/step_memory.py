"""Count the bytes of one training step without computing it, on torch's meta device, which holds no data.

The step is the model's real forward and backward pass. Only integers have values (tokens, questions, sizes), because
they decide the shapes of other tensors. Workspaces of GPU kernels are not included.
"""

import weakref
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from gemma_lisa.configuration_gemma_lisa import GemmaLisaConfig
from gemma_lisa.losses_gemma_lisa import IGNORE_INDEX, token_loss

META = torch.device("meta")
# Operators whose index keeps its values, because it decides a shape; other tensors move to the meta device
TAKE_INDICES = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten._index_put_impl_.default)
TURN_TOKENS = 10  # tokens that the chat template adds before and around an image


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of meta tensors that were created inside this mode and are still referenced.

    Attributes:
        now, peak: bytes now, and their maximum so far.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        with_values = [tensor for tensor in given if not tensor.is_meta]
        if with_values and len(with_values) == len(given):
            if func is torch.ops.aten._to_copy.default and not given[0].is_floating_point():
                kwargs = {**kwargs, "device": None}  # integers and masks keep their values
        elif with_values and func not in TAKE_INDICES:
            with _disable_current_modes():
                args, kwargs = tree_map(lambda leaf: leaf.to(META) if _has_values(leaf) else leaf, (args, kwargs))
        for tensor in given:
            self._note(tensor, size=0)  # it existed before, or is already counted
        made = func(*args, **kwargs)
        for tensor in (made,) if isinstance(made, torch.Tensor) else tree_leaves(made):
            self._note(tensor)
        return made

    def _note(self, tensor: Any, size: int | None = None) -> None:
        if not isinstance(tensor, torch.Tensor) or not tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known[storage._cdata] = storage.nbytes() if size is None else size
            self.now += self._known[storage._cdata]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, storage._cdata)

    def _free(self, key: int) -> None:
        self.now -= self._known.pop(key)


def _has_values(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and not leaf.is_meta and leaf.ndim > 0


class FusedAttention(torch.autograd.Function):
    """Keeps what a fused attention kernel keeps: queries, keys, values, the result and a number per row; no scores."""

    @staticmethod
    def forward(ctx, query, key, value, mask):
        bias = None if mask is None else torch.empty(mask.shape, dtype=query.dtype, device=META)
        result = torch.empty(*query.shape[:-1], value.shape[-1], dtype=query.dtype, device=META)
        row_sums = torch.empty(query.shape[:-1], dtype=torch.float32, device=META)
        ctx.save_for_backward(query, key, value, result, row_sums, bias)
        return result

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


def fused_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """scaled_dot_product_attention with the memory of a GPU kernel; the meta device would create all scores."""
    return FusedAttention.apply(query, key, value, attn_mask)


def make_batch(
    config: GemmaLisaConfig, rows: int, questions: int, question_tokens: int, size: tuple[int, int]
) -> dict[str, Any]:
    """Return a batch for `forward`: one image per row, with questions that have one mask each.

    Args:
        rows, questions: number of images, and of questions per image.
        question_tokens: tokens of a question and its answer together; half of them are labels.
        size: (height, width) of the masks in pixels.
    """
    prefix = [0] * TURN_TOKENS + [config.image_token_index] * config.mm_tokens_per_image
    answer = [0] * (question_tokens - 2) + [config.seg_token_id, 0]
    ids = torch.tensor([prefix + answer * questions] * rows)
    of_question = torch.arange(1, questions + 1).repeat_interleave(question_tokens)
    question_ids = torch.cat([torch.zeros(len(prefix), dtype=torch.long), of_question]).repeat(rows, 1)
    learned = torch.arange(question_tokens).ge(question_tokens // 2).repeat(questions)
    labels = ids.clone()
    labels[:, : len(prefix)] = IGNORE_INDEX
    labels[:, len(prefix) :][:, ~learned] = IGNORE_INDEX
    scale = config.sam_config.vision_config.image_size / max(size)
    image, for_sam = (part.image_size for part in (config.vision_config, config.sam_config.vision_config))
    return {
        "input_ids": ids,
        "labels": labels,
        "question_ids": question_ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": (ids == config.image_token_index).long(),
        "pixel_values": torch.empty(rows, 3, image, image, device=META),
        "sam_pixel_values": torch.empty(rows, 3, for_sam, for_sam, device=META),
        "original_sizes": torch.tensor([size] * rows),
        "reshaped_input_sizes": torch.tensor([[round(side * scale) for side in size]] * rows),
        "mask_labels": [torch.zeros(questions, *size, dtype=torch.uint8)] * rows,
    }


@dataclass
class StepBytes:
    """Bytes of one step in addition to weights, gradients and optimizer state.

    Attributes:
        activations: tensors kept for the backward pass, without `logits`.
        logits: tensors of the head and the cross-entropy.
        working: further memory at the peak.
    """

    activations: int
    logits: int
    working: int


def count_step(model: torch.nn.Module, batch: dict[str, Any]) -> StepBytes:
    """Return the bytes of one training step. model: on the meta device, in training mode, with or without adapters."""
    dtype = model.get_input_embeddings().weight.dtype
    batch = {
        name: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in batch.items()
    }
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)  # exists from the second micro-batch on, so it is excluded
    with LiveBytes() as live, patch("torch.nn.functional.scaled_dot_product_attention", fused_attention):
        output = model(**batch)
        loss, logits = output["loss"], output["logits"].shape
        del output
        held = live.now
        loss.backward()
    model.zero_grad()
    peak = live.peak

    head = model.get_output_embeddings()
    with LiveBytes() as live:
        states = torch.empty(logits[0], model.config.text_config.hidden_size, dtype=dtype, device=META)
        states.requires_grad_(_reaches_head(model))
        loss = token_loss(head(states), torch.zeros(logits[0], dtype=torch.long), None)
        of_head = live.now - states.nbytes
        del loss
    of_head = min(of_head, held) if _reaches_head(model) else 0
    return StepBytes(activations=held - of_head, logits=of_head, working=peak - held)


def _reaches_head(model: torch.nn.Module) -> bool:
    """Return whether parameters before the head are trained, so that the backward pass goes through the head."""
    return any(
        parameter.requires_grad and "seg_projector" not in name and "sam." not in name
        for name, parameter in model.named_parameters()
    )

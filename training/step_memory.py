"""Count the bytes of one training step without computing it: the model is on torch's meta device, which has no memory.

The step is the model's own, forwards and backwards. Only integers have values (tokens, questions, sizes): they decide
the shapes of all else. What a GPU's kernels keep for themselves is not counted.
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
# An index that is known gives a shape that is known, so these keep it; all else is moved to the meta device
TAKE_INDICES = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten._index_put_impl_.default)
TURN_TOKENS = 10  # what the chat template adds before an image and around it


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors on the meta device that were made within it and still live.

    Attributes:
        now, peak: bytes at this moment, and at most so far.
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
                kwargs = {**kwargs, "device": None}  # integers and masks stay where their values are known
        elif with_values and func not in TAKE_INDICES:
            with _disable_current_modes():
                args, kwargs = tree_map(lambda leaf: leaf.to(META) if _has_values(leaf) else leaf, (args, kwargs))
        for tensor in given:
            self._note(tensor, size=0)  # it was there before, or is counted already
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
    """What a fused attention kernel keeps: queries, keys, values, the result, and a number a row; never the scores."""

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
    """torch's scaled_dot_product_attention as a GPU computes it; on the meta device it would write all scores down."""
    return FusedAttention.apply(query, key, value, attn_mask)


def make_batch(
    config: GemmaLisaConfig, rows: int, questions: int, question_tokens: int, size: tuple[int, int]
) -> dict[str, Any]:
    """A batch of which `forward` prepares the masks: each row one image and so many questions, each with one mask.

    Args:
        rows, questions: images, and questions of each.
        question_tokens: of a question and its answer together; half of them are learned.
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
    """Bytes of one step beside weights, gradients and the optimizer's state.

    Attributes:
        activations: kept from the forward pass for the backward pass, without `logits`.
        logits: of the head and the cross-entropy behind it.
        working: more than these two, at the worst moment.
    """

    activations: int
    logits: int
    working: int


def count_step(model: torch.nn.Module, batch: dict[str, Any]) -> StepBytes:
    """The bytes of one step of a model on the meta device, wrapped by adapters or not, in training mode."""
    dtype = model.get_input_embeddings().weight.dtype
    batch = {
        name: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in batch.items()
    }
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)  # there from the second micro-batch on: not counted here
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
    """Whether anything before the head is trained, so that the backward pass goes through it."""
    return any(
        parameter.requires_grad and "seg_projector" not in name and "sam." not in name
        for name, parameter in model.named_parameters()
    )

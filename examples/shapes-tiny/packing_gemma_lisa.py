"""The layout of a batch: which tokens have a loss, and which questions share an image.

The collator stores it in `Prepared`.

Letters: B conversations, L tokens.
"""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from transformers import PreTrainedConfig

from .losses_gemma_lisa import IGNORE_INDEX


@dataclass
class Prepared:
    """Indices and masks that `GemmaLisaCollator` computes for a batch, so that `forward` needs no GPU synchronization.

    It is valid only for this batch. Remove it if you change `input_ids`, `labels` or the number of rows.

    It is one object rather than tensors in the batch, because its tensors do not have one row per conversation. If a
    function slices the tensors of a batch by rows, `forward` raises because of `shape`.

    Args:
        shape: (B, L) of `input_ids`. Positions are indices into these B · L tokens, row by row.
        learned_positions: (N,) the tokens whose state predicts a label with a loss.
        seg_positions: (S,) the `[SEG]` tokens.
        image_positions: (I · 256,) the image tokens.
        mask_targets: (S, H, W) uint8, the masks of all images on one canvas, as returned by `pad_masks`.
        mask_sizes: (S, 2), (height, width) of each mask on that canvas.
        mask_loss_size: maximum side of the masks in pixels; must be equal to that of the model.
        full_masks: I tensors (K, H, W) uint8, the masks at their own sizes, for metrics. Only in evaluation, and always
            on the CPU.
    """

    shape: tuple[int, int] | None = None
    learned_positions: torch.LongTensor | None = None
    seg_positions: torch.LongTensor | None = None
    image_positions: torch.LongTensor | None = None
    mask_targets: torch.Tensor | None = None
    mask_sizes: torch.LongTensor | None = None
    mask_loss_size: int | None = None
    full_masks: list[torch.Tensor] | None = None

    @property
    def num_masks(self) -> int:
        return 0 if self.mask_targets is None else len(self.mask_targets)

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> "Prepared":
        """Return a copy with its tensors on the device."""
        return replace(self, **{name: one.to(device, non_blocking=non_blocking) for name, one in self._tensors()})

    def pin_memory(self) -> "Prepared":
        """Return a copy with its tensors in pinned memory. A `DataLoader` calls it."""
        return replace(self, **{name: one.pin_memory() for name, one in self._tensors()})

    def _tensors(self) -> list[tuple[str, torch.Tensor]]:
        named = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [(name, value) for name, value in named if isinstance(value, torch.Tensor)]


_NOTHING = Prepared()


def check_prepared(
    prepared: Prepared | None,
    input_ids: torch.LongTensor | None,
    inputs_embeds: torch.FloatTensor | None,
    labels: torch.LongTensor | None,
    mask_labels: list[torch.Tensor] | None,
) -> Prepared:
    """Return `prepared`, or an empty `Prepared` for None.

    Raises:
        ValueError: its shapes do not match the other arguments of `forward`.
    """
    if prepared is None:
        return _NOTHING
    if inputs_embeds is not None and prepared.image_positions is not None:
        raise ValueError("inputs_embeds cannot be combined with prepared.image_positions. Remove `prepared`.")
    given = None if input_ids is None else tuple(input_ids.shape)
    if prepared.shape is not None and prepared.shape != given:
        raise ValueError(
            f"`prepared` belongs to a batch of shape {prepared.shape}, but input_ids have {given}. Pass the unchanged "
            "batch of the collator, or remove `prepared`."
        )
    if labels is None and prepared.learned_positions is not None:
        raise ValueError("prepared.learned_positions needs labels. Pass the labels, or remove `prepared`.")
    if mask_labels is not None and prepared.mask_targets is not None:
        raise ValueError("mask_labels and prepared.mask_targets are both target masks. Pass only one of them.")
    if prepared.mask_targets is None and prepared.mask_sizes is not None:
        raise ValueError("prepared.mask_sizes needs prepared.mask_targets. Pass both or neither.")
    return prepared


def check_tokens(
    input_ids: torch.LongTensor | None,
    images: torch.FloatTensor | None,
    token_type_ids: torch.LongTensor | None,
    question_ids: torch.LongTensor | None,
    is_searched: bool,
) -> None:
    """Raise ValueError if required tokens (B, L) are missing."""
    if input_ids is None and is_searched:
        raise ValueError("[SEG] and image tokens cannot be located in inputs_embeds. Pass input_ids.")
    if images is not None and token_type_ids is None and question_ids is None:
        raise ValueError("pixel_values needs token_type_ids (image_features too). Pass all outputs of the processor.")


def put_image_features(
    embeddings: torch.FloatTensor, features: torch.FloatTensor | None, image_positions: torch.LongTensor
) -> torch.FloatTensor:
    """Return token embeddings (B, L, D) with image features (I, 256, D) at the image tokens.

    Raises:
        ValueError: the number of features is not that of the image tokens.
    """
    if features is None:
        return embeddings
    features = features.flatten(0, 1).to(embeddings.device, embeddings.dtype)  # (I * 256, D)
    if len(features) != len(image_positions):
        raise ValueError(f"The batch has {len(image_positions)} image tokens but {len(features)} image features.")
    return embeddings.flatten(0, 1).index_copy(0, image_positions, features).view_as(embeddings)


def find_positions(is_one: torch.BoolTensor) -> torch.LongTensor:
    """Return where a (B, L) mask is True, (N,): indices into the B · L tokens, row by row. Synchronizes the GPU."""
    return is_one.flatten().nonzero()[:, 0]


def find_learned(labels: torch.LongTensor) -> torch.LongTensor:
    """Return the tokens whose state predicts a label with a loss, (N,), for labels (B, L); see `find_positions`."""
    return find_positions(F.pad(labels[:, 1:] != IGNORE_INDEX, (0, 1)))


def isolate_questions(
    question_ids: torch.LongTensor, is_image: torch.BoolTensor, text_config: PreTrainedConfig, dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], torch.LongTensor]:
    """Return attention masks and positions with which each question attends only to the prefix and itself.

    Two questions a and b after a prefix p, two tokens each. A row attends to the columns marked 1:

            p p a a b b      positions
        p   1 . . . . .      0
        p   1 1 . . . .      1
        a   1 1 1 . . .      2
        a   1 1 1 1 . .      3
        b   1 1 . . 1 .      2
        b   1 1 . . 1 1      3

    The tokens of the image also attend to each other, as in Gemma 3.

    Args:
        question_ids: (B, L), 0 for the prefix, k for the k-th question with its answer, −1 for padding.
        is_image: (B, L) bool, True for image tokens.
        text_config: Gemma's text configuration, with the attention implementation and the sliding window.
        dtype: dtype of additive masks.

    Returns:
        {"full_attention", "sliding_attention"}: (B, 1, L, L) bool, or additive masks for eager attention; and
        position_ids (B, L).

    Raises:
        ValueError: the attention implementation does not support such masks.
    """
    attention = text_config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise ValueError(f'question_ids need attn_implementation "sdpa" or "eager", got {attention!r}.')
    is_prefix = question_ids == 0
    prefix_length = is_prefix.sum(1, keepdim=True)  # (B, 1)
    column = torch.arange(question_ids.shape[1], device=question_ids.device).expand_as(question_ids)
    starts = torch.ones_like(is_prefix)
    starts[:, 1:] = question_ids[:, 1:] != question_ids[:, :-1]
    start_of_run = torch.where(starts, column, 0).cummax(dim=1).values
    position_ids = torch.where(
        is_prefix, is_prefix.long().cumsum(1) - 1, prefix_length + column - start_of_run
    )  # (B, L)

    is_image = is_image & is_prefix
    both_image = is_image[:, :, None] & is_image[:, None, :]
    causal = column[:, :, None] >= column[:, None, :]
    related = (question_ids[:, :, None] == question_ids[:, None, :]) | is_prefix[:, None, :]
    full = (causal | both_image) & related  # (B, L, L)
    sliding = full
    if question_ids.shape[1] > text_config.sliding_window:  # otherwise nothing is outside the window
        distance = position_ids[:, :, None] - position_ids[:, None, :]
        sliding = full & (distance < text_config.sliding_window)
    masks = [full[:, None], sliding[:, None]]
    if attention == "eager":
        hidden = torch.finfo(dtype).min
        masks = [torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, hidden) for mask in masks]
    return dict(zip(("full_attention", "sliding_attention"), masks, strict=True)), position_ids


def masks_of_prompts(
    attention_mask: torch.Tensor, is_image: torch.Tensor, text_config: PreTrainedConfig
) -> dict[str, torch.Tensor] | torch.Tensor:
    """Return Gemma's attention masks for prompts that are read at once, as `isolate_questions` does.

    Making these masks in transformers takes longer than a layer of a small model. The attention mask itself is
    returned where transformers must make them: for other attention implementations, beyond the sliding window, and for
    a row with several images.

    Args:
        attention_mask: (B, L), 1 for tokens, 0 for padding.
        is_image: (B, L), 1 or True for image tokens.
        text_config: Gemma's text configuration.
    """
    if text_config._attn_implementation != "sdpa" or attention_mask.shape[1] > text_config.sliding_window:
        return attention_mask
    starts = F.pad(is_image.bool(), (1, 0))
    if bool(((starts[:, 1:] & ~starts[:, :-1]).sum(1) > 1).any()):
        return attention_mask
    return isolate_questions(attention_mask.long() - 1, is_image.bool(), text_config, torch.float32)[0]

"""The layout of a batch: which tokens are learned, which conversation shows which image, which questions share it.

Letters: B conversations, L tokens.
"""

import torch
import torch.nn.functional as F
from transformers import PreTrainedConfig

from .losses_gemma_lisa import IGNORE_INDEX


def find_positions(is_one: torch.BoolTensor) -> torch.LongTensor:
    """Return where a (B, L) mask is True, (N,): indices into the B · L tokens, row by row. Waits for the device."""
    return is_one.flatten().nonzero()[:, 0]


def find_learned(labels: torch.LongTensor) -> torch.LongTensor:
    """Return the tokens whose state predicts a label (B, L) that is learned, (N,), as `find_positions` does."""
    return find_positions(F.pad(labels[:, 1:] != IGNORE_INDEX, (0, 1)))


def images_of_rows(input_ids: torch.LongTensor, image_token_id: int) -> tuple[torch.LongTensor, torch.BoolTensor]:
    """Return for each conversation (B, L) the index of its image, (B,), and whether it shows one at all, (B,)."""
    has_image = (input_ids == image_token_id).any(dim=1)
    return has_image.long().cumsum(0) - 1, has_image


def isolate_questions(
    question_ids: torch.LongTensor, is_image: torch.BoolTensor, text_config: PreTrainedConfig, dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], torch.LongTensor]:
    """Masks and positions under which each question sees only the prefix and itself.

    Two questions a, b behind a prefix p, each of two tokens; a row may look at the columns marked 1:

            p p a a b b      positions
        p   1 . . . . .      0
        p   1 1 . . . .      1
        a   1 1 1 . . .      2
        a   1 1 1 1 . .      3
        b   1 1 . . 1 .      2
        b   1 1 . . 1 1      3

    The tokens of the image also see each other, as Gemma 3 has it.

    Args:
        question_ids: (B, L), 0 = the prefix, k = the k-th question with its answer, −1 = padding.
        is_image: (B, L) bool, a token of the image.
        text_config: of Gemma: its attention and its sliding window.
        dtype: of what is added to the scores.

    Returns:
        {"full_attention", "sliding_attention"}: (B, 1, L, L), bool or, for eager attention, what is added to the
        scores; and position_ids (B, L).

    Raises:
        ValueError: an attention that takes no such masks.
    """
    attention = text_config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise ValueError(f'question_ids need attn_implementation "sdpa" or "eager", not {attention!r}.')
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
    distance = position_ids[:, :, None] - position_ids[:, None, :]
    sliding = full & (distance < text_config.sliding_window)
    masks = {"full_attention": full[:, None], "sliding_attention": sliding[:, None]}
    if attention == "eager":
        hidden = torch.finfo(dtype).min
        masks = {name: torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, hidden) for name, mask in masks.items()}
    return masks, position_ids

"""The outputs of the model: of `forward`, and of `segment`.

Letters: B conversations, L tokens, I images, S [SEG] tokens, N labelled tokens, T new tokens, D Gemma's hidden size, V
the size of the vocabulary.
"""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

from .compatibility_gemma_lisa import accept_new_fields

# Parts of the loss, in the order of their weights.
LOSS_PARTS = ("language_loss", "mask_bce_loss", "mask_dice_loss", "score_loss", "heat_map_loss", "prompted_loss")


@accept_new_fields
@dataclass
class GemmaLisaOutput(CausalLMOutputWithPast):
    """Output of `GemmaLisaForConditionalGeneration.forward`.

    `loss`, `logits`, `hidden_states`, `attentions` and the cache have the names of the class of transformers.

    Args:
        loss (`torch.FloatTensor` of shape `()`): weighted sum of the losses below, with `labels` or `mask_labels`.
        language_loss (`torch.FloatTensor` of shape `()`): cross-entropy over the labelled tokens, unweighted.
        mask_bce_loss (`torch.FloatTensor` of shape `()`): binary cross-entropy over the masks, unweighted.
        mask_dice_loss (`torch.FloatTensor` of shape `()`): Dice loss over the masks, unweighted.
        score_loss (`torch.FloatTensor` of shape `()`): squared error between `iou_scores` and the IoU of the masks.
        heat_map_loss (`torch.FloatTensor` of shape `()`): weighted sum of BCE and Dice of `heat_maps`.
        prompted_loss (`torch.FloatTensor` of shape `()`): weighted sum of the mask and score losses with simulated
            prompts, averaged over three kinds of prompts. Only in training, and if the configuration gives it a weight.
        logits (`torch.FloatTensor` of shape `(N, V)` with labels, else `(B, L, V)`): with labels, only for the
            positions that predict a labelled token, in order.
        pred_masks (`torch.FloatTensor` of shape `(S, 256, 256)`): mask logits on SAM's padded square.
        iou_scores (`torch.FloatTensor` of shape `(S,)`): SAM's own estimate of the IoU, uncalibrated until trained.
        heat_maps (`torch.FloatTensor` of shape `(S, 64, 64)`): logits of the bridge on SAM's padded square: where it
            looks for the object. None if the bridge has no heat map.
        seg_image_index (`torch.LongTensor` of shape `(S,)`): index of the image of each mask, 0 to I−1.
        past_key_values (`Cache`): Gemma's KV cache. It is called `cache` since transformers 5.24.
        image_embeddings (`torch.FloatTensor` of shape `(I, 256, 64, 64)`): SAM's encoding of the images.
        last_hidden_state (`torch.FloatTensor` of shape `(B, L, D)`): Gemma's states from which `logits` are computed.
            None with labels.
        hidden_states, attentions: those of Gemma, if requested.
    """

    language_loss: torch.FloatTensor | None = None
    mask_bce_loss: torch.FloatTensor | None = None
    mask_dice_loss: torch.FloatTensor | None = None
    score_loss: torch.FloatTensor | None = None
    heat_map_loss: torch.FloatTensor | None = None
    prompted_loss: torch.FloatTensor | None = None
    pred_masks: torch.FloatTensor | None = None
    iou_scores: torch.FloatTensor | None = None
    heat_maps: torch.FloatTensor | None = None
    seg_image_index: torch.LongTensor | None = None
    image_embeddings: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None


@accept_new_fields
@dataclass
class SegmentOutput(ModelOutput):
    """Output of `segment`. R is `num_return_sequences` (default: 1).

    Args:
        sequences (`torch.LongTensor` of shape `(B * R, L + T)`): the prompts, followed by the new tokens.
        pred_masks (`torch.FloatTensor` of shape `(S, 256, 256)`): mask logits, one for each new `[SEG]`, row by row.
        iou_scores (`torch.FloatTensor` of shape `(S,)`): SAM's own estimate of the IoU, uncalibrated until trained.
        seg_image_index (`torch.LongTensor` of shape `(S,)`): index of the conversation of each mask, counted among
            those with an image. It indexes `original_sizes`.
        image_embeddings (`torch.FloatTensor` of shape `(I, 256, 64, 64)`): SAM's encoding of the images. Pass it to
            `segment` for further questions about them. None if only some of the images have a `[SEG]`, because SAM does
            not encode the others.
    """

    sequences: torch.LongTensor | None = None
    pred_masks: torch.FloatTensor | None = None
    iou_scores: torch.FloatTensor | None = None
    seg_image_index: torch.LongTensor | None = None
    image_embeddings: torch.FloatTensor | None = None

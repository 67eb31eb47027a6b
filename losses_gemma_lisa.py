"""Losses of Gemma-LISA: cross-entropy on labelled tokens, and BCE and Dice per mask at the size of its image.

The weights are in the configuration: `ce_loss_weight`, `bce_loss_weight`, `dice_loss_weight` and others.

Letters: N masks or labelled tokens, S masks of a batch, H and W pixels, V vocabulary.
"""

import torch
import torch.nn.functional as F

# Label of a token without loss, as everywhere in transformers.
IGNORE_INDEX = -100
# LISA's Dice smoothing (model/LISA.py `dice_loss`): sums are divided by SCALE before EPSILON is added.
DICE_SCALE = 1000.0
DICE_EPSILON = 1e-6


def bce_loss(logits: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Return the binary cross-entropy of each mask, averaged over its valid pixels.

    Args:
        logits: (N, H, W) float.
        targets: (N, H, W), 0 or 1.
        valid: (N, H, W) bool, False for ignored pixels. None means that all pixels are valid.

    Returns:
        (N,) float. A mask without valid pixels has loss 0.
    """
    per_pixel = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    if valid is None:
        return per_pixel.flatten(1).mean(1)
    valid = valid.to(logits.dtype).flatten(1)  # (N, H*W)
    return (per_pixel.flatten(1) * valid).sum(1) / valid.sum(1).clamp(min=1)


def dice_loss(logits: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Return the Dice loss of each mask, computed on probabilities with LISA's smoothing.

    Args:
        logits: (N, H, W) float.
        targets: (N, H, W), 0 or 1.
        valid: (N, H, W) bool, False for ignored pixels. None means that all pixels are valid.

    Returns:
        (N,) float in [0, 1].
    """
    probabilities = logits.sigmoid().flatten(1)  # (N, H*W)
    targets = targets.to(logits.dtype).flatten(1)
    if valid is not None:
        valid = valid.to(logits.dtype).flatten(1)
        probabilities, targets = probabilities * valid, targets * valid
    overlap = 2 * (probabilities / DICE_SCALE * targets).sum(1)
    total = (probabilities / DICE_SCALE).sum(1) + (targets / DICE_SCALE).sum(1)
    return 1 - (overlap + DICE_EPSILON) / (total + DICE_EPSILON)


def token_loss(logits: torch.Tensor, targets: torch.Tensor, divisor: torch.Tensor | int | None) -> torch.Tensor:
    """Return the cross-entropy of (N, V) logits against (N,) token ids: the sum / `divisor`, or the mean if None."""
    total = F.cross_entropy(logits.float(), targets, reduction="sum")
    return normalize(total, len(targets), divisor)


def normalize(total: torch.Tensor, count: int, divisor: torch.Tensor | int | None) -> torch.Tensor:
    """Return total / divisor. The divisor is the count of the global batch; None uses the count of this batch."""
    if divisor is None:
        divisor = count
    return total / (divisor.clamp(min=1) if isinstance(divisor, torch.Tensor) else torch.sym_max(divisor, 1))


def sample_mask_logits(
    pred_masks: torch.FloatTensor,
    side: int,
    reshaped_sizes: torch.LongTensor,
    sizes: torch.LongTensor,
    canvas: tuple[int, int],
) -> torch.FloatTensor:
    """Return mask logits resized bilinearly from SAM's padded square to images of different sizes, in one call.

    Args:
        pred_masks: (S, h, w) logits that cover SAM's square of `side` × `side` pixels.
        side: length of that square (1024).
        reshaped_sizes: (S, 2), (height, width) of the image inside the square, in its pixels.
        sizes: (S, 2), (height, width) of each output mask.
        canvas: (H, W), the largest of `sizes`.

    Returns:
        (S, H, W). Values outside a mask's own size have no meaning.
    """
    rows = torch.arange(canvas[0], device=pred_masks.device, dtype=torch.float32) + 0.5
    columns = torch.arange(canvas[1], device=pred_masks.device, dtype=torch.float32) + 0.5
    # The coordinates of grid_sample are −1 to 1 over the square. The image covers reshaped/side of it.
    scale = 2.0 * reshaped_sizes.float() / (sizes.float() * side)  # (S, 2)
    y = rows[None, :] * scale[:, :1] - 1  # (S, H)
    x = columns[None, :] * scale[:, 1:] - 1  # (S, W)
    grid = torch.stack(
        [x[:, None, :].expand(-1, canvas[0], -1), y[:, :, None].expand(-1, -1, canvas[1])], dim=-1
    )  # (S, H, W, 2)
    return F.grid_sample(pred_masks[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]

"""The parts of Gemma-LISA's loss: cross-entropy on labelled tokens, BCE and Dice per mask.

Letters: N masks or labelled tokens, H and W pixels, V vocabulary.
"""

import torch
import torch.nn.functional as F

# Label of a token that is not learned, as everywhere in transformers.
IGNORE_INDEX = -100
# Value of a mask's pixel that is not counted: neither the thing nor background.
IGNORE_VALUE = 255
# LISA's Dice smoothing (model/LISA.py `dice_loss`): sums are divided by SCALE before EPSILON is added.
DICE_SCALE = 1000.0
DICE_EPSILON = 1e-6


def bce_loss(logits: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Binary cross-entropy, averaged over the counted pixels of each mask.

    Args:
        logits: (N, H, W) float.
        targets: (N, H, W), 0 or 1.
        valid: (N, H, W) bool, False = the pixel is not counted; None counts all.

    Returns:
        (N,) float; a mask without a counted pixel has loss 0.
    """
    per_pixel = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    if valid is None:
        return per_pixel.flatten(1).mean(1)
    valid = valid.to(logits.dtype).flatten(1)  # (N, H*W)
    return (per_pixel.flatten(1) * valid).sum(1) / valid.sum(1).clamp(min=1)


def dice_loss(logits: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Dice loss of each mask on probabilities, with LISA's smoothing.

    Args:
        logits: (N, H, W) float.
        targets: (N, H, W), 0 or 1.
        valid: (N, H, W) bool, False = the pixel is not counted; None counts all.

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
    """Cross-entropy of (N, V) logits against (N,) token ids: the sum over `divisor`, or the mean where it is None."""
    total = F.cross_entropy(logits.float(), targets, reduction="sum")
    return normalize(total, len(targets), divisor)


def normalize(total: torch.Tensor, count: int, divisor: torch.Tensor | int | None) -> torch.Tensor:
    """A sum over the batch made a mean: over `divisor`, the count of the whole optimizer step, or over `count`."""
    if divisor is None:
        divisor = count
    return total / (divisor.clamp(min=1) if isinstance(divisor, torch.Tensor) else max(divisor, 1))

"""MaskTargets: the right masks of a batch, beside which predicted ones are laid, and from which clicks are simulated.

Letters: S masks, H and W the largest height and width among them, in pixels.
"""

from dataclasses import dataclass

import torch

from .losses_gemma_lisa import IGNORE_VALUE, bce_loss, dice_loss, normalize, pad_masks, sample_mask_logits

# How far a simulated box is off, as a share of its sides: SAM's own training (arXiv 2304.02643, appendix A).
BOX_NOISE = 0.1
# What a simulated hand does: points at the thing, draws a box around it, clicks where a mask is wrong.
HANDS = ("point", "box", "correction")


@dataclass
class MaskTargets:
    """The masks of a batch on one canvas.

    Args:
        labels: (S, H, W) uint8: 0, 1, and IGNORE_VALUE, also where the canvas is larger than the mask.
        sizes: (S, 2), (height, width) of each mask.
        reshaped_sizes: (S, 2), (height, width) of its image as SAM is shown it.
        side: of SAM's square, in pixels.
    """

    labels: torch.Tensor
    sizes: torch.LongTensor
    reshaped_sizes: torch.LongTensor
    side: int

    @classmethod
    def of(
        cls, mask_labels: list[torch.Tensor], reshaped_sizes: torch.LongTensor, side: int, max_size: int
    ) -> "MaskTargets":
        """Of masks as `forward` takes them; at least one. See `pad_masks` for `max_size` and errors."""
        labels, sizes = pad_masks(mask_labels, max_size)
        return cls(labels.to(reshaped_sizes.device), sizes.to(reshaped_sizes.device), reshaped_sizes, side)

    def read(self, pred_masks: torch.FloatTensor) -> torch.FloatTensor:
        """Predicted logits (S, 256, 256) where the labels are: (S, H, W)."""
        torch._check(len(pred_masks) == len(self.labels))  # in a graph, the number of masks is not known before
        return sample_mask_logits(
            pred_masks.float(), self.side, self.reshaped_sizes, self.sizes, canvas=self.labels.shape[-2:]
        )

    def losses(
        self, logits: torch.FloatTensor, divisor: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """BCE and Dice of logits (S, H, W), each the sum over the divisor, ()."""
        targets, valid = self.labels == 1, self.labels != IGNORE_VALUE
        return tuple(
            normalize(loss(logits, targets, valid).sum(), len(logits), divisor) for loss in (bce_loss, dice_loss)
        )

    def score_loss(
        self, logits: torch.FloatTensor, scores: torch.FloatTensor, divisor: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Squared error of the scores (S,) as estimates of the IoU that the masks of the logits (S, H, W) have, ()."""
        targets, valid = self.labels == 1, self.labels != IGNORE_VALUE  # (S, H, W)
        predicted = logits > 0
        intersections = (predicted & targets).flatten(1).sum(1)  # (S,)
        unions = ((predicted | targets) & valid).flatten(1).sum(1)
        ious = intersections / unions.clamp(min=1)  # (S,)
        return normalize(((scores.float() - ious) ** 2).sum(), len(scores), divisor)

    @torch.no_grad()
    def clicks(self, logits: torch.FloatTensor) -> torch.FloatTensor:
        """One click for each mask as a person corrects it: (S, 1, 3) x, y and label in SAM's square.

        On a pixel that the logits (S, H, W) have wrong, drawn at random; on the thing where none is wrong.
        """
        targets, valid = self.labels == 1, self.labels != IGNORE_VALUE
        chances = (((logits > 0) != targets) & valid).flatten(1).float()  # (S, H*W)
        for fallback in (targets, valid, torch.ones_like(valid)):
            chances = torch.where(chances.sum(1, keepdim=True) > 0, chances, fallback.flatten(1).float())
        at = torch.multinomial(chances, 1)[:, 0]  # (S,)
        y, x = at // self.labels.shape[2], at % self.labels.shape[2]
        scale = self.reshaped_sizes / self.sizes  # (S, 2)
        label = targets.flatten(1).gather(1, at[:, None])[:, 0]  # (S,)
        return torch.stack([x * scale[:, 1], y * scale[:, 0], label.float()], dim=1)[:, None]  # (S, 1, 3)

    @torch.no_grad()
    def boxes(self) -> torch.FloatTensor:
        """A box around each thing as roughly as by a person: (S, 4) left, top, right, bottom in SAM's square."""
        targets = self.labels == 1
        corners = []
        for axis, size in ((1, self.sizes[:, 1]), (2, self.sizes[:, 0])):  # columns, then rows
            hit = targets.any(dim=axis).long()  # (S, W or H)
            first, last = hit.argmax(1), hit.shape[1] - hit.flip(1).argmax(1)
            is_there = hit.any(dim=1)
            corners.append((torch.where(is_there, first, 0), torch.where(is_there, last, size)))
        (left, right), (top, bottom) = corners
        box = torch.stack([left, top, right, bottom], dim=1).float()  # (S, 4)
        lengths = (box[:, 2:] - box[:, :2]).repeat(1, 2)  # (S, 4)
        limits = self.sizes.flip(1).repeat(1, 2)  # (S, 4): width, height, width, height
        box = (box + torch.randn_like(box) * BOX_NOISE * lengths).clamp(min=0).minimum(limits)
        return box * (self.reshaped_sizes / self.sizes).flip(1).repeat(1, 2)


def prompts_of_hand(
    hand: str, targets: MaskTargets | None, shown: torch.FloatTensor, misled: bool
) -> dict[str, torch.FloatTensor]:
    """What a simulated hand gives `decode_masks`: points (S, 1, 3) or boxes (S, 4), and mask_inputs (S, 256, 256).

    Args:
        hand: one of HANDS.
        targets: the right masks; None where there are none, and S is 0.
        shown: (S, 256, 256) logits of the masks that are corrected.
        misled: they are another thing's, and a click where they are wrong would not tell where the right one is.
    """
    if hand == "box":
        return {"boxes": shown.new_zeros(0, 4) if targets is None else targets.boxes()}
    if targets is None:
        points = shown.new_zeros(0, 1, 3)
    elif hand == "correction" and not misled:
        points = targets.clicks(targets.read(shown))
    else:  # on the thing: all of it is missed
        points = targets.clicks(-torch.ones_like(targets.labels, dtype=shown.dtype))
    return {"points": points, "mask_inputs": shown} if hand == "correction" else {"points": points}

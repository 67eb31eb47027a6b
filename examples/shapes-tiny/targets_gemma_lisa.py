"""The target masks of a batch, the losses of predicted masks, and simulated prompts.

Letters: S masks, H and W the largest height and width among them in pixels, D Gemma's hidden size.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from transformers import PreTrainedConfig

from .bridge_gemma_lisa import SegStates
from .images_gemma_lisa import IGNORE_VALUE
from .losses_gemma_lisa import bce_loss, dice_loss, normalize, sample_mask_logits
from .mask_decoding_gemma_lisa import DecodedMasks
from .packing_gemma_lisa import Prepared

# Standard deviation of the corners of a simulated box, relative to its sides (SAM, arXiv 2304.02643, appendix A).
BOX_NOISE = 0.1
# Simulated prompts: a point on the object; a box around it; a point where a predicted mask is wrong, with that mask.
SIMULATED_PROMPTS = ("point", "box", "correction")
# `[SEG]` state that is combined with a simulated prompt: its own, that of another mask of the batch, or zeros.
SEG_STATES = ("own", "other", "none")
# Losses that `mask_losses` returns
MASK_LOSSES = ("mask_bce_loss", "mask_dice_loss", "score_loss")


def pad_masks(
    mask_labels: list[torch.Tensor], max_size: int, sources: list[str] | None = None
) -> tuple[torch.Tensor, torch.LongTensor]:
    """Return masks of different sizes on one canvas (S, H, W) uint8, padded with IGNORE_VALUE, and their sizes (S, 2).

    Args:
        mask_labels: one tensor (K, H, W) of 0, 1 and IGNORE_VALUE for each image, or bool; K can be 0.
        max_size: maximum side in pixels. Larger masks are resized (nearest neighbor).
        sources: name of each image in errors (default: its index).

    Raises:
        ValueError: values other than 0, 1 and IGNORE_VALUE; masks with 0 and 255 only.
    """
    resized = []
    for image, masks in enumerate(mask_labels):
        if len(masks) == 0:
            continue
        masks = masks.to(torch.uint8)
        if not torch.compiler.is_compiling():  # a graph cannot branch on values of tensors
            _check_values(masks, f"image {image}" if sources is None else sources[image])
        height, width = masks.shape[-2:]
        if (longest := max(height, width)) > max_size:
            size = [max(1, round(height * max_size / longest)), max(1, round(width * max_size / longest))]
            masks = F.interpolate(masks[None], size=size, mode="nearest-exact")[0]
        resized.append(masks)
    if not resized:
        return torch.zeros(0, 1, 1, dtype=torch.uint8), torch.zeros(0, 2, dtype=torch.long)
    canvas = [max(masks.shape[axis] for masks in resized) for axis in (-2, -1)]
    padded = [
        F.pad(masks, (0, canvas[1] - masks.shape[-1], 0, canvas[0] - masks.shape[-2]), value=IGNORE_VALUE)
        for masks in resized
    ]
    sizes = [[*masks.shape[-2:]] for masks in resized for _ in range(len(masks))]
    return torch.cat(padded), torch.tensor(sizes)


def _check_values(masks: torch.Tensor, source: str) -> None:
    # In uint8, 255 + 1 is 0, so this has the values 0 to 2. `unique` sorts the pixels, which takes 80 times as long.
    lowest, highest = (one.item() for one in (masks.flatten() + 1).aminmax())
    has_wrong_values, has_0_and_255_only = highest > 2, (lowest, highest) == (0, 1)
    if has_wrong_values or has_0_and_255_only:
        present = masks.unique().tolist()
        raise ValueError(
            f"The masks of {source} have the values {present}. They must be 1 (object), 0 (background) and "
            f"{IGNORE_VALUE} (ignored)."
        )


@dataclass
class MaskTargets:
    """The target masks of a batch on one canvas, all on one device.

    Args:
        labels: (S, H, W) uint8: 0, 1, and IGNORE_VALUE, also where the canvas is larger than the mask.
        sizes: (S, 2), (height, width) of each mask.
        reshaped_sizes: (S, 2), (height, width) of its image after SAM's resizing.
        side: side of SAM's square in pixels.
    """

    labels: torch.Tensor
    sizes: torch.LongTensor
    reshaped_sizes: torch.LongTensor
    side: int

    def read(self, pred_masks: torch.FloatTensor) -> torch.FloatTensor:
        """Return predicted logits (S, 256, 256) at the pixels of the labels: (S, H, W)."""
        torch._check(len(pred_masks) == len(self.labels))  # in a graph, the number of masks is not known in advance
        return sample_mask_logits(
            pred_masks.float(), self.side, self.reshaped_sizes, self.sizes, canvas=self.labels.shape[-2:]
        )

    def losses(
        self, logits: torch.FloatTensor, divisor: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the BCE and the Dice loss of logits (S, H, W), each summed and divided by the divisor, ()."""
        targets, valid = self.labels == 1, self.labels != IGNORE_VALUE
        return tuple(
            normalize(loss(logits, targets, valid).sum(), len(logits), divisor) for loss in (bce_loss, dice_loss)
        )

    def score_loss(
        self, logits: torch.FloatTensor, scores: torch.FloatTensor, divisor: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Return the squared error, (), between the scores (S,) and the IoU of the masks with logits (S, H, W)."""
        targets, valid = self.labels == 1, self.labels != IGNORE_VALUE  # (S, H, W)
        predicted = logits > 0
        intersections = (predicted & targets).flatten(1).sum(1)  # (S,)
        unions = ((predicted | targets) & valid).flatten(1).sum(1)
        ious = intersections / unions.clamp(min=1)  # (S,)
        return normalize(((scores.float() - ious) ** 2).sum(), len(scores), divisor)

    @torch.no_grad()
    def clicks(self, logits: torch.FloatTensor) -> torch.FloatTensor:
        """Return a simulated corrective click for each mask, (S, 1, 3): x, y in SAM's square and label.

        It is at a random pixel where the logits (S, H, W) are wrong. If no pixel is wrong, it is on the object.
        """
        targets, valid = self.labels == 1, self.labels != IGNORE_VALUE
        chances = (((logits > 0) != targets) & valid).flatten(1).float()  # (S, H*W)
        for fallback in (targets, valid, torch.ones_like(valid)):
            chances = torch.where(chances.sum(1, keepdim=True) > 0, chances, fallback.flatten(1).float())
        # As torch.multinomial(chances, 1), which checks its input and therefore synchronizes with the GPU
        at = (chances / torch.empty_like(chances).exponential_(1)).argmax(1)  # (S,)
        y, x = at // self.labels.shape[2], at % self.labels.shape[2]
        scale = self.reshaped_sizes / self.sizes  # (S, 2)
        label = targets.flatten(1).gather(1, at[:, None])[:, 0]  # (S,)
        return torch.stack([x * scale[:, 1], y * scale[:, 0], label.float()], dim=1)[:, None]  # (S, 1, 3)

    @torch.no_grad()
    def boxes(self) -> torch.FloatTensor:
        """Return a noisy box around each object, (S, 4): left, top, right, bottom in SAM's square."""
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


def targets_of_batch(
    seg_image_index: torch.LongTensor,
    mask_labels: list[torch.Tensor] | None,
    prepared: Prepared,
    reshaped_input_sizes: torch.LongTensor | None,
    config: PreTrainedConfig,
) -> MaskTargets | None:
    """Return the target masks of a batch, one for each `[SEG]`, or None if there are none.

    Args:
        seg_image_index: (S,) index of the image of each `[SEG]`.
        mask_labels, prepared, reshaped_input_sizes: as in `forward`. `prepared` has the masks if `mask_labels` is
            None. Checking and padding `mask_labels` synchronizes with the GPU.
        config: configuration of the model.

    Raises:
        ValueError: the number of masks is not the number of `[SEG]`; masks have invalid values, or belong to another
            `mask_loss_size`.
    """
    if mask_labels is not None:
        _check_counts(seg_image_index, mask_labels, reshaped_input_sizes)
        mask_targets, mask_sizes = pad_masks(mask_labels, config.mask_loss_size)
    else:
        _check_targets(seg_image_index, prepared, config.mask_loss_size)
        mask_targets, mask_sizes = prepared.mask_targets, prepared.mask_sizes
    if len(mask_targets) == 0:
        return None
    if reshaped_input_sizes is None:
        raise ValueError("mask_labels need reshaped_input_sizes. Pass all outputs of the processor.")
    reshaped_sizes, device = reshaped_input_sizes[seg_image_index], reshaped_input_sizes.device
    side = config.sam_config.vision_config.image_size
    return MaskTargets(mask_targets.to(device), mask_sizes.to(device), reshaped_sizes, side)


def _check_counts(
    seg_image_index: torch.LongTensor, mask_labels: list[torch.Tensor], reshaped_input_sizes: torch.LongTensor | None
) -> None:
    """Raise ValueError unless each image has as many masks as `[SEG]` tokens, whose image indices are (S,)."""
    if torch.compiler.is_compiling():
        return
    counts = [len(masks) for masks in mask_labels]
    num_images = len(counts) if reshaped_input_sizes is None else len(reshaped_input_sizes)
    found = torch.bincount(seg_image_index, minlength=num_images).tolist()
    if found != counts:
        raise ValueError(f"[SEG] tokens per image: {found}, masks per image: {counts}. Every [SEG] needs one mask.")


def _check_targets(seg_image_index: torch.LongTensor, prepared: Prepared, mask_loss_size: int) -> None:
    """Raise ValueError unless the shapes of the prepared masks (S, H, W) match this batch and this model."""
    sizes = None if prepared.mask_sizes is None else len(prepared.mask_sizes)
    if not len(seg_image_index) == prepared.num_masks == sizes:
        raise ValueError(
            f"{len(seg_image_index)} [SEG] tokens but {prepared.num_masks} mask_targets and {sizes} mask_sizes. Pass "
            "the unchanged batch of the collator."
        )
    if prepared.mask_loss_size != mask_loss_size:
        raise ValueError(
            f"The masks of the batch were made with mask_loss_size={prepared.mask_loss_size}, but the model has "
            f"mask_loss_size={mask_loss_size}. Use GemmaLisaCollator(processor, mask_loss_size={mask_loss_size})."
        )


def mask_losses(
    pred_masks: torch.FloatTensor,
    iou_scores: torch.FloatTensor,
    targets: MaskTargets | None,
    divisor: torch.Tensor | int | None,
) -> dict[str, torch.Tensor]:
    """Return mask_bce_loss and mask_dice_loss at the sizes of the targets, and score_loss; each ().

    Args:
        pred_masks: (S, 256, 256) logits.
        iou_scores: (S,) SAM's estimates of the masks' IoU.
        targets: None if S is 0.
        divisor: divisor of each sum over the masks (default: S).
    """
    if targets is None:
        return dict.fromkeys(MASK_LOSSES, pred_masks.float().sum())
    logits = targets.read(pred_masks)
    parts = (*targets.losses(logits, divisor), targets.score_loss(logits.detach(), iou_scores, divisor))
    return dict(zip(MASK_LOSSES, parts, strict=True))


def losses_of_masks(
    decoded: DecodedMasks, targets: MaskTargets | None, config: PreTrainedConfig, divisor: torch.Tensor | int | None
) -> dict[str, torch.Tensor]:
    """Return the losses of `mask_losses` and, if the bridge has heat maps, heat_map_loss; each ().

    Args:
        decoded: masks, scores and heat maps of S `[SEG]` tokens.
        targets: None if S is 0.
        config: configuration of the model; heat_map_loss has its weights of BCE and Dice.
        divisor: as in `mask_losses`.
    """
    parts = mask_losses(decoded.masks, decoded.scores, targets, divisor)
    if decoded.heat_maps is not None and targets is None:
        parts["heat_map_loss"] = decoded.heat_maps.float().sum()
    elif decoded.heat_maps is not None:
        bce, dice = targets.losses(targets.read(decoded.heat_maps), divisor)
        parts["heat_map_loss"] = config.bce_loss_weight * bce + config.dice_loss_weight * dice
    return parts


def prompted_loss(
    decode: Callable[..., DecodedMasks],
    seg: SegStates,
    pred_masks: torch.FloatTensor,
    targets: MaskTargets | None,
    weights: tuple[float, float, float],
    divisor: torch.Tensor | int | None,
) -> torch.Tensor:
    """Return the loss of the masks from simulated prompts, (): the mean over SIMULATED_PROMPTS.

    Each prompt is combined with a random one of SEG_STATES. With the right `[SEG]`, the decoder can ignore the prompt.
    With another `[SEG]` or none, it must learn to follow the prompt.

    Args:
        decode: function of SegStates and prompts that returns `DecodedMasks`.
        seg: Gemma's states at `[SEG]`, and the image of each.
        pred_masks: (S, 256, 256) logits without simulated prompts.
        targets: None if there are none; the decoder is then called without masks.
        weights: weights of MASK_LOSSES.
        divisor: as in `mask_losses`.
    """
    loss = 0.0
    for kind in SIMULATED_PROMPTS:
        seg_state = SEG_STATES[int(torch.randint(len(SEG_STATES), ()))]  # drawn on the CPU: no GPU synchronization
        states, shown = seg.states, pred_masks.detach()  # (S, D), (S, 256, 256)
        if seg_state == "other":
            states, shown = states.roll(1, dims=0), shown.roll(1, dims=0)
        elif seg_state == "none":
            states = states * 0.0  # new zeros would leave the projector out of the backward pass
        if targets is None:
            states, shown = states[:0], shown[:0]
        prompts = simulated_prompts(kind, targets, shown, of_other=seg_state == "other")
        decoded = decode(replace(seg, states=states), **prompts)
        loss = loss + decoded.touched
        if targets is not None:
            parts = mask_losses(decoded.masks, decoded.scores, targets, divisor)
            for name, weight in zip(MASK_LOSSES, weights, strict=True):
                loss = loss + weight * parts[name]
    return loss / len(SIMULATED_PROMPTS)


def simulated_prompts(
    kind: str, targets: MaskTargets | None, shown: torch.FloatTensor, of_other: bool
) -> dict[str, torch.FloatTensor]:
    """Return simulated prompts for `decode_masks`: points (S, 1, 3) or boxes (S, 4), and mask_inputs (S, 256, 256).

    Args:
        kind: one of SIMULATED_PROMPTS.
        targets: the target masks; None if S is 0.
        shown: (S, 256, 256) logits of the masks to correct.
        of_other: whether these masks belong to another object. The point is then on the target object.
    """
    if kind == "box":
        return {"boxes": shown.new_zeros(0, 4) if targets is None else targets.boxes()}
    if targets is None:
        points = shown.new_zeros(0, 1, 3)
    elif kind == "correction" and not of_other:
        points = targets.clicks(targets.read(shown))
    else:  # a point on the object: an empty mask is wrong only there
        points = targets.clicks(-torch.ones_like(targets.labels, dtype=shown.dtype))
    return {"points": points, "mask_inputs": shown} if kind == "correction" else {"points": points}

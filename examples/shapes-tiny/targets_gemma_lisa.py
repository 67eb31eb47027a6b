"""The target masks of a batch, the losses of predicted masks against them, and prompts simulated from them.

Letters: S masks, H and W the largest height and width among them in pixels, D Gemma's hidden size.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from transformers import PreTrainedConfig

from .losses_gemma_lisa import IGNORE_VALUE, bce_loss, dice_loss, normalize, sample_mask_logits
from .mask_decoding_gemma_lisa import SegStates
from .packing_gemma_lisa import Prepared

# How far a simulated box is off, as a share of its sides: SAM's own training (arXiv 2304.02643, appendix A).
BOX_NOISE = 0.1
# Simulated prompts: a point on the object, a box around it, a point where the predicted mask is wrong and that mask.
SIMULATED_PROMPTS = ("point", "box", "correction")
# The `[SEG]` state that comes with a simulated prompt: its own, that of another mask of the batch, or zeros.
SEG_STATES = ("own", "other", "none")
# What `mask_losses` returns.
MASK_LOSSES = ("mask_bce_loss", "mask_dice_loss", "score_loss")


def pad_masks(
    mask_labels: list[torch.Tensor], max_size: int, sources: list[str] | None = None
) -> tuple[torch.Tensor, torch.LongTensor]:
    """Return masks of any sizes on one canvas (S, H, W) uint8, padded with IGNORE_VALUE, and the size of each, (S, 2).

    Args:
        mask_labels: one tensor (K, H, W) of 0, 1 and IGNORE_VALUE for each image, or bool; K can be 0.
        max_size: masks with a longer side in pixels are resized to it, by nearest pixels.
        sources: name of each image in errors; None gives their numbers.

    Raises:
        ValueError: values other than 0, 1 and IGNORE_VALUE; masks of 0 and 255 where 0 and 1 are meant.
    """
    resized = []
    for image, masks in enumerate(mask_labels):
        if len(masks) == 0:
            continue
        masks = masks.to(torch.uint8)
        if not torch.compiler.is_compiling():  # a graph cannot branch on what tensors hold
            _check_values(masks, f"image {image}" if sources is None else sources[image])
        height, width = masks.shape[-2:]
        if (longest := max(height, width)) > max_size:
            size = [max(1, round(height * max_size / longest)), max(1, round(width * max_size / longest))]
            masks = F.interpolate(masks[None].float(), size=size, mode="nearest-exact")[0].to(masks.dtype)
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
    present = set(masks.unique().tolist())
    if present - {0, 1, IGNORE_VALUE} or present == {0, IGNORE_VALUE}:
        raise ValueError(
            f"The masks of {source} hold the values {sorted(present)}; 1 is the thing, 0 is not, and "
            f"{IGNORE_VALUE} is not counted."
        )


@dataclass
class MaskTargets:
    """The target masks of a batch on one canvas, all on one device.

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
        """One point for each mask as a person corrects it: (S, 1, 3) x, y and label in SAM's square.

        On a pixel that the logits (S, H, W) have wrong, drawn at random; on the thing where none is wrong.
        """
        targets, valid = self.labels == 1, self.labels != IGNORE_VALUE
        chances = (((logits > 0) != targets) & valid).flatten(1).float()  # (S, H*W)
        for fallback in (targets, valid, torch.ones_like(valid)):
            chances = torch.where(chances.sum(1, keepdim=True) > 0, chances, fallback.flatten(1).float())
        # What torch.multinomial(chances, 1) draws, which checks its input and so waits for the device
        at = (chances / torch.empty_like(chances).exponential_(1)).argmax(1)  # (S,)
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


def targets_of_batch(
    seg_image_index: torch.LongTensor,
    mask_labels: list[torch.Tensor] | None,
    prepared: Prepared,
    reshaped_input_sizes: torch.LongTensor | None,
    config: PreTrainedConfig,
) -> MaskTargets | None:
    """Return the target masks of a batch, one for each `[SEG]`; None where it has neither.

    Args:
        seg_image_index: (S,) the image of each `[SEG]`.
        mask_labels, prepared, reshaped_input_sizes: as `forward` takes them. `prepared` has the masks where
            `mask_labels` is None. Checking and padding `mask_labels` waits for the device.
        config: of the model.

    Raises:
        ValueError: not one mask for each `[SEG]`, masks of other values or made for another `mask_loss_size`.
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
        raise ValueError("mask_labels came without reshaped_input_sizes: pass all that the processor returned.")
    reshaped_sizes, device = reshaped_input_sizes[seg_image_index], reshaped_input_sizes.device
    side = config.sam_config.vision_config.image_size
    return MaskTargets(mask_targets.to(device), mask_sizes.to(device), reshaped_sizes, side)


def _check_counts(
    seg_image_index: torch.LongTensor, mask_labels: list[torch.Tensor], reshaped_input_sizes: torch.LongTensor | None
) -> None:
    """Raise unless each image has as many masks as `[SEG]` tokens, which are of the images (S,)."""
    if torch.compiler.is_compiling():
        return
    counts = [len(masks) for masks in mask_labels]
    num_images = len(counts) if reshaped_input_sizes is None else len(reshaped_input_sizes)
    found = torch.bincount(seg_image_index, minlength=num_images).tolist()
    if found != counts:
        raise ValueError(f"[SEG] tokens per image {found}, masks per image {counts}; every [SEG] needs one mask.")


def _check_targets(seg_image_index: torch.LongTensor, prepared: Prepared, mask_loss_size: int) -> None:
    """Raise unless prepared masks (S, H, W) belong to this batch and this model, as far as their shapes tell."""
    sizes = None if prepared.mask_sizes is None else len(prepared.mask_sizes)
    if not len(seg_image_index) == prepared.num_masks == sizes:
        raise ValueError(
            f"{len(seg_image_index)} [SEG] tokens but {prepared.num_masks} mask_targets and {sizes} mask_sizes; pass "
            "all that the collator returned."
        )
    if prepared.mask_loss_size != mask_loss_size:
        raise ValueError(
            f"The masks of the batch are made for mask_loss_size={prepared.mask_loss_size}, but the model has "
            f"mask_loss_size={mask_loss_size}; make the batch with GemmaLisaCollator(processor, "
            f"mask_loss_size={mask_loss_size})."
        )


def mask_losses(
    pred_masks: torch.FloatTensor,
    iou_scores: torch.FloatTensor,
    targets: MaskTargets | None,
    divisor: torch.Tensor | int | None,
) -> dict[str, torch.Tensor]:
    """Return mask_bce_loss and mask_dice_loss at the targets' own sizes, and score_loss, of all masks; each ().

    Args:
        pred_masks: (S, 256, 256) logits.
        iou_scores: (S,) SAM's estimates of the masks' IoU.
        targets: None where S is 0.
        divisor: what each sum over the masks is divided by; None divides by S.
    """
    if targets is None:
        return dict.fromkeys(MASK_LOSSES, pred_masks.float().sum())
    logits = targets.read(pred_masks)
    parts = (*targets.losses(logits, divisor), targets.score_loss(logits.detach(), iou_scores, divisor))
    return dict(zip(MASK_LOSSES, parts, strict=True))


def prompted_loss(
    decode: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    seg: SegStates,
    pred_masks: torch.FloatTensor,
    targets: MaskTargets | None,
    weights: tuple[float, float, float],
    divisor: torch.Tensor | int | None,
) -> torch.Tensor:
    """Return the loss of the masks that simulated prompts give, (): the mean over SIMULATED_PROMPTS.

    One of SEG_STATES is drawn for each. A prompt beside its own `[SEG]` is seldom needed and not learned to be
    believed; what it means is learned where the `[SEG]` says nothing or points elsewhere.

    Args:
        decode: takes SegStates and prompts; returns logits (S, 256, 256), scores (S,) and a zero that depends on all
            its outputs.
        seg: Gemma's states at `[SEG]`, and the image of each.
        pred_masks: (S, 256, 256) logits that the states alone give.
        targets: None where there are none; the decoder is then called without a mask.
        weights: of MASK_LOSSES.
        divisor: as in `mask_losses`.
    """
    loss = 0.0
    for kind in SIMULATED_PROMPTS:
        said = SEG_STATES[int(torch.randint(len(SEG_STATES), ()))]  # drawn on the CPU: nothing waits for the device
        states, shown = seg.states, pred_masks.detach()  # (S, D), (S, 256, 256)
        if said == "other":
            states, shown = states.roll(1, dims=0), shown.roll(1, dims=0)
        elif said == "none":
            states = states * 0.0  # new zeros would leave the projector out of the backward pass
        if targets is None:
            states, shown = states[:0], shown[:0]
        prompts = simulated_prompts(kind, targets, shown, of_other=said == "other")
        masks, scores, touched = decode(replace(seg, states=states), **prompts)  # (S, 256, 256), (S,), ()
        loss = loss + touched
        if targets is not None:
            parts = mask_losses(masks, scores, targets, divisor)
            for name, weight in zip(MASK_LOSSES, weights, strict=True):
                loss = loss + weight * parts[name]
    return loss / len(SIMULATED_PROMPTS)


def simulated_prompts(
    kind: str, targets: MaskTargets | None, shown: torch.FloatTensor, of_other: bool
) -> dict[str, torch.FloatTensor]:
    """Return simulated prompts for `decode_masks`: points (S, 1, 3) or boxes (S, 4), and mask_inputs (S, 256, 256).

    Args:
        kind: one of SIMULATED_PROMPTS.
        targets: the right masks; None where there are none, and S is 0.
        shown: (S, 256, 256) logits of the masks that are corrected.
        of_other: they are another object's, so a pixel that they have wrong need not lie near the right mask.
    """
    if kind == "box":
        return {"boxes": shown.new_zeros(0, 4) if targets is None else targets.boxes()}
    if targets is None:
        points = shown.new_zeros(0, 1, 3)
    elif kind == "correction" and not of_other:
        points = targets.clicks(targets.read(shown))
    else:  # a point on the object: a mask that misses all of it is wrong only there
        points = targets.clicks(-torch.ones_like(targets.labels, dtype=shown.dtype))
    return {"points": points, "mask_inputs": shown} if kind == "correction" else {"points": points}

"""SAM's mask decoder, prompted by a `[SEG]` together with SAM's own prompts: points, a box, an earlier mask.

Letters: S prompted masks, I images, D Gemma's hidden size, C SAM's prompt size (256), N points. Sizes in pixels are
SAM's defaults; the configuration can change them.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, SamModel
from transformers.utils import is_accelerate_available

from .bridge_gemma_lisa import SegPrompts, SegStates, project

HAS_ACCELERATE = is_accelerate_available()
if is_accelerate_available():  # transformers recognizes this line and does not require accelerate
    from accelerate.utils import align_module_device

# Masks per decoder call in inference. Each takes tens of MB, and an answer can have one mask per token.
MASKS_AT_ONCE = 32
# Labels of points
FOREGROUND, BACKGROUND = 1, 0


@dataclass
class DecodedMasks:
    """Masks of SAM's decoder.

    Args:
        masks: (S, 256, 256) mask logits on SAM's padded square.
        scores: (S,) SAM's own estimates of their IoU.
        heat_maps: (S, 64, 64) logits, or None if the bridge has none.
        touched: (), a zero that depends on all outputs and must be added to the loss.
    """

    masks: torch.FloatTensor
    scores: torch.FloatTensor
    heat_maps: torch.FloatTensor | None
    touched: torch.Tensor


def decode_masks(
    sam: SamModel,
    seg_embeddings: torch.FloatTensor,
    image_embeddings: torch.FloatTensor,
    points: torch.FloatTensor | None = None,
    boxes: torch.FloatTensor | None = None,
    mask_inputs: torch.FloatTensor | None = None,
    multimask_output: bool = False,
) -> tuple[torch.FloatTensor, torch.FloatTensor]:
    """Run SAM's mask decoder once.

    Args:
        seg_embeddings: (S, C) sparse prompts of the bridge for the states at `[SEG]`.
        image_embeddings: (S, C, 64, 64) encoding of the image of each `[SEG]`.
        points: (S, N, 3) x, y in pixels of SAM's square, and the label FOREGROUND or BACKGROUND.
        boxes: (S, 4) left, top, right, bottom in pixels of SAM's square.
        mask_inputs: (S, 256, 256) mask logits that are to be refined: of an earlier call, or of the bridge.
        multimask_output: return the best-scored of SAM's three masks for ambiguous prompts.

    Returns:
        mask logits (S, 256, 256) on SAM's padded square, and SAM's own estimates of their IoU (S,).
    """
    count = len(seg_embeddings)
    with _bare_weights_loaded(sam):
        weight = sam.mask_decoder.iou_token.weight
        sparse = seg_embeddings[:, None, None, :].to(weight)  # (S, 1, 1, C)
        points, boxes, mask_inputs = (
            None if prompt is None else prompt[:, None].to(weight.device) for prompt in (points, boxes, mask_inputs)
        )
        sparse_prompts, dense = sam.prompt_encoder(
            None if points is None else points[..., :2],  # (S, 1, N, 2)
            None if points is None else points[..., 2],  # (S, 1, N)
            boxes,  # (S, 1, 4)
            None if mask_inputs is None else mask_inputs.to(sam.prompt_encoder.mask_embed.conv1.weight.dtype),
        )  # (S, 1, N, C) or None, (1 or S, C, 64, 64)
        if sparse_prompts is not None:
            sparse = torch.cat([sparse_prompts.to(weight), sparse], dim=2)  # (S, 1, N + 1, C)
        masks, scores = sam.mask_decoder(
            image_embeddings=image_embeddings.to(weight),
            image_positional_embeddings=sam.get_image_wide_positional_embeddings().to(weight),  # (1, C, 64, 64)
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense.to(weight),
            multimask_output=multimask_output,
        )  # (S, 1, M, 256, 256), (S, 1, M)
    masks, scores = masks[:, 0], scores[:, 0]  # (S, M, 256, 256), (S, M)
    if not multimask_output:
        return masks[:, 0], scores[:, 0]
    best = scores.argmax(dim=1)  # (S,)
    each = torch.arange(count, device=best.device)
    return masks[each, best], scores[each, best]


def decode_seg_states(
    sam: SamModel,
    bridge: nn.Module,
    seg: SegStates,
    multimask_output: bool = False,
    **prompts: torch.FloatTensor,
) -> DecodedMasks:
    """Return the masks of the `[SEG]` tokens.

    If there is no `[SEG]`, the decoder runs on `idle_state`. So every parameter has a gradient, and the backward pass
    of every rank goes through the same modules.

    Args:
        bridge: the model's `seg_projector`.
        prompts: further prompts of `decode_masks`, (S, ...) each.
    """
    count = len(seg.states)
    if torch.compiler.is_compiling() or count == 0:  # a graph cannot branch on the count, so it always adds the state
        states = torch.cat([seg.states, seg.idle_state])
        image_index = torch.cat([seg.image_index[:count], seg.image_index.new_zeros(1)])
        seg = replace(seg, states=states, image_index=image_index)
        prompts = {
            name: torch.cat([prompt, prompt.new_zeros(1, *prompt.shape[1:])]) for name, prompt in prompts.items()
        }
        seg = _with_images(seg)
    images = seg.image_embeddings[seg.image_index.to(seg.image_embeddings.device)]  # (S, C, 64, 64)
    asked = project(bridge, seg)
    prompts = {"mask_inputs": asked.mask_inputs} | prompts  # a mask to correct replaces the heat map
    masks, scores = decode_masks(sam, asked.embeddings, images, multimask_output=multimask_output, **prompts)
    touched = masks.float().sum() + scores.float().sum()
    if asked.heat_maps is not None:
        touched = touched + asked.heat_maps.float().sum()
    heat_maps = None if asked.heat_maps is None else asked.heat_maps[:count]
    return DecodedMasks(masks[:count], scores[:count], heat_maps, touched * 0.0)


def _with_images(seg: SegStates) -> SegStates:
    """Return the states with what a batch without images lacks: one image of zeros that fills SAM's square."""
    embeddings, features, shares = seg.image_embeddings, seg.image_features, seg.image_shares
    if len(embeddings) == 0:
        embeddings = embeddings.new_zeros(1, *embeddings.shape[1:])
    if features is None or len(features) == 0:
        features = seg.states.new_zeros(len(embeddings), 1, seg.states.shape[-1])
    if shares is None or len(shares) == 0:
        shares = seg.states.new_ones(len(embeddings), 2)
    return replace(seg, image_embeddings=embeddings, image_features=features, image_shares=shares)


def decode_with_prompts(
    sam: SamModel,
    asked: SegPrompts,
    image_embeddings: torch.FloatTensor,
    seg_image_index: torch.LongTensor,
    prompts: list[tuple[torch.FloatTensor | None, torch.FloatTensor | None]],
    multimask_output: bool,
) -> tuple[torch.FloatTensor, torch.FloatTensor]:
    """Return masks and scores as `decode_masks` does, with the points and the box of each image.

    Images are decoded one by one, because they can have different numbers of points.

    Args:
        asked: prompts of the bridge for S `[SEG]`, sorted by image.
        image_embeddings: (I, C, 64, 64).
        seg_image_index: (S,), index of the image of each `[SEG]`.
        prompts: output of `prompts_in_sam_frame` for each of the I images.
    """
    side = 4 * image_embeddings.shape[-1]  # SAM's decoder enlarges its grid four times
    masks, scores = [image_embeddings.new_zeros(0, side, side)], [image_embeddings.new_zeros(0)]
    for image, (points, box) in enumerate(prompts):
        mine = seg_image_index == image
        for numbers in mine.to(asked.embeddings.device).nonzero()[:, 0].split(MASKS_AT_ONCE):  # (K,)
            if (count := len(numbers)) == 0:
                continue
            chosen = asked[numbers]
            decoded = decode_masks(
                sam,
                chosen.embeddings,
                image_embeddings[image].expand(count, -1, -1, -1),  # (K, C, 64, 64)
                None if points is None else points.expand(count, -1, -1),  # (K, N, 3)
                None if box is None else box.expand(count, -1),  # (K, 4)
                chosen.mask_inputs,
                multimask_output=multimask_output,
            )
            masks.append(decoded[0])
            scores.append(decoded[1])
    return torch.cat(masks), torch.cat(scores)


def no_embeddings(states: torch.FloatTensor, config: PreTrainedConfig) -> torch.FloatTensor:
    """Return SAM's encoding of no images, (0, C, 64, 64), in the type and on the device of `states`."""
    config = config.sam_config.prompt_encoder_config
    return states.new_zeros(0, config.hidden_size, config.image_embedding_size, config.image_embedding_size)


def user_prompts(
    points: list[Any] | None,
    boxes: list[Any] | None,
    original_sizes: torch.LongTensor | None,
    reshaped_input_sizes: torch.LongTensor | None,
    num_images: int,
) -> list[tuple[torch.FloatTensor | None, torch.FloatTensor | None]] | None:
    """Return the points and the box of each image as `prompts_in_sam_frame` does; None if there are none at all.

    Raises:
        ValueError: the number of items is not the number of images; or as `prompts_in_sam_frame`.
    """
    if points is None and boxes is None:
        return None
    points = [None] * num_images if points is None else points
    boxes = [None] * num_images if boxes is None else boxes
    if original_sizes is None or reshaped_input_sizes is None:
        raise ValueError(
            "points and boxes need original_sizes and reshaped_input_sizes. Pass all outputs of the processor."
        )
    if len(points) != num_images or len(boxes) != num_images:
        raise ValueError(
            f"points and boxes must have one item per image ({num_images}), got {len(points)} and {len(boxes)}."
        )
    sizes = zip(original_sizes.tolist(), reshaped_input_sizes.tolist(), strict=True)
    return [
        prompts_in_sam_frame(points[image], boxes[image], original, reshaped)
        for image, (original, reshaped) in enumerate(sizes)
    ]


def prompts_in_sam_frame(
    points: Any,
    box: Any,
    original_size: tuple[int, int],
    reshaped_size: tuple[int, int],
) -> tuple[torch.FloatTensor | None, torch.FloatTensor | None]:
    """Return the points (1, N, 3) and the box (1, 4) of one image in pixels of SAM's square, for `decode_masks`.

    Args:
        points: N points of x, y in pixels of the image and label (FOREGROUND or BACKGROUND); or None.
        box: left, top, right, bottom in pixels of the image; or None.
        original_size, reshaped_size: (height, width) of the image in pixels, before and after SAM's resizing.

    Returns:
        CPU tensors, or None for what was not given. `decode_masks` moves them to the device.

    Raises:
        ValueError: another shape, a place outside the image, or an unknown label.
    """
    height, width = (int(side) for side in original_size)
    # x and y have different scales, because SAM resizes each side to whole pixels
    scale = torch.tensor([int(reshaped_size[1]) / width, int(reshaped_size[0]) / height])
    limit = torch.tensor([width, height])
    if points is not None:
        points = torch.as_tensor(points, dtype=torch.float32, device="cpu")
        if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
            raise ValueError(
                f"points must have the shape (N, 3), with x, y and label of each point, got {tuple(points.shape)}."
            )
        if not torch.isin(points[:, 2], torch.tensor([BACKGROUND, FOREGROUND])).all():
            raise ValueError(
                f"The label of a point must be {FOREGROUND} (foreground) or {BACKGROUND} (background), got "
                f"{points[:, 2].tolist()}."
            )
        _check_inside(points[:, :2], limit)
        points = torch.cat([points[:, :2] * scale, points[:, 2:]], dim=1)[None]  # (1, N, 3)
    if box is not None:
        box = torch.as_tensor(box, dtype=torch.float32, device="cpu")
        if box.shape != (4,) or not (box[:2] < box[2:]).all():
            raise ValueError(
                f"A box must be [left, top, right, bottom] with left < right and top < bottom, got {box.tolist()}."
            )
        _check_inside(box.view(2, 2), limit)
        box = (box.view(2, 2) * scale).view(1, 4)
    return points, box


def _check_inside(places: torch.FloatTensor, limit: torch.Tensor) -> None:
    if not ((places >= 0) & (places <= limit)).all():
        raise ValueError(
            f"Points and boxes must be inside the image of {int(limit[0])} × {int(limit[1])} pixels (width × height), "
            f"got (x, y) = {places.tolist()}."
        )


def loaded_device(module: nn.Module, device: torch.device) -> torch.device:
    """Return the device for inputs of a module whose weight is on `device`.

    This is the CPU for weights that Accelerate offloaded, because Accelerate moves the inputs itself.
    """
    is_offloaded = device.type == "meta" and any("_hf_hook" in vars(part) for part in module.modules())
    return torch.device("cpu") if is_offloaded else device


@contextmanager
def _bare_weights_loaded(sam: SamModel) -> Iterator[None]:
    """Load the weights that SAM uses without calling their module.

    Accelerate loads offloaded weights when their module is called. SAM reads the `weight` of its token embeddings
    directly, and the device of its positional embedding before the call. Fast layers read all weights of the decoder.
    """
    with ExitStack() as stack:
        if HAS_ACCELERATE and not torch.compiler.is_compiling():
            decoder = set(sam.mask_decoder.modules())
            for module in sam.modules():
                if module in decoder or isinstance(module, nn.Embedding) or module is sam.shared_image_embedding:
                    stack.enter_context(align_module_device(module))
        yield

"""SAM's decoder with a `[SEG]` beside its own prompts: points, a box, an earlier mask.

Letters: S prompted masks, I images, D Gemma's hidden size, C SAM's prompt size (256), N points. Sizes in pixels
are SAM's; the configuration decides.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import SamModel
from transformers.utils import is_accelerate_available

HAS_ACCELERATE = is_accelerate_available()
if is_accelerate_available():  # in these words: transformers then does not ask for it
    from accelerate.utils import align_module_device

# In inference. A mask takes tens of MB in SAM's decoder, and an answer may have as many as it has tokens.
MASKS_AT_ONCE = 32
# Labels of points: on the thing, or beside it.
ON, OFF = 1, 0


class SegProjector(nn.Sequential):
    """Gemma's state at a `[SEG]`, (S, D), to a prompt of SAM's decoder, (S, C): Linear–ReLU–Linear, as in LISA."""

    def __init__(self, hidden_size: int, prompt_size: int):
        super().__init__(nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, prompt_size))

    @property
    def dtype(self) -> torch.dtype:
        """The type it computes in: its bias's, for a quantised weight is held in bytes."""
        return self[0].bias.dtype


@dataclass
class SegStates:
    """Gemma's states that prompt SAM's decoder.

    Args:
        states: (S, D), one for each `[SEG]`.
        image_index: (S,) the image that each belongs to.
        image_embeddings: (I, C, 64, 64) SAM's encoding of the images.
        idle_state: (1, D) what the decoder is called with where S is 0.
    """

    states: torch.FloatTensor
    image_index: torch.LongTensor
    image_embeddings: torch.FloatTensor
    idle_state: torch.FloatTensor


def decode_masks(
    sam: SamModel,
    seg_embeddings: torch.FloatTensor,
    image_embeddings: torch.FloatTensor,
    points: torch.FloatTensor | None = None,
    boxes: torch.FloatTensor | None = None,
    mask_inputs: torch.FloatTensor | None = None,
    multimask_output: bool = False,
) -> tuple[torch.FloatTensor, torch.FloatTensor]:
    """SAM's decoder, once.

    Args:
        seg_embeddings: (S, C) what `seg_projector` made of the states at `[SEG]`.
        image_embeddings: (S, C, 64, 64) the image of each.
        points: (S, N, 3) x, y and label in pixels of SAM's square; the label is ON or OFF.
        boxes: (S, 4) left, top, right, bottom, likewise.
        mask_inputs: (S, 256, 256) logits to begin from, as an earlier call returned them.
        multimask_output: of the three masks that SAM has for what is ambiguous, the one it scores best.

    Returns:
        mask logits (S, 256, 256) on SAM's padded square, and its own estimates of their IoU (S,).
    """
    count = len(seg_embeddings)
    with _bare_weights_loaded(sam):
        weight = sam.mask_decoder.iou_token.weight
        sparse = seg_embeddings[:, None, None, :].to(weight)  # (S, 1, 1, C)
        points, boxes, mask_inputs = (
            None if prompt is None else prompt[:, None].to(weight.device) for prompt in (points, boxes, mask_inputs)
        )
        by_hand, dense = sam.prompt_encoder(
            None if points is None else points[..., :2],  # (S, 1, N, 2)
            None if points is None else points[..., 2],  # (S, 1, N)
            boxes,  # (S, 1, 4)
            None if mask_inputs is None else mask_inputs.to(sam.prompt_encoder.mask_embed.conv1.weight.dtype),
        )  # (S, 1, N, C) or None, (1 or S, C, 64, 64)
        if by_hand is not None:
            sparse = torch.cat([by_hand.to(weight), sparse], dim=2)  # (S, 1, N + 1, C)
        masks, scores = sam.mask_decoder(
            image_embeddings=image_embeddings.to(weight),
            image_positional_embeddings=sam.get_image_wide_positional_embeddings()
            .to(weight)  # (1, C, 64, 64)
            .expand(count, -1, -1, -1),
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
    project: Callable[[torch.FloatTensor], torch.FloatTensor],
    seg: SegStates,
    multimask_output: bool = False,
    **prompts: torch.FloatTensor,
) -> tuple[torch.FloatTensor, torch.FloatTensor, torch.Tensor]:
    """As `decode_masks`, on states: mask logits (S, 256, 256), scores (S,), and zero.

    The decoder runs on `idle_state` where there is no `[SEG]`, and the last value, a zero that hangs on all its
    outputs, goes into the loss: so no parameter is ever without a gradient, and every rank goes back through the same
    modules, those that are frozen too.

    Args:
        project: makes prompts (S, C) of states (S, D).
        prompts: (S, ...) each, for `decode_masks`.
    """
    states, image_index, image_embeddings = seg.states, seg.image_index, seg.image_embeddings
    count = len(states)
    if torch.compiler.is_compiling() or count == 0:  # a graph cannot branch on the count: it always adds the state
        states = torch.cat([states, seg.idle_state])
        image_index = torch.cat([image_index[:count], image_index.new_zeros(1)])
        prompts = {
            name: torch.cat([prompt, prompt.new_zeros(1, *prompt.shape[1:])]) for name, prompt in prompts.items()
        }
    if len(image_embeddings) == 0:
        image_embeddings = image_embeddings.new_zeros(1, *image_embeddings.shape[1:])
    images = image_embeddings[image_index.to(image_embeddings.device)]  # (S, C, 64, 64)
    masks, scores = decode_masks(sam, project(states), images, multimask_output=multimask_output, **prompts)
    touched = (masks.float().sum() + scores.float().sum()) * 0.0
    return masks[:count], scores[:count], touched


def decode_with_prompts(
    sam: SamModel,
    seg_embeddings: torch.FloatTensor,
    image_embeddings: torch.FloatTensor,
    seg_image_index: torch.LongTensor,
    prompts: list[tuple[torch.FloatTensor | None, torch.FloatTensor | None]],
    multimask_output: bool,
) -> tuple[torch.FloatTensor, torch.FloatTensor]:
    """As `decode_masks`, image by image with the points and the box of each: their numbers may differ.

    Args:
        seg_embeddings: (S, C), of one image after the other.
        image_embeddings: (I, C, 64, 64).
        seg_image_index: (S,), the image of each.
        prompts: for each of the I images what `prompts_in_sam_frame` gives.
    """
    side = 4 * image_embeddings.shape[-1]  # SAM's decoder enlarges its grid four times
    masks, scores = [image_embeddings.new_zeros(0, side, side)], [image_embeddings.new_zeros(0)]
    for image, (points, box) in enumerate(prompts):
        mine = seg_image_index == image
        for chosen in seg_embeddings[mine.to(seg_embeddings.device)].split(MASKS_AT_ONCE):  # (K, C)
            if (count := len(chosen)) == 0:
                continue
            decoded = decode_masks(
                sam,
                chosen,
                image_embeddings[image].expand(count, -1, -1, -1),  # (K, C, 64, 64)
                None if points is None else points.expand(count, -1, -1),  # (K, N, 3)
                None if box is None else box.expand(count, -1),  # (K, 4)
                multimask_output=multimask_output,
            )
            masks.append(decoded[0])
            scores.append(decoded[1])
    return torch.cat(masks), torch.cat(scores)


def user_prompts(
    points: list[Any] | None,
    boxes: list[Any] | None,
    original_sizes: torch.LongTensor | None,
    reshaped_input_sizes: torch.LongTensor | None,
    num_images: int,
) -> list[tuple[torch.FloatTensor | None, torch.FloatTensor | None]] | None:
    """For each image its points and its box as `prompts_in_sam_frame` gives them; None where none were given at all.

    Raises:
        ValueError: not one for each image, or as `prompts_in_sam_frame`.
    """
    if points is None and boxes is None:
        return None
    points = [None] * num_images if points is None else points
    boxes = [None] * num_images if boxes is None else boxes
    if original_sizes is None or reshaped_input_sizes is None:
        raise ValueError("points and boxes need original_sizes and reshaped_input_sizes: pass all that came.")
    if len(points) != num_images or len(boxes) != num_images:
        raise ValueError(f"{len(points)} points and {len(boxes)} boxes for {num_images} images; give one each.")
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
    """Points and a box in pixels of the image, as `decode_masks` takes them for one mask: (1, N, 3) and (1, 4).

    Args:
        points: N of x, y, label (ON or OFF) in pixels of the image; or None.
        box: left, top, right, bottom in pixels of the image; or None.
        original_size, reshaped_size: (height, width) of the image, and of what SAM is shown of it.

    Returns:
        both on the CPU; `decode_masks` moves them.

    Raises:
        ValueError: not of these shapes, outside the image, a label that is neither.
    """
    height, width = (int(side) for side in original_size)
    # x and y are scaled apart, as SAM does: the sides are rounded to whole pixels each for itself
    scale = torch.tensor([int(reshaped_size[1]) / width, int(reshaped_size[0]) / height])
    limit = torch.tensor([width, height])
    if points is not None:
        points = torch.as_tensor(points, dtype=torch.float32, device="cpu")
        if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
            raise ValueError(f"points are of shape {tuple(points.shape)}; x, y and label of each are needed, (N, 3).")
        if not torch.isin(points[:, 2], torch.tensor([OFF, ON])).all():
            raise ValueError(f"labels of points are {points[:, 2].tolist()}; {ON} is on the thing, {OFF} beside it.")
        _check_inside(points[:, :2], limit)
        points = torch.cat([points[:, :2] * scale, points[:, 2:]], dim=1)[None]  # (1, N, 3)
    if box is not None:
        box = torch.as_tensor(box, dtype=torch.float32, device="cpu")
        if box.shape != (4,) or not (box[:2] < box[2:]).all():
            raise ValueError(f"the box is {box.tolist()}; left, top, right and bottom are needed, in this order.")
        _check_inside(box.view(2, 2), limit)
        box = (box.view(2, 2) * scale).view(1, 4)
    return points, box


def _check_inside(places: torch.FloatTensor, limit: torch.Tensor) -> None:
    if not ((places >= 0) & (places <= limit)).all():
        raise ValueError(
            f"{places.tolist()} is not all inside the image of {int(limit[0])} × {int(limit[1])} pixels (x, y)."
        )


def loaded_device(module: nn.Module, device: torch.device) -> torch.device:
    """The device of one of the module's weights; the CPU for one that Accelerate offloaded, as it moves the inputs."""
    is_offloaded = device.type == "meta" and any("_hf_hook" in vars(part) for part in module.modules())
    return torch.device("cpu") if is_offloaded else device


@contextmanager
def _bare_weights_loaded(sam: SamModel) -> Iterator[None]:
    """Load the weights that SAM reads without calling their module.

    Accelerate loads offloaded weights when their module is called. SAM's tokens are embeddings whose `weight` is read
    directly, and the device of the positional code is asked for before it is called.
    """
    with ExitStack() as stack:
        if HAS_ACCELERATE and not torch.compiler.is_compiling():
            for module in sam.modules():
                if isinstance(module, nn.Embedding) or module is sam.shared_image_embedding:
                    stack.enter_context(align_module_device(module))
        yield

"""Pictures of a question: its target and its prediction, as JPEG data URIs. H, W = height and width in pixels."""

import base64
import io

import numpy as np
from PIL import Image, ImageFilter

from gemma_lisa.datasets_builder.rows import decode_mask
from gemma_lisa.drawing.overlay import alpha_of, paint_masks
from gemma_lisa.drawing.sheet import fitted, fitted_mask, hatched

from ..records import RLE, Judged

LONG_SIDE = 320  # of a picture, in pixels
TARGET, PREDICTION = (0, 114, 178), (230, 130, 0)  # blue and orange also differ for color-blind people
OPACITY, DIM = 50, 150  # of 255: colour inside of masks, and white outside
THICKNESS, FONT_SIZE = 3, 16  # pixels
DASH = 5  # pixels of a dash of the target's outline on the prediction
BLANK = (128, 128, 128)  # instead of an image that is missing
QUALITY = 80  # of the JPEG


def draw_pair(judged: Judged, image: Image.Image | None) -> tuple[str, str]:
    """Return two data URIs: the image with the target, and with the prediction and the target's dashed outline.

    Args:
        judged: a question with masks.
        image: upright image at the size of the question; None: masks are drawn on grey.

    Raises:
        ValueError: the image has another size. The message names the question.
    """
    plain = _plain(judged, image)
    targets, ignored = targets_at(judged, plain.size), _fitted(judged.question.ignore, judged, plain.size)
    target = _painted(hatched(plain, ignored), targets, TARGET)
    return jpeg(target), jpeg(draw_prediction(judged, plain))


def draw_prediction(judged: Judged, plain: Image.Image) -> Image.Image:
    """Return a picture with the predicted masks in orange and the outline of the target in blue dashes."""
    predictions = _all_fitted(judged.prediction.masks, judged, plain.size)
    picture = _painted(plain, predictions, PREDICTION)
    target = targets_at(judged, plain.size).any(axis=0)
    outline = target & ~_shrunk(target, 2)
    y, x = np.indices(target.shape)
    dashes = (x + y) // DASH % 2 == 0
    picture.paste((255, 255, 255), mask=alpha_of(outline & ~dashes))
    picture.paste(TARGET, mask=alpha_of(outline & dashes))
    return picture


def plain_picture(judged: Judged, image: Image.Image | None) -> Image.Image:
    """Return the image at the size of a picture. Arguments and errors as in `draw_pair`."""
    return _plain(judged, image)


def targets_at(judged: Judged, size: tuple[int, int]) -> np.ndarray:
    """Return the target masks (K, H, W) bool at a size (width, height) in pixels."""
    return _all_fitted(judged.question.targets or [], judged, size)


def jpeg(picture: Image.Image) -> str:
    """Return a picture as a data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _plain(judged: Judged, image: Image.Image | None) -> Image.Image:
    height, width = judged.question.size
    if image is not None and image.size != (width, height):
        raise ValueError(
            f"{judged.question.id}: the image is {image.height} x {image.width} pixels (height x width), but the "
            f"question is about an image of {height} x {width}; use the image files of the evaluation."
        )
    scale = LONG_SIDE / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.new("RGB", size, BLANK) if image is None else fitted(image.convert("RGB"), size)


def _all_fitted(masks: list[RLE], judged: Judged, size: tuple[int, int]) -> np.ndarray:
    found = [_fitted(mask, judged, size) for mask in masks]
    return np.array(found, dtype=bool).reshape(-1, size[1], size[0])


def _fitted(mask: RLE | None, judged: Judged, size: tuple[int, int]) -> np.ndarray:
    if mask is None:
        return np.zeros(size[::-1], dtype=bool)
    return fitted_mask(decode_mask(mask, judged.question.id) == 1, size)


def _painted(plain: Image.Image, masks: np.ndarray, colour: tuple[int, int, int]) -> Image.Image:
    picture = plain.copy()
    picture.paste((255, 255, 255), mask=alpha_of(~masks.any(axis=0), DIM))
    return paint_masks(picture, masks, OPACITY, THICKNESS, FONT_SIZE, palette=(colour,))


def _shrunk(mask: np.ndarray, steps: int) -> np.ndarray:
    """Return the mask (H, W) eroded by `steps` pixels. Pixels beyond the image are outside."""
    padded = alpha_of(np.pad(mask, steps)).filter(ImageFilter.MinFilter(2 * steps + 1))
    return np.asarray(padded)[steps:-steps, steps:-steps] > 0

"""EndpointHandler: serves the model in an Inference Endpoint. The exported folder has a copy of this file.

    {"inputs": {"image": "<base64>", "text": "the red circle"}, "parameters": {"masks": "png"}}

It needs the packages of requirements.txt, and was tested with transformers 5.18.0 to 5.24.0.

The image can also be bytes or a PIL image, because the toolkit of the endpoint converts forms and image bodies to
them. The text is then a field of the request or a parameter. URLs are not supported.
"""

import base64
import binascii
import importlib
import io
import json
import logging
import re
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import pipeline

# Limits of a request
MAX_IMAGE_BYTES = 20_000_000
MAX_IMAGE_PIXELS = 40_000_000
MAX_QUESTION_LENGTH = 2_000  # characters
MAX_PARAMETERS_LENGTH = 100_000  # characters, if the parameters are a JSON string
MAX_NEW_TOKENS = 256
MAX_POINTS = 100
MAX_NUMBER = 1_000_000_000
# Limits of an answer. Only one mask at a time is in memory at the size of the image.
MAX_MASKS = 64
MAX_MASK_PIXELS = 1_000_000_000  # total of all masks of an answer: 25 masks of the largest image
MAX_ANSWER_BYTES = 20_000_000  # total of all encoded masks
MAX_ERROR_LENGTH = 300  # characters
BAD_REQUEST, TOO_LARGE, FAILED = 400, 413, 500  # HTTP status codes

_URL = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_DATA_URL = re.compile(r"\s*data:[^,]{0,100};base64,", re.IGNORECASE)  # browsers encode images like this
_FORMATS = ("rle", "png")
_BYTES_PER_RUN = 10  # a length of up to eight digits with a comma and a space

_logger = logging.getLogger(__name__)


class RequestError(ValueError):
    """A request cannot be answered. `status` is the HTTP status code."""

    def __init__(self, message: str, status: int = BAD_REQUEST):
        super().__init__(message)
        self.status = status


class EndpointHandler:
    """Load the model once and answer requests. It continues after a request that fails.

    Args:
        path: folder of this file and the model, passed by the endpoint.
    """

    def __init__(self, path: str = ""):
        self.pipe = pipeline("reasoning-segmentation", model=path or ".", trust_remote_code=True)
        # Open images with the checkpoint's own code, which is in the package of its pipeline
        package = type(self.pipe).__module__.rpartition(".")[0]
        self.images = importlib.import_module(f"{package}.images_gemma_lisa")

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Answer a request.

        Args:
            data: dict with "inputs": {"image", "text"}; or with the image as "inputs" and "text" in the parameters; or
                with "image" and "text" as fields of a form. "parameters" is a dict or its JSON, with the keys
                max_new_tokens (default: 64), threshold (0.0), multimask_output (False), points and boxes of the image
                (see the pipeline), and masks: "rle" (default) or "png".

        Returns:
            {"text", "raw_text", "complete", "status", "masks"}. The status is "found", "low confidence",
            "nothing found", "not there", "text only" or "incomplete". Each mask is a dict of

            - score: SAM's own estimate of its IoU,
            - label: phrase of the mask,
            - box: [left, top, width, height] in pixels; None if the mask is empty,
            - area: number of pixels,
            - rle or png: uncompressed COCO RLE {"size": [height, width], "counts": [...]}, which
              `pycocotools.mask.frPyObjects` reads; or the base64 of a PNG of 0 and 255.

            A request that fails returns {"error": reason, "status": HTTP status code}. This includes an answer that
            exceeds the limits above; masks are never dropped.
        """
        try:
            content, text, options, mask_format = read_request(data)
            image = self.open_image(content)
            check_places(options, image.size)
            # the file, because the processor reads large JPEG files at a reduced size
            shown = content if isinstance(content, bytes) else image
            answer = self.pipe(images=shown, text=text, encode_mask=MaskEncoder(mask_format), **options)
            masks = [
                {"score": segment["score"], "label": segment["label"], **segment["mask"]}
                for segment in answer.pop("segments")
            ]
        except RequestError as error:
            return {"error": str(error)[:MAX_ERROR_LENGTH], "status": error.status}
        except (MemoryError, torch.OutOfMemoryError):
            _logger.exception("a request failed")
            return {"error": "There was not enough memory for this request. Send a smaller image.", "status": FAILED}
        except Exception:  # the handler must continue with the next request
            _logger.exception("a request failed")
            return {"error": "The request failed for an unknown reason. The server has logged it.", "status": FAILED}
        return {**answer, "masks": masks}

    def open_image(self, content: bytes | Image.Image) -> Image.Image:
        """Return the image of a request as upright RGB.

        Raises:
            RequestError: the image cannot be read, or has too many pixels.
        """
        limit = min(MAX_IMAGE_PIXELS, self.images.pixel_limit())
        try:
            return self.images.load_rgb(content, "The image", limit)
        except self.images.TooManyPixels as error:
            raise RequestError(f"The image has more than {limit:,} pixels. Make it smaller.", TOO_LARGE) from error
        except ValueError as error:
            raise RequestError(" ".join(str(error).split())) from error


# ---------------------------------------------------------------------------------------------------------------------
# The request
# ---------------------------------------------------------------------------------------------------------------------
def read_request(data: Any) -> tuple[bytes | Image.Image, str, dict[str, Any], str]:
    """Return the image, the text, the options of the pipeline, and the mask format of a request.

    Raises:
        RequestError: a field is missing, unknown, too large, or of the wrong type.
    """
    if not isinstance(data, dict):
        raise RequestError('The request must be a JSON object: {"inputs": {"image": …, "text": …}}.')
    parameters = read_parameters(data.get("parameters"))
    inputs = data.get("inputs", {name: data[name] for name in ("image", "text") if name in data})
    if not isinstance(inputs, dict):
        inputs = {"image": inputs}
    if unknown := inputs.keys() - {"image", "text"}:
        raise RequestError(f"The inputs have unknown keys: {_names(unknown)}. The keys are image and text.")
    text = read_text(inputs, parameters)
    return read_image(inputs.get("image")), text, *read_options(parameters)


def read_text(inputs: dict[str, Any], parameters: dict[str, Any]) -> str:
    """Return the question from the inputs or the parameters, and remove it from the parameters."""
    in_parameters = parameters.pop("text", None)
    text = inputs.get("text", in_parameters)
    if isinstance(text, bytes):  # a field of a form
        text = text.decode("utf-8", errors="replace")
    if not isinstance(text, str) or not text.strip():
        raise RequestError("The question is empty. Send text with what to look for.")
    if len(text) > MAX_QUESTION_LENGTH:
        raise RequestError(
            f"The question has {len(text):,} characters, the maximum is {MAX_QUESTION_LENGTH:,}.", TOO_LARGE
        )
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise RequestError("text contains a lone surrogate. Send valid Unicode.")
    return text


def read_parameters(parameters: Any) -> dict[str, Any]:
    if isinstance(parameters, str | bytes):
        if len(parameters) > MAX_PARAMETERS_LENGTH:
            raise RequestError(f"The parameters have more than {MAX_PARAMETERS_LENGTH:,} characters.", TOO_LARGE)
        try:
            parameters = json.loads(parameters)
        except (ValueError, RecursionError) as error:
            raise RequestError("The parameters are not valid JSON, or nested too deeply.") from error
    if parameters is not None and not isinstance(parameters, dict):
        raise RequestError("The parameters must be a JSON object.")
    return dict(parameters or {})


def read_options(parameters: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the options of the pipeline, and the mask format."""
    kinds = {"max_new_tokens": int, "threshold": int | float, "multimask_output": bool, "points": list, "boxes": list}
    if unknown := parameters.keys() - kinds.keys() - {"masks"}:
        raise RequestError(
            f"There are unknown parameters: {_names(unknown)}. The known ones are "
            f"{', '.join(sorted([*kinds, 'masks']))}."
        )
    mask_format = parameters.pop("masks", _FORMATS[0])
    if mask_format not in _FORMATS:
        raise RequestError(f"masks must be one of {', '.join(sorted(_FORMATS))}.")
    options = {name: value for name, value in parameters.items() if value is not None}
    for name, value in options.items():
        if not isinstance(value, kinds[name]) or (isinstance(value, bool) and kinds[name] is not bool):
            raise RequestError(f"{name} must be {_kind(kinds[name])}, got {type(value).__name__}.")
    if not 1 <= options.get("max_new_tokens", 1) <= MAX_NEW_TOKENS:
        raise RequestError(f"max_new_tokens must be from 1 to {MAX_NEW_TOKENS}.")
    if not _is_number(options.get("threshold", 0.0)):
        raise RequestError(f"threshold must be a finite number from -{MAX_NUMBER:,} to {MAX_NUMBER:,}.")
    if len(options.get("points", [])) > MAX_POINTS:
        raise RequestError(f"There are {len(options['points']):,} points, the maximum is {MAX_POINTS}.", TOO_LARGE)
    return options, mask_format


def check_places(options: dict[str, Any], size: tuple[int, int]) -> None:
    """Raise RequestError for points or a box that are not numbers inside an image of this size (width, height)."""
    corner = f"(0, 0) to {size}, in pixels"
    points = options.get("points")
    if points is not None and not (points and all(_are_numbers(point, 3) and point[2] in (0, 1) for point in points)):
        raise RequestError("points must be numbers: [[x, y, label], …], with label 1 (foreground) or 0 (background).")
    for x, y, _ in points or []:
        if not (0 <= x <= size[0] and 0 <= y <= size[1]):
            raise RequestError(f"All points must be inside the image, from {corner}.")
    box = options.get("boxes")
    if box is None:
        return
    if not _are_numbers(box, 4):
        raise RequestError("boxes must be four numbers: [left, top, right, bottom].")
    left, top, right, bottom = np.float32(box)  # the precision of the model
    if not (left < right and top < bottom):
        raise RequestError("boxes must be [left, top, right, bottom] with left < right and top < bottom.")
    if not (0 <= left and right <= size[0] and 0 <= top and bottom <= size[1]):
        raise RequestError(f"The box must be inside the image, from {corner}.")


def read_image(image: Any) -> bytes | Image.Image:
    """Return the content of the image file, or the PIL image that the toolkit opened.

    Raises:
        RequestError: the image is missing, a URL, not valid base64, or too large.
    """
    if image is None:
        raise RequestError("There is no image. Send it as base64.")
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str):
        if _URL.match(image):
            raise RequestError("The image is a URL, which is not supported. Send the image itself as base64.")
        image = image[found.end() :] if (found := _DATA_URL.match(image)) else image
        if len(image) > MAX_IMAGE_BYTES * 4 // 3 + 4:  # base64 encodes 3 bytes as 4 characters
            raise RequestError(f"The image has more than {MAX_IMAGE_BYTES:,} bytes.", TOO_LARGE)
        try:
            image = base64.b64decode("".join(image.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise RequestError("The image is not valid base64.") from error
    if not isinstance(image, bytes | bytearray | memoryview):
        raise RequestError(f"The image must be base64, bytes or a PIL image, got {type(image).__name__}.")
    if memoryview(image).nbytes > MAX_IMAGE_BYTES:
        raise RequestError(f"The image has more than {MAX_IMAGE_BYTES:,} bytes.", TOO_LARGE)
    return bytes(image)


# ---------------------------------------------------------------------------------------------------------------------
# The answer
# ---------------------------------------------------------------------------------------------------------------------
class MaskEncoder:
    """Encode the masks of an answer for JSON, and check the limits of the answer.

    Args:
        mask_format: "rle" or "png".
    """

    def __init__(self, mask_format: str):
        self.mask_format = mask_format
        self.count = self.pixels = self.bytes = 0

    def __call__(self, mask: torch.BoolTensor) -> dict[str, Any]:
        """Return box, area and rle or png of a mask (H, W).

        Raises:
            RequestError: the masks so far exceed a limit.
        """
        self.count += 1
        self.pixels += mask.numel()
        if self.count > MAX_MASKS:
            raise RequestError(f"The answer has more than {MAX_MASKS} masks. Ask for fewer objects at once.", TOO_LARGE)
        if self.pixels > MAX_MASK_PIXELS:
            raise RequestError(
                f"The masks of the answer have more than {MAX_MASK_PIXELS:,} pixels in total. Send a smaller image, or "
                "ask for fewer objects at once.",
                TOO_LARGE,
            )
        encoded = describe(mask.numpy(), self.mask_format)
        self.bytes += len(encoded["png"]) if "png" in encoded else _BYTES_PER_RUN * len(encoded["rle"]["counts"])
        if self.bytes > MAX_ANSWER_BYTES:
            raise RequestError(
                f"The masks of the answer have more than {MAX_ANSWER_BYTES:,} bytes in total as {self.mask_format}. "
                "Send a smaller image, or ask for fewer objects at once.",
                TOO_LARGE,
            )
        return encoded


def describe(mask: np.ndarray, mask_format: str) -> dict[str, Any]:
    """Return box, area and encoding of a bool mask (H, W), for JSON."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = None
    if len(rows):
        left, top = int(columns[0]), int(rows[0])
        box = [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
    facts = {"box": box, "area": int(np.count_nonzero(mask))}
    return {**facts, "rle": encode_rle(mask)} if mask_format == "rle" else {**facts, "png": encode_png(mask)}


def encode_rle(mask: np.ndarray) -> dict[str, list[int]]:
    """Return a bool mask (H, W) as uncompressed COCO RLE."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    counts = np.diff(edges).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat.size and flat[0] else counts}


def encode_png(mask: np.ndarray) -> str:
    """Return a bool mask (H, W) as base64 of a PNG of 0 and 255."""
    buffer = io.BytesIO()
    Image.fromarray(mask).convert("L").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _names(names: set[Any]) -> str:
    """Return the first names of a request, shortened and escaped for an error message."""
    few = sorted(name[:50] if isinstance(name, str) else type(name).__name__ for name in names)[:3]
    listed = ", ".join(few).encode("ascii", "backslashreplace").decode()[:200]
    return listed if len(names) <= len(few) else f"{listed} and {len(names) - len(few):,} more"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -MAX_NUMBER <= value <= MAX_NUMBER


def _are_numbers(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(_is_number(value) for value in values)


def _kind(kind: Any) -> str:
    return {int: "an integer", int | float: "a number", bool: "true or false", list: "a list"}[kind]

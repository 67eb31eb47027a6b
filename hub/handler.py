"""EndpointHandler: the model behind an Inference Endpoint. It lies in the exported folder, beside the model's files.

    {"inputs": {"image": "<base64>", "text": "the red circle"}, "parameters": {"masks": "png"}}

It needs what requirements.txt lists, and was tested with transformers 5.18.0 to 5.24.0.

The image may also come as bytes or as a picture, as the endpoint's toolkit makes them of a form or of an image's body;
the text then stands beside it or among the parameters. Nothing is ever fetched: an address is refused.
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

# Of a request
MAX_IMAGE_BYTES = 20_000_000
MAX_IMAGE_PIXELS = 40_000_000
MAX_QUESTION_LENGTH = 2_000  # characters
MAX_PARAMETERS_LENGTH = 100_000  # characters, where they come as JSON in a text
MAX_NEW_TOKENS = 256
MAX_POINTS = 100
MAX_NUMBER = 1_000_000_000
# Of an answer. One mask at a time is held at the image's size.
MAX_MASKS = 64
MAX_MASK_PIXELS = 1_000_000_000  # of all masks of an answer together: 25 masks of the largest image
MAX_ANSWER_BYTES = 20_000_000  # of all encoded masks together
MAX_ERROR_LENGTH = 300  # characters
BAD_REQUEST, TOO_LARGE, FAILED = 400, 413, 500  # as HTTP has them

_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_INLINE = re.compile(r"\s*data:[^,]{0,100};base64,", re.IGNORECASE)  # how browsers write a picture
_FORMS = ("rle", "png")
_BYTES_PER_RUN = 10  # a length of up to eight digits with its comma and blank

_logger = logging.getLogger(__name__)


class Refused(ValueError):
    """A request that is not answered, with the status that says why."""

    def __init__(self, message: str, status: int = BAD_REQUEST):
        super().__init__(message)
        self.status = status


class EndpointHandler:
    """Opens the model of a folder once, and answers requests; one that cannot be answered does not end it.

    Args:
        path: the folder this file lies in, as the endpoint gives it.
    """

    def __init__(self, path: str = ""):
        self.pipe = pipeline("reasoning-segmentation", model=path or ".", trust_remote_code=True)
        # Image files are opened by the checkpoint's own code, which lies beside that of its pipeline
        package = type(self.pipe).__module__.rpartition(".")[0]
        self.images = importlib.import_module(f"{package}.images_gemma_lisa")

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Answer a request.

        Args:
            data: "inputs": {"image", "text"}; or the image alone, with "text" in the parameters; or "image" and "text"
                without "inputs", as the fields of a form. Beside it "parameters", a dict or its JSON:
                max_new_tokens (64), threshold (0.0), multimask_output (False), points, boxes (of the one image, see the
                pipeline), masks ("rle" or "png").

        Returns:
            {"text", "raw_text", "complete", "status", "masks"}; status is "found", "low confidence", "nothing found",
            "not there", "text only" or "incomplete". For each mask score (SAM's own estimate of its IoU), label (the
            words before it), box ([left, top, width, height] in pixels; None where nothing is marked), area (pixels),
            and either rle, {"size": [height, width], "counts": [...]}: the lengths of the runs of 0 and 1 in turn, 0
            first, down the columns, which `pycocotools.mask.frPyObjects` reads; or png, base64 of a PNG of 0 and 255.
            Where there is no answer: {"error": why, in plain words, "status": as of HTTP}. An answer of more masks,
            mask pixels or bytes than the limits above is such an error, and nothing is left out of an answer.
        """
        try:
            content, text, options, form = read_request(data)
            image = self.open_image(content)
            check_places(options, image.size)
            answer = self.pipe(images=image, text=text, encode_mask=MaskEncoder(form), **options)
            masks = [
                {"score": segment["score"], "label": segment["label"], **segment["mask"]}
                for segment in answer.pop("segments")
            ]
        except Refused as refused:
            return {"error": str(refused)[:MAX_ERROR_LENGTH], "status": refused.status}
        except (MemoryError, torch.OutOfMemoryError):
            _logger.exception("a request failed")
            return {"error": "There was not enough memory for this request; send a smaller image.", "status": FAILED}
        except Exception:  # the next request may be answered
            _logger.exception("a request failed")
            return {"error": "The request failed for an unknown reason, which the server logged.", "status": FAILED}
        return {**answer, "masks": masks}

    def open_image(self, content: bytes | Image.Image) -> Image.Image:
        """The request's image, upright RGB.

        Raises:
            Refused: it cannot be read, or has too many pixels.
        """
        limit = min(MAX_IMAGE_PIXELS, self.images.pixel_limit())
        try:
            return self.images.load_rgb(content, "The image", limit)
        except self.images.TooManyPixels as error:
            raise Refused(f"The image has more than {limit:,} pixels; make it smaller.", TOO_LARGE) from error
        except ValueError as error:
            raise Refused(" ".join(str(error).split())) from error


# ---------------------------------------------------------------------------------------------------------------------
# The request
# ---------------------------------------------------------------------------------------------------------------------
def read_request(data: Any) -> tuple[bytes | Image.Image, str, dict[str, Any], str]:
    """Image, text, options of the pipeline, and the form of masks that a request asks for.

    Raises:
        Refused: something is missing, unknown, too large, or not of its kind.
    """
    if not isinstance(data, dict):
        raise Refused('The request is no JSON object; send {"inputs": {"image": …, "text": …}}.')
    parameters = read_parameters(data.get("parameters"))
    inputs = data.get("inputs", {name: data[name] for name in ("image", "text") if name in data})
    if not isinstance(inputs, dict):
        inputs = {"image": inputs}
    if unknown := inputs.keys() - {"image", "text"}:
        raise Refused(f"The inputs hold {_names(unknown)}; image and text are known.")
    text = read_text(inputs, parameters)
    return read_image(inputs.get("image")), text, *read_options(parameters)


def read_text(inputs: dict[str, Any], parameters: dict[str, Any]) -> str:
    """The question, from the inputs or else from the parameters, which then hold it no longer."""
    in_parameters = parameters.pop("text", None)
    text = inputs.get("text", in_parameters)
    if isinstance(text, bytes):  # a form's field
        text = text.decode("utf-8", errors="replace")
    if not isinstance(text, str) or not text.strip():
        raise Refused("The question is empty; send what to look for as text.")
    if len(text) > MAX_QUESTION_LENGTH:
        raise Refused(f"The question has {len(text):,} characters; {MAX_QUESTION_LENGTH:,} are taken.", TOO_LARGE)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise Refused("text holds half of a character (a lone surrogate); send valid Unicode.")
    return text


def read_parameters(parameters: Any) -> dict[str, Any]:
    if isinstance(parameters, str | bytes):
        if len(parameters) > MAX_PARAMETERS_LENGTH:
            raise Refused(f"The parameters have more than {MAX_PARAMETERS_LENGTH:,} characters.", TOO_LARGE)
        try:
            parameters = json.loads(parameters)
        except (ValueError, RecursionError) as error:
            raise Refused("The parameters are no JSON, or nested too deeply.") from error
    if parameters is not None and not isinstance(parameters, dict):
        raise Refused("The parameters are no JSON object.")
    return dict(parameters or {})


def read_options(parameters: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What the pipeline is told, and the form of masks."""
    kinds = {"max_new_tokens": int, "threshold": int | float, "multimask_output": bool, "points": list, "boxes": list}
    if unknown := parameters.keys() - kinds.keys() - {"masks"}:
        raise Refused(f"The parameters hold {_names(unknown)}; {', '.join(sorted([*kinds, 'masks']))} are known.")
    form = parameters.pop("masks", _FORMS[0])
    if form not in _FORMS:
        raise Refused(f"masks is to be one of {', '.join(sorted(_FORMS))}.")
    options = {name: value for name, value in parameters.items() if value is not None}
    for name, value in options.items():
        if not isinstance(value, kinds[name]) or (isinstance(value, bool) and kinds[name] is not bool):
            raise Refused(f"{name} is of the wrong kind; {_kind(kinds[name])} is needed.")
    if not 1 <= options.get("max_new_tokens", 1) <= MAX_NEW_TOKENS:
        raise Refused(f"max_new_tokens is to be from 1 to {MAX_NEW_TOKENS}.")
    if not _is_number(options.get("threshold", 0.0)):
        raise Refused(f"threshold is to be a finite number from -{MAX_NUMBER:,} to {MAX_NUMBER:,}.")
    if len(options.get("points", [])) > MAX_POINTS:
        raise Refused(f"{len(options['points']):,} points came; {MAX_POINTS} are taken.", TOO_LARGE)
    return options, form


def check_places(options: dict[str, Any], size: tuple[int, int]) -> None:
    """Raise Refused for points or a box that are not numbers inside an image of this size (width, height)."""
    corner = f"(0, 0) to {size}, in pixels"
    points = options.get("points")
    if points is not None and not (points and all(_are_numbers(point, 3) and point[2] in (0, 1) for point in points)):
        raise Refused("points are to be numbers: [[x, y, 0 or 1], …], 1 on the thing and 0 beside it.")
    for x, y, _ in points or []:
        if not (0 <= x <= size[0] and 0 <= y <= size[1]):
            raise Refused(f"The points are not all inside the image, which reaches from {corner}.")
    box = options.get("boxes")
    if box is None:
        return
    if not _are_numbers(box, 4):
        raise Refused("boxes are to be numbers: [left, top, right, bottom].")
    left, top, right, bottom = np.float32(box)  # as the model compares them
    if not (left < right and top < bottom):
        raise Refused("boxes are to be [left, top, right, bottom], left before right and top above bottom.")
    if not (0 <= left and right <= size[0] and 0 <= top and bottom <= size[1]):
        raise Refused(f"The box is not all inside the image, which reaches from {corner}.")


def read_image(image: Any) -> bytes | Image.Image:
    """The image's file, or a picture that the toolkit opened already, if it is not too large."""
    if image is None:
        raise Refused("There is no image; send it as base64.")
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str):
        if _ADDRESS.match(image):
            raise Refused("The image is an address, and nothing is fetched; send the image itself as base64.")
        image = image[found.end() :] if (found := _INLINE.match(image)) else image
        if len(image) > MAX_IMAGE_BYTES * 4 // 3 + 4:  # base64 makes 4 characters of 3 bytes
            raise Refused(f"The image has more than {MAX_IMAGE_BYTES:,} bytes.", TOO_LARGE)
        try:
            image = base64.b64decode("".join(image.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise Refused("The image is no base64.") from error
    if not isinstance(image, bytes | bytearray | memoryview):
        raise Refused("The image is to be base64, bytes or a picture.")
    if memoryview(image).nbytes > MAX_IMAGE_BYTES:
        raise Refused(f"The image has more than {MAX_IMAGE_BYTES:,} bytes.", TOO_LARGE)
    return bytes(image)


# ---------------------------------------------------------------------------------------------------------------------
# The answer
# ---------------------------------------------------------------------------------------------------------------------
class MaskEncoder:
    """Makes of each mask of an answer what JSON can hold, as long as the answer stays within the limits.

    Args:
        form: of `_FORMS`.
    """

    def __init__(self, form: str):
        self.form = form
        self.count = self.pixels = self.bytes = 0

    def __call__(self, mask: torch.BoolTensor) -> dict[str, Any]:
        """Box, area and rle or png of a mask (H, W).

        Raises:
            Refused: the masks so far exceed a limit.
        """
        self.count += 1
        self.pixels += mask.numel()
        if self.count > MAX_MASKS:
            raise Refused(f"The answer has more than {MAX_MASKS} masks; ask for fewer things at once.", TOO_LARGE)
        if self.pixels > MAX_MASK_PIXELS:
            raise Refused(
                f"The masks of the answer have more than {MAX_MASK_PIXELS:,} pixels together; send a smaller image, or "
                "ask for fewer things at once.",
                TOO_LARGE,
            )
        encoded = describe(mask.numpy(), self.form)
        self.bytes += len(encoded["png"]) if "png" in encoded else _BYTES_PER_RUN * len(encoded["rle"]["counts"])
        if self.bytes > MAX_ANSWER_BYTES:
            raise Refused(
                f"The masks of the answer have more than {MAX_ANSWER_BYTES:,} bytes together as {self.form}; send a "
                "smaller image, or ask for fewer things at once.",
                TOO_LARGE,
            )
        return encoded


def describe(mask: np.ndarray, form: str) -> dict[str, Any]:
    """A bool mask (H, W), as JSON can hold it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = None
    if len(rows):
        left, top = int(columns[0]), int(rows[0])
        box = [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
    facts = {"box": box, "area": int(np.count_nonzero(mask))}
    return {**facts, "rle": encode_runs(mask)} if form == "rle" else {**facts, "png": encode_png(mask)}


def encode_runs(mask: np.ndarray) -> dict[str, list[int]]:
    """A bool mask (H, W) as uncompressed COCO RLE."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    counts = np.diff(edges).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat.size and flat[0] else counts}


def encode_png(mask: np.ndarray) -> str:
    """A bool mask (H, W) as base64 of a PNG of 0 and 255."""
    buffer = io.BytesIO()
    Image.fromarray(mask).convert("L").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _names(names: set[Any]) -> str:
    """A few names of a request, as an error may say them."""
    few = sorted(name[:50] if isinstance(name, str) else type(name).__name__ for name in names)[:3]
    said = ", ".join(few).encode("ascii", "backslashreplace").decode()[:200]
    return said if len(names) <= len(few) else f"{said} and {len(names) - len(few):,} more"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -MAX_NUMBER <= value <= MAX_NUMBER


def _are_numbers(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(_is_number(value) for value in values)


def _kind(kind: Any) -> str:
    return {int: "a whole number", int | float: "a number", bool: "true or false", list: "a list"}[kind]

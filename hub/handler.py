"""EndpointHandler: the model behind an Inference Endpoint. It lies in the exported folder, beside the model's files.

    {"inputs": {"image": "<base64>", "text": "the red circle"}, "parameters": {"masks": "png"}}

It needs what requirements.txt lists, and was tested with transformers 5.18.0 to 5.24.0.

The image may also come as bytes or as a picture, as the endpoint's toolkit makes them of a form or of an image's body;
the text then stands beside it or among the parameters. Nothing is ever fetched: an address is refused.
"""

import base64
import binascii
import io
import json
import logging
import math
import re
import warnings
from typing import Any

import numpy as np
from PIL import Image
from transformers import pipeline

MAX_IMAGE_BYTES = 20_000_000
MAX_IMAGE_PIXELS = 40_000_000  # the answer's masks have as many each
MAX_QUESTION_LENGTH = 2_000  # characters
MAX_NEW_TOKENS = 256
MAX_POINTS = 100
BAD_REQUEST, TOO_LARGE, FAILED = 400, 413, 500  # as HTTP has them

_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_INLINE = re.compile(r"\s*data:[^,]{0,100};base64,", re.IGNORECASE)  # how browsers write a picture
_FORMS = ("rle", "png")

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

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Answer a request.

        Args:
            data: "inputs": {"image", "text"}; or the image alone, with "text" in the parameters; or "image" and "text"
                without "inputs", as the fields of a form. Beside it "parameters", a dict or its JSON:
                max_new_tokens (64), threshold (0.0), multimask_output (False), points, boxes (of the one image, see the
                pipeline), masks ("rle" or "png").

        Returns:
            {"text", "raw_text", "complete", "masks"}: for each mask score (SAM's own estimate of its IoU), label (the
            words before it), box ([left, top, width, height] in pixels; None where nothing is marked), area (pixels),
            and either rle, {"size": [height, width], "counts": [...]}: the lengths of the runs of 0 and 1 in turn, 0
            first, down the columns, which `pycocotools.mask.frPyObjects` reads; or png, base64 of a PNG of 0 and 255.
            Where there is no answer: {"error": why, in plain words, "status": as of HTTP}.
        """
        try:
            image, text, options, form = read_request(data)
            answer = self.pipe(images=image, text=text, **options)
        except Refused as refused:
            return {"error": str(refused), "status": refused.status}
        except ValueError as error:  # of the pipeline: what it was given cannot be used, and why
            return {"error": " ".join(str(error).split()), "status": BAD_REQUEST}
        except Exception as error:  # no memory, a broken device: the next request may be answered
            _logger.exception("a request failed")
            return {"error": f"The answer failed ({type(error).__name__}); try a smaller image.", "status": FAILED}
        masks = [describe(segment, form) for segment in answer.pop("segments")]
        return {**answer, "masks": masks}


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
    text = inputs.get("text", parameters.pop("text", None))
    if isinstance(text, bytes):  # a form's field
        text = text.decode("utf-8", errors="replace")
    if not isinstance(text, str) or not text.strip():
        raise Refused("The question is empty; send what to look for as text.")
    if len(text) > MAX_QUESTION_LENGTH:
        raise Refused(f"The question has {len(text):,} characters; {MAX_QUESTION_LENGTH:,} are taken.", TOO_LARGE)
    return read_image(inputs.get("image")), text, *read_options(parameters)


def read_parameters(parameters: Any) -> dict[str, Any]:
    if isinstance(parameters, str | bytes):
        try:
            parameters = json.loads(parameters)
        except ValueError as error:
            raise Refused("The parameters are no JSON.") from error
    if parameters is not None and not isinstance(parameters, dict):
        raise Refused("The parameters are no JSON object.")
    return dict(parameters or {})


def read_options(parameters: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What the pipeline is told, and the form of masks."""
    kinds = {"max_new_tokens": int, "threshold": int | float, "multimask_output": bool, "points": list, "boxes": list}
    if unknown := parameters.keys() - kinds.keys() - {"masks"}:
        raise Refused(f"The parameters hold {_names(unknown)}; {_names([*kinds, 'masks'])} are known.")
    form = parameters.pop("masks", _FORMS[0])
    if form not in _FORMS:
        raise Refused(f"masks is to be one of {_names(_FORMS)}.")
    options = {name: value for name, value in parameters.items() if value is not None}
    for name, value in options.items():
        if not isinstance(value, kinds[name]) or (isinstance(value, bool) and kinds[name] is not bool):
            raise Refused(f"{name} is of the wrong kind; {_kind(kinds[name])} is needed.")
    if not 1 <= options.get("max_new_tokens", 1) <= MAX_NEW_TOKENS:
        raise Refused(f"max_new_tokens is to be from 1 to {MAX_NEW_TOKENS}.")
    if not math.isfinite(options.get("threshold", 0.0)):
        raise Refused("threshold is to be a number that is finite.")
    if len(options.get("points", [])) > MAX_POINTS:
        raise Refused(f"{len(options['points']):,} points came; {MAX_POINTS} are taken.", TOO_LARGE)
    try:
        for name in ("points", "boxes"):
            np.asarray(options.get(name, []), dtype=np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise Refused(
            f"{name} are to be numbers: points [[x, y, 0 or 1], …], boxes [left, top, right, bottom]."
        ) from error
    return options, form


def read_image(image: Any) -> bytes | Image.Image:
    """The image's file, or a picture that the toolkit opened already, if it is not too large."""
    if image is None:
        raise Refused("There is no image; send it as base64.")
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
    if isinstance(image, bytearray | memoryview):
        image = bytes(image)
    if isinstance(image, Image.Image):
        size = image.size
    elif isinstance(image, bytes):
        if len(image) > MAX_IMAGE_BYTES:
            raise Refused(f"The image has more than {MAX_IMAGE_BYTES:,} bytes.", TOO_LARGE)
        size = _declared_size(image)
    else:
        raise Refused("The image is to be base64, bytes or a picture.")
    if size is None or size[0] * size[1] > MAX_IMAGE_PIXELS:
        raise Refused(f"The image has more than {MAX_IMAGE_PIXELS:,} pixels; make it smaller.", TOO_LARGE)
    return image


def _declared_size(content: bytes) -> tuple[int, int] | None:
    """(width, height) that a file says it has, before its pixels are decoded; None for more than Pillow would open.

    What cannot be read is the pipeline's to refuse, as (0, 0); it has a limit of its own for files that say less.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as opened:
                return opened.size
    except Image.DecompressionBombError:
        return None
    except Exception:  # on a damaged file Pillow raises a dozen different classes
        return 0, 0


# ---------------------------------------------------------------------------------------------------------------------
# The answer
# ---------------------------------------------------------------------------------------------------------------------
def describe(segment: dict[str, Any], form: str) -> dict[str, Any]:
    """A mask of the pipeline, as JSON can hold it."""
    mask = np.asarray(segment["mask"]) > 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = None
    if len(rows):
        left, top = int(columns[0]), int(rows[0])
        box = [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]
    facts = {"score": segment["score"], "label": segment["label"], "box": box, "area": int(np.count_nonzero(mask))}
    return {**facts, "rle": encode_runs(mask)} if form == "rle" else {**facts, "png": encode_png(segment["mask"])}


def encode_runs(mask: np.ndarray) -> dict[str, list[int]]:
    """A bool mask (H, W) as uncompressed COCO RLE."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    counts = np.diff(edges).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat.size and flat[0] else counts}


def encode_png(mask: Image.Image) -> str:
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _names(names: Any) -> str:
    return ", ".join(sorted(str(name)[:50] for name in names))


def _kind(kind: Any) -> str:
    return {int: "a whole number", int | float: "a number", bool: "true or false", list: "a list"}[kind]

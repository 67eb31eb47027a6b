"""The row schema of all data sets.

A row is an image (or None for text-only rows), the targets that can be asked for, and conversations about the image.
Question templates are applied later. An invalid row raises a one-line error that names its `source`.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from pycocotools import mask as coco_mask

from gemma_lisa.images_gemma_lisa import IGNORE_VALUE, pixel_limit
from gemma_lisa.lazy_images_gemma_lisa import LazyImage
from gemma_lisa.safety.short_text import count_of, name_of, show

SEG_SLOT = "{seg}"  # place of a mask in a target's answer
SEG_WORD = "[SEG]"  # its token in the answers of a model; texts of rows must not contain it
RESERVED = (SEG_WORD, SEG_SLOT)  # must not be in other texts

RLE = {"size": List(Value("int32")), "counts": Value("string")}  # (height, width) in pixels, COCO's compressed RLE

ROW_FEATURES = Features(
    {
        "image": ImageFeature(decode=False),  # decoded by load_image, whose errors name the row; None: text only
        "source": Value("string"),  # "reason_seg/val/199953_…"
        "targets": List(
            {
                "texts": List(Value("string")),  # equivalent phrasings of one question
                "kind": Value("string"),  # category of the question for scores by kind, or None
                "is_sentence": Value("bool"),  # a full question rather than a short phrase
                "masks": List(RLE),  # one [SEG] each, in this order; []: not in the image
                "answer": Value("string"),  # answer of the data set with one SEG_SLOT per mask, or None
                "ignore": RLE,  # ignore region, or None
                "explanation": Value("string"),
            }
        ),
        "conversation": List({"question": Value("string"), "answer": Value("string")}),
    }
)

# COCO writes a run length as base-32 digits, lowest first, one per character.
_FIRST_CHARACTER = 48  # "0" is digit 0
_MORE = 0x20  # set in every character of a number except the last
_SIGN = 0x10  # set in the last character of a negative number
_DIGIT = 0x1F
_MOST_DIGITS = 7  # 35 bits; run lengths have no more
MASKS_PER_IMAGE = 20  # for the largest supported image; smaller images can have more masks


def new_row(image: Path | str | bytes | None, source: str, targets: list[dict], conversation: list[dict] = ()) -> dict:
    """Return a row of `ROW_FEATURES`.

    Args:
        image: path or encoded bytes; None for a text-only row.
        source: name of the row in errors.
        targets: from `new_target`.
        conversation: turns, each {"question": str, "answer": str}.
    """
    if isinstance(image, bytes):
        image = {"bytes": image, "path": None}
    elif image is not None:
        image = {"bytes": None, "path": str(image)}
    return {"image": image, "source": source, "targets": targets, "conversation": list(conversation)}


def new_target(
    texts: list[str],
    masks: list[dict],
    *,
    kind: str | None = None,
    is_sentence: bool = False,
    answer: str | None = None,
    ignore: dict | None = None,
    explanation: str | None = None,
) -> dict:
    """Return a target of a row; the fields are described in `ROW_FEATURES`."""
    return {
        "texts": texts,
        "kind": kind,
        "is_sentence": is_sentence,
        "masks": masks,
        "answer": answer,
        "ignore": ignore,
        "explanation": explanation,
    }


def check_row(row: dict) -> None:
    """Raise an error for a target without a question, or with an answer that does not match its masks."""
    source = name_of(row["source"])
    for target in row["targets"]:
        if not target["texts"] or not all(text.strip() for text in target["texts"]):
            raise ValueError(f"{source}: a target has no question or an empty one; add at least one question.")
        _refuse_reserved("explanation", target["explanation"] or "", source)
        if target["answer"] is None:
            continue
        n_slots, n_masks = target["answer"].count(SEG_SLOT), len(target["masks"])
        if n_slots != n_masks:
            raise ValueError(
                f"{source}: the answer {show(target['answer'])} has {n_slots} {SEG_SLOT}, but the target has "
                f"{count_of(n_masks, 'mask')}; write {SEG_SLOT} once for each mask."
            )
        _refuse_reserved("answer", target["answer"].replace(SEG_SLOT, ""), source)
    for turn in row["conversation"]:
        if turn["question"] is None or turn["answer"] is None:
            raise ValueError(f"{source}: a turn of its conversation has no question or no answer; add both.")
        _refuse_reserved("answer", turn["answer"], source)


def _refuse_reserved(what: str, text: str, source: str) -> None:
    if found := [word for word in RESERVED if word in text]:
        raise ValueError(
            f"{source}: the {what} {show(text)} contains {found[0]}, which is reserved for masks; remove it."
        )


def is_unicode(text: str) -> bool:
    """Return whether a text has no lone surrogates, as in JSON's "\\ud83d" and in file names that are not UTF-8."""
    return text.isascii() or text.encode("utf-8", "replace").decode("utf-8") == text


def encode_mask(mask: np.ndarray) -> dict:
    """Return a bool or 0/1 mask (H, W) as compressed COCO RLE: {"size": [H, W], "counts": str}."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_mask(rle: dict, source: str) -> np.ndarray:
    """Return the mask (H, W) uint8 in {0, 1} of a compressed COCO RLE.

    pycocotools is not used: it reads past the end of truncated counts and returns uninitialized memory for empty ones.
    """
    size = rle["size"]
    try:
        if len(size) != 2 or not all(isinstance(side, int | np.integer) and side >= 1 for side in size):
            raise ValueError(f"size {show(size)} is not (height, width) in pixels")
        height, width = size
        if int(height) * int(width) > pixel_limit():
            raise ValueError(f"size {show(size)} has more than {pixel_limit():,} pixels, the maximum of an image")
        runs = run_lengths(rle["counts"], int(height) * int(width))
    except ValueError as error:
        raise ValueError(
            f"{name_of(source)}: invalid mask RLE: {error}; encode masks with rows.encode_mask."
        ) from error
    values = np.arange(len(runs), dtype=np.uint8) & 1  # runs of 0 and 1 alternate, 0 first
    return np.repeat(values, runs).reshape(width, height).T  # COCO RLE is in column order


def run_lengths(counts: str, pixels: int) -> np.ndarray:
    """Return the run lengths (R,) int64 of COCO's compressed counts, read-only. They must cover all pixels.

    Raises:
        ValueError: the counts are not valid. The message does not name their record.
    """
    if not isinstance(counts, str) or not counts.isascii():
        raise ValueError("counts must be COCO's compressed string")
    return _run_lengths(counts, pixels)


@functools.lru_cache(maxsize=32)  # a mask is checked several times in a row; a large one has 2 MB of run lengths
def _run_lengths(counts: str, pixels: int) -> np.ndarray:
    digits = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - _FIRST_CHARACTER
    if not digits.size or digits.min() < 0 or digits.max() >= 2 * _MORE or digits[-1] & _MORE:
        raise ValueError("counts are empty, truncated or contain an invalid character")
    ends = np.flatnonzero((digits & _MORE) == 0)
    lengths = np.diff(ends, prepend=-1)  # in characters
    if lengths.max() > _MOST_DIGITS:
        raise ValueError("counts contain a number that is too large for a run length")
    starts = ends - lengths + 1
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((digits & _DIGIT) << (5 * places), starts)
    runs -= np.where(digits[ends] & _SIGN, 1 << (5 * lengths), 0)
    # From the fourth number, each is the difference to the run two before: r3 = n3 + r1, r4 = n4 + r2, ...
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    if runs.min() < 0:
        raise ValueError("counts contain a negative run length")
    check_coverage(runs, pixels)
    runs.flags.writeable = False
    return runs


def check_coverage(runs: np.ndarray, pixels: int) -> None:
    """Raise an error if run lengths (R,) int64 do not cover exactly all pixels, even if their sum overflows."""
    if runs.max() > pixels or runs.sum() != pixels:
        covered = runs.sum(dtype=np.float64)
        raise ValueError(f"the runs cover {covered:.0f} pixels, not the {pixels} of the image")


def load_image(image: Image.Image | str | Path | dict | None, source: str) -> Image.Image | None:
    """Return the upright RGB image with `load_rgb`, or None for a text-only row. Arguments: `lazy_image`."""
    lazy = lazy_image(image, source)
    return None if lazy is None else lazy.load()


def lazy_image(image: Image.Image | str | Path | dict | None, source: str) -> LazyImage | None:
    """Return the image, decoded when its pixels are needed, or None for a text-only row.

    Args:
        image: a PIL image, its path, or a value of ROW_FEATURES: {"bytes": encoded file or None, "path": str or None}.
        source: of the row, for errors.
    """
    if image is None:
        return None
    source = name_of(source)
    path = image["path"] if isinstance(image, dict) else image
    where = f"{source}: the image" + (f" {name_of(str(path))}" if isinstance(path, str | Path) else "")
    if isinstance(image, dict):
        image = image["path"] if image["bytes"] is None else image["bytes"]
        if image is None:
            raise ValueError(
                f"{source}: the image has neither bytes nor a path; add one, or use None for a text-only row."
            )
    return LazyImage(image, where)


@dataclass(frozen=True)
class CachedImage:
    """An image of a row that is decoded only if its pixels are needed, because its features are cached.

    Args:
        image: value of ROW_FEATURES.
        source: of the row, for errors.
        key: hash of the content of the file, in hexadecimal digits.
        height, width: in pixels of the upright image.
    """

    image: dict[str, Any] | str | Path
    source: str
    key: str
    height: int
    width: int

    def lazy(self) -> LazyImage:
        """Return the image to encode, as that of a row whose features are not cached."""
        return lazy_image(self.image, self.source)

    def load(self) -> Image.Image:
        """Return the upright RGB image. Errors as in `load_image`."""
        return load_image(self.image, self.source)


def content_of(image: Image.Image | str | Path | dict | None) -> bytes | None:
    """Return the content of an image's file; None for a PIL image, a text-only row or a file that cannot be read.

    Args:
        image: as in `load_image`, whose errors explain why a file cannot be read.
    """
    if isinstance(image, dict):
        if image["bytes"] is not None:
            return image["bytes"]
        image = image["path"]
    if not isinstance(image, str | Path):
        return None
    try:
        return Path(image).read_bytes()
    except OSError:
        return None


def sort_by_centroid(masks: list[np.ndarray]) -> list[int]:
    """Return the indices of masks (H, W) sorted by centroid: top to bottom, then left to right, empty masks last."""

    def centroid(index: int) -> tuple[float, float]:
        ys, xs = np.nonzero(masks[index])
        return (ys.mean(), xs.mean()) if len(ys) else (np.inf, np.inf)

    return sorted(range(len(masks)), key=centroid)


def target_masks(target: dict, image_size: tuple[int, int], source: str) -> np.ndarray:
    """Return a target's masks (K, H, W) uint8: 0, 1, and IGNORE_VALUE for ignored pixels outside of the object.

    Args:
        target: of a row.
        image_size: (H, W) in pixels of the upright image.
        source: of the row, for errors.
    """
    check_mask_memory(len(target["masks"]), image_size, source)
    masks = np.zeros((len(target["masks"]), *image_size), dtype=np.uint8)
    for index, rle in enumerate(target["masks"]):
        masks[index] = _sized_mask(rle, image_size, source)
    if target["ignore"] is not None:
        ignored = _sized_mask(target["ignore"], image_size, source) == 1
        masks[ignored & (masks == 0)] = IGNORE_VALUE
    return masks


def _sized_mask(rle: dict, image_size: tuple[int, int], source: str) -> np.ndarray:
    size = rle["size"]
    if len(size) == len(image_size) and tuple(size) != tuple(image_size):  # before anything of this size is allocated
        raise ValueError(
            f"{name_of(source)}: a mask is {show(size[0])} x {show(size[1])} (height x width), but its image is "
            f"{image_size[0]} x {image_size[1]}; draw masks on the upright image, with the EXIF orientation applied."
        )
    return decode_mask(rle, source)


def check_mask_memory(count: int, image_size: tuple[int, int], where: str) -> None:
    """Raise an error for too many masks of one image: each has a few bytes in a file, but H · W when decoded."""
    if count * image_size[0] * image_size[1] > MASKS_PER_IMAGE * pixel_limit():
        raise ValueError(
            f"{name_of(where)}: {count:,} masks of {image_size[0]} x {image_size[1]} pixels (height x width) together "
            f"have more than {MASKS_PER_IMAGE * pixel_limit():,} pixels; use a smaller image or fewer masks."
        )

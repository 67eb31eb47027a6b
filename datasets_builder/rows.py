"""The one row schema that every data set is brought into.

A row is facts, not phrasing: an image (or none), what can be asked for in it, real dialogues about it. Whatever is
wrong with a row stops the run with one line that names the row's `source`.
"""

from pathlib import Path

import numpy as np
from datasets import Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from pycocotools import mask as coco_mask

from gemma_lisa.images_gemma_lisa import load_rgb, pixel_limit
from gemma_lisa.losses_gemma_lisa import IGNORE_VALUE
from gemma_lisa.safety.short_text import show

SEG_SLOT = "{seg}"  # where a mask stands in a target's answer
SEG_WORD = "[SEG]"  # what it becomes in the words of a model; no text of a row's holds it
RESERVED = (SEG_WORD, SEG_SLOT)  # of answers in which there are no masks

RLE = {"size": List(Value("int32")), "counts": Value("string")}  # (height, width) in pixels, COCO's compressed runs

ROW_FEATURES = Features(
    {
        "image": ImageFeature(decode=False),  # decoded by load_image, whose errors name the row; none: a text-only row
        "source": Value("string"),  # "reason_seg/val/199953_…"
        "targets": List(
            {
                "texts": List(Value("string")),  # wordings of one question: any of them asks for these masks
                "kind": Value("string"),  # what sort of question it is, for reports by kind; or none
                "is_sentence": Value("bool"),  # a full question rather than a short phrase
                "masks": List(RLE),  # one [SEG] each, in this order; none = it is not in the image
                "answer": Value("string"),  # the data set's own sentence with SEG_SLOT for each mask, or none
                "ignore": RLE,  # pixels that are not counted, or none
                "explanation": Value("string"),
            }
        ),
        "conversation": List({"question": Value("string"), "answer": Value("string")}),
    }
)

# COCO writes a run length as base-32 digits, lowest first, one per character.
_FIRST_CHARACTER = 48  # "0" is the digit 0
_MORE = 0x20  # set in every character of a number but its last
_SIGN = 0x10  # set in the last character of a negative number
_DIGIT = 0x1F
_MOST_DIGITS = 7  # 35 bits; more is no run length
MASKS_PER_IMAGE = 20  # of the largest image that is read; smaller images can have more masks


def new_row(image: Path | str | bytes | None, source: str, targets: list[dict], conversation: list[dict] = ()) -> dict:
    """Return a row of `ROW_FEATURES`.

    Args:
        image: path of the picture, or its encoded bytes; none for a text-only row.
        source: where the row is from.
        targets: as `new_target` returns them.
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
    """Refuse a target that cannot be asked for, or whose answer and masks disagree; and masks where there are none."""
    for target in row["targets"]:
        if not target["texts"] or not all(text.strip() for text in target["texts"]):
            raise ValueError(f"{row['source']}: a target has no text or an empty one; give each at least one question.")
        _refuse_reserved("explanation", target["explanation"] or "", row["source"])
        if target["answer"] is None:
            continue
        n_slots, n_masks = target["answer"].count(SEG_SLOT), len(target["masks"])
        if n_slots != n_masks:
            raise ValueError(
                f"{row['source']}: the answer {show(target['answer'])} has {n_slots} {SEG_SLOT} but the target has "
                f"{n_masks} masks; every {SEG_SLOT} needs one mask."
            )
        _refuse_reserved("answer", target["answer"].replace(SEG_SLOT, ""), row["source"])
    for turn in row["conversation"]:
        if turn["question"] is None or turn["answer"] is None:
            raise ValueError(f"{row['source']}: a round of its dialogue has no question or no answer; give it both.")
        _refuse_reserved("answer", turn["answer"], row["source"])


def _refuse_reserved(what: str, text: str, source: str) -> None:
    if found := [word for word in RESERVED if word in text]:
        raise ValueError(
            f"{source}: the {what} {show(text)} has {found[0]}, which stands for a mask; write it otherwise."
        )


def is_unicode(text: str) -> bool:
    """Not so is half a character (a lone surrogate), as JSON writes "\\ud83d" and Python a file's name in no UTF-8."""
    return text.isascii() or text.encode("utf-8", "replace").decode("utf-8") == text


def encode_mask(mask: np.ndarray) -> dict:
    """A bool or 0/1 mask (H, W) as compressed COCO RLE: {"size": [H, W], "counts": str}."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_mask(rle: dict, source: str) -> np.ndarray:
    """The mask (H, W) uint8 in {0, 1} of a compressed COCO RLE.

    Unpacked here and not by pycocotools, which reads past the end of cut-off counts and returns uninitialised memory
    for empty ones.
    """
    size = rle["size"]
    try:
        if len(size) != 2 or not all(isinstance(side, int | np.integer) and side >= 1 for side in size):
            raise ValueError(f"size {show(size)} is not (height, width) in pixels")
        height, width = size
        if int(height) * int(width) > pixel_limit():
            raise ValueError(f"size {show(size)} has more than {pixel_limit():,} pixels, the most an image can have")
        runs = run_lengths(rle["counts"], int(height) * int(width))
    except ValueError as error:
        raise ValueError(f"{source}: broken mask RLE: {error}; write masks with rows.encode_mask.") from error
    values = np.arange(len(runs), dtype=np.uint8) & 1  # runs of 0 and 1 in turn, 0 first
    return np.repeat(values, runs).reshape(width, height).T  # COCO counts down the columns


def run_lengths(counts: str, pixels: int) -> np.ndarray:
    """The run lengths (R,) int64 behind COCO's compressed counts, which cover so many pixels.

    Raises:
        ValueError: counts that are none; what is wrong with them, but not where they are from.
    """
    if not isinstance(counts, str) or not counts.isascii():
        raise ValueError("counts are not COCO's compressed string")
    digits = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - _FIRST_CHARACTER
    if not digits.size or digits.min() < 0 or digits.max() >= 2 * _MORE or digits[-1] & _MORE:
        raise ValueError("counts are empty, cut off or hold characters that COCO's do not")
    ends = np.flatnonzero((digits & _MORE) == 0)
    lengths = np.diff(ends, prepend=-1)  # in characters
    if lengths.max() > _MOST_DIGITS:
        raise ValueError("counts hold a number too large for a run length")
    starts = ends - lengths + 1
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((digits & _DIGIT) << (5 * places), starts)
    runs -= np.where(digits[ends] & _SIGN, 1 << (5 * lengths), 0)
    # From the fourth on, a number is the difference to the run two before: r3 = n3 + r1, r4 = n4 + r2, ...
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    if runs.min() < 0:
        raise ValueError("counts hold a negative run length")
    check_coverage(runs, pixels)
    return runs


def check_coverage(runs: np.ndarray, pixels: int) -> None:
    """Refuse run lengths (R,) int64 that do not cover exactly so many pixels; also where their sum would overflow."""
    if runs.max() > pixels or runs.sum() != pixels:
        covered = runs.sum(dtype=np.float64)
        raise ValueError(f"the runs cover {covered:.0f} pixels, not the {pixels} of the image")


def load_image(image: Image.Image | str | Path | dict | None, source: str) -> Image.Image | None:
    """The image as `load_rgb` gives it, upright RGB, with errors that name the row; none for a text-only row.

    image: a picture, its path, or what ROW_FEATURES gives: {"bytes": encoded file or none, "path": str or none}.
    """
    if image is None:
        return None
    path = image["path"] if isinstance(image, dict) else image
    where = f"{source}: the image" + (f" {path}" if isinstance(path, str | Path) else "")
    if isinstance(image, dict):
        image = image["path"] if image["bytes"] is None else image["bytes"]
        if image is None:
            raise ValueError(f"{source}: the image has neither bytes nor a path; give one, or None for no image.")
    return load_rgb(image, where)


def sort_by_centroid(masks: list[np.ndarray]) -> list[int]:
    """Indices of the masks (H, W) by centroid, top to bottom then left to right; empty masks last."""

    def centroid(index: int) -> tuple[float, float]:
        ys, xs = np.nonzero(masks[index])
        return (ys.mean(), xs.mean()) if len(ys) else (np.inf, np.inf)

    return sorted(range(len(masks)), key=centroid)


def target_masks(target: dict, image_size: tuple[int, int], source: str) -> np.ndarray:
    """A target's masks (K, H, W) uint8: 0, 1, and IGNORE_VALUE where pixels are not counted and not the thing.

    image_size: (H, W) in pixels of the upright image.
    """
    check_mask_memory(len(target["masks"]), image_size, source)
    masks = np.zeros((len(target["masks"]), *image_size), dtype=np.uint8)
    for index, rle in enumerate(target["masks"]):
        masks[index] = _sized_mask(rle, image_size, source)
    if target["ignore"] is not None:
        not_counted = _sized_mask(target["ignore"], image_size, source) == 1
        masks[not_counted & (masks == 0)] = IGNORE_VALUE
    return masks


def _sized_mask(rle: dict, image_size: tuple[int, int], source: str) -> np.ndarray:
    size = rle["size"]
    if len(size) == len(image_size) and tuple(size) != tuple(image_size):  # before anything of this size is made
        raise ValueError(
            f"{source}: a mask is {show(size[0])} x {show(size[1])} (height x width) but its image is "
            f"{image_size[0]} x {image_size[1]}; draw masks on the image as it is shown, EXIF orientation applied."
        )
    return decode_mask(rle, source)


def check_mask_memory(count: int, image_size: tuple[int, int], where: str) -> None:
    """Refuse more masks of one image than memory holds: a mask takes a few bytes in a file and H · W when decoded."""
    if count * image_size[0] * image_size[1] > MASKS_PER_IMAGE * pixel_limit():
        raise ValueError(
            f"{where}: {count:,} masks of {image_size[0]} x {image_size[1]} pixels (height x width) together have more "
            f"than {MASKS_PER_IMAGE * pixel_limit():,} pixels; make the image smaller or ask for fewer masks."
        )

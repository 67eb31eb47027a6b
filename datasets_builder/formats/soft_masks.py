"""Decide which numbers of a mask of one object are the object: also with soft edges or noise from JPEG."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from gemma_lisa.safety.short_text import listed

BACKGROUND, OBJECT = 0, 1  # numbers in a mask of one object that also has ignored pixels
USUAL_IGNORE = 255  # also white, so it can be the object
MAX_MIDDLE = 0.1  # share of pixels between the two groups of a soft mask
MAX_EDGE = 3  # middle pixels per pixel near the maximum: thin objects have about 2, blobs of a heat map 15
FEW_MIDDLE = 0.002  # below this share the values between the groups are not examined
PEAK = 0.6  # share of the middle that has nearly one value: a third group, such as the unknown pixels of a trimap
FEW_NUMBERS = 3  # besides 0: too few for soft edges
MANY_NUMBERS = 20  # more than this are not class numbers
LOW = 128  # numbers below this are not white
MIN_FLAT, MIN_FLAT_NUMBERS = 0.3, 0.8  # of areas of one number: share of pixels, share of numbers
SOFT = "masks with soft edges or JPEG noise, where half or more of the maximum is the object"
SEVERAL = "masks with several numbers besides 0, taken as one object (if they are classes, name them in classes.txt)"


class ObjectMask(NamedTuple):
    """The pixels of one object."""

    pixels: np.ndarray  # (H, W) bool
    ignore: np.ndarray | None  # (H, W) bool
    number: int | None = None  # of the object, if it has only one; None also for soft masks and several numbers


def object_pixels(
    values: np.ndarray, ignore_value: int, is_lossy: bool, path: Path, note: Callable[[str], None]
) -> ObjectMask:
    """Return the object of a mask.

    Args:
        values: (H, W), at least 0. 0 is the background.
        ignore_value: number of ignored pixels; 0 for none.
        is_lossy: the values are inexact.
        path: names the mask in errors.
        note: counts a case of a kind.

    Raises:
        ValueError: the mask has no background, or several readings.
    """
    if values.dtype.kind == "f":
        values = _from_floating_point(values, path)
    found, counts = _histogram(values, path)
    numbers = [number for number in found if number]
    if not numbers:
        return ObjectMask(np.zeros(values.shape, dtype=bool), None)
    if not is_lossy and found[0] == BACKGROUND:
        if len(numbers) == 1:
            return ObjectMask(values != BACKGROUND, None, numbers[0])
        others = [number for number in numbers if number != ignore_value]
        if len(others) < len(numbers) and (others == [OBJECT] or (ignore_value != USUAL_IGNORE and len(others) == 1)):
            return ObjectMask(values == others[0], values == ignore_value, others[0])
    if (found[0] == BACKGROUND or is_lossy or _reaches_black(found)) and _is_soft(values, found, counts, is_lossy):
        pixels = values >= numbers[-1] / 2
        _check_background(pixels, numbers, path)
        note(SOFT)
        return ObjectMask(pixels, None)
    if is_lossy:
        raise ValueError(
            f"{path}: its content is JPEG or another lossy format, and its pixels are not only black and white. Export "
            "it again as PNG; converting the file is not enough."
        )
    _check_background(values != BACKGROUND, numbers, path)
    is_pair = ignore_value == 0 and numbers[0] == OBJECT and len(numbers) == 2
    is_low = numbers[-1] < LOW and (len(numbers) <= 8 or _is_flat(values, found))
    # Numbers of instances have no gap before the last, as class numbers have before 255
    is_counted = len(numbers) > FEW_NUMBERS and ignore_value not in numbers and numbers[-2] * 2 >= numbers[-1]
    is_counted = is_counted and _is_flat(values, found)
    if not is_pair and not is_low and not is_counted:
        raise _several_readings(numbers, ignore_value, path)
    note(SEVERAL)
    return ObjectMask(values != BACKGROUND, None)


def _several_readings(numbers: list[int], ignore_value: int, path: Path) -> ValueError:
    also = f", and one is ignore_value ({ignore_value})" if ignore_value in numbers else ""
    advice = (
        f"If every number is the object, write a line such as `{numbers[0]}: mug` for each number into classes.txt. "
        "To ignore the pixels of one number, set ignore_value to it."
    )
    if len(numbers) == 2 and ignore_value in numbers:
        [other] = [number for number in numbers if number != ignore_value]
        advice = (
            f"If {other} is the object and {ignore_value} is ignored, write the line `{other}: mug` into classes.txt. "
            f"If {ignore_value} is the object and {other} is ignored, set ignore_value to {other}. If both are the "
            f"object, write both numbers into classes.txt."
        )
    elif len(numbers) > MANY_NUMBERS:
        advice = "If it was once a JPEG file, export it again from the program that made it."
    return ValueError(
        f"{path}: has {len(numbers):,} numbers besides 0 ({listed(numbers)}){also}, so it is not clear which pixels "
        f"are the object. If it is one object with soft edges, save it in black and white. {advice}"
    )


def _check_background(pixels: np.ndarray, numbers: list[int], path: Path) -> None:
    if pixels.all():
        raise ValueError(
            f"{path}: no pixel is 0 (the background), so the whole picture would be the object; its numbers are "
            f"{listed(numbers)}. Save the background as 0, or name the numbers in classes.txt, such as `1: mug` and "
            "`2: background`. A number to ignore, such as the border, can be the option ignore_value."
        )


def _from_floating_point(values: np.ndarray, path: Path) -> np.ndarray:
    """Return whole numbers as integers, and values from 0 to 1 as 0 to 255."""
    if not np.isfinite(values).all() or values.min() < 0 or values.max() >= 2**31:
        raise ValueError(f"{path}: has negative, very large or invalid values; save it in black and white.")
    if (values == np.rint(values)).all():
        return values.astype(np.int32)
    if values.max() <= 1:
        return np.rint(values * USUAL_IGNORE).astype(np.uint8)
    raise ValueError(f"{path}: has values that are not whole numbers; save it in black and white.")


def _histogram(values: np.ndarray, path: Path) -> tuple[list[int], np.ndarray]:
    """Return the sorted numbers and the count of each."""
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.dtype == np.uint8:
        all_counts = np.array(Image.fromarray(values).histogram())
        found = np.flatnonzero(all_counts)
        return found.tolist(), all_counts[found]
    found, counts = np.unique(values, return_counts=True)
    if found[0] < 0:
        raise ValueError(f"{path}: has the negative number {found[0]}; the numbers of a mask must be at least 0.")
    return found.tolist(), counts


def _reaches_black(found: list[int]) -> bool:
    """Return whether the darkest of many values is nearly black: noise can leave no exact 0."""
    return len(found) > FEW_NUMBERS + 1 and found[0] <= found[-1] / 32


def _is_soft(values: np.ndarray, found: list[int], counts: np.ndarray, is_lossy: bool) -> bool:
    """Return whether nearly all pixels are near 0 or near the maximum, as with soft edges and JPEG noise."""
    numbers, maximum = np.array(found), found[-1]
    if maximum < (LOW // 2 if is_lossy else 16) or (not is_lossy and len(found) <= FEW_NUMBERS + 1):
        return False
    is_high = numbers >= maximum * 7 / 8
    is_middle = (numbers > maximum / 8) & ~is_high
    middle, high = counts[is_middle].sum(), counts[is_high].sum()
    if middle > MAX_MIDDLE * values.size or middle > MAX_EDGE * high:
        return False
    if middle > FEW_MIDDLE * values.size and _peak(numbers[is_middle], counts[is_middle], maximum) > PEAK:
        return False
    # A label map with areas of low numbers and of one high number has no values between them
    return is_lossy or not _is_flat(values, found)


def _peak(numbers: np.ndarray, counts: np.ndarray, maximum: int) -> float:
    """Return the largest share of values within 1/32 of the maximum around one number."""
    sums = np.concatenate([[0], np.cumsum(counts)])
    first = np.searchsorted(numbers, numbers - maximum / 32)
    last = np.searchsorted(numbers, numbers + maximum / 32, side="right")
    return float((sums[last] - sums[first]).max() / sums[-1])


def _is_flat(values: np.ndarray, found: list[int]) -> bool:
    """Return whether nearly every number besides 0 fills areas, as in a label map, and not only edges."""
    across, down = values[:, 1:] == values[:, :-1], values[1:] == values[:-1]
    flat = np.zeros(values.shape, dtype=bool)
    flat[:, 1:] |= across
    flat[:, :-1] |= across
    vertical = np.zeros(values.shape, dtype=bool)
    vertical[1:] |= down
    vertical[:-1] |= down
    flat &= vertical
    numbers = np.array(found)
    places = np.searchsorted(numbers, values.ravel())
    total = np.bincount(places, minlength=len(numbers))
    of_flat = np.bincount(places, weights=flat.ravel(), minlength=len(numbers))
    share = (of_flat / total)[numbers != BACKGROUND]
    return bool((share >= MIN_FLAT).mean() >= MIN_FLAT_NUMBERS)

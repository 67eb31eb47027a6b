"""Decode the brush masks of Label Studio: run lengths of RGBA bytes, packed as bits.

The bits are a header, then blocks, as in the package rle-pack (https://github.com/thi-ng/umbrella):

- header: number of values (32 bits), bits of a value - 1 (5), bits of each of four kinds of run lengths - 1 (4 x 4)
- block: repeated or not (1), kind of its run length (2), run length - 1, then one value, or a value for each element
"""

from typing import Any

import numpy as np

from gemma_lisa.datasets_builder.rows import encode_mask
from gemma_lisa.images_gemma_lisa import pixel_limit
from gemma_lisa.safety.short_text import show

CHANNELS, ALPHA = 4, 3
HEADER, VALUE = 53, 8  # bits
_WINDOW = 8  # bytes: longer than a block with one value


def brush_mask(rle: Any, size: tuple[int, int]) -> dict:
    """Return the RLE of rows of a brush mask. A pixel is marked if its alpha is above half of the largest alpha.

    Args:
        rle: bytes, or a list of their numbers.
        size: (height, width) in pixels of the photo.

    Raises:
        ValueError: it is not a mask of this size.
    """
    alpha = decode_rgba(rle, size)[..., ALPHA]
    return encode_mask(alpha > int(alpha.max()) // 2)


def decode_rgba(rle: Any, size: tuple[int, int]) -> np.ndarray:
    """Return the image (H, W, 4) uint8; arguments and errors as in `brush_mask`."""
    try:
        packed = bytes(rle) if isinstance(rle, bytes | list) else b""
    except (TypeError, ValueError) as error:
        raise ValueError(f"its rle must be a list of bytes, got {show(rle, 60)}") from error
    num_values = size[0] * size[1] * CHANNELS
    header = int.from_bytes(packed[:_WINDOW].ljust(_WINDOW, b"\0"), "big") >> (8 * _WINDOW - HEADER)
    if 8 * len(packed) < HEADER or header >> 21 != num_values or (header >> 16 & 31) + 1 != VALUE:
        raise ValueError(
            f"its rle has {len(packed):,} bytes for {header >> 21:,} values, but a mask of {size[1]} x {size[0]} "
            f"pixels must have {num_values:,} values of {VALUE} bits"
        )
    if size[0] * size[1] > pixel_limit():
        raise ValueError(f"its mask has {size[0] * size[1]:,} pixels, more than the maximum of {pixel_limit():,}")
    lengths = [(header >> shift & 15) + 1 for shift in (12, 8, 4, 0)]
    return _values(packed, lengths, num_values).reshape(*size, CHANNELS)


def _values(packed: bytes, lengths: list[int], num_values: int) -> np.ndarray:
    """Return the values (num_values,) uint8. lengths: bits of each kind of run length."""
    values, at, bit, end = np.empty(num_values, dtype=np.uint8), 0, HEADER, 8 * len(packed)
    while at < num_values:
        window = int.from_bytes(packed[bit >> 3 : (bit >> 3) + _WINDOW].ljust(_WINDOW, b"\0"), "big")
        rest = 8 * _WINDOW - (bit & 7) - 3  # bits of the window after the first three
        is_repeated, num_bits = window >> rest + 2 & 1, lengths[window >> rest & 3]
        rest -= num_bits
        stop = at + (window >> rest & (1 << num_bits) - 1) + 1
        start, bit = bit + 3 + num_bits, bit + 3 + num_bits + VALUE * (1 if is_repeated else stop - at)
        if bit > end or stop > num_values:
            raise ValueError(f"its rle ends after {at:,} of {num_values:,} values")
        if is_repeated or stop == at + 1:
            values[at:stop] = window >> rest - VALUE & 255
        else:
            bits = np.unpackbits(np.frombuffer(packed[start >> 3 : (bit + 7) >> 3], dtype=np.uint8))
            values[at:stop] = np.packbits(bits[start & 7 :][: bit - start])
        at = stop
    return values

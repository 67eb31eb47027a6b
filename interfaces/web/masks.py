"""Masks as the page keeps them: packed, with what the browser needs to show them. Files are made on download only."""

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .layers import colour_of, mask_layer, number_place

# A higher level makes the masks of a photo hardly smaller
COMPRESSION_LEVEL = 1


@dataclass(frozen=True)
class KeptMask:
    """A mask of an answer.

    Args:
        index: its place among the masks of the answer, from 0.
        score: SAM's own estimate of its IoU, rounded as in JSON files.
        points: the clicks that corrected it, (x, y, label) in pixels.
        size: (height, width) in pixels.
        packed: one bit for each pixel, compressed with zlib.
    """

    index: int
    score: float
    points: tuple[tuple[float, float, int], ...]
    size: tuple[int, int]
    packed: bytes

    @classmethod
    def pack(
        cls, mask: np.ndarray, index: int, score: float, points: tuple[tuple[float, float, int], ...] = ()
    ) -> "KeptMask":
        """Return the kept mask of a bool array (H, W)."""
        packed = zlib.compress(np.packbits(mask).tobytes(), COMPRESSION_LEVEL)
        return cls(index, round(score, 4), points, mask.shape, packed)

    def unpack(self) -> np.ndarray:
        """Return the mask as a bool array (H, W)."""
        height, width = self.size
        bits = np.frombuffer(zlib.decompress(self.packed), dtype=np.uint8)
        return np.unpackbits(bits, count=height * width).reshape(height, width).astype(bool)

    @cached_property
    def shown(self) -> dict[str, Any]:
        """The layer over the picture and the place of the number, made when the mask is first shown."""
        mask = self.unpack()
        return {"layer": mask_layer(mask, colour_of(self.index)), "place": number_place(mask)}

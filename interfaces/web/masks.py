"""Masks as the page keeps them: compressed, with what the browser needs to show them.

Files are made only when the user downloads them.
"""

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from gemma_lisa.answers_gemma_lisa import mask_status

from .layers import colour_of, mask_layer, number_place

# Higher levels hardly make the masks of a photo smaller
COMPRESSION_LEVEL = 1


@dataclass(frozen=True)
class KeptMask:
    """A mask of an answer.

    Args:
        index: position among the masks of the answer, counted from 0.
        score: SAM's own estimate of the IoU, rounded as in JSON files.
        points: points that corrected it, (x, y, label) in pixels.
        size: (height, width) in pixels.
        area: number of pixels of the mask.
        packed: one bit per pixel, compressed with zlib.
    """

    index: int
    score: float
    points: tuple[tuple[float, float, int], ...]
    size: tuple[int, int]
    area: int
    packed: bytes

    @classmethod
    def pack(
        cls, mask: np.ndarray, index: int, score: float, points: tuple[tuple[float, float, int], ...] = ()
    ) -> "KeptMask":
        """Return the kept mask of a bool array (H, W)."""
        packed = zlib.compress(np.packbits(mask).tobytes(), COMPRESSION_LEVEL)
        return cls(index, round(score, 4), points, mask.shape, int(np.count_nonzero(mask)), packed)

    def unpack(self) -> np.ndarray:
        """Return the mask as a bool array (H, W)."""
        height, width = self.size
        bits = np.frombuffer(zlib.decompress(self.packed), dtype=np.uint8)
        return np.unpackbits(bits, count=height * width).reshape(height, width).astype(bool)

    @property
    def status(self) -> str:
        """Return `mask_status`: "found", "low confidence" or "nothing found"."""
        return mask_status(self.area, self.score)

    @cached_property
    def shown(self) -> dict[str, Any]:
        """Return the layer over the picture and the place of the number. They are made on first use."""
        mask = self.unpack()
        return {"layer": mask_layer(mask, colour_of(self.index)), "place": number_place(mask)}

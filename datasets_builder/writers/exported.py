"""The common form of photos and objects that are written for labelling tools, and of the writer of a format."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gemma_lisa.datasets_builder.rows import decode_mask

BACKGROUND = "background"


@dataclass(slots=True)
class ExportedObject:
    """One object of a photo."""

    name: str  # its class
    rle: dict  # mask on the upright photo in the format of rows, not empty
    score: float  # SAM's own estimate of the mask's IoU

    def mask(self) -> np.ndarray:
        """Return the mask (H, W) uint8 in {0, 1}."""
        return decode_mask(self.rle, self.name)


@dataclass(slots=True)
class ExportedPhoto:
    """One photo of the data set, which is already in its folder."""

    file_name: str
    size: tuple[int, int]  # (height, width) in pixels, upright
    objects: list[ExportedObject] = field(default_factory=list)

    @property
    def stem(self) -> str:
        return Path(self.file_name).stem


class DatasetWriter(NamedTuple):
    """A format of labelling tools."""

    title: str
    photos: str  # folder of the photos in the data set
    # Photos with an EXIF orientation are stored upright, because tools disagree on how they apply it to this format
    is_upright: bool
    # Returns why a class name cannot be written, or None
    refusal: Callable[[list[str]], str | None]
    # Writes the files of labels into a folder. Takes photos (read once), all class names and the tolerance of
    # `outlines`. Returns remarks
    write: Callable[[Path, Iterable[ExportedPhoto], list[str], float], list[str]]
    next_step: str  # how to open and train it, with {folder}
    has_polygons: bool = True


def accept_all(names: list[str]) -> str | None:
    """Return None: every class name can be written."""
    return None

"""Base class for data sets of photos with label maps. A row is one photo, a target is one class in it."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import datasets
import numpy as np
from PIL import Image

from gemma_lisa.datasets_builder.formats.coco_segmentation import turn_of, unite
from gemma_lisa.datasets_builder.formats.label_maps import class_masks, read_label_map
from gemma_lisa.datasets_builder.rows import new_row, new_target

from .archives import ArchiveBuilder


class LabelMapBuilder(ArchiveBuilder):
    """Builder whose rows are photos with label maps. Subclasses define MAPS, PHOTOS and `names`.

    A split without label maps does not exist. In other splits, each photo must have a label map and each label map a
    photo.
    """

    MAPS: ClassVar[dict[str, str]]  # folder of label maps of each split, relative to the data set's folder
    PHOTOS: ClassVar[dict[str, str]]  # folder of photos of each split, relative to data_dir
    SHARED_PHOTOS: ClassVar[bool] = (
        False  # whether other sets use the same photos, so that photos without any map are normal
    )

    def names(self) -> dict[int, str | None]:
        """Return the class name of each number; None for numbers whose pixels are ignored."""
        raise NotImplementedError

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        folder = self.folder()
        names = self.names()
        found = {}
        for split, name in self.MAPS.items():
            maps = _stems(folder / name, ".png")
            photos = _stems(self.config.root / self.PHOTOS[split], ".jpg")
            # Includes photos without label map and label maps without photo, to report them as bad records
            found[split] = sorted(maps | photos) if maps else []
            if photos and not maps and not self.SHARED_PHOTOS:
                self.remark(f"{folder / name}: contains no label maps (.png), so split {split} is skipped")
        if not any(found.values()):
            raise ValueError(f"{folder}: contains no label maps. {self.ARCHIVE.instructions}")
        return [
            datasets.SplitGenerator(split, gen_kwargs={"split": split, "stems": stems, "names": names})
            for split, stems in found.items()
            if stems
        ]

    def _generate_examples(
        self, split: str, stems: list[str], names: dict[int, str | None]
    ) -> Iterator[tuple[str, dict]]:
        maps, photos = self.folder() / self.MAPS[split], self.config.root / self.PHOTOS[split]

        def row_of(stem: str) -> dict | None:
            image, label_map = photos / f"{stem}.jpg", maps / f"{stem}.png"
            masks, ignore = named_masks(labels_of(image, label_map), names, label_map)
            return semantic_row(image, f"{self.name}/{split}/{stem}", masks, ignore)

        yield from self.rows(((str(maps / f"{stem}.png"), stem) for stem in stems), row_of)


def _stems(folder: Path, suffix: str) -> set[str]:
    """Return the stems of the files in a folder, without hidden files; empty if the folder does not exist."""
    names = os.listdir(folder) if folder.is_dir() else []
    return {name.removesuffix(suffix) for name in names if name.endswith(suffix) and not name.startswith(".")}


def labels_of(image: Path, label_map: Path) -> np.ndarray:
    """Return the class numbers (H, W) of a photo, upright as it is shown.

    If the label map has the orientation of the stored pixels, it is rotated by the photo's EXIF orientation.

    Raises:
        ValueError: the photo or the label map does not exist or cannot be read, or their sizes differ.
    """
    for path, other in ((image, f"label map {label_map}"), (label_map, f"photo {image}")):
        if not path.is_file():
            raise ValueError(f"{path}: no such file, but its {other} exists; unpack the data set again.")
    labels = read_label_map(label_map)
    method = turn_of(image, labels.shape, str(label_map))
    return labels if method is None else np.asarray(Image.fromarray(labels).transpose(method))


def named_masks(
    labels: np.ndarray, names: dict[int, str | None], label_map: Path
) -> tuple[dict[str, dict], dict | None]:
    """Return the mask (RLE) of each class by name, and the mask of the ignored pixels, or None.

    Args:
        labels: (H, W) class numbers.
        names: class name of each number; None for numbers whose pixels are ignored. Numbers with the same name give
            one mask.
        label_map: path of the label map, for errors.

    Raises:
        ValueError: a number is not in names.
    """
    of_name = defaultdict(list)
    for number, mask in class_masks(labels).items():
        if number not in names:
            raise ValueError(
                f"{label_map}: unknown class number {number}; the data set has {len(names)} class numbers."
            )
        of_name[names[number]].append(mask)
    masks = {name: unite(same) for name, same in of_name.items()}
    ignore = masks.pop(None, None)
    return masks, ignore


def semantic_row(image: Path, source: str, masks: dict[str, dict], ignore: dict | None) -> dict | None:
    """Return a row with a target for each class of a photo, or None if there is no class.

    Args:
        image: path of the photo.
        source: source of the row.
        masks: masks (RLE) by class name.
        ignore: mask (RLE) of the ignored pixels, or None.
    """
    if not masks:
        return None
    return new_row(image, source, [new_target([f"the {name}"], [mask], ignore=ignore) for name, mask in masks.items()])

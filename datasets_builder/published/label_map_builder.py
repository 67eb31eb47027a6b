"""What the sets of photos with label maps share: a row is one photo, a target is one class in it."""

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
    """A builder whose rows are photos with label maps; a subclass says where they lie and what the numbers mean.

    A split without any label map is none; in one that is, every photo needs its map, and every map its photo.
    """

    MAPS: ClassVar[dict[str, str]]  # each split's folder of label maps, in the set's own folder
    PHOTOS: ClassVar[dict[str, str]]  # each split's folder of photos, below data_dir
    SHARED_PHOTOS: ClassVar[bool] = False  # those are other sets' too, and say nothing where no label map is

    def names(self) -> dict[int, str | None]:
        """What each number is called; none: its pixels are not counted."""
        raise NotImplementedError

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        folder = self.folder()
        names = self.names()
        found = {}
        for split, name in self.MAPS.items():
            maps = _stems(folder / name, ".png")
            photos = _stems(self.config.root / self.PHOTOS[split], ".jpg")
            # A photo without its label map, and a map without its photo, are records too, and bad ones
            found[split] = sorted(maps | photos) if maps else []
            if photos and not maps and not self.SHARED_PHOTOS:
                self.remark(f"{folder / name}: holds no label map, so the split {split} is left out")
        if not any(found.values()):
            raise ValueError(f"{folder}: no label map is there. {self.ARCHIVE.get}")
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
    """Of the files of a folder, but for hidden ones; none where it is not there, as of a split that nobody unpacked."""
    names = os.listdir(folder) if folder.is_dir() else []
    return {name.removesuffix(suffix) for name in names if name.endswith(suffix) and not name.startswith(".")}


def labels_of(image: Path, label_map: Path) -> np.ndarray:
    """The class numbers (H, W) of a photo, upright as it is shown; a map that lies on its side with the stored pixels
    is turned with them.

    Raises:
        ValueError: no photo, a map that cannot be read (`read_label_map`) or that is not as large as its photo.
    """
    for path, other in ((image, f"label map {label_map}"), (label_map, f"photo {image}")):
        if not path.is_file():
            raise ValueError(f"{path}: no such file, though its {other} is there.")
    labels = read_label_map(label_map)
    method = turn_of(image, labels.shape, str(label_map))
    return labels if method is None else np.asarray(Image.fromarray(labels).transpose(method))


def named_masks(
    labels: np.ndarray, names: dict[int, str | None], label_map: Path
) -> tuple[dict[str, dict], dict | None]:
    """The mask of every class by its name, as rows hold it, and that of the pixels that are not counted, or none.

    names: what each number of the label map (H, W) is called; several numbers of one name are united. None: its pixels
    are not counted.

    Raises:
        ValueError: a number that has no entry in names.
    """
    of_name = defaultdict(list)
    for number, mask in class_masks(labels).items():
        if number not in names:
            raise ValueError(f"{label_map}: holds the number {number}, which is none of its set's {len(names)} labels.")
        of_name[names[number]].append(mask)
    masks = {name: unite(same) for name, same in of_name.items()}
    ignore = masks.pop(None, None)
    return masks, ignore


def semantic_row(image: Path, source: str, masks: dict[str, dict], ignore: dict | None) -> dict | None:
    """A row that asks for every class of a photo, or none where there is no class.

    masks: by class name, as rows hold them. ignore: the mask of the pixels of which the label map does not say what
    they are.
    """
    if not masks:
        return None
    return new_row(image, source, [new_target([f"the {name}"], [mask], ignore=ignore) for name, mask in masks.items()])

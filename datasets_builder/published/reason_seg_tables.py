"""Read ReasonSeg-R and ReasonSeg-X: tables of photos, questions and masks, as their repositories on the Hub store them.

    reason_seg/ReasonSeg_refine/                    sj9909/ReasonSeg_refine: ReasonSeg with corrected masks
    reason_seg/ReasonSegX_{train,val,test}/         sj9909/ReasonSegX_train, ...: questions with deeper reasoning

Each folder holds Parquet files or the output of `save_to_disk` (`formats.hub_tables`). These columns are read:

    image                       content of the photo
    text or problem             question
    mask                        list of H lists of W booleans
    solution_mask               list of such masks, one per object; in ReasonSegX_train
    image_id or id              name of the photo
    reasoning_type              kind of the question; optional, in ReasonSeg-X

The columns were taken from public code that reads these sets, not from the data. `image`, `text`, `mask`, `image_id`,
`ann_id`, `img_height`, `img_width` and `reasoning_type` are read by the evaluation script of StAR, the project that
published them. The columns of ReasonSegX_train are those of another project that trains on it.

- The masks have no ignore region. In the older format, the ignore region of ReasonSeg is part of the target, so scores
  on it are not comparable with LISA's.
- A mask without pixels is a question about something that is not in the photo.
- The size of a mask shows whether it was drawn on the upright photo or on its pixels as stored.
- A row has all questions about one photo, in the order of the table. Photos are compared by their content.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import datasets
import numpy as np
import pyarrow
from PIL import Image

from gemma_lisa.datasets_builder.formats.coco_segmentation import ORIENTATIONS, QUARTER_TURNS
from gemma_lisa.datasets_builder.formats.hub_tables import ROWS_AT_ONCE, HubTable, mask_of, nesting
from gemma_lisa.datasets_builder.formats.jpeg_header import stored_size
from gemma_lisa.datasets_builder.rows import encode_mask, new_row, new_target
from gemma_lisa.safety.short_text import show

from .archives import QUESTIONS, Archive, ArchiveBuilder, ArchiveConfig
from .reason_seg import SUFFIXES

VERSION = datasets.Version("1.0.0")  # increase it if the rows of the same files change
IMAGE, KIND = "image", "reasoning_type"
# Column names of the two formats, the more common one first
TEXTS, MASKS, NAMES = ("text", "problem"), ("mask", "solution_mask"), ("image_id", "id")
SENTENCE_ENDS = (".", "?", "!")  # the tables do not say whether a text is a sentence
EMPTY = "questions with an empty mask, read as questions about something that is not in the photo"
TURNED = "masks of photos with an EXIF orientation that keeps the size, taken as drawn on the upright photo"


@dataclass
class Photo:
    """A photo of a table and the questions about it."""

    name: str
    size: tuple[int, int]  # (height, width) in pixels as stored
    orientation: int | None
    targets: list[dict]


class _ReasonSegTables(ArchiveBuilder):
    """Builder of a set with a table for each split. Subclasses define its name SET and the FOLDERS of its splits."""

    DEFAULT_CONFIG_NAME = "default"
    # The rows contain their photos
    DEFAULT_WRITER_BATCH_SIZE = ROWS_AT_ONCE
    SET: str
    FOLDERS: dict[str, str]

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        folders = {split: self.folder() / name for split, name in self.FOLDERS.items()}
        if not any(folder.is_dir() for folder in folders.values()):
            names = ", ".join(self.FOLDERS.values())
            raise ValueError(f"{self.folder()}: contains none of the folders {names}. {self.ARCHIVE.instructions}")
        return [
            datasets.SplitGenerator(split, gen_kwargs={"split": split, "folder": folder})
            for split, folder in folders.items()
            if folder.is_dir()
        ]

    def _generate_examples(self, split: str, folder: Path) -> Iterator[tuple[str, dict]]:
        table = HubTable(folder)
        photos = self._photos(table)
        seen = set()

        def row_of(record: tuple[str, pyarrow.StructScalar]) -> dict:
            key, image = record
            photo = photos[key]
            row = new_row(image["bytes"].as_py(), f"{self.SET}/{split}/{photo.name}", photo.targets)
            row["image"]["path"] = Path(image["path"].as_py() or photo.name).name
            return row

        def records() -> Iterator[tuple[str, tuple]]:
            for batch in table.batches([IMAGE]):
                for image in batch[IMAGE]:
                    key = _key(image)
                    if key in photos and key not in seen:
                        seen.add(key)
                        yield f"{folder}: {photos[key].name}", (key, image)

        yield from self.rows(records(), row_of)

    def _photos(self, table: HubTable) -> dict[str, Photo]:
        """Return the photos that have at least one question, by the hash of their content, in the order of the table.

        Raises:
            ValueError: a column is missing, or more records are bad than `max_bad` allows.
        """
        columns, photos, used, cases = _columns(table), {}, {}, defaultdict(list)
        place = 0
        for batch in table.batches(list(columns.values())):
            for at in range(batch.num_rows):
                record = {role: batch[column][at] for role, column in columns.items()}
                try:
                    where = f"{table.folder}: row {place} (counted from 0)"
                    _add(record, photos, used, cases, where)
                except ValueError as error:
                    self.tolerate(error)
                place += 1
        self.remark_found(table.folder, cases)
        return photos

    def remark_found(self, folder: Path, cases: dict[str, list[str]]) -> None:
        """Log how many masks were interpreted, and the first of them."""
        for what, names in cases.items():
            self.remark(f"{folder}: {what} ({len(names):,}), first: {names[0]}")


@dataclass
class ReasonSegRConfig(ArchiveConfig):
    def index_paths(self) -> list[Path]:
        return [self.root / ReasonSegR.ARCHIVE.folder / name for name in ReasonSegR.FOLDERS.values()]


class ReasonSegR(_ReasonSegTables):
    SET = "reason_seg_r"
    VERSION = VERSION
    BUILDER_CONFIG_CLASS = ReasonSegRConfig
    BUILDER_CONFIGS = [ReasonSegRConfig(name="default", version=VERSION)]
    FOLDERS = {"test": "ReasonSeg_refine"}
    ARCHIVE = Archive(
        title="ReasonSeg-R",
        folder="reason_seg",
        get="Run `hf download sj9909/ReasonSeg_refine --repo-type dataset --local-dir reason_seg/ReasonSeg_refine` in "
        "data_dir.",
        homepage="https://huggingface.co/datasets/sj9909/ReasonSeg_refine",
        license="no license was found; photos of OpenImages and ScanNet under their own terms",
        citation="Yun et al., StAR: Segment Anything Reasoner, arXiv 2603.14382, 2026",
        unit=QUESTIONS,
    )


@dataclass
class ReasonSegXConfig(ArchiveConfig):
    def index_paths(self) -> list[Path]:
        return [self.root / ReasonSegX.ARCHIVE.folder / name for name in ReasonSegX.FOLDERS.values()]


class ReasonSegX(_ReasonSegTables):
    SET = "reason_seg_x"
    VERSION = VERSION
    BUILDER_CONFIG_CLASS = ReasonSegXConfig
    BUILDER_CONFIGS = [ReasonSegXConfig(name="default", version=VERSION)]
    FOLDERS = {"train": "ReasonSegX_train", "validation": "ReasonSegX_val", "test": "ReasonSegX_test"}
    ARCHIVE = Archive(
        title="ReasonSeg-X",
        folder="reason_seg",
        get="For each of train, val and test, run `hf download sj9909/ReasonSegX_test --repo-type dataset --local-dir "
        "reason_seg/ReasonSegX_test` in data_dir.",
        homepage="https://huggingface.co/datasets/sj9909/ReasonSegX_test",
        license="no license was found; photos under their own terms",
        citation="Yun et al., StAR: Segment Anything Reasoner, arXiv 2603.14382, 2026",
        sizes={"train": 240, "validation": 156, "test": 773},
        unit=QUESTIONS,
    )


def photo_names(folder: Path) -> set[str]:
    """Return the names of the photos of a table, without suffix; errors as in `HubTable`."""
    table = HubTable(folder)
    column = _column(table, NAMES)
    return {_stem(name.as_py()) for batch in table.batches([column]) for name in batch[column] if name.is_valid}


def _columns(table: HubTable) -> dict[str, str]:
    """Return the column of each role."""
    if IMAGE not in table.schema.names or not pyarrow.types.is_struct(table.schema.field(IMAGE).type):
        raise ValueError(f"{table.folder}: must have a column {IMAGE} with the content of photos; download it again.")
    columns = {"image": IMAGE, "text": _column(table, TEXTS), "mask": _column(table, MASKS)}
    columns["name"] = _column(table, NAMES)
    kind = table.schema.field(columns["mask"]).type
    if nesting(kind) not in (2, 3):
        raise ValueError(
            f"{table.folder}: the column {columns['mask']} must contain lists of lists of booleans, "
            f"got {show(str(kind))}."
        )
    if KIND in table.schema.names:
        columns["kind"] = KIND
    return columns


def _column(table: HubTable, names: tuple[str, ...]) -> str:
    found = next((name for name in names if name in table.schema.names), None)
    if found is None:
        has = ", ".join(table.schema.names)
        raise ValueError(f"{table.folder}: has no column {' or '.join(names)}, only {has}; download it again.")
    return found


def _stem(name: str | int) -> str:
    """Return the last part of a name, without the suffix of an image file. Names of ReasonSeg can contain dots."""
    last = PureWindowsPath(str(name)).name  # splits at / and at backslashes
    stem, suffix = os.path.splitext(last)
    return stem if suffix.lower() in SUFFIXES else last


def _key(image: pyarrow.StructScalar) -> str | None:
    """Return the hash of the content of an image; None without content."""
    content = image["bytes"].as_buffer() if image.is_valid and image["bytes"].is_valid else None
    return None if content is None else hashlib.sha256(content).hexdigest()


def _add(record: dict[str, Any], photos: dict[str, Photo], used: dict[str, str], cases: dict, where: str) -> None:
    """Add the question of a record to its photo.

    Args:
        record: the Arrow scalar of each role of `_columns`.
        photos, used: photos by key, and keys by name; a new photo is added to both.
        cases: names of photos whose mask was interpreted, by interpretation.
        where: names the record in errors.

    Raises:
        ValueError: the record is wrong.
    """
    name, text = (record[role].as_py() for role in ("name", "text"))
    if not isinstance(name, str | int) or not str(name).strip():
        raise ValueError(f"{where}: the name of its photo must be a text that is not empty, got {show(name)}.")
    name = _stem(name)
    where = f"{where}, photo {show(name)}"
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: its question must be a text that is not empty, got {show(text)}.")
    key = _key(record["image"])
    if key is None:
        raise ValueError(f"{where}: has no content of its photo; download the data set again.")
    if used.get(name, key) != key:
        raise ValueError(f"{where}: another photo has the same name; rename one of them.")
    photo = photos.get(key)
    if photo is None:
        photo = Photo(name, *stored_size(record["image"]["bytes"].as_py(), where), [])
    masks = _masks(record["mask"], photo, cases, where)
    text, kind = " ".join(text.split()), record["kind"].as_py() if "kind" in record else None
    if kind is not None and (not isinstance(kind, str) or not kind.strip()):
        raise ValueError(f"{where}: {KIND} must be a text that is not empty, got {show(kind)}.")
    photo.targets.append(new_target([text], masks, kind=kind, is_sentence=text.endswith(SENTENCE_ENDS)))
    photos[key], used[name] = photo, key


def _masks(value: Any, photo: Photo, cases: dict, where: str) -> list[dict]:
    """Return the masks of a question on the upright photo; [] if it is about something that is not in the photo."""
    if not value.is_valid:
        raise ValueError(f"{where}: has no mask.")
    parts = [value.values] if nesting(value.type) == 2 else [part.values for part in value.values]
    if any(part is None for part in parts):
        raise ValueError(f"{where}: one of its {len(parts)} masks is missing.")
    drawn = [_upright(mask_of(part, where), photo, cases, where) for part in parts]
    seen = [mask for mask in drawn if mask.any()]
    if seen and len(seen) < len(drawn):
        raise ValueError(f"{where}: one of its {len(drawn)} masks has no pixels; remove it.")
    if not seen:
        cases[EMPTY].append(photo.name)
    return [encode_mask(mask) for mask in seen]


def _upright(mask: np.ndarray, photo: Photo, cases: dict, where: str) -> np.ndarray:
    """Return a mask (H, W) bool on the upright photo."""
    method = QUARTER_TURNS.get(photo.orientation)
    upright = photo.size if method is None else photo.size[::-1]
    if mask.shape == upright:
        if photo.orientation in ORIENTATIONS and mask.shape == photo.size:
            cases[TURNED].append(photo.name)
        return mask
    if mask.shape == photo.size:
        return np.asarray(Image.fromarray(mask).transpose(method))
    raise ValueError(
        f"{where}: its mask is {mask.shape[1]} x {mask.shape[0]} pixels (width x height), but its photo is "
        f"{upright[1]} x {upright[0]}; masks must have the size of their photo."
    )

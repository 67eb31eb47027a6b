"""Read ReasonSeg: photos with questions that require reasoning or world knowledge, and polygons of the targets.

    reason_seg/ReasonSeg/{train,val,test}/199953_df81ec489c_o.jpg, 199953_df81ec489c_o.json, ...
    reason_seg/ReasonSeg/explanatory/train.json         text answers to questions about photos of train

A row is one photo with one target. All phrasings of the question (`text`) ask for this target. The polygons are filled
exactly as in LISA, so that results are comparable. Photos of your own in this layout can have any of SUFFIXES.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from gemma_lisa.datasets_builder.formats.coco_segmentation import BORDER, photo_size
from gemma_lisa.datasets_builder.formats.label_maps import class_masks
from gemma_lisa.datasets_builder.rows import IGNORE_VALUE, RESERVED, check_mask_memory, new_row, new_target
from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.short_text import show

from .archives import Archive, ArchiveBuilder, ArchiveConfig

SPLITS = {"train": "train", "validation": "val", "test": "test"}
EXPLANATORY = "explanatory/train.json"
FLAG = "flag"  # label of shapes that are not part of the annotation
IGNORE = "ignore"  # labels that contain it mark ignore regions
TARGET = 1  # value in label maps; 0 is background, IGNORE_VALUE is ignored
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")  # in any case
Point = tuple[int, int]  # x and y of a pixel


@dataclass
class ReasonSegConfig(ArchiveConfig):
    def index_paths(self) -> list[Path]:
        folder = self.root / ReasonSeg.ARCHIVE.folder
        return [folder / name for name in (*SPLITS.values(), "explanatory")]


class ReasonSeg(ArchiveBuilder):
    VERSION = datasets.Version("1.1.0")  # increase it if the rows of the same files change
    BUILDER_CONFIG_CLASS = ReasonSegConfig
    BUILDER_CONFIGS = [ReasonSegConfig(name="default", version=VERSION)]
    DEFAULT_CONFIG_NAME = "default"
    ARCHIVE = Archive(
        title="ReasonSeg",
        folder="reason_seg/ReasonSeg",
        get="Download it and move its folders train, val, test and explanatory into reason_seg/ReasonSeg.",
        homepage="https://github.com/dvlab-research/LISA",
        license="no license is stated for the annotations; photos of OpenImages and ScanNet under their own terms",
        citation="Lai et al., LISA: Reasoning Segmentation via Large Language Model, CVPR 2024",
        sizes={"train": 239, "validation": 200, "test": 779},
    )

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        folder = self.folder()
        # Includes photos without JSON file and JSON files without photo, to report them as bad records
        found = {split: _files_by_stem(folder / name) for split, name in SPLITS.items()}
        if not any(found.values()):
            raise ValueError(
                f"{folder}: its folders {', '.join(SPLITS.values())} contain no photos. {self.ARCHIVE.instructions}"
            )
        return [
            datasets.SplitGenerator(split, gen_kwargs={"split": split, "files": files})
            for split, files in found.items()
            if files
        ]

    def _generate_examples(self, split: str, files: dict[str, list[Path]]) -> Iterator[tuple[str, dict]]:
        folder = self.folder() / SPLITS[split]
        explained = self._explanations(set(files)) if split == "train" else {}
        flags = []

        def row_of(stem: str) -> dict:
            image, file = _pair(files[stem])
            target = _target(read_json(file), photo_size(image, str(file)), file, flags)
            return new_row(image, f"{self.name}/{split}/{file.stem}", _explain(target, explained.get(stem, [])))

        yield from self.rows(((str(folder / f"{stem}.json"), stem) for stem in files), row_of)
        self.remark_cases(folder, {f"shapes labelled {FLAG}": flags})

    def _explanations(self, known: set[str]) -> dict[str, list[tuple[str, str]]]:
        """Return (question, answer) pairs by the stem of their photo. known: the stems of all photos.

        Raises:
            ValueError: the file is wrong, or more entries are wrong than `max_bad` allows.
        """
        file = self.folder() / EXPLANATORY
        if not file.is_file():
            self.remark(f"{file}: no such file; the rows have no explanations")
            return {}
        entries = read_json(file)
        if not isinstance(entries, list):
            raise ValueError(f"{file}: must contain a list of explanations; download the file again.")
        explained, unknown = defaultdict(list), []
        for place, entry in enumerate(entries):
            try:
                image, question, answer = _explanation(entry, f"{file}: entry {place} (counted from 0)")
            except ValueError as error:
                self.tolerate(error)
                continue
            stem = _composed(image)
            if os.path.splitext(stem)[1].lower() in SUFFIXES:
                stem = os.path.splitext(stem)[0]
            if stem in known:
                explained[stem].append((question, answer))
            else:
                unknown.append(image)
        self.remark_cases(file, {"explanations of photos not in train": unknown})
        return explained


def _files_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Return the sorted photos and JSON files of a folder by their name without suffix. Hidden files are skipped."""
    found = defaultdict(list)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() in (*SUFFIXES, ".json") and not path.name.startswith(".") and path.is_file():
            found[_composed(path.stem)].append(path)
    return {stem: found[stem] for stem in sorted(found)}


def _pair(paths: list[Path]) -> tuple[Path, Path]:
    """Return the photo and the JSON file among the files with the same stem.

    Raises:
        ValueError: one of the two is missing or there are several.
    """
    files = [path for path in paths if path.suffix.lower() == ".json"]
    images = [path for path in paths if path not in files]
    if not images:
        raise ValueError(
            f"{files[0].with_suffix('.jpg')}: no such file, also not with {', '.join(SUFFIXES[1:])}, but "
            f"{files[0].name} exists; add its photo or remove it."
        )
    if not files:
        raise ValueError(
            f"{images[0].with_suffix('.json')}: no such file, but {images[0].name} exists; add it or remove the photo."
        )
    if len(paths) > 2:
        names = " and ".join(path.name for path in (images if len(images) > 1 else files))
        raise ValueError(f"{files[0].parent}: {names} have the same name; keep one.")
    return images[0], files[0]


def _composed(name: str) -> str:
    """Return a name in Unicode's composed form: macOS writes names decomposed."""
    return unicodedata.normalize("NFC", name)


def read_json(file: Path) -> Any:
    """Return the content of a JSON file in UTF-8 or cp1252, which a few files of ReasonSeg use.

    Raises:
        ValueError: the file cannot be read.
    """
    try:
        content = file.read_bytes()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252")
        return parse_json(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as JSON ({error}); download it again.") from error


# ---------------------------------------------------------------------------------------------------------------------
# Questions and explanations
# ---------------------------------------------------------------------------------------------------------------------
def _target(content: Any, size: tuple[int, int], file: Path, flags: list[str]) -> dict:
    """Return the target of a photo of size (height, width). The names of flag shapes are added to `flags`."""
    texts, is_sentence, shapes = (_field(content, key, file) for key in ("text", "is_sentence", "shapes"))
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{file}: text must be a list of questions that are not empty, got {show(texts)}.")
    if not isinstance(is_sentence, bool):
        raise ValueError(f"{file}: is_sentence must be true or false, got {show(is_sentence)}.")
    if not isinstance(shapes, list):
        raise ValueError(f"{file}: shapes must be a list, got {show(shapes)}.")
    masks = class_masks(draw(shapes, size, file, flags))
    if TARGET not in masks:
        raise ValueError(
            f"{file}: the mask of its {len(shapes)} shapes is empty; at least one shape must cover the target."
        )
    texts, ignore = [_one_line(text) for text in texts], masks.get(IGNORE_VALUE)
    return new_target(texts, [masks[TARGET]], is_sentence=is_sentence, ignore=ignore)


def _explain(target: dict, explained: list[tuple[str, str]]) -> list[dict]:
    """Return the target with its explanation. The question of the explanation becomes one of its texts.

    If the target's texts are phrases, or if it already has an explanation, the explanation becomes a separate target.

    explained: (question, answer) pairs.
    """
    targets = [target]
    for question, answer in explained:
        if target["is_sentence"] and target["explanation"] is None:
            target["explanation"] = answer
            target["texts"] += [question] if question not in target["texts"] else []
        else:
            targets.append({**target, "texts": [question], "is_sentence": True, "explanation": answer})
    return targets


def _explanation(entry: Any, where: str) -> tuple[str, str, str]:
    """Return the photo, question and answer of an explanation."""
    image, question, answer = (_field(entry, key, where) for key in ("image", "query", "outputs"))
    if not all(isinstance(text, str) and text.strip() for text in (image, question, answer)):
        raise ValueError(
            f"{where}: image, query and outputs must be texts that are not empty, "
            f"got {show([image, question, answer])}."
        )
    if reserved := next((mark for mark in RESERVED if mark in answer), None):
        raise ValueError(f"{where}: outputs contain {reserved}, which is reserved for masks; remove it.")
    return image, _one_line(question), answer.strip()


def _field(record: Any, key: str, where: str | Path) -> Any:
    if not isinstance(record, dict) or key not in record:
        raise ValueError(f"{where}: has no {key}; download the file again.")
    return record[key]


def _one_line(text: str) -> str:
    return " ".join(text.split())


# ---------------------------------------------------------------------------------------------------------------------
# Polygons
# ---------------------------------------------------------------------------------------------------------------------
def draw(shapes: list, size: tuple[int, int], file: Path, flags: list[str]) -> np.ndarray:
    """Return the label map of the shapes, (H, W) uint8 of 0, TARGET and IGNORE_VALUE. Smaller shapes cover larger ones.

    Args:
        shapes: shapes in the format of LabelMe.
        size: (height, width) of the upright photo.
        file: for errors.
        flags: the names of flag shapes, which are skipped, are added to it.

    Raises:
        ValueError: a shape is not a polygon, or is outside a photo of this size.
    """
    check_mask_memory(len(shapes), size, str(file))
    drawn = []
    for place, shape in enumerate(shapes):
        where = f"{file}: shape {place} (counted from 0)"
        label, kind, points = (_field(shape, key, where) for key in ("label", "shape_type", "points"))
        if not isinstance(label, str):
            raise ValueError(f"{where}: label must be a text, got {show(label)}.")
        if label.lower() == FLAG:
            flags.append(where)
            continue
        if kind != "polygon":
            raise ValueError(f"{where}: shape_type must be 'polygon', got {show(kind)}.")
        mask = fill_polygon(_checked_points(points, size, where), size)
        drawn.append((int(mask.sum()), mask, IGNORE_VALUE if IGNORE in label.lower() else TARGET))
    labels = np.zeros(size, dtype=np.uint8)
    for _, mask, value in sorted(drawn, key=lambda part: -part[0]):
        labels[mask] = value
    return labels


def _checked_points(points: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """Return points (N, 2) int64, x and y in pixels. As in LISA, one or two points are valid: a dot or a line."""
    try:
        coordinates = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        coordinates = np.zeros(0)
    if coordinates.ndim != 2 or coordinates.shape[1] != 2 or not len(points) or not np.isfinite(coordinates).all():
        raise ValueError(f"{where}: points must be a list of [x, y] in pixels, got {show(points)}.")
    lowest, highest = coordinates.min(axis=0), coordinates.max(axis=0)  # (x, y)
    if max(*-lowest, *(highest - size[::-1])) > BORDER:
        raise ValueError(
            f"{where}: x ranges from {lowest[0]:g} to {highest[0]:g} and y from {lowest[1]:g} to {highest[1]:g}, "
            f"outside its upright photo of {size[1]} x {size[0]} pixels (width x height); download the photo again."
        )
    return coordinates.astype(np.int64)  # truncated as in LISA, not rounded


def fill_polygon(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the mask (H, W) bool of a polygon, drawn like OpenCV's fillPoly and polylines (thickness 1) together.

    A pixel is set if its center is inside the polygon by the even-odd rule, or if it is on an edge. If all points are
    in the image, the mask is equal to OpenCV's. Otherwise, a few pixels at the border can differ.

    Other libraries give other masks, and OpenCV would be 61 MB for this one data set. For 40 random polygons, this mask
    is equal to that of OpenCV 5.0. The IoU with it is 0.993 (lowest 0.975) for Pillow and 0.971 (lowest 0.902) for
    pycocotools. Measured with `python benchmarks/bench_data.py --case polygons --output FOLDER` and
    opencv-python-headless at 242a778, 2026-11-28, 2-core CPU.

    Args:
        points: (N, 2) int64, x and y.
        size: (height, width).
    """
    mask, crossed = np.zeros(size, dtype=bool), np.zeros((size[0], size[1] + 1), dtype=bool)
    corners = [(int(x), int(y)) for x, y in points]
    for start, end in zip(corners[-1:] + corners[:-1], corners, strict=True):
        cut = _cut(start, end, size)
        if cut is not None:
            mask[_line(*cut)] = True
        crossed[_crossings(start, end, cut or (start, end), size)] ^= True
    mask |= np.logical_xor.accumulate(crossed, axis=1)[:, :-1]
    return mask


def _cut(start: Point, end: Point, size: tuple[int, int]) -> tuple[Point, Point] | None:
    """Return the end points of an edge, clipped to the image, or None if the edge is outside.

    Clipped points are rounded to whole pixels, which changes the slope of the edge slightly, as in OpenCV.
    """
    ends = [list(start), list(end)]
    for axis, last in ((1, size[0] - 1), (0, size[1] - 1)):  # y, then x
        if max(ends[0][axis], ends[1][axis]) < 0 or min(ends[0][axis], ends[1][axis]) > last:
            return None
        for point in ends:
            border = min(max(point[axis], 0), last)
            if border != point[axis]:
                run, rise = (ends[1][along] - ends[0][along] for along in (1 - axis, axis))
                point[1 - axis] += int((border - point[axis]) * run / rise)
                point[axis] = border
    return tuple(ends[0]), tuple(ends[1])


def _line(start: Point, end: Point) -> tuple[np.ndarray, np.ndarray]:
    """Return (ys, xs) of the pixels of an edge: Bresenham's line from its left end."""
    (x, y), (x_end, y_end) = sorted((start, end))
    across, down = x_end - x, abs(y_end - y)
    direction = 1 if y_end > y else -1
    long, short = max(across, down), min(across, down)
    steps = np.arange(long + 1)
    # Rounds to the nearest pixel, and 0.5 down
    aside = (2 * short * steps + long - 1) // (2 * long) if long else steps
    if across >= down:
        return y + direction * aside, x + steps
    return y + direction * steps, x + aside


def _crossings(start: Point, end: Point, cut: tuple[Point, Point], size: tuple[int, int]) -> tuple:
    """Return (ys, xs) of the first pixel at or right of an edge, for each image row that it crosses except the last.

    x is W if there is no such pixel. cut: two points that define the line of the edge.
    """
    rows = np.arange(max(min(start[1], end[1]), 0), min(max(start[1], end[1]), size[0]))
    if cut[0][1] == cut[1][1]:
        cut = (start, end)
    (x, y), (x_end, y_end) = sorted(cut, key=lambda point: point[1])
    columns = x - (rows - y) * (x - x_end) // max(y_end - y, 1)
    return rows, columns.clip(0, size[1])

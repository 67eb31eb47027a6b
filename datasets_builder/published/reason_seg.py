"""ReasonSeg: photos with questions that take thought or knowledge, and the polygons of what they ask for.

    reason_seg/ReasonSeg/{train,val,test}/199953_df81ec489c_o.jpg, 199953_df81ec489c_o.json, ...
    reason_seg/ReasonSeg/explanatory/train.json         answers in words, to questions about photos of train

A row is one photo; its target is what all wordings of its question (`text`) ask for. The polygons are drawn as LISA
draws them, so that numbers are comparable.
"""

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
FLAG = "flag"  # a label that says nothing of the photo
IGNORE = "ignore"  # in a label: not counted
TARGET = 1  # in a drawing; 0 is background, IGNORE_VALUE is not counted
Point = tuple[int, int]  # x and y of a pixel


@dataclass
class ReasonSegConfig(ArchiveConfig):
    def index_paths(self) -> list[Path]:
        folder = self.root / ReasonSeg.ARCHIVE.folder
        return [folder / name for name in (*SPLITS.values(), "explanatory")]


class ReasonSeg(ArchiveBuilder):
    VERSION = datasets.Version("1.1.0")  # raise it whenever the rows of the same files change
    BUILDER_CONFIG_CLASS = ReasonSegConfig
    BUILDER_CONFIGS = [ReasonSegConfig(name="default", version=VERSION)]
    DEFAULT_CONFIG_NAME = "default"
    ARCHIVE = Archive(
        title="ReasonSeg",
        folder="reason_seg/ReasonSeg",
        get="Get it by the link on its homepage and put its folders train, val, test and explanatory into "
        "reason_seg/ReasonSeg.",
        homepage="https://github.com/dvlab-research/LISA",
        license="none is stated for the annotations; photos of OpenImages and ScanNet under their own terms",
        citation="Lai et al., LISA: Reasoning Segmentation via Large Language Model, CVPR 2024",
        sizes={"train": 239, "validation": 200, "test": 779},
    )

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        folder = self.folder()
        # A photo without its JSON, and a JSON without its photo, are records too, and bad ones
        found = {split: sorted(_stems(folder / name)) for split, name in SPLITS.items()}
        if not any(found.values()):
            raise ValueError(
                f"{folder}: none of its folders {', '.join(SPLITS.values())} holds any. {self.ARCHIVE.get}"
            )
        return [
            datasets.SplitGenerator(split, gen_kwargs={"split": split, "stems": stems})
            for split, stems in found.items()
            if stems
        ]

    def _generate_examples(self, split: str, stems: list[str]) -> Iterator[tuple[str, dict]]:
        folder = self.folder() / SPLITS[split]
        explained = self._explanations(stems) if split == "train" else {}
        flags = []

        def row_of(stem: str) -> dict:
            image, file = folder / f"{stem}.jpg", folder / f"{stem}.json"
            for path, other in ((image, file), (file, image)):
                if not path.is_file():
                    raise ValueError(f"{path}: no such file, though {other} is there. {self.ARCHIVE.get}")
            target = _target(read_json(file), photo_size(image, str(file)), file, flags)
            return new_row(image, f"{self.name}/{split}/{stem}", _explain(target, explained.get(stem, [])))

        yield from self.rows(((str(folder / f"{stem}.json"), stem) for stem in stems), row_of)
        self.remark_cases(folder, {f"shapes labelled {FLAG}": flags})

    def _explanations(self, stems: list[str]) -> dict[str, list[tuple[str, str]]]:
        """(question, answer) by the stem of the photo they are about. stems: the photos that are there.

        Raises:
            ValueError: what is wrong with the file, or with an entry that `max_bad` does not allow.
        """
        file = self.folder() / EXPLANATORY
        if not file.is_file():
            self.remark(f"{file}: no such file, so nothing is explained")
            return {}
        entries = read_json(file)
        if not isinstance(entries, list):
            raise ValueError(f"{file}: is no list of explanations at its top; get it again.")
        known, explained, unknown = set(stems), defaultdict(list), []
        for place, entry in enumerate(entries):
            try:
                image, question, answer = _explanation(entry, f"{file}: entry {place} (from 0 on)")
            except ValueError as error:
                self.tolerate(error)
                continue
            stem = image.removesuffix(".jpg")
            if stem in known:
                explained[stem].append((question, answer))
            else:
                unknown.append(image)
        self.remark_cases(file, {"explanations of photos not in train": unknown})
        return explained


def _stems(folder: Path) -> set[str]:
    return {path.stem for suffix in ("json", "jpg") for path in folder.glob(f"*.{suffix}")}


def read_json(file: Path) -> Any:
    """What a JSON file says; a few of the set's are no UTF-8 but Windows' cp1252.

    Raises:
        ValueError: it is neither, or no JSON.
    """
    try:
        content = file.read_bytes()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252")
        return parse_json(text)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as JSON ({error}); get it again.") from error


# ---------------------------------------------------------------------------------------------------------------------
# What is asked
# ---------------------------------------------------------------------------------------------------------------------
def _target(content: Any, size: tuple[int, int], file: Path, flags: list[str]) -> dict:
    """The one target of a photo of this size (height, width); shapes that are flags are noted in `flags`."""
    texts, is_sentence, shapes = (_field(content, key, file) for key in ("text", "is_sentence", "shapes"))
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{file}: its text is {show(texts)}, which is no list of questions.")
    if not isinstance(is_sentence, bool):
        raise ValueError(f"{file}: its is_sentence is {show(is_sentence)}, not true or false.")
    if not isinstance(shapes, list):
        raise ValueError(f"{file}: its shapes are {show(shapes)}, which is no list.")
    masks = class_masks(draw(shapes, size, file, flags))
    if TARGET not in masks:
        raise ValueError(f"{file}: none of its {len(shapes)} shapes shows a pixel of what is asked for.")
    texts, ignore = [_one_line(text) for text in texts], masks.get(IGNORE_VALUE)
    return new_target(texts, [masks[TARGET]], is_sentence=is_sentence, ignore=ignore)


def _explain(target: dict, explained: list[tuple[str, str]]) -> list[dict]:
    """The target with its explanation (question, answer), whose question becomes one of its wordings.

    A question does not fit among phrases, nor a second explanation in one target: these are targets of their own.
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
    """The photo, question and answer of an explanation."""
    image, question, answer = (_field(entry, key, where) for key in ("image", "query", "outputs"))
    if not all(isinstance(text, str) and text.strip() for text in (image, question, answer)):
        raise ValueError(f"{where}: its image, query and outputs are not three texts.")
    if reserved := next((mark for mark in RESERVED if mark in answer), None):
        raise ValueError(f"{where}: its outputs say {reserved}, which stands for a mask.")
    return image, _one_line(question), answer.strip()


def _field(record: Any, key: str, where: str | Path) -> Any:
    if not isinstance(record, dict) or key not in record:
        raise ValueError(f"{where}: has no {key}; get the file again.")
    return record[key]


def _one_line(text: str) -> str:
    return " ".join(text.split())


# ---------------------------------------------------------------------------------------------------------------------
# Where it is
# ---------------------------------------------------------------------------------------------------------------------
def draw(shapes: list, size: tuple[int, int], file: Path, flags: list[str]) -> np.ndarray:
    """The shapes as uint8 (H, W) of 0, TARGET and IGNORE_VALUE, the smaller on top of the larger.

    size: (height, width) of the upright photo. flags: takes the names of the shapes that are none.

    Raises:
        ValueError: a shape that is no polygon on a photo of this size.
    """
    check_mask_memory(len(shapes), size, str(file))
    drawn = []
    for place, shape in enumerate(shapes):
        where = f"{file}: shape {place} (from 0 on)"
        label, kind, points = (_field(shape, key, where) for key in ("label", "shape_type", "points"))
        if not isinstance(label, str):
            raise ValueError(f"{where}: its label is {show(label)}, which is no text.")
        if label.lower() == FLAG:
            flags.append(where)
            continue
        if kind != "polygon":
            raise ValueError(f"{where}: is a {show(kind)}, not a polygon.")
        mask = fill_polygon(_checked_points(points, size, where), size)
        drawn.append((int(mask.sum()), mask, IGNORE_VALUE if IGNORE in label.lower() else TARGET))
    labels = np.zeros(size, dtype=np.uint8)
    for _, mask, value in sorted(drawn, key=lambda part: -part[0]):
        labels[mask] = value
    return labels


def _checked_points(points: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """Points (N, 2) as x and y of pixels. One or two are drawn as LISA draws them, a dot or a line."""
    try:
        coordinates = np.asarray(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        coordinates = np.zeros(0)
    if coordinates.ndim != 2 or coordinates.shape[1] != 2 or not len(points) or not np.isfinite(coordinates).all():
        raise ValueError(f"{where}: its points are no list of x and y in pixels.")
    lowest, highest = coordinates.min(axis=0), coordinates.max(axis=0)  # (x, y)
    if max(*-lowest, *(highest - size[::-1])) > BORDER:
        raise ValueError(
            f"{where}: reaches x {lowest[0]:g} to {highest[0]:g} and y {lowest[1]:g} to {highest[1]:g}, but its photo "
            f"is {size[1]} x {size[0]} pixels upright (width x height); get the photo again."
        )
    return coordinates.astype(np.int64)  # cut off, as LISA does, not rounded


def fill_polygon(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of a polygon, as OpenCV's polylines of thickness 1 and fillPoly together draw it.

    A pixel is drawn if its center lies in the polygon by the even-odd rule, or if it is one of an edge's. If all points
    lie in the image, all pixels are OpenCV's; if some do not, a few at the border may differ.

    Other libraries draw other masks, and OpenCV is 61 MB for this one data set. Of 40 random polygons this draws every
    pixel as OpenCV 5.0; the IoU with it is 0.993 (lowest 0.975) for Pillow and 0.971 (lowest 0.902) for pycocotools.
    Measured by `python benchmarks/bench_data.py --case polygons --output FOLDER` with opencv-python-headless installed,
    at 242a778, 2026-11-28, 2-core CPU.

    points: (N, 2) int64, x and y. size: (height, width).
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
    """The ends of an edge cut off at the image's border, or none where it does not show.

    New ends are whole pixels, so the edge tilts a little; where it lies is part of what OpenCV draws.
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
    """(ys, xs) of the pixels of an edge: Bresenham's line from its left end."""
    (x, y), (x_end, y_end) = sorted((start, end))
    across, down = x_end - x, abs(y_end - y)
    direction = 1 if y_end > y else -1
    long, short = max(across, down), min(across, down)
    steps = np.arange(long + 1)
    # rounded, halves down: a step aside is taken only once more than half of it is due
    aside = (2 * short * steps + long - 1) // (2 * long) if long else steps
    if across >= down:
        return y + direction * aside, x + steps
    return y + direction * steps, x + aside


def _crossings(start: Point, end: Point, cut: tuple[Point, Point], size: tuple[int, int]) -> tuple:
    """(ys, xs) of the first pixel at or right of an edge in each row of the image that it passes, but for its last.

    cut: two points of the edge, which say where it runs. x is W where no pixel is right of it.
    """
    rows = np.arange(max(min(start[1], end[1]), 0), min(max(start[1], end[1]), size[0]))
    if cut[0][1] == cut[1][1]:
        cut = (start, end)
    (x, y), (x_end, y_end) = sorted(cut, key=lambda point: point[1])
    columns = x - (rows - y) * (x - x_end) // max(y_end - y, 1)
    return rows, columns.clip(0, size[1])

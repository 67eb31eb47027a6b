"""Find the photos in the validation and test splits of the referring and reasoning sets, and skip them in training.

The photos of the referring sets are all part of COCO's train2014, and therefore also of train2017. COCO-Stuff,
PACO-LVIS and LLaVA-Instruct train on train2017. A photo in the training split of one referring set can be in the
validation split of another.

ReasonSeg-R has photos of ReasonSeg, and ReasonSeg-X can have some. They are compared by name: their files can differ.

To evaluate on one of these sets, do not train on the photos that `held_out_images` and `held_out_names` return.
"""

import logging
import re
from collections import Counter
from pathlib import Path, PureWindowsPath

import pyarrow
import pyarrow.compute

from gemma_lisa.datasets_builder.formats.refs_files import SUFFIXES, find_refs, read_refs, refs_by_split
from gemma_lisa.datasets_builder.published import reason_seg
from gemma_lisa.datasets_builder.published.reason_seg import ReasonSeg
from gemma_lisa.datasets_builder.published.reason_seg_tables import ReasonSegR, ReasonSegX, photo_names
from gemma_lisa.safety.short_text import show

logger = logging.getLogger(__name__)

# Each set's folder below data_dir, and the part of its refs files' names before "(unc)"
REFERRING = {
    "refcoco": ("refer_seg/refcoco", "refs"),
    "refcoco_plus": ("refer_seg/refcoco+", "refs"),
    "refcocog": ("refer_seg/refcocog", "refs"),
    "grefcoco": ("refer_seg/grefcoco", "grefs"),
}
# Each reasoning set's evaluation splits and their folders below data_dir
REASONING = {
    "reason_seg": {name: f"{ReasonSeg.ARCHIVE.folder}/{folder}" for name, folder in reason_seg.SPLITS.items()},
    "reason_seg_r": {name: f"reason_seg/{folder}" for name, folder in ReasonSegR.FOLDERS.items()},
    "reason_seg_x": {name: f"reason_seg/{folder}" for name, folder in ReasonSegX.FOLDERS.items()},
}
TRAIN = "train"
COCO_FOLDERS = ("train2014", "val2014", "train2017", "val2017")
GOOGLE = "google"  # splits by object, not by photo: many photos are in both its train and its val split


def coco_id(path_or_name: str | Path) -> int | None:
    """Return the COCO image id in a file name, or None if the name has no digits.

    The id is the last group of digits of the stem. It is the same for COCO_train2014_000000000009.jpg and
    train2017/000000000009.jpg.
    """
    groups = re.findall("[0-9]+", PureWindowsPath(path_or_name).stem)  # splits at / and at backslashes
    return int(groups[-1]) if groups else None


def coco_photo(path: str) -> int | None:
    """Return the COCO image id of a photo, or None if its path does not look like a COCO path.

    A path looks like a COCO path if its name contains an id as COCO writes it: 000000 and six digits. It also does if
    one of its two innermost folders has the name of a COCO folder.
    """
    path = PureWindowsPath(path)
    if written := re.findall("(?<![0-9])000000[0-9]{6}(?![0-9])", path.stem):
        return int(written[0])
    folders = [parent.name.lower() for parent in path.parents[:2]]
    return coco_id(path) if any(name in folders for name in COCO_FOLDERS) else None


def photo_of(path: str | None, source: str) -> int | str | None:
    """Return the COCO image id of a row's photo, `set/name` for a photo of a reasoning set, or None for others.

    Args:
        path: the photo's path. It has no folder, or is None, if the photo is stored as bytes.
        source: the row's source, which ends in the photo's path below the data set's folder.
    """
    number = None if path is None else coco_photo(path)
    number = coco_photo(source) if number is None else number
    name = source.split("/")[0]
    return f"{name}/{source.split('/')[-1]}" if number is None and name in REASONING else number


def kept_rows(table: pyarrow.Table, held_out: dict[int | str, str]) -> tuple[list[int], Counter]:
    """Return the rows that do not show a held-out photo, and counts for `report`.

    Args:
        table: has the columns `image` (only its field `path` is read) and `source`.
        held_out: photos that must not be trained on, as `photo_of` names them.

    Returns:
        kept: indices of rows.
        counts: `rows`, `skipped`, `of_coco` (photos that look like COCO's) and `unnamed` (images without a path).
    """
    # By chunk: the joined image bytes can exceed the size of one Arrow array
    images, sources = table["image"].chunks, table["source"].to_pylist()
    paths = [path for chunk in images for path in pyarrow.compute.struct_field(chunk, "path").to_pylist()]
    photos = [photo_of(path, source) for path, source in zip(paths, sources, strict=True)]
    kept = [index for index, photo in enumerate(photos) if photo not in held_out]
    has_image = [valid for chunk in images for valid in pyarrow.compute.is_valid(chunk).to_pylist()]
    counts = Counter(
        rows=len(photos),
        skipped=len(photos) - len(kept),
        of_coco=sum(isinstance(photo, int) for photo in photos),
        unnamed=sum(valid and path is None for valid, path in zip(has_image, paths, strict=True)),
    )
    return kept, counts


def report(name: str, counts: Counter, held_out: dict[int | str, str]) -> None:
    """Log the counts of `kept_rows` for a data set as warnings.

    Raises:
        ValueError: all rows of the data set show held-out photos.
    """
    if counts["of_coco"] and not any(isinstance(photo, int) for photo in held_out):
        logger.warning(
            "%s: contains COCO photos, but no refs of a referring data set were found to tell which of them belong to "
            "evaluation splits; all are used for training",
            name,
        )
    if counts["unnamed"]:
        logger.warning(
            "%s: %d of its images have no file name, so it was not checked whether they belong to evaluation splits",
            name,
            counts["unnamed"],
        )
    if counts["skipped"]:
        logger.warning(
            "%s: skipped %s of %s rows, because their photos are in a validation or test split of a referring or "
            "reasoning data set",
            name,
            f"{counts['skipped']:,}",
            f"{counts['rows']:,}",
        )
    if counts["skipped"] == counts["rows"]:
        raise ValueError(
            f"{name}: all {counts['rows']:,} rows show photos of validation or test splits, so none can be trained on; "
            "remove this data set, or set allow_leakage to train on them."
        )


def held_out_images(data_dir: str | Path) -> dict[int, str]:
    """Return the COCO image ids of all validation and test splits, each with its split: "refcocog/umd/validation".

    Reads RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO. A photo of several splits gets the first of their names. The sets
    that were read, and those that were not found, are logged.

    Google's split of a set is used only if the set has no other split. It divides objects, not photos: its val and
    test contain half of the photos that other splits train on.

    Args:
        data_dir: folder of the data sets' original files.

    Raises:
        ValueError: a refs file cannot be read, or one of its photos has no numeric id.
    """
    files = {name: _refs_files(Path(data_dir) / folder, prefix) for name, (folder, prefix) in REFERRING.items()}
    used = [
        (name, split_by) for name, found in files.items() for split_by in found if split_by != GOOGLE or len(found) == 1
    ]
    held_out = {}
    for name, split_by in used:
        file = files[name][split_by]
        for split, photos in refs_by_split(read_refs(file), file).items():
            if split == TRAIN:
                continue
            for number, refs in photos.items():
                if not isinstance(number, int):
                    raise ValueError(
                        f"{refs[0].where}: image_id must be a COCO image id (an integer), got {show(number)}; "
                        "download the file again."
                    )
                held_out.setdefault(number, f"{name}/{split_by}/{split}")
    if used:
        names = ", ".join(f"{name}/{split_by}" for name, split_by in used)
        logger.info("%d photos of the validation and test splits of %s are held out", len(held_out), names)
    if unused := [f"{name}/{GOOGLE}" for name, found in files.items() if GOOGLE in found and len(found) > 1]:
        logger.warning(
            "the validation and test photos of %s are not held out, because they include training photos of other "
            "splits",
            ", ".join(unused),
        )
    if missing := [name for name, found in files.items() if not found]:
        logger.warning(
            "%s: no refs files of %s; photos of their validation and test splits are not held out",
            Path(data_dir) / "refer_seg",
            ", ".join(missing),
        )
    return held_out


def held_out_names(data_dir: str | Path) -> dict[str, str]:
    """Return the photos of the evaluation splits of reasoning sets, each with its split: "reason_seg/test".

    A photo is held out of the other reasoning sets only: `reason_seg_x/1_a_o` if it is in a split of ReasonSeg. The
    splits of one set are as published.

    Args:
        data_dir: folder of the data sets' original files.

    Raises:
        ValueError: a table cannot be read.
    """
    held_out = {}
    for evaluated, splits in REASONING.items():
        for split, place in splits.items():
            folder = Path(data_dir) / place
            if split == TRAIN or not folder.is_dir():
                continue
            is_table = evaluated != "reason_seg"
            names = photo_names(folder) if is_table else {path.stem for path in folder.glob("[!.]*.json")}
            for other in REASONING:
                if other != evaluated:
                    held_out |= {f"{other}/{name}": f"{evaluated}/{split}" for name in sorted(names)}
    return held_out


def _refs_files(folder: Path, prefix: str) -> dict[str, Path]:
    """Return the refs file of each split of a set by the split's author: {"unc": .../refs(unc).p}."""
    stems = sorted({path.stem for suffix in SUFFIXES for path in folder.glob(f"{prefix}(*){suffix}")})
    files = {stem[len(prefix) + 1 : -1]: find_refs(folder, stem) for stem in stems}
    return {split_by: file for split_by, file in files.items() if file is not None}

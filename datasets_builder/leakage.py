"""Which photos of COCO are held out: those of the val and test splits of the referring sets.

These photos are all of COCO's train2014, and so they are in train2017 too, that COCO-Stuff, PACO-LVIS and
LLaVA-Instruct train on; a photo of one referring set's train may be in the val of another. Whoever trains on any of
them and evaluates on a referring set leaves the photos of `held_out_images` out.
"""

import logging
import re
from collections import Counter
from pathlib import Path, PureWindowsPath

import pyarrow
import pyarrow.compute

from gemma_lisa.datasets_builder.formats.refs_files import SUFFIXES, find_refs, read_refs, refs_by_split
from gemma_lisa.safety.short_text import show

logger = logging.getLogger(__name__)

# Each set's folder below data_dir, and what its files of refs are called before "(unc)"
REFERRING = {
    "refcoco": ("refer_seg/refcoco", "refs"),
    "refcoco_plus": ("refer_seg/refcoco+", "refs"),
    "refcocog": ("refer_seg/refcocog", "refs"),
    "grefcoco": ("refer_seg/grefcoco", "grefs"),
}
TRAIN = "train"
COCO_FOLDERS = ("train2014", "val2014", "train2017", "val2017")
GOOGLE = "google"  # divided the objects and not the photos: many are in its train and in its val


def coco_id(path_or_name: str | Path) -> int | None:
    """The number of a photo of COCO, the same for COCO_train2014_000000000009.jpg and train2017/000000000009.jpg.

    It is the last group of digits of the stem; none where there is no digit.
    """
    groups = re.findall("[0-9]+", PureWindowsPath(path_or_name).stem)  # which knows both ways of writing a path
    return int(groups[-1]) if groups else None


def coco_photo(path: str) -> int | None:
    """The number of a photo, if it is one of COCO's.

    That is told by a number as COCO writes it, 000000 and six digits, in its name; or by the name of its folder or of
    the one above that.
    """
    path = PureWindowsPath(path)
    if written := re.findall("(?<![0-9])000000[0-9]{6}(?![0-9])", path.stem):
        return int(written[0])
    folders = [parent.name.lower() for parent in path.parents[:2]]
    return coco_id(path) if any(name in folders for name in COCO_FOLDERS) else None


def photo_of(path: str | None, source: str) -> int | None:
    """The number of a row's photo, if it is one of COCO's.

    Its source ends in the photo's name below the set's folder, of which pictures that travel as bytes lose the folder
    or all.
    """
    number = None if path is None else coco_photo(path)
    return coco_photo(source) if number is None else number


def kept_rows(table: pyarrow.Table, held_out: dict[int, str]) -> tuple[list[int], Counter]:
    """Which rows may be trained on, and what there is to say about all of them.

    Args:
        table: with the columns image (its field `path` is enough) and source.
        held_out: the photos that may not be trained on.

    Returns:
        kept: numbers of rows.
        counts: rows, skipped, of_coco (named as COCO's photos are) and nameless (pictures without a name).
    """
    # Chunk by chunk: joined, the bytes of the pictures may be more than a column of Arrow's holds
    images, sources = table["image"].chunks, table["source"].to_pylist()
    paths = [path for chunk in images for path in pyarrow.compute.struct_field(chunk, "path").to_pylist()]
    photos = [photo_of(path, source) for path, source in zip(paths, sources, strict=True)]
    kept = [at for at, photo in enumerate(photos) if photo not in held_out]
    shown = [there for chunk in images for there in pyarrow.compute.is_valid(chunk).to_pylist()]
    counts = Counter(
        rows=len(photos),
        skipped=len(photos) - len(kept),
        of_coco=sum(photo is not None for photo in photos),
        nameless=sum(there and path is None for there, path in zip(shown, paths, strict=True)),
    )
    return kept, counts


def report(name: str, counts: Counter, held_out: dict[int, str]) -> None:
    """Say aloud what `kept_rows` counted in a set.

    Raises:
        ValueError: nothing of it is left.
    """
    if not held_out and counts["of_coco"]:
        logger.warning("%s: shows photos that are named as COCO's; which are for evaluation is not known", name)
    if counts["nameless"]:
        logger.warning(
            "%s: %d of its pictures have no name; they may be for evaluation elsewhere", name, counts["nameless"]
        )
    if counts["skipped"]:
        logger.warning(
            "%s: left out %s of its %s rows, whose photos are in a validation or test split of the referring sets",
            name,
            f"{counts['skipped']:,}",
            f"{counts['rows']:,}",
        )
    if counts["skipped"] == counts["rows"]:
        raise ValueError(f"{name}: every row of it is about a photo that is held out.")


def held_out_images(data_dir: str | Path) -> dict[int, str]:
    """The number of every photo in a val or test split, with the name of that split: "refcocog/umd/validation".

    RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO are read, and a photo of several splits has the name of the first. Which of
    the four are there is logged: those that are not guard nothing. Google's splits count only where a set is split in
    no other way: they part objects, not photos, and their val and test hold half of the others' train.

    Args:
        data_dir: folder of the data sets' original files.

    Raises:
        ValueError: a file of refs that cannot be read, or a photo in it that has no number.
    """
    files = {name: _ways(Path(data_dir) / folder, prefix) for name, (folder, prefix) in REFERRING.items()}
    ways = [(name, way) for name, found in files.items() for way in found if way != GOOGLE or len(found) == 1]
    held_out = {}
    for name, way in ways:
        file = files[name][way]
        for split, photos in refs_by_split(read_refs(file), file).items():
            if split == TRAIN:
                continue
            for number, refs in photos.items():
                if not isinstance(number, int):
                    raise ValueError(f"{refs[0].where}: its image_id {show(number)} is no number of COCO.")
                held_out.setdefault(number, f"{name}/{way}/{split}")
    if ways:
        names = ", ".join(f"{name}/{way}" for name, way in ways)
        logger.info("held out: %d photos of val and test of %s", len(held_out), names)
    if passed := [f"{name}/{GOOGLE}" for name, found in files.items() if GOOGLE in found and len(found) > 1]:
        logger.warning("not held out, for they hold train photos of others: val and test of %s", ", ".join(passed))
    if missing := [name for name, found in files.items() if not found]:
        logger.warning(
            "%s: holds no refs of %s; the photos of their val and test are not known and not held out",
            Path(data_dir) / "refer_seg",
            ", ".join(missing),
        )
    return held_out


def _ways(folder: Path, prefix: str) -> dict[str, Path]:
    """The file of refs for everyone who split the set, by their names: {"unc": .../refs(unc).p}."""
    stems = sorted({path.stem for suffix in SUFFIXES for path in folder.glob(f"{prefix}(*){suffix}")})
    files = {stem[len(prefix) + 1 : -1]: find_refs(folder, stem) for stem in stems}
    return {way: file for way, file in files.items() if file is not None}

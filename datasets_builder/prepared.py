"""Load prepared rows: Parquet shards, the output of `save_to_disk`, or a data set on the Hub.

    prepared/ade20k/data/train-00000-of-00021.parquet, ...      output of `prepare`, see shards.py
    prepared/ade20k/{dataset_dict.json,train/}                  output of DatasetDict or Dataset.save_to_disk
    someone/ade20k-rows                                         name on the Hub

Their columns must be those of `rows.ROW_FEATURES`.
"""

import glob
import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import datasets
import pyarrow.compute
import pyarrow.parquet as parquet
from datasets.exceptions import DatasetGenerationError

from gemma_lisa.safety.short_text import name_of, show

from .custom.folder_files import IMAGES, LABELS, MASKS, find_place
from .formats.coco_files import has_coco
from .formats.hub_tables import DISK, SHARD, SHARD_PATTERNS
from .rows import ROW_FEATURES
from .shards import COMPLETE, PLAN

PREPARE_AGAIN = "Convert it to the columns of rows.ROW_FEATURES, or run prepare again on the original files."


def load_prepared(path_or_hub_name: str, split: str, data_dir: str | None = None) -> datasets.Dataset:
    """Load the rows of a split.

    Args:
        path_or_hub_name: a folder, or a name on the Hub.
        split: name of the split.
        data_dir: additional folder that can contain the images of rows saved with `save_to_disk`.

    Raises:
        ValueError: the folder or data set does not exist, or its split, shards, rows or columns are missing or wrong.
            Also if a Parquet row has the path of an image but not its bytes, or a row of `save_to_disk` has a path
            outside of its folder and `data_dir`.
    """
    folder = Path(path_or_hub_name)
    on_disk = any((folder / name).is_file() for name in DISK)
    if not folder.is_dir():
        rows = _from_hub(path_or_hub_name, split)
    elif on_disk:
        rows = _from_disk(folder, split)
    else:
        rows = _from_shards(folder, split)
    check_features(rows.features, path_or_hub_name)
    _check_pictures(rows, path_or_hub_name, [folder, *([data_dir] if data_dir else [])] if on_disk else None)
    # A cast to the same features would copy the rows. Images are not decoded here: errors must name their row
    if rows.features["image"] != ROW_FEATURES["image"]:
        rows = rows.cast_column("image", ROW_FEATURES["image"])
    return rows


def find_shards(path_or_hub_name: str, split: str) -> list[str]:
    """Return the Parquet shards of a split without loading them: paths, or URLs on the Hub.

    Raises:
        ValueError: as in `load_prepared`, or the rows are not in Parquet.
    """
    folder = Path(path_or_hub_name)
    if not folder.is_dir():
        return _shards_on_hub(path_or_hub_name, split)
    if any((folder / name).is_file() for name in DISK):
        raise ValueError(
            f"{folder}: the output of save_to_disk cannot be streamed; load it without streaming, or run prepare."
        )
    return [str(path) for path in _shards_in(folder, split)]


def as_data_file(shard: str) -> str:
    """Return a path of `find_shards` escaped for `load_dataset`, which reads `[`, `*` and `?` as patterns."""
    return shard if "://" in shard else glob.escape(shard)


def check_features(features: datasets.Features, where: str) -> None:
    """Raise an error if the columns are not those of rows. The decoding of images can differ."""
    if difference := _difference(features, ROW_FEATURES, ""):
        raise ValueError(f"{where}: {difference}. {PREPARE_AGAIN}")


def _check_pictures(rows: datasets.Dataset, where: str, folders: list[str | Path] | None) -> None:
    """Raise an error for rows with the path of an image but no bytes; with folders, only for paths outside of them."""
    roots = [os.path.realpath(folder) for folder in folders or []]
    start = 0
    for chunk in rows.data["image"].chunks:
        named, held = (pyarrow.compute.is_valid(pyarrow.compute.struct_field(chunk, key)) for key in ("path", "bytes"))
        paths = pyarrow.compute.struct_field(chunk, "path")
        for at in pyarrow.compute.and_not(named, held).to_numpy(zero_copy_only=False).nonzero()[0].tolist():
            if folders is None or not _is_below(paths[at].as_py(), roots):
                source = rows.data["source"][start + at].as_py()
                if folders is None:
                    check_picture({"bytes": None, "path": paths[at].as_py()}, f"{where}: {name_of(source)}")
                raise ValueError(
                    f"{where}: {name_of(source)}: the image {_line(paths[at])} is not in this folder; if you trust "
                    "these rows, set data_dir to the folder of their images."
                )
        start += len(chunk)


def _is_below(path: str, roots: list[str]) -> bool:
    """Return whether a path is in one of these folders (real paths); False for URLs and files in archives."""
    if "://" in path or "\0" in path:
        return False
    real = os.path.realpath(path)
    return any(os.path.commonpath([root, real]) == root for root in roots)


def check_picture(image: dict | None, where: str) -> None:
    """Raise an error if a Parquet row has the path of an image but not its bytes.

    Otherwise, the author of the rows could choose which local files are read.
    """
    if image is not None and image["bytes"] is None and image["path"] is not None:
        raise ValueError(
            f"{where}: the row has the path {_line(image['path'])} but not the image itself; use `save_to_disk`."
        )


def _from_shards(folder: Path, split: str) -> datasets.Dataset:
    shards = [as_data_file(str(path)) for path in _shards_in(folder, split)]
    try:
        return datasets.load_dataset("parquet", data_files={split: shards}, features=ROW_FEATURES, split=split)
    except (DatasetGenerationError, OSError, ValueError) as error:
        raise ValueError(
            f"{folder}: {split} cannot be read ({_line(error.__cause__ or error)}); download it again."
        ) from error


def is_prepared(folder: Path) -> bool:
    """Return whether a folder contains prepared rows, complete or not."""
    return any((folder / name).is_file() for name in (*DISK, PLAN, COMPLETE)) or any(
        next(folder.glob(pattern), None) for pattern in SHARD_PATTERNS
    )


def own_data_advice(folder: str | Path) -> str:
    """Return the error for a folder without prepared rows: which options load the user's own photos in it."""
    folder = Path(folder)
    places = [place for place in (folder, folder / "train") if find_place(place, IMAGES).is_dir()]
    has_masks = any(find_place(place, kind).is_dir() for place in places for kind in (MASKS, LABELS))
    if not has_masks and has_coco(folder):
        return f"{folder}: found COCO JSON, no prepared rows; use --dataset coco_instances --data_dir {folder}."
    found = f"found {find_place(places[0], IMAGES).relative_to(folder)}/, no" if places else "no"
    return f"{folder}: {found} prepared rows; for your own photos and masks use --dataset folder --data_dir {folder}."


def _shards_in(folder: Path, split: str) -> list[Path]:
    """Return a folder's shards of a split after checking that all exist and have the columns of rows."""
    if (folder / PLAN).is_file() and not (folder / COMPLETE).is_file():
        raise ValueError(
            f"{folder}: the folder is incomplete because `prepare` was stopped; run the same command again to resume."
        )
    shards = defaultdict(list)
    for path in sorted(path for pattern in SHARD_PATTERNS for path in folder.glob(pattern)):
        shards[SHARD.fullmatch(path.name)["split"]].append(path)
    if not shards and (folder / COMPLETE).is_file():
        raise ValueError(f"{folder}: the shards are missing; download all of them, or run `prepare` again.")
    if not shards:
        raise ValueError(own_data_advice(folder))
    if split not in shards:
        raise ValueError(f"{folder} has no split {show(split)}; it has: {', '.join(shards)}.")
    num_rows = 0
    for path in shards[split]:
        count = SHARD.fullmatch(path.name)["count"]
        if count and int(count) != len(shards[split]):
            raise ValueError(
                f"{folder}: only {len(shards[split])} of {int(count)} shards of {split} exist; download all of them."
            )
        try:
            header = parquet.read_metadata(path)
            features = datasets.Features.from_arrow_schema(header.schema.to_arrow_schema())
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as Parquet ({_line(error)}); download it again.") from error
        check_features(features, str(path))
        num_rows += header.num_rows
    if not num_rows:
        raise ValueError(f"{folder}: the split {show(split)} has no rows.")
    return shards[split]


def _from_disk(folder: Path, split: str) -> datasets.Dataset:
    try:
        saved = datasets.load_from_disk(folder)
    except IndexError as error:  # raised by load_from_disk for 0 rows
        raise ValueError(f"{folder}: the data set has no rows.") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} cannot be read ({_line(error)}); save it to disk again.") from error
    if isinstance(saved, datasets.Dataset):
        saved = {str(saved.split or "train"): saved}
    if split not in saved:
        raise ValueError(f"{folder} has no split {show(split)}; it has: {', '.join(saved)}.")
    return saved[split]


def _from_hub(name: str, split: str) -> datasets.Dataset:
    try:
        return datasets.load_dataset(name, split=split)
    except (DatasetGenerationError, OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loading script
        raise ValueError(
            f"{name}: there is no such folder, and the split {show(split)} cannot be loaded from the Hub "
            f"({_line(error.__cause__ or error)})."
        ) from error


def _shards_on_hub(name: str, split: str) -> list[str]:
    try:
        files = datasets.load_dataset_builder(name).config.data_files or {}
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{name}: there is no such folder, and it cannot be loaded from the Hub ({_line(error)})."
        ) from error
    if split not in files:
        raise ValueError(f"{name} has no split {show(split)}; it has: {', '.join(files) or 'no split in files'}.")
    if others := [path for path in files[split] if not path.endswith(".parquet")]:
        raise ValueError(f"{name}: {others[0]} is not Parquet; upload the rows with `push_to_hub` of 🤗 Datasets.")
    return list(files[split])


def _difference(found: Any, wanted: Any, name: str) -> str | None:
    """Return the first difference between two features, or None."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        dot = f"{name}." if name else ""
        for key in wanted:
            if key not in found:
                return f"the column {dot}{key} is missing"
            if difference := _difference(found[key], wanted[key], f"{dot}{key}"):
                return difference
        more = [f"{dot}{key}" for key in found if key not in wanted]
        return f"the column {more[0]} is unknown" if more else None
    if isinstance(wanted, datasets.List) and isinstance(found, datasets.List):
        return _difference(found.feature, wanted.feature, f"{name}[]")
    if isinstance(wanted, datasets.Image) and isinstance(found, datasets.Image):
        return None
    return None if found == wanted else f"the column {name} is {_line(found)}, not {_line(wanted)}"


def _line(text: Any) -> str:
    """Return a text of at most 200 characters on one line."""
    return " ".join(str(text)[:1_000].split())[:200]

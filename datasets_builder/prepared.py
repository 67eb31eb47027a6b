"""Rows that are prepared already: Parquet shards, what `datasets` saved to disk, or a data set of the Hub.

    prepared/ade20k/data/train-00000-of-00021.parquet, ...      as `prepare` writes them, see shards.py
    prepared/ade20k/{dataset_dict.json,train/}                  DatasetDict.save_to_disk; or Dataset.save_to_disk
    someone/ade20k-rows                                         a name on the Hub

Their columns must be those of `rows.ROW_FEATURES`.
"""

import glob
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import datasets
import pyarrow.compute
import pyarrow.parquet as parquet
from datasets.exceptions import DatasetGenerationError

from gemma_lisa.safety.short_text import show

from .rows import ROW_FEATURES
from .shards import PLAN, WHOLE

DISK = ("dataset_dict.json", "state.json")  # what save_to_disk writes, with splits and without
SHARD = re.compile(r"(?P<split>.+?)(-\d+-of-(?P<count>\d+))?\.parquet")
AGAIN = "Bring it to the columns of rows.ROW_FEATURES, or prepare it again from its original files."


def load_prepared(path_or_hub_name: str, split: str, data_dir: str | None = None) -> datasets.Dataset:
    """The rows of a split.

    Args:
        path_or_hub_name: a folder, or a name on the Hub.
        split: of it.
        data_dir: rows that were saved to disk may name pictures below this folder too.

    Raises:
        ValueError: there is no such thing, it has no such split, shards are missing, it holds no row, or which of its
            columns is missing or of another type; a row of Parquet that names a picture and does not hold it; a row
            saved to disk that names one outside its folder and `data_dir`.
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
    # Casting to what it is already would copy it; and a picture that is decoded here would not name its row in errors
    if rows.features["image"] != ROW_FEATURES["image"]:
        rows = rows.cast_column("image", ROW_FEATURES["image"])
    return rows


def find_shards(path_or_hub_name: str, split: str) -> list[str]:
    """The Parquet shards of a split, not loaded: their paths, or their addresses on the Hub.

    Raises:
        ValueError: as `load_prepared`; or the rows are not in Parquet.
    """
    folder = Path(path_or_hub_name)
    if not folder.is_dir():
        return _shards_on_hub(path_or_hub_name, split)
    if any((folder / name).is_file() for name in DISK):
        raise ValueError(f"{folder}: is what save_to_disk wrote, and no Parquet; it is on this disk, so do not stream.")
    return [str(path) for path in _shards_in(folder, split)]


def as_data_file(shard: str) -> str:
    """A path or an address of `find_shards` as `load_dataset` takes it, which reads `[`, `*` and `?` as patterns."""
    return shard if "://" in shard else glob.escape(shard)


def check_features(features: datasets.Features, where: str) -> None:
    """Refuse columns that are not those of rows; how pictures are decoded may differ."""
    if difference := _difference(features, ROW_FEATURES, ""):
        raise ValueError(f"{where}: {difference}. {AGAIN}")


def _check_pictures(rows: datasets.Dataset, where: str, folders: list[str | Path] | None) -> None:
    """Refuse rows that name a picture and do not hold it; where folders are given, one that lies in none of them."""
    roots = [os.path.realpath(folder) for folder in folders or []]
    start = 0
    for chunk in rows.data["image"].chunks:
        named, held = (pyarrow.compute.is_valid(pyarrow.compute.struct_field(chunk, key)) for key in ("path", "bytes"))
        paths = pyarrow.compute.struct_field(chunk, "path")
        for at in pyarrow.compute.and_not(named, held).to_numpy(zero_copy_only=False).nonzero()[0].tolist():
            if folders is None or not _is_below(paths[at].as_py(), roots):
                source = rows.data["source"][start + at].as_py()
                if folders is None:
                    check_picture({"bytes": None, "path": paths[at].as_py()}, f"{where}: {source}")
                raise ValueError(
                    f"{where}: {source}: names the picture {_line(paths[at])}, which is not below this folder; if you "
                    "trust these rows, give the folder of their pictures as data_dir."
                )
        start += len(chunk)


def _is_below(path: str, roots: list[str]) -> bool:
    """Whether a path leads into one of these folders, which are real paths. An address, and a file in an archive, do
    not."""
    if "://" in path or "\0" in path:
        return False
    real = os.path.realpath(path)
    return any(os.path.commonpath([root, real]) == root for root in roots)


def check_picture(image: dict | None, where: str) -> None:
    """Refuse the picture of a row of Parquet that names a file: whoever made the rows does not choose what is read
    here."""
    if image is not None and image["bytes"] is None and image["path"] is not None:
        raise ValueError(f"{where}: names the picture {image['path']} and does not hold it; use `save_to_disk`.")


def _from_shards(folder: Path, split: str) -> datasets.Dataset:
    shards = [as_data_file(str(path)) for path in _shards_in(folder, split)]
    try:
        return datasets.load_dataset("parquet", data_files={split: shards}, features=ROW_FEATURES, split=split)
    except (DatasetGenerationError, OSError, ValueError) as error:
        raise ValueError(
            f"{folder}: {split} cannot be read ({_line(error.__cause__ or error)}); get it again."
        ) from error


def _shards_in(folder: Path, split: str) -> list[Path]:
    """A folder's shards of a split, all of them there and with the columns of rows."""
    if (folder / PLAN).is_file() and not (folder / WHOLE).is_file():
        raise ValueError(f"{folder}: is not whole; `prepare` was stopped, and goes on when it is started again.")
    shards = defaultdict(list)
    for path in sorted([*folder.glob("[!.]*.parquet"), *folder.glob("data/[!.]*.parquet")]):
        shards[SHARD.fullmatch(path.name)["split"]].append(path)
    if not shards:
        raise ValueError(
            f"{folder}: holds no prepared rows, neither data/train-00000-of-00001.parquet nor what save_to_disk writes."
            " A folder of your own pictures and masks is the data_dir of the data set called folder."
        )
    if split not in shards:
        raise ValueError(f"{folder} has no split {show(split)}; it has: {', '.join(shards)}.")
    num_rows = 0
    for path in shards[split]:
        count = SHARD.fullmatch(path.name)["count"]
        if count and int(count) != len(shards[split]):
            raise ValueError(
                f"{folder}: {len(shards[split])} of the {int(count)} shards of {split} are there; get all."
            )
        try:
            header = parquet.read_metadata(path)
            features = datasets.Features.from_arrow_schema(header.schema.to_arrow_schema())
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as Parquet ({_line(error)}); get it again.") from error
        check_features(features, str(path))
        num_rows += header.num_rows
    if not num_rows:
        raise ValueError(f"{folder}: its split {show(split)} holds no row.")
    return shards[split]


def _from_disk(folder: Path, split: str) -> datasets.Dataset:
    try:
        saved = datasets.load_from_disk(folder)
    except IndexError as error:  # what load_from_disk makes of no row at all
        raise ValueError(f"{folder}: holds no row.") from error
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
            f"{name}: no folder is called so here, and from the Hub its split {show(split)} cannot be loaded "
            f"({_line(error.__cause__ or error)})."
        ) from error


def _shards_on_hub(name: str, split: str) -> list[str]:
    try:
        files = datasets.load_dataset_builder(name).config.data_files or {}
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{name}: no folder is called so here, and from the Hub it cannot be loaded ({_line(error)})."
        ) from error
    if split not in files:
        raise ValueError(f"{name} has no split {show(split)}; it has: {', '.join(files) or 'none in files'}.")
    if others := [path for path in files[split] if not path.endswith(".parquet")]:
        raise ValueError(f"{name}: {others[0]} is no Parquet; `push_to_hub` of 🤗 Datasets writes it.")
    return list(files[split])


def _difference(found: Any, wanted: Any, name: str) -> str | None:
    """What is first seen to differ between two features, or none."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        dot = f"{name}." if name else ""
        for key in wanted:
            if key not in found:
                return f"the column {dot}{key} is missing"
            if difference := _difference(found[key], wanted[key], f"{dot}{key}"):
                return difference
        more = [f"{dot}{key}" for key in found if key not in wanted]
        return f"the column {more[0]} is none that rows have" if more else None
    if isinstance(wanted, datasets.List) and isinstance(found, datasets.List):
        return _difference(found.feature, wanted.feature, f"{name}[]")
    if isinstance(wanted, datasets.Image) and isinstance(found, datasets.Image):
        return None
    return None if found == wanted else f"the column {name} is {_line(found)}, not {_line(wanted)}"


def _line(words: Any) -> str:
    """In one line, and not a long one."""
    return " ".join(str(words).split())[:200]

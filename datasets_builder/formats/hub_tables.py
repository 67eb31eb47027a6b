"""Read a data set as it was downloaded from the Hub or saved by 🤗 Datasets, in small parts.

FOLDER/data/test-00000-of-00002.parquet, ...        `hf download NAME --repo-type dataset --local-dir FOLDER`
FOLDER/{state.json,data-00000-of-00001.arrow}       `Dataset.save_to_disk(FOLDER)`
FOLDER/{dataset_dict.json,test/}                    `DatasetDict.save_to_disk(FOLDER)`
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet as parquet

# Output of save_to_disk, with and without splits
DISK = ("dataset_dict.json", "state.json")
SHARD_PATTERNS = ("[!.]*.parquet", "data/[!.]*.parquet")
SHARD = re.compile(r"(?P<split>.+?)(-\d+-of-(?P<count>\d+))?\.parquet")
ROWS_AT_ONCE = 8  # a photo of 12 megapixels with its mask as booleans is 20 MB


class HubTable:
    """The rows of the only split in a folder.

    Args:
        folder: as in the docstring of this module.

    Attributes:
        schema: the types of the columns.

    Raises:
        ValueError: the folder contains no rows, several splits, or only a part of the shards, or a file is damaged.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._saved: datasets.Dataset | None = None
        self._shards: list[Path] = []
        if any((folder / name).is_file() for name in DISK):
            self._saved = _only(_from_disk(folder), folder)
            self.schema = self._saved.data.schema
        else:
            self._shards = _complete(_only(_shards_by_split(folder), folder), folder)
            self.schema = _read(self._shards[0], parquet.read_schema)

    def batches(self, columns: list[str]) -> Iterator[pyarrow.RecordBatch]:
        """Yield all rows in order, with these columns and at most ROWS_AT_ONCE rows at a time."""
        if self._saved is not None:
            for table in self._saved.select_columns(columns).with_format("arrow").iter(ROWS_AT_ONCE):
                yield from table.combine_chunks().to_batches()
            return
        for path in self._shards:
            with _read(path, parquet.ParquetFile) as file:
                try:
                    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
                        yield batch.select(columns)
                except (OSError, KeyError, pyarrow.ArrowInvalid) as error:
                    raise _damaged(path, error) from error


def nesting(kind: pyarrow.DataType) -> int:
    """Return how many lists are nested in a type: 2 for list[list[bool]], 0 for bool."""
    depth = 0
    while pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    return depth


def mask_of(rows: pyarrow.Array, where: str) -> np.ndarray:
    """Return a mask (H, W) bool from a list of H lists with W values each: booleans, or the numbers 0 and 1.

    Raises:
        ValueError: the lists have different lengths or other values.
    """
    lengths = set(pyarrow.compute.list_value_length(rows).to_pylist())
    if len(lengths) != 1 or not lengths - {None, 0}:
        raise ValueError(f"{where}: the rows of a mask must have the same length of at least 1 pixel.")
    values = rows.flatten()
    if values.null_count or pyarrow.types.is_floating(values.type):
        raise ValueError(f"{where}: the values of a mask must be booleans, or the numbers 0 and 1.")
    mask = values.to_numpy(zero_copy_only=False)
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        other = mask[~np.isin(mask, (0, 1))][0]
        raise ValueError(f"{where}: the values of a mask must be booleans, or the numbers 0 and 1, got {other}.")
    return mask.reshape(len(rows), -1).astype(bool)


def _from_disk(folder: Path) -> dict[str, datasets.Dataset]:
    try:
        saved = datasets.load_from_disk(folder)
    except (OSError, ValueError, IndexError) as error:  # IndexError: 0 rows
        raise ValueError(f"{folder} cannot be read ({_line(error)}); save it to disk again.") from error
    return {str(saved.split or "train"): saved} if isinstance(saved, datasets.Dataset) else saved


def _shards_by_split(folder: Path) -> dict[str, list[Path]]:
    shards = defaultdict(list)
    for path in sorted(path for pattern in SHARD_PATTERNS for path in folder.glob(pattern)):
        shards[SHARD.fullmatch(path.name)["split"]].append(path)
    return shards


def _only(splits: dict, folder: Path):
    """Return the content of the only split."""
    if not splits:
        raise ValueError(f"{folder}: contains no Parquet files and no output of save_to_disk; download it again.")
    if len(splits) > 1:
        raise ValueError(f"{folder}: contains the splits {', '.join(splits)}, but must contain one; remove the others.")
    return next(iter(splits.values()))


def _complete(shards: list[Path], folder: Path) -> list[Path]:
    """Return the shards after checking that none is missing."""
    count = SHARD.fullmatch(shards[0].name)["count"]
    if count and int(count) != len(shards):
        raise ValueError(f"{folder}: contains {len(shards)} of {int(count)} Parquet files; download all of them.")
    return shards


def _read(path: Path, reader):
    try:
        return reader(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} cannot be read as Parquet ({_line(error)}); download it again.")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

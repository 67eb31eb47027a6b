"""Base class of the data set builders: subclasses yield rows, which are passed to 🤗 Datasets as Arrow tables.

Rows are converted to Arrow in one step. `datasets.GeneratorBasedBuilder` encodes each row twice in Python, which is a
third of the time of indexing COCO.
"""

import gc
import itertools
from collections.abc import Iterator
from typing import Any

import datasets
import pyarrow

from .rows import ROW_FEATURES

ROWS_PER_TABLE = 1_000  # rows without photos in memory at once, and in one record batch


class RowsBuilder(datasets.ArrowBasedBuilder):
    """A builder of rows with `rows.ROW_FEATURES`. Subclasses define the splits and yield the rows."""

    # Rows per record batch on disk. Reading a batch copies 8 kB of it in each forked worker (reference counts), so
    # the default of 🤗 Datasets (100 rows, for images stored as bytes) lets the memory of workers grow. It is also the
    # number of rows in memory while they are prepared
    DEFAULT_WRITER_BATCH_SIZE = ROWS_PER_TABLE

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=ROW_FEATURES)

    def as_dataset(self, *args, **kwargs) -> datasets.Dataset:
        """Return the data set, as the method of 🤗 Datasets does.

        Raises:
            ValueError: the cached rows are damaged; the message names their folder.
        """
        try:
            return super().as_dataset(*args, **kwargs)
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise ValueError(damaged_cache(self.cache_dir, error)) from error

    def _generate_examples(self, **kwargs: Any) -> Iterator[tuple[Any, dict]]:
        """Yield (key, row) for each row of a split. The key names the row in errors; kwargs are `gen_kwargs`."""
        raise NotImplementedError

    def _generate_tables(self, **kwargs: Any) -> Iterator[tuple[int, pyarrow.Table]]:
        rows = (_checked(key, row) for key, row in self._generate_examples(**kwargs))
        try:
            for number in itertools.count():
                some = list(itertools.islice(rows, self.DEFAULT_WRITER_BATCH_SIZE))
                if not some:
                    return
                yield number, pyarrow.Table.from_pylist(some, schema=ROW_FEATURES.arrow_schema)
        finally:
            gc.unfreeze()  # undo gc.freeze of coco_files.read_coco


def damaged_cache(folder: str, error: Exception) -> str:
    """Return a one-line message: the cached rows cannot be read, and what to do."""
    reason = " ".join(str(error).split())
    return f"{folder}: the cached rows are damaged ({reason}); delete this folder to prepare them again."


def _checked(key: Any, row: dict) -> dict:
    """Return the row if it has exactly the columns of the schema; Arrow would silently drop or add columns."""
    if row.keys() != ROW_FEATURES.keys():
        wrong = ", ".join(sorted(row.keys() ^ ROW_FEATURES.keys()))
        raise ValueError(
            f"{key}: the columns of a row must be those of rows.ROW_FEATURES; missing or unknown: {wrong}."
        )
    return row

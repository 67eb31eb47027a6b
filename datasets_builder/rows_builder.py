"""What every data set's builder is: one that makes rows one by one, and hands them to 🤗 datasets as Arrow tables.

A row goes to Arrow in one step. By `datasets.GeneratorBasedBuilder` it would be taken apart and put together twice in
Python before, which takes a third of the time of indexing COCO.
"""

import gc
import itertools
from collections.abc import Iterator
from typing import Any

import datasets
import pyarrow

from .rows import ROW_FEATURES

ROWS_A_TABLE = 1_000  # so many are held at once, and lie in one record batch


class RowsBuilder(datasets.ArrowBasedBuilder):
    """A builder of rows in `rows.ROW_FEATURES`; a subclass says which splits there are, and makes their rows."""

    # Rows of a record batch on the disk. Who reads one counts references in the batch's objects, 8 kB that a forked
    # worker then holds for itself; the 100 rows 🤗 datasets would take, for pictures stored as bytes, let workers grow
    DEFAULT_WRITER_BATCH_SIZE = ROWS_A_TABLE

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(features=ROW_FEATURES)

    def as_dataset(self, *args, **kwargs) -> datasets.Dataset:
        """As 🤗 datasets; damaged rows in its cache are named.

        Raises:
            ValueError: the file of the rows cannot be opened.
        """
        try:
            return super().as_dataset(*args, **kwargs)
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise ValueError(damaged_cache(self.cache_dir, error)) from error

    def _generate_examples(self, **kwargs: Any) -> Iterator[tuple[Any, dict]]:
        """The rows of a split, each with a key that says where it is from; kwargs: its generator's."""
        raise NotImplementedError

    def _generate_tables(self, **kwargs: Any) -> Iterator[tuple[int, pyarrow.Table]]:
        rows = (_checked(key, row) for key, row in self._generate_examples(**kwargs))
        try:
            for number in itertools.count():
                some = list(itertools.islice(rows, ROWS_A_TABLE))
                if not some:
                    return
                yield number, pyarrow.Table.from_pylist(some, schema=ROW_FEATURES.arrow_schema)
        finally:
            gc.unfreeze()  # what a reader of large files froze, see coco_files


def damaged_cache(folder: str, error: Exception) -> str:
    """Say in one line that prepared rows cannot be read, and what to do."""
    reason = " ".join(str(error).split())
    return f"{folder}: the prepared rows kept there are damaged ({reason}); delete this folder to prepare them again."


def _checked(key: Any, row: dict) -> dict:
    """The row, with the columns of the schema and no others: Arrow would drop these, and leave those empty."""
    if row.keys() != ROW_FEATURES.keys():
        wrong = ", ".join(sorted(row.keys() ^ ROW_FEATURES.keys()))
        raise ValueError(f"{key}: a row has other columns than rows.ROW_FEATURES: {wrong}.")
    return row

"""Stream training data from Parquet shards, in a folder or on the Hub, and mix several data sets.

Each data loader worker of each process is a reader. A reader has its own shards, so no row goes to two readers.

🤗 Datasets reads, shuffles, mixes and skips rows. It also divides the readers among processes and workers.

`Stream.read` repeats and shuffles a data set itself, because with Datasets 5.2:

- `interleave_datasets` and `repeat` go through a data set in the same order every time;
- if rows are shuffled before `split_dataset_by_node`, a row goes to another reader in the next pass.

A resumed run skips the rows that were already read. It cannot restore them with `state_dict`, which does not include
the shuffle buffer. test_streams.py checks these statements about Datasets.
"""

import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any

import datasets
import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import torch
from datasets.distributed import split_dataset_by_node
from torch.utils.data import IterableDataset

from gemma_lisa.safety.short_text import count_of, show

from .leakage import kept_rows, photo_of, report
from .mixture import Part
from .prepared import as_data_file, check_features, check_picture, find_shards
from .questions import training_sample
from .rows import ROW_FEATURES
from .templates import Phrasing

logger = logging.getLogger(__name__)

# Rows in the shuffle buffer of a reader, per data set. A reader also loads one row group of a shard at a time.
MIXED_ROWS = 100
SHARDS_COUNTED_AT_ONCE = 16  # threads that read shards before training; on the Hub they mostly wait for the network
MAX_IMBALANCE = 1.2  # warn if a reader has more than this many times the rows of another


@dataclass(frozen=True)
class Stream:
    """A split of a data set that is read row by row instead of being loaded.

    Args:
        rows: the rows of all shards, with `rows.ROW_FEATURES`.
        kept: number of rows of each shard that can be trained on.
        held_out: photos of rows to skip, as in `mixture.load_training_rows`; None to skip no row.
    """

    rows: datasets.IterableDataset
    kept: list[int]
    held_out: dict[int | str, str] | None

    def __len__(self) -> int:
        return sum(self.kept)

    def read(self, seed: tuple[int, ...], reader: list[int], readers: int) -> Iterator[dict[str, Any]]:
        """Yield the rows of one reader's shards in an endless loop, in a different order in each pass.

        The order depends on `seed`, the reader and the number of the pass. Row groups are shuffled, and then rows
        within a buffer of MIXED_ROWS.

        Args:
            seed: seed of the data set in the mixture.
            reader: index of the reader, as a list of one item, because Datasets divides lists like shards.
            readers: number of readers in all processes.
        """
        [number] = reader
        own = self.rows.shard(readers, number, contiguous=False).reshard()
        for passes in itertools.count():
            order = np.random.default_rng((*seed, number, passes))
            shuffled = own.shuffle(generator=order, buffer_size=MIXED_ROWS, max_buffer_input_shards=1)
            for batch in shuffled.iter(batch_size=1):  # `for row in shuffled` would divide the rows among workers again
                row = {name: values[0] for name, values in batch.items()}
                if not self.held_out or photo_of((row["image"] or {}).get("path"), row["source"]) not in self.held_out:
                    yield row


def open_stream(name: str, split: str, held_out: dict[int | str, str] | None) -> Stream:
    """Open a split of prepared rows and count the rows of each shard that can be trained on.

    Counting reads only the names of the photos, not the photos.

    Args:
        name: folder or Hub name of prepared rows.
        split: name of the split.
        held_out: photos of rows to skip (`leakage.photo_of`); None to skip no row.

    Raises:
        ValueError: the shards are not found or cannot be read, the split is empty, or all its rows are held out.
    """
    shards = find_shards(name, split)
    with ThreadPool(SHARDS_COUNTED_AT_ONCE) as pool:
        counted = pool.map(partial(_count, held_out=held_out), shards)
    total = sum(counted, Counter())
    if not total["rows"]:
        raise ValueError(f"{name}: its split {show(split)} has no rows.")
    if held_out is not None:
        report(name, total, held_out)
    files = {split: [as_data_file(shard) for shard in shards]}
    rows = datasets.load_dataset("parquet", data_files=files, split=split, features=ROW_FEATURES, streaming=True)
    return Stream(rows, [counts["rows"] - counts["skipped"] for counts in counted], held_out)


def _count(shard: str, held_out: dict[int | str, str] | None) -> Counter:
    """Return the counts of `leakage.kept_rows` for a shard; only `rows` if held_out is None."""
    try:
        with fsspec.open(shard) as opened, parquet.ParquetFile(opened) as file:
            check_features(datasets.Features.from_arrow_schema(file.schema_arrow), shard)
            if held_out is None:
                return Counter(rows=file.metadata.num_rows)
            return kept_rows(file.read(columns=["image.path", "source"]), held_out)[1]
    except (OSError, pyarrow.ArrowInvalid) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{shard} cannot be read as Parquet ({reason}); download or prepare it again.") from error


class StreamedQuestions(IterableDataset):
    """Training samples from several streams, mixed according to their shares.

    The dataset is endless: after the last row of a data set, a reader starts it again in a new order. The data set of
    each sample is drawn at random with the shares as probabilities.

    Sample i of a reader depends only on (seed, number of processes, number of workers, reader, i). Samples have the
    same fields as those of `TrainingQuestions`. After `skip`, the skipped samples are None.

    Args:
        parts: the data sets; the `rows` of each are a `Stream`.
        seed: seed of the order of rows, of the mixture and of the phrasings.
        max_questions: maximum number of targets asked for per row.
        phrasing: languages and conversations; English without conversations if None.
        rank: rank of this process.
        ranks: number of processes.
        workers: data loader workers per process; with 0, the process reads itself.

    Raises:
        ValueError: a data set has fewer shards than there are readers, or a reader would get no rows.
    """

    def __init__(
        self,
        parts: list[Part],
        seed: int,
        max_questions: int,
        phrasing: Phrasing | None = None,
        rank: int = 0,
        ranks: int = 1,
        workers: int = 0,
    ):
        self.parts, self.seed, self.max_questions, self.phrasing = parts, seed, max_questions, phrasing
        self.rank, self.readers = rank, ranks * max(1, workers)
        total = sum(part.share for part in parts)
        self.shares = [part.share / total for part in parts]
        self._seen = (0, 0)
        for part in parts:
            _check_shards(part, ranks, workers)
        readers = {"reader": list(range(self.readers)), "readers": self.readers}
        streams = [
            datasets.IterableDataset.from_generator(part.rows.read, ROW_FEATURES, {"seed": (seed, index), **readers})
            for index, part in enumerate(parts)
        ]
        # Datasets derives a seed per worker from this one, but not per process
        mixture_seed = int(np.random.default_rng((seed, rank)).integers(2**32))
        mixed = datasets.interleave_datasets(streams, self.shares, mixture_seed)
        self._rows = split_dataset_by_node(mixed, rank, ranks, strategy="shards")

    def describe(self) -> list[str]:
        """Return lines of text with the share of each data set."""
        lines = [f"mixture, streamed to {count_of(self.readers, 'reader')}:"]
        for part, share in zip(self.parts, self.shares, strict=True):
            size = f"{count_of(len(part.rows), 'row')} in {count_of(len(part.rows.kept), 'shard')}"
            lines.append(f"  {part.name:24s} {share:6.1%}, of {size}")
        return lines

    def skip(self, batches: int, batch_size: int) -> None:
        """Yield None in place of the samples of the first batches of this process, to resume after them."""
        self._seen = (batches, batch_size)

    def __iter__(self) -> Iterator[dict[str, Any] | None]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        batches, batch_size = self._seen
        seen = len(range(worker, batches, workers)) * batch_size  # workers yield batches in turn
        yield from itertools.repeat(None, seen)
        for position, row in enumerate(self._rows.skip(seen), seen):
            # Not in Stream.read, because Datasets reads rows ahead that may never be used
            check_picture(row["image"], row["source"])
            generator = np.random.default_rng((self.seed, self.rank, worker, position))
            yield training_sample(row, generator, self.max_questions, self.phrasing)


def _check_shards(part: Part, ranks: int, workers: int) -> None:
    """Refuse a data set with fewer shards than readers, and warn if readers have very different numbers of rows."""
    kept, readers = part.rows.kept, ranks * max(1, workers)
    processes, per_process = count_of(ranks, "process", "processes"), count_of(workers, "data loader worker")
    who = f"{count_of(readers, 'reader')} ({processes}, {per_process} each)"
    more = f"write at least {readers} shards (`prepare NAME ... --shards {readers}`)"
    if len(kept) < readers:
        fewer = f"set --dataloader_num_workers to at most {len(kept) // ranks}, or " if len(kept) >= ranks else ""
        raise ValueError(
            f"{part.name}: {who} need at least one shard each, but there are only {len(kept)}; {fewer}{more}."
        )
    rows = [sum(kept[reader::readers]) for reader in range(readers)]
    if not min(rows):
        raise ValueError(
            f"{part.name}: with {who}, the shards of at least one reader have no rows that can be trained on; {more}, "
            "or use fewer readers."
        )
    if max(rows) > MAX_IMBALANCE * min(rows):
        logger.warning(
            "%s: the %d shards give the %d readers between %s and %s rows each; rows of readers with fewer rows are "
            "repeated more often",
            part.name,
            len(kept),
            readers,
            f"{min(rows):,}",
            f"{max(rows):,}",
        )

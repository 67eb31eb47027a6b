"""Mixtures of sets that are read as they come: Parquet shards, in a folder or on the Hub.

Every worker of every process is a reader with its own shards. 🤗 Datasets reads, shuffles, mixes and skips rows, and
divides the readers among processes and workers. `Stream.read` makes the passes over a set, because Datasets 5.2

- repeats a set in the same order in every pass (`interleave_datasets`, `repeat`);
- gives a row to another reader in the next pass if rows are shuffled before `split_dataset_by_node`.

A resume skips rows, because `state_dict` does not hold the shuffle buffer. test_streams.py checks these reasons.
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

from gemma_lisa.safety.short_text import show

from .leakage import kept_rows, photo_of, report
from .prepared import as_data_file, check_features, check_picture, find_shards
from .questions import Part, training_sample
from .rows import ROW_FEATURES
from .templates import Phrasing

logger = logging.getLogger(__name__)

MIXED_ROWS = 100  # that a reader holds of a set, to draw from; as many again are read at once (shards.ROWS_PER_GROUP)
HEADS_AT_ONCE = 16  # of shards that are looked into before the training, which on the Hub is waiting for the most part
UNEVEN = 1.2  # times as many rows for one reader as for another: worth a word


@dataclass(frozen=True)
class Stream:
    """A split that stays where it is.

    Args:
        rows: as many shards as `kept` is long, in `rows.ROW_FEATURES`.
        kept: how many rows of each shard may be trained on.
        held_out: the photos that may not, as in `mixture.load_training_rows`.
    """

    rows: datasets.IterableDataset
    kept: list[int]
    held_out: dict[int, str] | None

    def __len__(self) -> int:
        return sum(self.kept)

    def read(self, seed: tuple[int, ...], reader: list[int], readers: int) -> Iterator[dict[str, Any]]:
        """Yield the rows of one reader without end, every pass in another order that the seed fixes.

        The order: of the groups of rows in its shards at random, and of rows within MIXED_ROWS.

        Args:
            reader: its number, one of range(readers), in a list, whose items Datasets divides like shards.
        """
        [number] = reader
        mine = self.rows.shard(readers, number, contiguous=False).reshard()
        for times in itertools.count():
            order = np.random.default_rng((*seed, number, times))
            shuffled = mine.shuffle(generator=order, buffer_size=MIXED_ROWS, max_buffer_input_shards=1)
            for batch in shuffled.iter(batch_size=1):  # iterated plainly, it would be dealt out to the workers again
                row = {name: values[0] for name, values in batch.items()}
                if not self.held_out or photo_of((row["image"] or {}).get("path"), row["source"]) not in self.held_out:
                    yield row


def open_stream(name: str, split: str, held_out: dict[int, str] | None) -> Stream:
    """A split of prepared rows, of which only the names of the photos are read, to count what is kept of each shard.

    Raises:
        ValueError: what `prepared.find_shards` refuses, a shard that cannot be read, or every row of it is held out.
    """
    shards = find_shards(name, split)
    with ThreadPool(HEADS_AT_ONCE) as pool:
        counted = pool.map(partial(_count, held_out=held_out), shards)
    total = sum(counted, Counter())
    if not total["rows"]:
        raise ValueError(f"{name}: its split {show(split)} holds no row.")
    if held_out is not None:
        report(name, total, held_out)
    files = {split: [as_data_file(shard) for shard in shards]}
    rows = datasets.load_dataset("parquet", data_files=files, split=split, features=ROW_FEATURES, streaming=True)
    return Stream(rows, [counts["rows"] - counts["skipped"] for counts in counted], held_out)


def _count(shard: str, held_out: dict[int, str] | None) -> Counter:
    """What `leakage.kept_rows` counts in a shard; without held_out only its rows."""
    try:
        with fsspec.open(shard) as opened, parquet.ParquetFile(opened) as file:
            check_features(datasets.Features.from_arrow_schema(file.schema_arrow), shard)
            if held_out is None:
                return Counter(rows=file.metadata.num_rows)
            return kept_rows(file.read(columns=["image.path", "source"]), held_out)[1]
    except (OSError, pyarrow.ArrowInvalid) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{shard} cannot be read as Parquet ({reason}); get it again.") from error


class StreamedQuestions(IterableDataset):
    """Streams, each at its share; sample i of a reader is a function of (seed, processes, workers, reader, i).

    Endless: a set that a reader has gone through begins again in another order, so all readers give as many samples as
    they are asked for. Which set a sample is of is drawn by the shares. Samples are those of `TrainingQuestions`; in
    place of those that were seen before a resume come as many None.

    Args:
        parts: whose rows are `Stream`s.
        rank, ranks: this process, of how many.
        workers: of the data loader of every process; 0: the process itself reads.

    Raises:
        ValueError: fewer shards than readers, or a reader without a row.
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
            _check_dealt(part, ranks, workers)
        readers = {"reader": list(range(self.readers)), "readers": self.readers}
        passes = [
            datasets.IterableDataset.from_generator(part.rows.read, ROW_FEATURES, {"seed": (seed, at), **readers})
            for at, part in enumerate(parts)
        ]
        # Datasets changes the seed for every worker, but not for every process
        draws = int(np.random.default_rng((seed, rank)).integers(2**32))
        mixed = datasets.interleave_datasets(passes, self.shares, draws)
        self._rows = split_dataset_by_node(mixed, rank, ranks, strategy="shards")

    def describe(self) -> list[str]:
        """Every set's share of the samples, a line each."""
        lines = [f"a mixture, streamed to {self.readers:,} reader(s):"]
        for part, share in zip(self.parts, self.shares, strict=True):
            size = f"{len(part.rows):,} rows in {len(part.rows.kept):,} shards"
            lines.append(f"  {part.name:24s} {share:6.1%}, of {size}")
        return lines

    def skip(self, batches: int, batch_size: int) -> None:
        """Let None stand for the samples of the first batches of this process, which were seen before a resume."""
        self._seen = (batches, batch_size)

    def __iter__(self) -> Iterator[dict[str, Any] | None]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        batches, batch_size = self._seen
        seen = len(range(worker, batches, workers)) * batch_size  # batches come from the workers in turn
        yield from itertools.repeat(None, seen)
        for position, row in enumerate(self._rows.skip(seen), seen):
            check_picture(row["image"], row["source"])  # here, because Datasets reads ahead
            generator = np.random.default_rng((self.seed, self.rank, worker, position))
            yield training_sample(row, generator, self.max_questions, self.phrasing)


def _check_dealt(part: Part, ranks: int, workers: int) -> None:
    """Refuse a set of too few shards; say it aloud if some readers come to its rows more often than others."""
    kept, readers = part.rows.kept, ranks * max(1, workers)
    who = f"{ranks} process(es) of {workers} worker(s)"
    more = f"write {readers} shards or more (`prepare NAME ... --shards {readers}`)"
    if len(kept) < readers:
        fewer = f"--dataloader_num_workers {len(kept) // ranks} at most, or " if len(kept) >= ranks else ""
        raise ValueError(
            f"{part.name}: {len(kept)} shard(s) cannot be dealt out to {who}, {readers} readers; {fewer}{more}."
        )
    dealt = [sum(kept[reader::readers]) for reader in range(readers)]
    if not min(dealt):
        raise ValueError(f"{part.name}: a reader of {who} would get shards without a row; {more}, or read by fewer.")
    if max(dealt) > UNEVEN * min(dealt):
        rows = f"{min(dealt):,} to {max(dealt):,} rows each; those of the fewest come again soonest"
        logger.warning("%s: its %d shards give the %d readers %s", part.name, len(kept), readers, rows)

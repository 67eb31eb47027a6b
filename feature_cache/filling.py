"""Fill a feature cache: find the images of the data, announce sizes, and encode those that are missing."""

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from gemma_lisa.datasets_builder.rows import content_of, lazy_image
from gemma_lisa.processing_gemma_lisa import GemmaLisaProcessor
from gemma_lisa.safety.errors import WriteError
from gemma_lisa.safety.short_text import count_of

from .cache import GIGABYTE, PARTIAL, FeatureCache, key_of
from .encoders import GEMMA, SAM, encode, ready_to_encode
from .entries import Sizes

logger = logging.getLogger(__name__)

IMAGES_AT_ONCE = 4  # per forward pass of an encoder
KEPT_FREE = 1_000_000_000  # bytes of the disk that the cache does not use, for checkpoints and logs
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
OLD = 3600  # seconds after which an unfinished file belongs to a process that was killed
LOOKED_AT = 8  # entries of each other process that are looked for after filling

Rows = list[tuple[Dataset, np.ndarray]]  # data sets with the indices of their rows to read


@dataclass(frozen=True)
class Processes:
    """The processes that fill a cache together.

    Args:
        rank: number of this process.
        count: number of processes.
        gather: returns the values of all processes, by rank, on all of them.
    """

    rank: int = 0
    count: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]


@dataclass(frozen=True)
class Images:
    """Distinct images of the data.

    Args:
        keys: (N,) of bytes, the keys.
        places: (N, 2) int64, the data set and the row of each.
    """

    keys: np.ndarray
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, at: int) -> str:
        return bytes(self.keys[at]).hex()


def fill(
    cache: FeatureCache,
    model: nn.Module,
    processor: GemmaLisaProcessor,
    rows: Rows,
    *,
    max_gb: float | None = None,
    device: torch.device | None = None,
    use_bf16: bool = False,
    workers: int = 0,
    processes: Processes | None = None,
    show_progress: bool = True,
    log: Callable[[str], None] = logger.info,
) -> int:
    """Encode the images that are missing in a cache, as far as there is space. Return how many are still missing.

    Args:
        cache: the cache (`encoders.open_cache`).
        model: without adapter, with whole weights.
        processor: processor of the model.
        rows: the data.
        max_gb: maximum size of the folder in GB.
        device: device to encode on; None for that of the model.
        use_bf16: as in `open_cache`.
        workers: data loader workers of each process.
        processes: those that fill it together; None for this one alone.
        show_progress: show progress bars.
        log: prints a line.

    Raises:
        ValueError: an image cannot be read, or the processes do not share the folder.
        WriteError: an entry cannot be written for another reason than a full disk.
    """
    processes = processes or Processes()
    _delete_unfinished(cache.folder / PARTIAL)
    images = find_images(rows, processes, show_progress)
    mine = [images.key(at) for at in range(processes.rank, len(images), processes.count)]
    found = processes.gather(np.array([cache.sizes_of(key) is not None for key in mine], dtype=bool))
    is_there = np.zeros(len(images), dtype=bool)
    for rank, part in enumerate(found):
        is_there[rank :: processes.count] = part
    # Only the first process plans: the free space could differ between two looks
    planned = plan(cache, len(images), int(is_there.sum()), max_gb, log) if processes.rank == 0 else 0
    count = processes.gather(planned)[0]
    todo = np.flatnonzero(~is_there)[:count]
    share = todo[processes.rank :: processes.count]
    encoders = [SAM if store.name == "image_embeddings" else GEMMA for store in cache.stores]
    with ready_to_encode(model, encoders, device):
        loader = DataLoader(
            _Missing(cache, rows, images, share),
            batch_size=IMAGES_AT_ONCE,
            num_workers=workers,
            collate_fn=_Prepare(processor),
        )
        written = _encode_all(cache, model, processor, loader, len(share), use_bf16, show_progress)
    written = sum(processes.gather(written))
    _check_shared(cache, images, todo, written, processes)
    return int((~is_there).sum()) - written


def find_images(rows: Rows, processes: Processes, show_progress: bool = False) -> Images:
    """Return the distinct images of the data. Each process reads the files of its share of the rows.

    A file that cannot be read is skipped: the error appears when its row is used.
    """
    shares = [
        (at, part.select_columns(["image"]), indices[processes.rank :: processes.count])
        for at, (part, indices) in enumerate(rows)
    ]
    keys_of_paths: dict[str, bytes] = {}
    keys, places = [], []
    with tqdm(
        total=sum(len(indices) for *_, indices in shares), desc="reading images", unit="row", disable=not show_progress
    ) as bar:
        for at, part, indices in shares:
            for index in indices.tolist():
                bar.update()
                if (key := _key_of_row(part[index]["image"], keys_of_paths)) is not None:
                    keys.append(key)
                    places.append((at, index))
    mine = (np.array(keys, dtype="V32"), np.array(places, dtype=np.int64).reshape(-1, 2))
    keys, places = (np.concatenate(parts) for parts in zip(*processes.gather(mine), strict=True))
    order = np.lexsort((places[:, 1], places[:, 0]))  # that of the data, for any number of processes
    keys, places = keys[order], places[order]
    first = np.sort(np.unique(keys, return_index=True)[1])
    return Images(keys[first], places[first])


def _key_of_row(image: dict[str, Any] | None, keys_of_paths: dict[str, bytes]) -> bytes | None:
    """Return the key of a row's image, or None without a file. Each path is read once."""
    if image is None:
        return None
    path = image["path"] if image["bytes"] is None else None
    if path in keys_of_paths:
        return keys_of_paths[path]
    content = content_of(image)
    if content is None:
        return None
    key = bytes.fromhex(key_of(content))
    if path is not None:
        keys_of_paths[path] = key
    return key


def plan(
    cache: FeatureCache, total: int, found: int, max_gb: float | None, log: Callable[[str], None] = logger.info
) -> int:
    """Announce the size of the cache, and return how many of the missing images fit.

    Args:
        cache: the cache.
        total: number of images.
        found: number of images that are already there.
        max_gb: maximum size of the folder in GB.
        log: prints a line.
    """
    each, missing = cache.entry_bytes, total - found
    size = f"{total * each / GIGABYTE:.1f} GB in {cache.folder}"
    log(f"caching the features of {count_of(total, 'image')}: {size}, {found:,} already there")
    if not missing:
        return 0
    free = max(0, free_bytes(cache.folder) - KEPT_FREE)
    room, reason = free, f"the disk has {free / GIGABYTE:.1f} GB for it"
    if max_gb is not None:
        left = max(0, int(max_gb * GIGABYTE) - size_of(cache.folder))
        if left < room:
            room, reason = left, f"cache_gb {max_gb:g} leaves {left / GIGABYTE:.1f} GB"
    count = min(missing, room // each)
    if count < missing:
        logger.warning(
            "the cache does not fit: %s %.1f GB, but %s. %s of them are cached, the others are encoded in every epoch.",
            f"{count_of(missing, 'missing image')} need",
            missing * each / GIGABYTE,
            reason,
            f"{count:,}",
        )
    return count


def free_bytes(folder: Path) -> int:
    """Return the free space of the disk of a folder, which may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def size_of(folder: Path) -> int:
    """Return the size in bytes of all files in a folder, 0 without a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # another process has just moved it
                total += os.path.getsize(os.path.join(place, name))
    return total


class _Missing(TorchDataset):
    """The rows of missing images: (key, image, source). None if another process has meanwhile cached the image."""

    def __init__(self, cache: FeatureCache, rows: Rows, images: Images, share: np.ndarray):
        self.cache, self.images, self.share = cache, images, share
        self.rows = [part.select_columns(["image", "source"]) for part, _ in rows]

    def __len__(self) -> int:
        return len(self.share)

    def __getitem__(self, index: int) -> tuple[str, Any] | None:
        at = int(self.share[index])
        key, (part, row) = self.images.key(at), self.images.places[at].tolist()
        if self.cache.sizes_of(key) is not None:
            return None
        row = self.rows[part][row]
        return key, lazy_image(row["image"], row["source"])


class _Prepare:
    """Collate images: their keys, and the processor's inputs as uint8."""

    def __init__(self, processor: GemmaLisaProcessor):
        self.processor = processor

    def __call__(self, found: list[tuple[str, Any] | None]) -> tuple[int, list[str], dict[str, torch.Tensor]]:
        kept = [pair for pair in found if pair is not None]
        batch = self.processor.encode_images([image for _, image in kept], as_bytes=True) if kept else {}
        return len(found), [key for key, _ in kept], batch


def _encode_all(
    cache: FeatureCache,
    model: nn.Module,
    processor: GemmaLisaProcessor,
    batches: Iterable[tuple[int, list[str], dict[str, torch.Tensor]]],
    total: int,
    use_bf16: bool,
    show_progress: bool,
) -> int:
    """Encode and write the images of this process. Return how many are cached; fewer than `total` on a full disk."""
    written = 0
    if not total:
        return 0
    with tqdm(total=total, desc="caching features", unit="image", disable=not show_progress) as bar:
        for count, keys, batch in batches:
            if keys:
                features = encode(model, cache, processor.normalize_images(batch), use_bf16)
                pairs = zip(batch["original_sizes"].tolist(), batch["reshaped_input_sizes"].tolist(), strict=True)
                for at, (key, sizes) in enumerate(zip(keys, pairs, strict=True)):
                    entry = {name: values[at] for name, values in features.items()}
                    if not _write(cache, key, entry, Sizes(*map(tuple, sizes)), total - written):
                        return written
                    written += 1
            written += count - len(keys)
            bar.update(count)
    return written


def _write(cache: FeatureCache, key: str, features: dict[str, torch.Tensor], sizes: Sizes, missing: int) -> bool:
    """Write the entries of an image. Return False, with a warning, if the disk is full.

    Raises:
        WriteError: the entries cannot be written for another reason.
    """
    try:
        cache.write(key, features, sizes)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise WriteError(f"{cache.folder}: the cache cannot be written ({error.strerror or error}).") from error
        logger.warning(
            "%s: the disk is full (%.1f GB free), and %s of this process would need %.1f GB. The cached features are "
            "used, and the other images are encoded in every epoch.",
            cache.folder,
            free_bytes(cache.folder) / GIGABYTE,
            count_of(missing, "more image"),
            missing * cache.entry_bytes / GIGABYTE,
        )
        return False
    return True


def _check_shared(cache: FeatureCache, images: Images, todo: np.ndarray, written: int, processes: Processes) -> None:
    """Raise ValueError if this process does not see what the others have written."""
    if written < len(todo):
        return
    shares = [todo[rank :: processes.count][:LOOKED_AT] for rank in range(processes.count)]
    if any(cache.sizes_of(images.key(int(at))) is None for share in shares for at in share):
        raise ValueError(
            f"{cache.folder}: features that another process has written are missing. All machines must share the "
            "folder of the cache."
        )


def _delete_unfinished(folder: Path) -> None:
    """Delete unfinished files of processes that were killed."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in folder.iterdir():
            with suppress(OSError):  # another process was faster, or the cache cannot be written
                if time.time() - path.stat().st_mtime > OLD:
                    path.unlink()

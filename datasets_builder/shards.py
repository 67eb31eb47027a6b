"""Write prepared rows as Parquet shards that include the images, for another machine or the Hub.

`prepared.json` lists all shards and is written last: a folder without it is incomplete.
"""

import hashlib
import json
import os
import signal
from multiprocessing import get_context
from pathlib import Path

import datasets
import filelock
import pyarrow
import pyarrow.parquet as parquet
import yaml
from datasets.table import embed_table_storage
from tqdm import tqdm

from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.short_text import count_of

from .rows import ROW_FEATURES
from .rows_builder import RowsBuilder

ROWS_PER_SHARD = 1_000  # 100 to 300 MB of photos
ROWS_PER_GROUP = 100  # rows that a shuffling reader loads at once
PLAN, COMPLETE, LOCK = "plan.json", "prepared.json", ".prepare.lock"


def write_shards(
    splits: dict[str, datasets.Dataset], folder: Path, identity: str, num_proc: int = 1, shards: int = 1
) -> None:
    """Write `folder`/data/SPLIT-00000-of-00007.parquet, ... Complete shards that exist are not written again.

    Args:
        splits: rows by split.
        folder: output folder.
        identity: text that is the same only for the same rows.
        num_proc: number of processes.
        shards: minimum number of shards per split, at most one per row.

    Raises:
        ValueError: the folder contains shards of other rows or other files, or another process writes to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / LOCK, blocking=False):
            try:
                _write_shards(splits, folder, identity, num_proc, shards)
            finally:
                (folder / LOCK).unlink(missing_ok=True)  # the whole folder is uploaded
    except filelock.Timeout as error:
        raise ValueError(f"{folder}: another process is writing to this folder; wait until it ends.") from error


def _write_shards(splits: dict[str, datasets.Dataset], folder: Path, identity: str, num_proc: int, shards: int) -> None:
    names = {}
    for split, rows in splits.items():
        count = max(-(-len(rows) // ROWS_PER_SHARD), min(shards, len(rows)))
        # Of equal size: streaming repeats the rows of a short shard more often
        for at in range(count):
            part = (split, at * len(rows) // count, (at + 1) * len(rows) // count)
            names[f"data/{split}-{at:05d}-of-{count:05d}.parquet"] = part
    plan = {
        "rows": {split: len(rows) for split, rows in splits.items()},
        "shards": {name: [start, end] for name, (_, start, end) in sorted(names.items())},
        "identity": hashlib.sha256(identity.encode()).hexdigest(),
    }
    found = [_read_plan(folder / name) for name in (PLAN, COMPLETE) if (folder / name).is_file()]
    if any(other != plan for other in found):
        raise ValueError(f"{folder} contains the shards of other rows; delete it or set another --output.")
    if not found and (others := [path for path in sorted(folder.iterdir()) if path.name != LOCK]):
        raise ValueError(
            f"{folder} contains other files, such as {others[0].name}; set --output to a new or empty folder."
        )
    if (folder / COMPLETE).is_file():
        os.replace(folder / COMPLETE, folder / PLAN)  # incomplete while a shard can be missing
    (folder / "data").mkdir(parents=True, exist_ok=True)
    _write_plan(folder, plan)
    for leftover in folder.glob("data/.*.parquet.*"):  # from killed processes
        leftover.unlink()
    missing = [
        (folder / name, splits[split], start, end)
        for name, (split, start, end) in names.items()
        if not _is_complete(folder / name, end - start)
    ]
    if len(missing) < len(names):
        print(f"{folder}: {len(names) - len(missing)} of {count_of(len(names), 'shard')} already exist")
    with tqdm(total=len(missing), unit="shard", desc=str(folder)) as bar:
        if num_proc == 1:
            for shard in missing:
                _write_shard(shard)
                bar.update()
        else:
            with get_context("spawn").Pool(num_proc, _ignore_interrupts) as pool:
                for _ in pool.imap_unordered(_write_shard, missing):
                    bar.update()
    os.replace(folder / PLAN, folder / COMPLETE)


def _ignore_interrupts() -> None:
    """Ignore Ctrl-C in a worker: the main process stops the pool and prints one line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read_plan(path: Path) -> dict:
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}); delete {path.parent} and run prepare again.") from error


def _is_complete(path: Path, num_rows: int) -> bool:
    """Return whether a shard exists with all its rows. A truncated file has lost the footer of Parquet."""
    try:
        return parquet.read_metadata(path).num_rows == num_rows
    except (OSError, pyarrow.ArrowException):
        return False


def _write_plan(folder: Path, plan: dict) -> None:
    aside = folder / f".{PLAN}.{os.getpid()}"
    aside.write_text(json.dumps(plan, indent=2) + "\n")
    os.replace(aside, folder / PLAN)


def _write_shard(shard: tuple[Path, datasets.Dataset, int, int]) -> None:
    """Write one shard with the bytes of its images, under a temporary name first."""
    path, rows, start, end = shard
    table = rows.with_format("arrow")[start:end]
    try:
        table = embed_table_storage(table.cast(ROW_FEATURES.arrow_schema))
    except OSError as error:
        raise ValueError(f"{path}: an image cannot be read ({error}); run `verify` to list all such images.") from error
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        parquet.write_table(table, aside, row_group_size=ROWS_PER_GROUP)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def card_of(name: str, builder: RowsBuilder, splits: dict[str, datasets.Dataset]) -> str:
    """Return the text of the folder's README.md, which is the card of the data set on the Hub."""
    info, archive = builder.info, getattr(builder, "ARCHIVE", None)
    front = {
        "pretty_name": archive.title if archive else name,
        "license": "other" if archive else (info.license or "unknown").lower(),
        "task_categories": ["image-segmentation", "image-text-to-text"],
        "tags": ["reasoning-segmentation", "gemma-lisa"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
    }
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {front['pretty_name']}",
        "",
        "Images, questions and masks in the row schema of Gemma-LISA.",
        "",
        "| split | rows |",
        "|---|---|",
        *(f"| {split} | {len(rows):,} |" for split, rows in splits.items()),
        "",
    ]
    if archive:
        lines += [
            f"Made from the original files of {archive.title} ({archive.homepage}).",
            "",
            f"- License stated by the source: {archive.license}",
            f"- Citation: {archive.citation}",
            "",
        ]
    return "\n".join(lines)

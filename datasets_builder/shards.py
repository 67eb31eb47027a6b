"""Prepared rows as Parquet shards with the images in them: what travels to another machine or to the Hub.

A folder of shards is whole when `prepared.json` is there: it is written last, and names every shard.
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

from .rows import ROW_FEATURES
from .rows_builder import RowsBuilder

ROWS_A_SHARD = 1_000  # 100 to 300 MB of photographs
ROWS_A_GROUP = 100  # what a reader that skips and shuffles has to load at once
PLAN, WHOLE, LOCK = "plan.json", "prepared.json", ".prepare.lock"


def write_shards(
    splits: dict[str, datasets.Dataset], folder: Path, identity: str, num_proc: int = 1, shards: int = 1
) -> None:
    """Write `folder`/data/SPLIT-00000-of-00007.parquet, ...; a shard that is there, and whole, is not written again.

    Args:
        splits: rows by split.
        folder: to write to.
        identity: of the rows: the same rows have the same one.
        num_proc: processes.
        shards: of a split, at least, if it has so many rows.

    Raises:
        ValueError: the folder holds shards of other rows, or other files; somebody else is writing to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / LOCK, blocking=False):
            try:
                _write_shards(splits, folder, identity, num_proc, shards)
            finally:
                (folder / LOCK).unlink(missing_ok=True)  # the folder is published as it is
    except filelock.Timeout as error:
        raise ValueError(f"{folder}: another process is preparing rows in it; wait for it.") from error


def _write_shards(splits: dict[str, datasets.Dataset], folder: Path, identity: str, num_proc: int, shards: int) -> None:
    names = {}
    for split, rows in splits.items():
        count = max(-(-len(rows) // ROWS_A_SHARD), min(shards, len(rows)))
        # Of one size: who streams them comes to the rows of a short shard more often
        for at in range(count):
            part = (split, at * len(rows) // count, (at + 1) * len(rows) // count)
            names[f"data/{split}-{at:05d}-of-{count:05d}.parquet"] = part
    plan = {
        "rows": {split: len(rows) for split, rows in splits.items()},
        "shards": {name: [start, end] for name, (_, start, end) in sorted(names.items())},
        "identity": hashlib.sha256(identity.encode()).hexdigest(),
    }
    found = [_read_plan(folder / name) for name in (PLAN, WHOLE) if (folder / name).is_file()]
    if any(other != plan for other in found):
        raise ValueError(f"{folder} holds the shards of other rows; delete it or give another --output.")
    if not found and (others := [path for path in sorted(folder.iterdir()) if path.name != LOCK]):
        raise ValueError(f"{folder} holds other files, as {others[0].name}; give a folder of its own as --output.")
    if (folder / WHOLE).is_file():
        os.replace(folder / WHOLE, folder / PLAN)  # not whole while a shard of it may be missing
    (folder / "data").mkdir(parents=True, exist_ok=True)
    _write_plan(folder, plan)
    for leftover in folder.glob("data/.*.parquet.*"):  # of processes that were killed
        leftover.unlink()
    missing = [
        (folder / name, splits[split], start, end)
        for name, (split, start, end) in names.items()
        if not _is_whole(folder / name, end - start)
    ]
    if len(missing) < len(names):
        print(f"{folder}: {len(names) - len(missing)} of {len(names)} shards are there already")
    with tqdm(total=len(missing), unit="shard", desc=str(folder)) as bar:
        if num_proc == 1:
            for shard in missing:
                _write_shard(shard)
                bar.update()
        else:
            with get_context("spawn").Pool(num_proc, _ignore_interrupts) as pool:
                for _ in pool.imap_unordered(_write_shard, missing):
                    bar.update()
    os.replace(folder / PLAN, folder / WHOLE)


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the process that started this one: it ends the pool, and says so in one line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read_plan(path: Path) -> dict:
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}); delete {path.parent} and prepare it again.") from error


def _is_whole(path: Path, num_rows: int) -> bool:
    """Is the shard there, with all its rows? One that was cut off has lost what Parquet writes last."""
    try:
        return parquet.read_metadata(path).num_rows == num_rows
    except (OSError, pyarrow.ArrowException):
        return False


def _write_plan(folder: Path, plan: dict) -> None:
    aside = folder / f".{PLAN}.{os.getpid()}"
    aside.write_text(json.dumps(plan, indent=2) + "\n")
    os.replace(aside, folder / PLAN)


def _write_shard(shard: tuple[Path, datasets.Dataset, int, int]) -> None:
    """Write one shard, with the bytes of its images, under another name first."""
    path, rows, start, end = shard
    table = rows.with_format("arrow")[start:end]
    try:
        table = embed_table_storage(table.cast(ROW_FEATURES.arrow_schema))
    except OSError as error:
        raise ValueError(f"{path}: an image of it cannot be read ({error}); `verify` lists them all.") from error
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        parquet.write_table(table, aside, row_group_size=ROWS_A_GROUP)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def card_of(name: str, builder: RowsBuilder, splits: dict[str, datasets.Dataset]) -> str:
    """The folder's README.md: what the Hub shows, and how the rows are read."""
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
        "Images, what can be asked for in them, and masks, in the row schema of Gemma-LISA.",
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
            f"- Licence, as its source states it: {archive.license}",
            f"- To cite: {archive.citation}",
            "",
        ]
    return "\n".join(lines)

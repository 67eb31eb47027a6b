"""Save and delete checkpoints atomically, so that a killed process never leaves half of one.

Checkpoints and the final model are written to a temporary folder, flushed to the disk and renamed. A folder is renamed
before it is deleted. The next start deletes the temporary folders of killed processes.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints
from transformers.utils import CONFIG_NAME

from gemma_lisa.checkpoints.adapter_base import ADAPTER_CONFIG
from gemma_lisa.checkpoints.checksums import CHECKSUMS
from gemma_lisa.checkpoints.training_record import TRAINING_RECORD
from gemma_lisa.safety.errors import FULL_DISK, WriteError, one_line_errors

ASIDE = ".saving"
REMOVING = ".removing-"
PUSHING = ".pushing-"  # folder of an upload to the Hub
NONFINITE_FILE = "nonfinite.json"
DISK_IS_FULL = (FULL_DISK, "Disk quota exceeded")  # in errors
# Without one of these files no program opens a folder as a checkpoint, so they are moved last and deleted first
SEALS = (CONFIG_NAME, ADAPTER_CONFIG, TRAINING_RECORD)


def checkpoint_name(step: int) -> str:
    return f"{PREFIX_CHECKPOINT_DIR}-{step}"


def step_of(checkpoint: str | Path) -> int:
    return int(Path(checkpoint).name.rpartition("-")[2])


def checkpoints_of(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a run, by step."""
    return [Path(path) for path in sort_checkpoints(str(folder))]


def place_checkpoint(aside: Path, place: Path) -> None:
    """Move a checkpoint from its temporary folder to its place; one of the same step there is replaced."""
    flush(aside)
    if place.exists():
        remove_folder(place)
    os.replace(aside, place)
    flush_entry(place.parent)


def place_model(aside: Path, folder: Path) -> None:
    """Move the files of a model from a temporary folder into `folder`, and delete the weights and code there.

    Meanwhile the folder has no configuration, so a mix of two models cannot be opened.
    """
    flush(aside)
    for name in reversed(SEALS):
        (folder / name).unlink(missing_ok=True)
    flush_entry(folder)
    for pattern in (CHECKSUMS, "*.safetensors", "*.safetensors.index.json", "*_gemma_lisa.py"):
        for path in folder.glob(pattern):
            path.unlink()
    names = sorted(path.name for path in aside.iterdir())
    for name in [*(name for name in names if name not in SEALS), *(name for name in SEALS if name in names)]:
        if (folder / name).is_dir():
            remove_folder(folder / name)
        os.replace(aside / name, folder / name)
    flush_entry(folder)
    aside.rmdir()


@contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `output` when the block succeeds, and deleted if it fails.

    Raises:
        WriteError: the folder cannot be written, as on a full disk.
    """
    output = Path(os.path.abspath(output))
    created = [path for path in output.parents if not path.exists()]
    aside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with one_line_errors(output, "cannot be written"):
            aside.mkdir(parents=True)
            yield aside
            aside.replace(output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # it still exists only after an error
        remove_empty(created)


@contextmanager
def folder_in_place(output: Path) -> Iterator[Path]:
    """Like `whole_folder`, but `output` can exist: the files of an older model there are replaced, others stay.

    Raises:
        WriteError: the folder cannot be written, as on a full disk.
    """
    output = Path(os.path.abspath(output))
    created = [path for path in (output, *output.parents) if not path.exists()]
    aside = output / ASIDE / "model"
    try:
        with one_line_errors(output, "cannot be written"):
            aside.mkdir(parents=True)
            yield aside
            place_model(aside, output)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # it still exists only after an error
        remove_empty([aside.parent, *created])


@contextmanager
def written_aside(aside: Path, place: Path) -> Iterator[None]:
    """Turn write errors into one line that names `place`; on a full disk, delete the temporary folder `aside`.

    After other errors the folder stays for inspection; the next start deletes it.

    Raises:
        WriteError: a file cannot be written.
    """
    try:
        with one_line_errors(place, "cannot be written"):
            yield
    except WriteError as error:
        if any(words in str(error) for words in DISK_IS_FULL):
            shutil.rmtree(aside, ignore_errors=True)
        raise


def remove_empty(folders: Iterable[Path]) -> None:
    """Delete the empty ones of the folders, in the given order."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def remove_folder(folder: Path) -> None:
    """Delete a folder; it is renamed first, so that it disappears at once."""
    renamed = folder.with_name(f"{REMOVING}{folder.name}")
    shutil.rmtree(renamed, ignore_errors=True)
    os.replace(folder, renamed)
    shutil.rmtree(renamed)


def rotate(folder: Path, limit: int | None, best: str | None) -> None:
    """Keep the newest `limit` checkpoints of a run and the best one, and delete the others. None or 0 keeps all."""
    checkpoints = checkpoints_of(folder)
    kept = checkpoints[-1:] + [path for path in checkpoints if best is not None and path.name == Path(best).name]
    excess = len(checkpoints) - max(limit or len(checkpoints), len(set(kept)))
    for path in [path for path in checkpoints if path not in kept][: max(0, excess)]:
        remove_folder(path)


def remove_scraps(folder: Path) -> None:
    """Delete what killed processes left."""
    for path in (folder / ASIDE, *folder.glob(f"{REMOVING}*"), *folder.glob(f"{PUSHING}*")):
        shutil.rmtree(path, ignore_errors=True)
    for name in (TRAINING_RECORD, NONFINITE_FILE):  # temporary files of `write_whole`
        for path in folder.glob(f".{name}.*"):
            path.unlink()


def flush(folder: Path) -> None:
    """Flush all files of a folder and its directory entries to the disk, so that a rename cannot overtake them."""
    for path in (*folder.rglob("*"), folder):
        flush_entry(path)


def flush_entry(path: Path) -> None:
    """Flush a file, or the entries of a directory, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)

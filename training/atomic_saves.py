"""A run's folder, in which nothing appears before it is whole.

Checkpoints and the final model are written aside, flushed to the disc and renamed. What is to go is renamed first. A
process that is killed leaves scraps, which the next start takes away, and never half a checkpoint.
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
GOING = ".removing-"
PUSHING = ".pushing-"  # what is on its way to the Hub
NONFINITE_FILE = "nonfinite.json"
DISK_IS_FULL = (FULL_DISK, "Disk quota exceeded")  # in errors
# Without one of these a folder is no checkpoint to anybody: what is moved last, and taken away first.
SEALS = (CONFIG_NAME, ADAPTER_CONFIG, TRAINING_RECORD)


def checkpoint_name(step: int) -> str:
    return f"{PREFIX_CHECKPOINT_DIR}-{step}"


def step_of(checkpoint: str | Path) -> int:
    return int(Path(checkpoint).name.rpartition("-")[2])


def checkpoints_of(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, by step."""
    return [Path(path) for path in sort_checkpoints(str(folder))]


def place_checkpoint(aside: Path, place: Path) -> None:
    """Let a checkpoint that was written aside appear, in the place of one of the same step if there is one."""
    flush(aside)
    if place.exists():
        remove_folder(place)
    os.replace(aside, place)
    flush_entry(place.parent)


def place_model(aside: Path, folder: Path) -> None:
    """Move the files of a model that was written aside into a folder, and delete the weights and the code there.

    In between the folder has no configuration: nobody can take half of one model and half of another for a checkpoint.
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
    """Yield a folder beside `output` to write to, which takes that name when the block ends well; else it is deleted.

    Raises:
        WriteError: it cannot be written, as on a full disk.
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
        shutil.rmtree(aside, ignore_errors=True)  # gone already, unless something went wrong
        remove_empty(created)


@contextmanager
def folder_in_place(output: Path) -> Iterator[Path]:
    """As `whole_folder`, into a folder that may hold other files: those of an older model there are replaced.

    Raises:
        WriteError: it cannot be written, as on a full disk.
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
        shutil.rmtree(aside, ignore_errors=True)  # gone already, unless something went wrong
        remove_empty([aside.parent, *created])


@contextmanager
def written_aside(aside: Path, place: Path) -> Iterator[None]:
    """Say in one line where what is written aside should have gone, if that fails; on a full disk, free its space.

    After other errors it stays, for whoever looks for the reason; the next start deletes it.

    Raises:
        WriteError: it cannot be written.
    """
    try:
        with one_line_errors(place, "cannot be written"):
            yield
    except WriteError as error:
        if any(words in str(error) for words in DISK_IS_FULL):
            shutil.rmtree(aside, ignore_errors=True)
        raise


def remove_empty(folders: Iterable[Path]) -> None:
    """Delete those of the folders that are empty, in the given order."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def remove_folder(folder: Path) -> None:
    """Take a folder away, at once for everybody who looks."""
    going = folder.with_name(f"{GOING}{folder.name}")
    shutil.rmtree(going, ignore_errors=True)
    os.replace(folder, going)
    shutil.rmtree(going)


def rotate(folder: Path, limit: int | None, best: str | None) -> None:
    """Keep the newest `limit` checkpoints of a run, and the best one among them; None or 0: all."""
    checkpoints = checkpoints_of(folder)
    kept = checkpoints[-1:] + [path for path in checkpoints if best is not None and path.name == Path(best).name]
    excess = len(checkpoints) - max(limit or len(checkpoints), len(set(kept)))
    for path in [path for path in checkpoints if path not in kept][: max(0, excess)]:
        remove_folder(path)


def remove_scraps(folder: Path) -> None:
    """Take away what killed processes left."""
    for path in (folder / ASIDE, *folder.glob(f"{GOING}*"), *folder.glob(f"{PUSHING}*")):
        shutil.rmtree(path, ignore_errors=True)
    for name in (TRAINING_RECORD, NONFINITE_FILE):  # as `write_whole` begins them
        for path in folder.glob(f".{name}.*"):
            path.unlink()


def flush(folder: Path) -> None:
    """Have the disc hold everything in a folder, and its list of it: a rename must not overtake what it renames."""
    for path in (*folder.rglob("*"), folder):
        flush_entry(path)


def flush_entry(path: Path) -> None:
    """Have the disc hold a file's content, or a folder's list."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)

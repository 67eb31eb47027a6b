"""Check what a program is about to write, before it works: no input is overwritten, and no other file silently."""

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from .command_line import SOFTWARE, UsageError

_HEAD = 20_000  # bytes at each end of a file that are looked at
# How the JSON files of predict.py and eval.py begin, as `write_whole` writes them, and a line of eval.py's samples
_OWN_JSON = re.compile(
    r'\[\n  \{\n    "image": ".*",\n    "query": ".*",\n    "text": '
    r'|\{\n  "scores": \{\n    "gIoU": '
    r'|\{"source": ".*", "question": ".*", "expected": '
)


def check_outputs(
    outputs: Iterable[tuple[str, Path]], inputs: Iterable[str | Path | None], overwrite: bool = False
) -> None:
    """Refuse to overwrite an input, or a file that this project did not write; say what else is overwritten.

    Files are compared as the file system sees them: through links, and in any upper or lower case where it ignores
    case.

    Args:
        outputs: (option, file) of each file that is going to be written.
        inputs: what the program reads: files, and folders in which only files of this project are overwritten. A name
            on the Hub and None are ignored.
        overwrite: overwrite files that this project did not write, unless they are inputs.

    Raises:
        UsageError: which file, and what to do.
    """
    known = {_identity(path): path for path in inputs if path is not None and os.path.exists(path)}
    taken, replaced = {}, []
    for option, output in outputs:
        earlier = taken.setdefault(os.path.realpath(output).casefold(), option)
        if earlier is not option:
            raise UsageError(f"{option} {output}: {earlier} writes to the same file; name another one.")
        if not os.path.exists(output):
            continue
        if _identity(output) in known and not os.path.isdir(output):
            raise UsageError(
                f"{option} {output}: this file is an input ({known[_identity(output)]}), and inputs are never "
                "overwritten; name another file."
            )
        if not os.path.isfile(output) or os.path.getsize(output) == 0:
            continue
        if not is_own(output):
            folder = next((known[found] for found in _folders(output) if found in known), None)
            if folder is not None:
                raise UsageError(
                    f"{option} {output}: this file is in the input folder {folder}, and inputs are never overwritten; "
                    "name another file."
                )
            if not overwrite:
                raise UsageError(
                    f"{option} {output}: this file exists and was not written by Gemma-LISA; name another file, or add "
                    "--overwrite to replace it."
                )
        replaced.append(output)
    if replaced:
        more = f" and {len(replaced) - 1:,} other files" if len(replaced) > 1 else ""
        print(f"overwriting {replaced[0]}{more}", file=sys.stderr)


def check_run_folder(folder: Path, inputs: Iterable[str | Path | None], own: Iterable[str]) -> None:
    """Refuse a folder for a training that is an input, or that holds a model which no training run put there.

    A run replaces the configuration and deletes the weights that lie in its folder.

    Args:
        folder: that the run writes to.
        inputs: what the training reads.
        own: patterns of names that only a run's folder has.

    Raises:
        UsageError: what is there, and what to do.
    """
    if not folder.is_dir():
        return
    for path in inputs:
        if path is not None and os.path.isdir(path) and os.path.samefile(path, folder):
            raise UsageError(f"output_dir {folder}: the training reads what is there; give another folder.")
    if any(next(folder.glob(pattern), None) for pattern in own):
        return
    found = next((path for pattern in ("*config.json", "*.safetensors") for path in folder.glob(pattern)), None)
    if found is not None:
        raise UsageError(
            f"output_dir {folder}: it holds a model that no training run saved there ({found.name}), which would be "
            "overwritten; give another folder."
        )


def is_own(path: str | Path) -> bool:
    """Whether this project wrote a picture or a JSON file."""
    if Path(path).suffix.lower() in (".json", ".jsonl"):
        with open(path, "rb") as file:
            return _OWN_JSON.match(file.read(_HEAD).decode("utf-8", "replace")) is not None
    with open(path, "rb") as file:  # EXIF is at the beginning or, in WebP, at the end
        head = file.read(_HEAD)
        file.seek(max(file.tell(), os.fstat(file.fileno()).st_size - _HEAD))
        return SOFTWARE.encode("ascii") in head + file.read(_HEAD)


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _folders(path: str | Path) -> Iterable[tuple[int, int]]:
    """The identities of the folders that a file lies in, from the innermost on."""
    return (_identity(folder) for folder in Path(os.path.realpath(path)).parents)

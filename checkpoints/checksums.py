"""SHA-256 checksums beside a checkpoint's weights, in the format of `sha256sum`: `sha256sum -c SHA256SUMS` checks too.

A flipped bit in a weights file still loads and gives other masks. The checksums are written when a checkpoint is saved
and compared before it is used. Folders without the file, as other programs save them, are opened unchecked.
"""

import hashlib
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gemma_lisa.configuration_gemma_lisa import CHECKSUMS

_COVERED = ("*.safetensors", "*.safetensors.index.json")
# As sha256sum writes it; "*" marks a file that was read as binary
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
# Files that are read at once; hashlib computes outside Python's lock
THREADS = 4


def write_checksums(folder: str | Path) -> None:
    """Write the checksums of a folder's weights; of a folder without any, delete the file."""
    folder = Path(folder)
    names = sorted({path.name for pattern in _COVERED for path in folder.glob(pattern)})
    if not names:
        (folder / CHECKSUMS).unlink(missing_ok=True)
        return
    sums = _sums(folder / name for name in names)
    text = "".join(f"{digest}  {name}\n" for name, digest in zip(names, sums, strict=True))
    (folder / CHECKSUMS).write_text(text, encoding="utf-8")


def check_checksums(folder: str | Path, missing_is_fine: bool = False) -> None:
    """Compare a folder's weights with its checksums, if it has any.

    Args:
        folder: of a checkpoint or an adapter.
        missing_is_fine: a listed file may be absent, as in the cache of the Hub, which holds what was asked for.

    Raises:
        ValueError: a file differs, is missing or is not listed, or the list cannot be read.
    """
    folder = Path(folder)
    expected = read_checksums(folder)
    unlisted = sorted(path for path in folder.glob(_COVERED[0]) if path.name not in expected) if expected else []
    if unlisted:
        raise ValueError(
            f"{unlisted[0]}: {CHECKSUMS} does not list this file, so it cannot be checked. Delete the file if it is "
            f"not of this checkpoint, or delete {CHECKSUMS} to open the checkpoint unchecked."
        )
    missing = [name for name in expected if not (folder / name).is_file()]
    if missing and not missing_is_fine:
        raise ValueError(
            f"{folder / missing[0]}: the file is missing, but {CHECKSUMS} lists it. Copy the checkpoint again; if the "
            f"file was removed on purpose, delete {CHECKSUMS}."
        )
    names = [name for name in expected if name not in missing]
    for name, found in zip(names, _sums(folder / name for name in names), strict=True):
        if found != expected[name]:
            raise ValueError(
                f"{folder / name}: the file is not the one that was saved: its SHA-256 is {found[:12]}..., expected "
                f"{expected[name][:12]}... ({CHECKSUMS}). It is damaged or was replaced: copy it again; if it was "
                f"replaced on purpose, delete {CHECKSUMS}."
            )


def read_checksums(folder: Path) -> dict[str, str]:
    """Return file name -> SHA-256 in hexadecimal of a folder's checksums; {} where it has none.

    Raises:
        ValueError: the list is empty, or a line is no checksum of a file in this folder.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return {}
    sums = {}
    for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), start=1):
        found = _LINE.fullmatch(line)
        if found is None or Path(found[2]).name != found[2]:
            raise ValueError(
                f"{path}, line {number}: expected a SHA-256 and the name of a file of this folder. Copy the file "
                "again, or delete it to open the checkpoint unchecked."
            )
        sums[found[2]] = found[1]
    if not sums:
        raise ValueError(
            f"{path}: the list is empty; expected a SHA-256 of each weights file of this folder. Copy the file again, "
            "or delete it to open the checkpoint unchecked."
        )
    return sums


def _sums(paths: Iterable[Path]) -> list[str]:
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(_sum, paths))


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

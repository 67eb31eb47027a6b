"""Write and check SHA-256 checksums of a checkpoint's weights; `sha256sum -c SHA256SUMS` checks them too.

A weights file with a flipped bit still loads, but gives different masks. The checksums are written when a checkpoint is
saved and compared before it is used. Folders without the file, as saved by other programs, are not checked.
"""

import hashlib
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gemma_lisa.configuration_gemma_lisa import CHECKSUMS

_COVERED = ("*.safetensors", "*.safetensors.index.json")
# Line format of sha256sum; "*" marks a file that was read as binary
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
# Number of files that are read in parallel; hashlib releases the GIL
THREADS = 4


def write_checksums(folder: str | Path) -> None:
    """Write the checksums of a folder's weights, or delete the checksum file if the folder has no weights."""
    folder = Path(folder)
    names = sorted({path.name for pattern in _COVERED for path in folder.glob(pattern)})
    if not names:
        (folder / CHECKSUMS).unlink(missing_ok=True)
        return
    sums = sums_of(folder / name for name in names)
    text = "".join(f"{digest}  {name}\n" for name, digest in zip(names, sums, strict=True))
    (folder / CHECKSUMS).write_text(text, encoding="utf-8")


def check_checksums(folder: str | Path, missing_is_fine: bool = False) -> None:
    """Compare a folder's weights with its checksums, if it has a checksum file.

    Args:
        folder: folder of a checkpoint or an adapter.
        missing_is_fine: allow listed files to be absent. The cache of the Hub contains only files that were used.

    Raises:
        ValueError: a file differs, is missing or is not listed, or the checksum file cannot be read.
    """
    folder = Path(folder)
    expected = read_checksums(folder)
    unlisted = sorted(path for path in folder.glob(_COVERED[0]) if path.name not in expected) if expected else []
    if unlisted:
        raise ValueError(
            f"{unlisted[0]}: {CHECKSUMS} does not list this file, so it cannot be checked. Delete the file if it "
            f"does not belong to this checkpoint, or delete {CHECKSUMS} to load the checkpoint without a check."
        )
    missing = [name for name in expected if not (folder / name).is_file()]
    if missing and not missing_is_fine:
        raise ValueError(
            f"{folder / missing[0]}: the file is missing, but {CHECKSUMS} lists it. Copy the checkpoint again. If you "
            f"removed the file on purpose, delete {CHECKSUMS}."
        )
    names = [name for name in expected if name not in missing]
    for name, found in zip(names, sums_of(folder / name for name in names), strict=True):
        if found != expected[name]:
            raise ValueError(
                f"{folder / name}: the file is damaged or was replaced: its SHA-256 is {found[:12]}..., expected "
                f"{expected[name][:12]}... ({CHECKSUMS}). Copy the file again. If you replaced it on purpose, delete "
                f"{CHECKSUMS}."
            )


def read_checksums(folder: Path) -> dict[str, str]:
    """Return a folder's checksums as file name -> SHA-256 in hexadecimal, or {} if it has no checksum file.

    Raises:
        ValueError: the checksum file is empty, or a line is not a checksum of a file in this folder.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return {}
    sums = {}
    for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), start=1):
        found = _LINE.fullmatch(line)
        if found is None or Path(found[2]).name != found[2]:
            raise ValueError(
                f"{path}, line {number}: expected a SHA-256 and the name of a file in this folder. Copy the file "
                "again, or delete it to load the checkpoint without a check."
            )
        sums[found[2]] = found[1]
    if not sums:
        raise ValueError(
            f"{path}: the file is empty; expected a SHA-256 of each weights file in this folder. Copy the file again, "
            "or delete it to load the checkpoint without a check."
        )
    return sums


def sums_of(paths: Iterable[Path]) -> list[str]:
    """Return the SHA-256 of each file in hexadecimal."""
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(_sum, paths))


def _sum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Find secrets and local paths in the bytes of files to upload, also in compressed files."""

import bz2
import gzip
import lzma
import re
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from .secret_names import TOKEN_PATTERNS, spellings_of

_BYTE_PATTERNS = {
    beginning.encode(): re.compile(pattern.encode(), re.ASCII) for beginning, pattern in TOKEN_PATTERNS.items()
}
PICKLES, LARGEST_PICKLE = {".bin", ".pkl", ".pickle", ".pth"}, 1 << 26
# Bytes per piece of a file that is searched. Pieces overlap by at least the longest match.
PIECE, OVERLAP = 1 << 24, 4096
# First bytes of compressed files -> function that opens them
_PACKED = {b"\x1f\x8b\x08": gzip.open, b"BZh": bz2.open, b"\xfd7zX": lzma.open}
ENCRYPTED = 1  # flag of a member of a zip archive
# Patterns are searched in this many bytes around eight word characters
AROUND = 1024
_IS_WORD = bytes(chr(byte).isascii() and (chr(byte).isalnum() or chr(byte) in "_-:/@.") for byte in range(256))
_ALL_WORDS = int.from_bytes(b"\1" * 8, "little")


def find_secret(path: Path, secrets: Collection[str] = ()) -> str | None:
    """Return a description of a secret in a file, or None. Files in zip, gzip, bzip2 and xz are decompressed.

    Args:
        path: any file.
        secrets: values to search for in UTF-8, UTF-16, UTF-32, base64 and hexadecimal. A mapping gives the source of
            each secret (`environment_secrets`), which the description then includes.
    """
    values = _values(secrets)
    with open(path, "rb") as file:
        found = _find_in(file, values)
        file.seek(0)
        beginning = file.read(4)
    opens = next((opens for magic, opens in _PACKED.items() if beginning.startswith(magic)), None)
    if found is None and opens is not None:
        try:
            with opens(path) as opened:
                found = _find_in(opened, values)
        except (OSError, EOFError, lzma.LZMAError, zlib.error):
            return "a compressed part that cannot be decompressed and searched"
    is_weights = path.suffix == ".safetensors" and not beginning.startswith(b"PK")
    if found is None and not is_weights and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.flag_bits & ENCRYPTED:
                    return "an encrypted part that cannot be searched"
                if found is None and member.compress_type != zipfile.ZIP_STORED:
                    with archive.open(member) as opened:
                        found = _find_in(opened, values)
    return found


def _values(secrets: Collection[str]) -> dict[bytes, str]:
    """Return bytes to search for -> description of the secret.

    For ASCII secrets in UTF-16 and UTF-32 these are the bytes that both byte orders have in common.
    """
    values = {}
    for secret in secrets:
        place = f" ({secrets[secret]})" if isinstance(secrets, Mapping) and secrets[secret] else ""
        wide = [secret.encode(f"utf-{bits}-{order}", "replace") for bits in (16, 32) for order in ("le", "be")]
        if secret.isascii():
            wide = [wide[0][:-1], wide[2][:-3]]
        narrow = [spelling.encode("utf-8", "surrogateescape") for spelling in spellings_of(secret)]
        values |= dict.fromkeys([*narrow, *wide], f"a token or password in use{place}")
    return values


def _find_in(file: IO[bytes], values: dict[bytes, str]) -> str | None:
    overlap = max([OVERLAP, *map(len, values)])
    kept = b""
    while piece := file.read(PIECE):
        content = kept + piece
        for value, kind in values.items():
            if value in content:
                return kind
        for start, end in _worded_parts(content):
            if found := _find_pattern(content[start:end]):
                return found
        kept = content[-overlap:]
    return None


def _worded_parts(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the parts around eight consecutive word characters. Only these can match a pattern.

    Matching patterns takes most of the time, and weights have few such parts.
    """
    blocks = np.frombuffer(content.translate(_IS_WORD), np.uint64, count=len(content) // 8)
    start = end = 0
    for block in np.flatnonzero(blocks == _ALL_WORDS).tolist():
        if 8 * block - AROUND > end:
            yield start, end
            start = 8 * block - AROUND
        end = 8 * block + AROUND
    yield max(0, start), end


def _find_pattern(content: bytes) -> str | None:
    for beginning, pattern in _BYTE_PATTERNS.items():
        at = content.find(beginning)
        while at >= 0:
            is_word_end = beginning == b"sk-" and content[max(0, at - 2) : at].isalpha()  # as in "mask-"
            if not is_word_end and pattern.match(content, at):
                if beginning == b"://":
                    return "an address with a password"
                return f"what looks like a token or key ({beginning.decode().strip(' _-.')}...)"
            at = content.find(beginning, at + 1)
    return None


def find_local_path(path: Path) -> str | None:
    """Return "a local path" if a pickle or log contains one of this machine, which cannot be shortened there."""
    if path.suffix not in PICKLES and ".tfevents." not in path.name:
        return None
    folders = {str(folder) for folder in (Path.home(), Path.cwd()) if len(folder.parts) > 1}
    with open(path, "rb") as file:
        content = file.read(LARGEST_PICKLE)
    return "a local path" if any(f"{folder}/".encode() in content for folder in folders) else None

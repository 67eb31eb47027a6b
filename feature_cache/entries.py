"""One file of the feature cache: the features of an image in bf16, with the sizes of the image and checksums.

A file is a HEADER of 64 bytes, followed by the features. It appears under its name when it is complete.
"""

import contextlib
import math
import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

MAGIC = b"GLISAF01"  # the last two characters are the version of the format
# Magic; (height, width) of the upright image and after SAM's resizing; shape (0 for a missing dimension); checksum of
# the features; checksum of the header before it
HEADER = struct.Struct("<8s8I20xI")
BYTES_PER_VALUE = 2  # bf16
MAX_DIMENSIONS = 3


class DamagedEntry(ValueError):
    """An entry is truncated, or its content does not match its checksum."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of an image.

    Args:
        original: (height, width) in pixels of the upright image.
        reshaped: (height, width) in pixels after SAM's resizing.
    """

    original: tuple[int, int]
    reshaped: tuple[int, int]


def entry_bytes(shape: tuple[int, ...]) -> int:
    """Return the size in bytes of the file with features of this shape."""
    return HEADER.size + math.prod(shape) * BYTES_PER_VALUE


def write_entry(path: Path, features: torch.Tensor, sizes: Sizes, partial: Path) -> None:
    """Write features to a file that appears when it is complete.

    Args:
        path: the file.
        features: of an image, at most MAX_DIMENSIONS dimensions, on any device; stored in bf16.
        sizes: of the image.
        partial: folder for the unfinished file, on the same disk.

    Raises:
        OSError: the file cannot be written, for example because the disk is full. Nothing is left behind.
    """
    values = features.detach().to("cpu", torch.bfloat16).contiguous()
    data = values.view(torch.int16).numpy().data.cast("B")
    shape = (*values.shape, *[0] * (MAX_DIMENSIONS - values.ndim))
    header = HEADER.pack(MAGIC, *sizes.original, *sizes.reshaped, *shape, zlib.crc32(data), 0)
    header = header[:-4] + struct.pack("<I", zlib.crc32(header[:-4]))
    temporary = partial / f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        for folder in (partial, path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        write_file(temporary, header, data)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_file(path: Path, *parts: bytes | memoryview) -> None:
    """Write the parts to a new file."""
    with open(path, "xb") as file:
        for part in parts:
            file.write(part)


def read_sizes(path: Path, shape: tuple[int, ...]) -> Sizes | None:
    """Return the sizes in an entry, or None if there is no file. The features are not read.

    Args:
        path: the file.
        shape: expected shape of the features.

    Raises:
        DamagedEntry: the header is damaged, or the file has the wrong length.
        OSError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return _parse(file.read(HEADER.size), os.fstat(file.fileno()).st_size, shape)[0]
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_entry(path: Path, shape: tuple[int, ...]) -> tuple[Sizes, torch.Tensor] | None:
    """Return the sizes and the features (bf16, of this shape) of an entry, or None if there is no file.

    The features are mapped into memory, so that processes share them. They are private: changes are not written.

    Raises:
        DamagedEntry: the file is damaged or truncated.
        OSError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            if length < HEADER.size:
                raise DamagedEntry("the file is truncated")
            mapped = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    sizes, checksum = _parse(mapped[: HEADER.size], length, shape)
    values = np.frombuffer(mapped, dtype=np.int16, offset=HEADER.size)
    if zlib.crc32(values) != checksum:
        raise DamagedEntry("its features do not match their checksum")
    return sizes, torch.from_numpy(values).view(torch.bfloat16).view(shape)


def _parse(header: bytes, length: int, shape: tuple[int, ...]) -> tuple[Sizes, int]:
    """Return the sizes and the checksum of the features. length: size of the file in bytes."""
    if len(header) < HEADER.size:
        raise DamagedEntry("the file is truncated")
    magic, *numbers, checksum, own = HEADER.unpack(header)
    if magic != MAGIC or zlib.crc32(header[:-4]) != own:
        raise DamagedEntry("its header is damaged")
    if tuple(numbers[4:]) != (*shape, *[0] * (MAX_DIMENSIONS - len(shape))):
        raise DamagedEntry(f"its features have the shape {tuple(numbers[4:])}, expected {shape}")
    if length != entry_bytes(shape):
        raise DamagedEntry(f"the file has {length:,} bytes, expected {entry_bytes(shape):,}")
    return Sizes(tuple(numbers[:2]), tuple(numbers[2:4])), checksum

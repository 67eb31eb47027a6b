"""Write files atomically, and check before the work that they can be written."""

import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from .errors import UsageError, one_line_errors

SOFTWARE = "Gemma-LISA"  # in the EXIF of every written image, so that `output_checks.is_own` can recognize it
SIGNATURE = f'<meta name="generator" content="{SOFTWARE}">'  # in the head of every written page, for the same reason
# Bytes that `check_writable` writes. On a full disk an empty file can often still be created.
PROBE_BYTES = 4096


def check_writable(path: str | Path, option: str, is_folder: bool = False) -> None:
    """Check that a file or folder can be written, before the work begins. The check leaves no files.

    Args:
        path: file or folder that will be written. Missing parent folders will be created.
        option: name of the option for the error message, for example "--output".
        is_folder: `path` is a folder.

    Raises:
        UsageError: a part of the path is a file, or the path is a folder where a file is expected, or the reverse.
        ValueError: the folder is read-only or the disk is full.
    """
    path = Path(path)
    try:
        if path.is_dir() != is_folder and path.exists():
            kinds = ("a file", "a folder") if is_folder else ("a folder", "a file")
            raise UsageError(f"{option} {path}: this is {kinds[0]}; expected {kinds[1]}.")
        folder = path if is_folder else path.parent
        while not folder.exists() and not folder.is_symlink():
            folder = folder.parent
        if not folder.is_dir():
            kind = "a broken link" if folder.is_symlink() and not folder.exists() else "a file"
            raise UsageError(f"{option} {path}: {folder} is {kind}; expected a folder.")
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(b"\0" * PROBE_BYTES)
            probe.flush()
            os.fsync(probe.fileno())
        if path.is_file() and not path.is_symlink() and not os.access(path, os.W_OK):
            raise UsageError(f"{option} {path}: the file is write-protected. Choose another file.")
    except OSError as error:
        raise ValueError(
            f"{option} {path}: cannot be written ({error.strerror or error}). Choose a folder with write access "
            "and free space."
        ) from error


def write_whole(path: Path, content: str | Image.Image | list | dict[str, Any]) -> None:
    """Write a text, an image (in the format of the path's suffix) or JSON atomically.

    Raises:
        WriteError: the file cannot be written, for example because the disk is full.
    """
    if isinstance(content, Image.Image):
        buffer, exif = io.BytesIO(), Image.Exif()
        exif[ExifTags.Base.Software] = SOFTWARE
        content.save(buffer, format=Image.registered_extensions().get(path.suffix.lower(), "PNG"), exif=exif)
        data = buffer.getbuffer()
    else:
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        data = text.encode("utf-8")
    write_bytes(path, data)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write bytes atomically.

    Raises:
        WriteError: as `write_whole`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with one_line_errors(path, "cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

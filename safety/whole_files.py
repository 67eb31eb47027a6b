"""Write files whole: check first that they can be written, then replace them in one step."""

import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from .errors import UsageError, one_line_errors

SOFTWARE = "Gemma-LISA"  # in the EXIF of every picture that is written: `output_checks.is_own` recognises it
# What `check_writable` writes: a full file system often still makes an empty file
PROBE_BYTES = 4096


def check_writable(path: str | Path, option: str, is_folder: bool = False) -> None:
    """Check that a file or folder can be written, before work begins; nothing is left behind.

    Args:
        path: what will be written; folders that do not exist yet will be created.
        option: named in the error, as "--output".
        is_folder: `path` is a folder that will hold files.

    Raises:
        UsageError: a part of the path is a file, or the path is a folder where a file is expected or the reverse.
        ValueError: the folder is read-only or on a full disk.
    """
    path = Path(path)
    try:
        if path.is_dir() != is_folder and path.exists():
            kinds = ("a file", "a folder") if is_folder else ("a folder", "a file")
            raise UsageError(f"{option} {path}: this is {kinds[0]}; expected the name of {kinds[1]}.")
        folder = path if is_folder else path.parent
        while not folder.exists() and not folder.is_symlink():
            folder = folder.parent
        if not folder.is_dir():
            kind = "a link to nothing" if folder.is_symlink() and not folder.exists() else "a file"
            raise UsageError(f"{option} {path}: {folder} is {kind}; expected a folder.")
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(b"\0" * PROBE_BYTES)
            probe.flush()
            os.fsync(probe.fileno())
        if path.is_file() and not path.is_symlink() and not os.access(path, os.W_OK):
            raise UsageError(f"{option} {path}: the file is write-protected; name another file.")
    except OSError as error:
        raise ValueError(
            f"{option} {path}: cannot be written ({error.strerror or error}); name a folder with write permission and "
            "free space."
        ) from error


def write_whole(path: Path, content: str | Image.Image | list | dict[str, Any]) -> None:
    """Write a text, a picture (in the format of the path's suffix) or JSON so that no half of it is ever at `path`.

    Raises:
        WriteError: it cannot be written, as on a full disk.
    """
    if isinstance(content, Image.Image):
        buffer, exif = io.BytesIO(), Image.Exif()
        exif[ExifTags.Base.Software] = SOFTWARE
        content.save(buffer, format=Image.registered_extensions().get(path.suffix.lower(), "PNG"), exif=exif)
        data = buffer.getbuffer()
    else:
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        data = text.encode("utf-8")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with one_line_errors(path, "cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_bytes(data)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

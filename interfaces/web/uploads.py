"""Uploaded pictures until they are opened. They are kept in memory only, under random identifiers.

A client sends a file and gets an identifier back. No event of the page takes a path or a URL, so no request can read a
file of this machine or fetch a URL.
"""

import asyncio
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

MAX_FILE_SIZE = 20 * 2**20  # bytes of one file
MAX_TOTAL_SIZE = 256 * 2**20  # bytes of all files that are being received or wait to be opened
MAX_UPLOADS = 256  # files that wait to be opened, of all sessions
MAX_AGE = 600  # seconds that a file waits to be opened
UPLOAD_TIMEOUT = 120  # seconds for one file to arrive
MAX_FORM_SIZE = MAX_FILE_SIZE + 2**16  # bytes of a request: the file, its name and the multipart boundaries
MAX_NAME = 100  # characters of a file name


@dataclass
class Upload:
    """An uploaded file.

    Args:
        content: bytes of the file.
        name: file name, made printable.
        received: time of arrival, from `time.monotonic`.
        owner: session that will open the file; None until a session claims it.
    """

    content: bytes
    name: str
    received: float
    owner: str | None = None


class Full(Exception):
    """There is no memory left for another file."""


class Uploads:
    """Uploaded files by identifier. When memory is full, the oldest file that no session has claimed is deleted.

    Args:
        max_total_size: maximum bytes of all files together.
    """

    def __init__(self, max_total_size: int = MAX_TOTAL_SIZE):
        self.max_total_size = max_total_size
        self._uploads: OrderedDict[str, Upload] = OrderedDict()
        self._reserved = 0
        self._lock = threading.Lock()

    @contextmanager
    def room(self) -> Iterator[Callable[[int], None]]:
        """Reserve memory for a file while it arrives. Only bytes that have arrived count, not the announced length.

        Yields:
            a function to call with the size in bytes of each chunk that arrives. It raises Full.
        """
        held = 0

        def hold(size: int) -> None:
            nonlocal held
            with self._lock:
                self._make_room(size)
                self._reserved += size
            held += size

        try:
            yield hold
        finally:
            with self._lock:
                self._reserved -= held

    def add(self, content: bytes, name: str, held: int = 0) -> str:
        """Keep a file and return its identifier.

        Args:
            content, name: as in `Upload`.
            held: bytes that `room` has already reserved for this file.

        Raises:
            Full: claimed files take all the memory, or there are MAX_UPLOADS claimed files.
        """
        identifier = secrets.token_urlsafe(24)
        with self._lock:
            self._make_room(max(0, len(content) - held), files=1)
            self._uploads[identifier] = Upload(content, printable(name), time.monotonic())
        return identifier

    def claim(self, identifier: str, owner: str) -> None:
        """Assign a file to a session. Other files of that session are deleted; an unknown identifier is ignored."""
        with self._lock:
            if (upload := self._uploads.get(identifier)) is None:
                return
            for earlier in [found for found, other in self._uploads.items() if other.owner == owner]:
                if earlier != identifier:
                    del self._uploads[earlier]
            upload.owner = owner
            self._uploads.move_to_end(identifier)

    def take(self, owner: str) -> tuple[bytes, str] | None:
        """Return content and name of the file that the session claimed last, and delete all that it claimed."""
        with self._lock:
            identifiers = [identifier for identifier, upload in self._uploads.items() if upload.owner == owner]
            taken = [self._uploads.pop(identifier) for identifier in identifiers]
        return (taken[-1].content, taken[-1].name) if taken else None

    def expire(self, age: float = MAX_AGE) -> None:
        """Delete the files that have waited for longer than `age` seconds."""
        oldest = time.monotonic() - age
        with self._lock:
            expired = [identifier for identifier, upload in self._uploads.items() if upload.received <= oldest]
            for identifier in expired:
                del self._uploads[identifier]

    def __len__(self) -> int:
        return len(self._uploads)

    def _make_room(self, size: int, files: int = 0) -> None:
        """Delete the oldest unclaimed files until `size` more bytes and `files` more files fit.

        Raises:
            Full: deleting all unclaimed files is not enough. Nothing is deleted in this case.
        """
        unclaimed = [identifier for identifier, upload in self._uploads.items() if upload.owner is None]
        bytes_over = sum(len(upload.content) for upload in self._uploads.values())
        bytes_over += self._reserved + size - self.max_total_size
        files_over = len(self._uploads) + files - MAX_UPLOADS
        to_delete = []
        while bytes_over > 0 or files_over > 0:
            if len(to_delete) == len(unclaimed):
                raise Full
            to_delete.append(unclaimed[len(to_delete)])
            bytes_over -= len(self._uploads[to_delete[-1]].content)
            files_over -= 1
        for identifier in to_delete:
            del self._uploads[identifier]


class _InMemory(MultiPartParser):
    spool_max_size = MAX_FORM_SIZE + 1  # larger than any upload: files are never written to disk
    max_part_size = 1024


async def receive_upload(request: Request) -> Response:
    """Receive one picture as a multipart form and return a JSON list with its identifier."""
    uploads = request.app.get_blocks().conversations.uploads
    try:
        with uploads.room() as hold:
            async with asyncio.timeout(UPLOAD_TIMEOUT):
                content, name = await _file_of(request, hold)
            return JSONResponse([uploads.add(content, name, held=len(content))])
    except MultiPartException as error:
        return PlainTextResponse(error.message, 413 if isinstance(error, TooLarge) else 400)
    except Full:
        return PlainTextResponse("The server has no memory for more pictures. Try again in a minute.", 503)
    except TimeoutError:
        return PlainTextResponse(f"The upload took longer than {UPLOAD_TIMEOUT} seconds.", 408)
    except ClientDisconnect:
        return PlainTextResponse("The upload was interrupted.", 400)


class TooLarge(MultiPartException):
    """The file is larger than MAX_FILE_SIZE."""

    def __init__(self) -> None:
        super().__init__(f"The file exceeds the maximum allowed size of {MAX_FILE_SIZE // 2**20} MB.")


async def _file_of(request: Request, hold: Callable[[int], None]) -> tuple[bytes, str]:
    """Return content and name of the only file of a form. `hold` is called with the size of each chunk.

    Raises:
        MultiPartException: the request is not a form, has no file, several files, or a file that is too large.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise MultiPartException("Send the picture as multipart/form-data.")
    form = await _InMemory(request.headers, _limited(request, hold), max_files=1, max_fields=4).parse()
    files = [part for part in form.values() if isinstance(part, UploadFile)]
    if not files:
        raise MultiPartException("The form has no file. Expected one picture.")
    content = await files[0].read()
    await files[0].close()
    if len(content) > MAX_FILE_SIZE:
        raise TooLarge
    return content, files[0].filename or ""


async def _limited(request: Request, hold: Callable[[int], None]) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_FORM_SIZE:
            raise TooLarge
        hold(len(chunk))
        yield chunk


def printable(name: str) -> str:
    """Return a file name without folders, control characters and direction marks, cut to MAX_NAME characters."""
    shown = "".join(letter if letter.isprintable() else "_" for letter in PurePosixPath(name.replace("\\", "/")).name)
    if len(shown) > MAX_NAME:
        ending = PurePosixPath(shown).suffix[:10]
        shown = shown[: MAX_NAME - len(ending)] + ending
    return shown or "picture"

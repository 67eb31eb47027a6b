"""Uploaded pictures until they are opened: in memory only, named by numbers that nobody can guess.

A visitor sends bytes and gets a number back. No event of the page takes a path or an address, so none can be made to
read a file of this machine or to fetch anything.
"""

import asyncio
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

MAX_FILE_SIZE = 20 * 2**20  # bytes of one picture's file
MAX_TOTAL_SIZE = 256 * 2**20  # bytes of all files that wait to be opened or are being received
MAX_UPLOADS = 256  # files that wait to be opened
KEPT = 600  # seconds that a file waits for its visitor's turn
SLOWEST = 120  # seconds that one file may take to arrive
MAX_FORM_SIZE = MAX_FILE_SIZE + 2**16  # bytes of a request: the file, its name and the boundaries
MAX_NAME = 100  # characters of a file's name


@dataclass
class Upload:
    """A file that was sent.

    Args:
        content: its bytes.
        name: what its sender called it, made printable.
        received: when, by `time.monotonic`.
        owner: key of the session that opens it; None until one asked for it.
    """

    content: bytes
    name: str
    received: float
    owner: str | None = None


class Full(Exception):
    """No memory is left for another file."""


class Uploads:
    """Files by their numbers; the oldest one makes room where a new one needs it.

    Args:
        max_total_size: bytes of all files together.
    """

    def __init__(self, max_total_size: int = MAX_TOTAL_SIZE):
        self.max_total_size = max_total_size
        self._uploads: OrderedDict[str, Upload] = OrderedDict()
        self._reserved = 0
        self._lock = threading.Lock()

    @asynccontextmanager
    async def room(self, size: int) -> AsyncIterator[None]:
        """Hold memory for a file while it arrives.

        Raises:
            Full: other files that arrive have it all.
        """
        with self._lock:
            if self._reserved + size > self.max_total_size:
                raise Full
            self._reserved += size
            self._make_room()
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= size

    def add(self, content: bytes, name: str) -> str:
        """Keep a file; its number."""
        number = secrets.token_urlsafe(24)
        with self._lock:
            self._uploads[number] = Upload(content, printable(name), time.monotonic())
            self._make_room()
        return number

    def claim(self, number: str, owner: str) -> None:
        """The visitor of that session wants to open this file; a number that names none changes nothing."""
        with self._lock:
            if (upload := self._uploads.get(number)) is not None:
                upload.owner = owner
                self._uploads.move_to_end(number)

    def take(self, owner: str) -> tuple[bytes, str] | None:
        """Content and name of the file that the visitor claimed last; all that the visitor claimed is gone then."""
        with self._lock:
            numbers = [number for number, upload in self._uploads.items() if upload.owner == owner]
            taken = [self._uploads.pop(number) for number in numbers]
        return (taken[-1].content, taken[-1].name) if taken else None

    def expire(self, age: float = KEPT) -> None:
        """Delete what has waited for longer than `age` seconds."""
        oldest = time.monotonic() - age
        with self._lock:
            for number in [number for number, upload in self._uploads.items() if upload.received <= oldest]:
                del self._uploads[number]

    def __len__(self) -> int:
        return len(self._uploads)

    def _make_room(self) -> None:
        held = sum(len(upload.content) for upload in self._uploads.values())
        while self._uploads and (len(self._uploads) > MAX_UPLOADS or held + self._reserved > self.max_total_size):
            _, removed = self._uploads.popitem(last=False)
            held -= len(removed.content)


class _InMemory(MultiPartParser):
    spool_max_size = MAX_FORM_SIZE + 1  # a file is never written to disk
    max_part_size = 1024


async def receive_upload(request: Request) -> Response:
    """Take one picture, as a form of one file, and answer with a list of its number."""
    uploads = request.app.get_blocks().visits.uploads
    try:
        async with uploads.room(_announced_size(request)), asyncio.timeout(SLOWEST):
            return JSONResponse([uploads.add(*await _file_of(request))])
    except MultiPartException as error:
        return PlainTextResponse(error.message, 413 if isinstance(error, TooLarge) else 400)
    except Full:
        return PlainTextResponse("The server is busy with other pictures: try again in a minute.", 503)
    except TimeoutError:
        return PlainTextResponse(f"The picture took more than {SLOWEST} seconds to arrive.", 408)
    except ClientDisconnect:
        return PlainTextResponse("The picture did not arrive.", 400)


class TooLarge(MultiPartException):
    """The file is larger than MAX_FILE_SIZE."""

    def __init__(self) -> None:
        super().__init__(f"The file exceeds the maximum allowed size of {MAX_FILE_SIZE // 2**20} MB.")


async def _file_of(request: Request) -> tuple[bytes, str]:
    """Content and name of the only file of a form.

    Raises:
        MultiPartException: no form, no file, several, or one that is too large.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise MultiPartException("Send the picture as multipart/form-data.")
    form = await _InMemory(request.headers, _limited(request), max_files=1, max_fields=4).parse()
    files = [part for part in form.values() if isinstance(part, UploadFile)]
    if not files:
        raise MultiPartException("The form has no file; expected one picture.")
    content = await files[0].read()
    await files[0].close()
    if len(content) > MAX_FILE_SIZE:
        raise TooLarge
    return content, files[0].filename or ""


def _announced_size(request: Request) -> int:
    """Bytes that the form can have at most."""
    announced = request.headers.get("content-length", "")
    return min(int(announced), MAX_FORM_SIZE) if re.fullmatch("[0-9]{1,9}", announced) else MAX_FORM_SIZE


async def _limited(request: Request) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_FORM_SIZE:
            raise TooLarge
        yield chunk


def printable(name: str) -> str:
    """A file's name without folders, control characters and marks of direction, at most MAX_NAME characters long."""
    shown = "".join(letter if letter.isprintable() else "_" for letter in PurePosixPath(name.replace("\\", "/")).name)
    if len(shown) > MAX_NAME:
        ending = PurePosixPath(shown).suffix[:10]
        shown = shown[: MAX_NAME - len(ending)] + ending
    return shown or "picture"

"""Uploaded pictures until they are opened: in memory only, named by numbers that nobody can guess.

A visitor sends bytes and gets a number back. No event of the page takes a path or an address, so none can be made to
read a file of this machine or to fetch anything.
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
    """Files by their numbers; the oldest one that no visitor claimed makes room where a new one needs it.

    Args:
        max_total_size: bytes of all files together.
    """

    def __init__(self, max_total_size: int = MAX_TOTAL_SIZE):
        self.max_total_size = max_total_size
        self._uploads: OrderedDict[str, Upload] = OrderedDict()
        self._reserved = 0
        self._lock = threading.Lock()

    @contextmanager
    def room(self) -> Iterator[Callable[[int], None]]:
        """Hold memory for a file while it arrives, for the bytes that are there: what it announces takes none.

        Yields:
            what to call with the number of each further bytes; it raises Full.
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
        """Keep a file; its number.

        Args:
            content, name: of `Upload`.
            held: bytes for which `room` holds memory already.

        Raises:
            Full: visitors have claimed all memory, or all places.
        """
        number = secrets.token_urlsafe(24)
        with self._lock:
            self._make_room(max(0, len(content) - held), files=1)
            self._uploads[number] = Upload(content, printable(name), time.monotonic())
        return number

    def claim(self, number: str, owner: str) -> None:
        """The visitor of that session wants to open this file and no earlier one; a number that names none changes
        nothing.
        """
        with self._lock:
            if (upload := self._uploads.get(number)) is None:
                return
            for earlier in [found for found, other in self._uploads.items() if other.owner == owner]:
                if earlier != number:
                    del self._uploads[earlier]
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

    def _make_room(self, size: int, files: int = 0) -> None:
        """Delete the oldest files that nobody claimed, as many as must go for so many further bytes and files.

        Raises:
            Full: that is not enough; nothing is deleted then.
        """
        unclaimed = [number for number, upload in self._uploads.items() if upload.owner is None]
        bytes_over = sum(len(upload.content) for upload in self._uploads.values())
        bytes_over += self._reserved + size - self.max_total_size
        files_over = len(self._uploads) + files - MAX_UPLOADS
        going = []
        while bytes_over > 0 or files_over > 0:
            if len(going) == len(unclaimed):
                raise Full
            going.append(unclaimed[len(going)])
            bytes_over -= len(self._uploads[going[-1]].content)
            files_over -= 1
        for number in going:
            del self._uploads[number]


class _InMemory(MultiPartParser):
    spool_max_size = MAX_FORM_SIZE + 1  # a file is never written to disk
    max_part_size = 1024


async def receive_upload(request: Request) -> Response:
    """Take one picture, as a form of one file, and answer with a list of its number."""
    uploads = request.app.get_blocks().conversations.uploads
    try:
        with uploads.room() as hold:
            async with asyncio.timeout(SLOWEST):
                content, name = await _file_of(request, hold)
            return JSONResponse([uploads.add(content, name, held=len(content))])
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


async def _file_of(request: Request, hold: Callable[[int], None]) -> tuple[bytes, str]:
    """Content and name of the only file of a form; `hold` is called with the size of each part that arrives.

    Raises:
        MultiPartException: no form, no file, several, or one that is too large.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise MultiPartException("Send the picture as multipart/form-data.")
    form = await _InMemory(request.headers, _limited(request, hold), max_files=1, max_fields=4).parse()
    files = [part for part in form.values() if isinstance(part, UploadFile)]
    if not files:
        raise MultiPartException("The form has no file; expected one picture.")
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
    """A file's name without folders, control characters and marks of direction, at most MAX_NAME characters long."""
    shown = "".join(letter if letter.isprintable() else "_" for letter in PurePosixPath(name.replace("\\", "/")).name)
    if len(shown) > MAX_NAME:
        ending = PurePosixPath(shown).suffix[:10]
        shown = shown[: MAX_NAME - len(ending)] + ending
    return shown or "picture"

"""Find the photos of a data folder by the names that labelling tools write: paths, URLs and names of uploads.

photos = PhotoNames([root / "images", root], notes)
photos.find("/data/upload/1/cb0618f6-scene.png", "tasks.json: task 3")  # root/images/scene.png
"""

import base64
import functools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, unquote_plus

from PIL import Image

from gemma_lisa.safety.short_text import listed, show

from .annotated import Notes
from .file_search import walk

# Folders of files that have the names of photos but are none. An exact path into them is still found.
NO_PHOTOS = {"__macosx", "mask", "masks", "label", "labels", "segmentationclass", "segmentationobject"}
UNREADABLE_SUFFIXES = {".heic", ".heif", ".avif", ".jxl"}  # of photos that Pillow cannot always open
LONGEST_NAME = 10_000  # characters of the name of a photo
OTHER_SUFFIX = "photos found with another suffix than in the annotations"
NO_PREFIX = "photos found without Label Studio's prefix of 8 characters"
_HOST = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/[^/?#]*)?(?=/)|[A-Za-z]:(?=/)")  # "https://host", "file:/", "C:"
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")  # Label Studio puts this before the name of every uploaded file


class PhotoNames:
    """The photos in some folders, by the names that tools write.

    Args:
        folders: to search, the most likely first. Photos are never searched outside of them.
        notes: counts the photos whose names differ. Without it, another suffix is an error.
    """

    def __init__(self, folders: list[Path], notes: Notes | None = None):
        self.folders = [os.path.abspath(folder) for folder in dict.fromkeys(folders)]
        self._notes = notes
        self._indexes: dict[str, dict[str, list[str]]] = {}  # paths by key, for each folder
        self._owners: dict[str, tuple[str, bool]] = {}  # by path: the name it was found for, and whether it is exact

    def find(self, name: str, where: str) -> Path:
        """Return the path of a photo.

        An exact path below one of the folders is preferred. Otherwise the file name alone decides, and the folders in
        the name choose between several such files.

        Args:
            name: in the annotations.
            where: names the record in errors.

        Raises:
            ValueError: there is no such photo, there are several, or the photo already belongs to another name.
        """
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{where}: the file name of the photo is missing, got {show(name)}; add it.")
        readings = []
        for reading in _readings(name):
            readings.append(reading)
            for folder in self.folders:
                path = os.path.normpath(os.path.join(folder, reading))
                if path.startswith(folder.rstrip(os.sep) + os.sep) and os.path.isfile(path):
                    return self._owned(path, name, True, where)
        for reading in readings:
            if path := self._by_file_name(_parts(reading), name, where):
                return self._owned(path, name, False, where)
        similar = self._similar(readings[-1])
        if similar and self._notes is not None and len(similar) == 1:
            self._notes.add(OTHER_SUFFIX, f"{where}: {show(name)} is {similar[0]}", Path(similar[0]))
            return self._owned(similar[0], name, False, where)
        hint = f"Only {listed(similar[:2])} has a similar name. " if similar else ""
        raise ValueError(
            f"{where}: the photo {show(name)} is not in {listed(self.folders)}. {hint}Add the photo, or correct its "
            "name."
        )

    def find_or_error(self, name: str, where: str) -> tuple[Path, ValueError | None]:
        """Return the path of a photo and None, or a path where it is missing and the error of `find`."""
        try:
            return self.find(name, where), None
        except ValueError as error:
            file_name = next(iter(_parts(str(name))[::-1]), "photo")
            return Path(self.folders[0], file_name.replace("\0", "")), error

    def _owned(self, path: str, name: str, is_exact: bool, where: str) -> Path:
        """Return the path. Raise an error if it was also found for another name and not both are its exact path."""
        owner, was_exact = self._owners.setdefault(path, (name, is_exact))
        if owner != name and not (is_exact and was_exact) and _identity(owner) != _identity(name):
            raise ValueError(
                f"{where}: the photos {show(owner)} and {show(name)} are both found as {path}; add the other photo, or "
                "put the photos into the folders of their names. If they are the same photo, write the same name."
            )
        return Path(path)

    def _by_file_name(self, parts: list[str], name: str, where: str) -> str | None:
        """Return the photo with the last of the parts as its file name, in any folder, or None."""
        if not parts:
            return None
        upload = _UPLOAD.match(parts[-1])
        for folder in self.folders:
            if found := self._index(folder).get(name_key(parts[-1])):
                return _closest(found, parts, folder, f"{where}: the photo {show(name)}")
        if not upload:
            return None
        parts[-1] = parts[-1][upload.end() :]
        for folder in self.folders:
            index = self._index(folder)
            if found := index.get(name_key(parts[-1])) or index.get(_upload_key(parts[-1])):
                path = _closest(found, parts, folder, f"{where}: the photo {show(name)}")
                if self._notes is not None:
                    self._notes.add(NO_PREFIX, f"{where}: {show(name)} is {path}", Path(path))
                return path
        return None

    def _similar(self, reading: str) -> list[str]:
        """Return the image files with the stem of a reading and another suffix, or none, in the first folder."""
        stem, suffix = os.path.splitext((_parts(reading) or [""])[-1])
        if suffix and suffix.lower() not in _image_suffixes():
            stem += suffix  # "frame.0001"
        for folder in self.folders:
            if found := self._index(folder).get(_stem_key(stem)):
                return found
        return []

    def _index(self, folder: str) -> dict[str, list[str]]:
        """Return the paths of the files below a folder by the keys of their names."""
        if folder not in self._indexes:
            index, suffixes = defaultdict(list), _image_suffixes()
            for path in _files(folder):
                name = os.path.basename(path)
                stem, suffix = os.path.splitext(name)
                keys = {name_key(name), _upload_key(name)}
                if suffix.lower() in suffixes:
                    keys.add(_stem_key(stem))
                for key in keys:
                    index[key].append(path)
            self._indexes[folder] = dict(index)
        return self._indexes[folder]


def is_photo_name(text: str) -> bool:
    """Return whether a text can be the name of a photo: it has the suffix of an image format."""
    return len(text) < LONGEST_NAME and any(_suffix(reading) in _image_suffixes() for reading in _readings(text))


def _readings(name: str) -> Iterator[str]:
    """Yield the paths that a name can stand for: as it is, with slashes, from its query, and without its host."""
    yield name
    plain = name.strip().replace("\\", "/")
    host = _HOST.match(plain)
    path = plain[host.end() :] if host else plain
    if not host or host[1] is None:  # else "#" starts a fragment
        yield path.lstrip("/")
    path, _, query = path.partition("?")
    for part in query.split("&"):  # /data/local-files/?d=folder/1.jpg
        key, _, value = part.partition("=")
        values = [_decoded(value)] if key == "fileuri" else [unquote(value), unquote_plus(value)]
        yield from (value.lstrip("/") for value in dict.fromkeys(values) if _suffix(value) in _image_suffixes())
    if path.strip("/") and (not query or _suffix(unquote(path)) in _image_suffixes()):
        if host and host[1]:
            path = path.partition("#")[0]
        yield unquote(path).lstrip("/")


def _identity(name: str) -> list[str]:
    """Return the folders and the file name that a name stands for, without host and query."""
    return _parts(unicodedata.normalize("NFC", list(_readings(name))[-1]))


def _decoded(text: str) -> str:
    """Return the address in Label Studio's `fileuri`: base64 of s3://bucket/folder/1.jpg."""
    try:
        return base64.b64decode(unquote(text)).decode()
    except ValueError:
        return ""


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


@functools.cache
def _image_suffixes() -> set[str]:
    return UNREADABLE_SUFFIXES | set(Image.registered_extensions())


def _parts(path: str) -> list[str]:
    """Return the folders and the file name in a path."""
    return [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]


def name_key(name: str) -> str:
    """Return a name without differences in Unicode's forms (macOS decomposes names) and in upper and lower case."""
    return unicodedata.normalize("NFC", name).casefold()


def _stem_key(stem: str) -> str:
    return f"{name_key(stem)}/"


def _upload_key(name: str) -> str:
    """Return a key of the name of an uploaded file, as Django changes it: "a (1).jpg" is "a_1.jpg"."""
    return "/" + re.sub(r"[^-\w.]", "", name_key(name).strip().replace(" ", "_"))


def _files(folder: str) -> Iterator[str]:
    """Yield the paths of all files below a folder, following links, without hidden files and `NO_PHOTOS`."""
    for here, folders, names in walk(Path(folder)):
        folders[:] = [name for name in folders if name.lower() not in NO_PHOTOS]
        yield from (os.path.join(here, name) for name in names)


def _closest(paths: list[str], parts: list[str], folder: str, where: str) -> str:
    """Return the path that shares most with a name.

    Args:
        paths: of files with the same name.
        parts: folders and file name in the annotations.
        folder: that contains the paths.
        where: names the record and the photo in errors.

    Raises:
        ValueError: two paths share equally much.
    """
    if len(paths) == 1:
        return paths[0]
    ranks = {path: _rank(_parts(os.path.relpath(path, folder)), parts) for path in paths}
    best = max(ranks.values())
    first, *others = [path for path, rank in ranks.items() if rank == best]
    if others:
        raise ValueError(f"{where} can be {first} or {others[0]}; rename or remove one of them.")
    return first


def _rank(parts: list[str], wanted: list[str]) -> tuple[int, bool, bool]:
    """Return the number of equal parts from the end, and whether the file names and their stems are equal."""
    num_equal = 0
    for part, other in zip(parts[::-1], wanted[::-1], strict=False):
        if name_key(part) != name_key(other):
            break
        num_equal += 1
    name, other = (unicodedata.normalize("NFC", names[-1]) for names in (parts, wanted))
    return num_equal, name == other, os.path.splitext(name)[0] == os.path.splitext(other)[0]

"""What the builders of published data sets share: the folder they are unpacked in, what is said of each, and bad files.

Every set lies below one data_dir, in the layout that LISA's users have: `ade20k/`, `coco/`, `cocostuff/`, `mapillary/`,
`vlpart/`, `refer_seg/`, `llava_dataset/`, `reason_seg/`. Nothing is downloaded: `Archive.get` says where it is got.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import datasets

from .rows import ROW_FEATURES
from .rows_builder import RowsBuilder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """A published data set: what its builder, its card and `inspect` say about it."""

    title: str
    folder: str  # below data_dir
    get: str  # which archives, and what they are unpacked to
    homepage: str
    license: str
    citation: str  # authors, title, where and when, in one line
    sizes: dict[str, int] = field(default_factory=dict)  # rows of each split, as published
    unit: str = "images"  # what `sizes` counts


@dataclass
class ArchiveConfig(datasets.BuilderConfig):
    """Options of every published set."""

    # So many files or records may be wrong: each is left out and listed at the end. The next one stops the run.
    max_bad: int = 0

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """The name of the cache, which changes with the folder and with the files that the rows are made from."""
        return super().create_config_id(
            {**config_kwargs, "data_dir": str(self.root), "files": self.state_of_files()}, custom_features
        )

    @property
    def root(self) -> Path:
        if self.data_dir is None:
            raise ValueError("data_dir is missing; name the folder that the archives were unpacked in.")
        return Path(os.path.abspath(self.data_dir))

    def state_of_files(self) -> list[str]:
        """Changes when one of `index_paths`, or a file right in one of those that are folders, does."""
        return [f"{path} {_state_of(path)}" for path in self.index_paths() if path.exists()]

    def index_paths(self) -> list[Path]:
        """What the rows are made from: the JSON files, and the folders of label maps and of photos."""
        raise NotImplementedError


def _state_of(path: Path) -> str:
    """Size and time of last change of a file, or a hash of those of a folder's files."""
    if path.is_file():
        return _size_and_time(path.stat())
    state = hashlib.sha256()
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_file():
                state.update(f"{entry.name}\0{_size_and_time(entry.stat())}\0".encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def _size_and_time(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns}"


class TolerantBuilder(RowsBuilder):
    """A builder that leaves out so many bad records as its configuration's `max_bad` allows."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.bad: list[ValueError] = []  # what preparing the rows left out, as max_bad allows

    @property
    def title(self) -> str:
        return self.name

    def tolerate(self, error: ValueError) -> None:
        """Note what is left out; raise it, if so many were before it as `max_bad` allows."""
        self.bad.append(error)
        if len(self.bad) > self.config.max_bad:
            raise error

    def rows(self, records: Iterable[tuple[Any, Any]], row_of: Callable[[Any], dict | None]) -> Iterator[tuple]:
        """(key, row) of every (key, record); `row_of` gives none for a record in which nothing can be asked.

        Raises:
            ValueError: of `row_of`, from the (`max_bad` + 1)th on.
        """
        before, empty = len(self.bad), []
        for key, record in records:
            try:
                row = row_of(record)
            except ValueError as error:
                self.tolerate(error)
                continue
            if row is None:
                empty.append(key)
            else:
                yield key, row
        for error in self.bad[before:]:
            logger.warning("left out, as max_bad allows: %s", error)
        if empty:
            logger.warning(
                "%s: left out %d of its records, in which nothing can be asked; the first: %s",
                self.title,
                len(empty),
                empty[0],
            )


class ArchiveBuilder(TolerantBuilder):
    """A builder of a published set; a subclass names its archive."""

    ARCHIVE: ClassVar[Archive]

    @property
    def title(self) -> str:
        return self.ARCHIVE.title

    def _info(self) -> datasets.DatasetInfo:
        archive = self.ARCHIVE
        return datasets.DatasetInfo(
            features=ROW_FEATURES,
            description=f"{archive.title}. {archive.get}",
            homepage=archive.homepage,
            license=archive.license,
            citation=archive.citation,
        )

    def folder(self) -> Path:
        """The set's own folder.

        Raises:
            ValueError: it is not there; where it is got.
        """
        folder = self.config.root / self.ARCHIVE.folder
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder. {self.ARCHIVE.title}: {self.ARCHIVE.get}")
        return folder


def require_file(path: Path, archive: Archive) -> Path:
    """The path, of a file that the set cannot do without.

    Raises:
        ValueError: it is not there; where it is got.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file. {archive.title}: {archive.get}")
    return path

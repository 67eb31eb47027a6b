"""What the builders of published data sets share: the folder they are unpacked in, and what is said of each.

Every set lies below one data_dir, in the layout that LISA's users have: `ade20k/`, `coco/`, `cocostuff/`, `mapillary/`,
`vlpart/`, `refer_seg/`, `llava_dataset/`, `reason_seg/`. Nothing is downloaded: `Archive.get` says where it is got.
"""

import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import datasets

from gemma_lisa.datasets_builder.rows import ROW_FEATURES
from gemma_lisa.datasets_builder.tolerant_builder import TolerantBuilder, TolerantConfig

QUESTIONS = "questions"


@dataclass(frozen=True)
class Archive:
    """A published data set: what its builder, its card and `inspect` say about it."""

    title: str
    folder: str  # below data_dir
    get: str  # which archives, and what they are unpacked to
    homepage: str
    license: str
    citation: str  # authors, title, where and when, in one line
    sizes: dict[str, int] = field(default_factory=dict)  # of each split, as published
    unit: str = "images"  # what `sizes` counts: rows, or their targets where it is QUESTIONS


@dataclass
class ArchiveConfig(TolerantConfig):
    """Options of every published set."""

    @property
    def root(self) -> Path:
        if self.data_dir is None:
            raise ValueError("data_dir is missing; name the folder that the archives were unpacked in.")
        return Path(os.path.abspath(self.data_dir))

    def state_of_files(self) -> list[str]:
        """Changes when one of `index_paths`, or a file anywhere below one of those that are folders, does."""
        return [f"{path} {_state_of(path)}" for path in self.index_paths() if path.exists()]

    def index_paths(self) -> list[Path]:
        """What the rows are made from: the JSON files, and the folders of label maps and of photos."""
        raise NotImplementedError


def _state_of(path: Path, inside: tuple[str, ...] = ()) -> str:
    """Size and time of last change of a file, or a hash of those of all files below a folder.

    inside: the real paths of the folders that this one lies in; a link back to one of them is passed over.
    """
    if path.is_file():
        return _size_and_time(path.stat())
    state, inside = hashlib.sha256(), (*inside, os.path.realpath(path))
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_file():
                of_entry = _size_and_time(entry.stat())
            elif entry.is_dir() and os.path.realpath(entry.path) not in inside:
                of_entry = _state_of(Path(entry.path), inside)
            else:
                continue
            state.update(f"{entry.name}\0{of_entry}\0".encode("utf-8", "surrogateescape"))
    return state.hexdigest()


def _size_and_time(status: os.stat_result) -> str:
    return f"{status.st_size} {status.st_mtime_ns}"


class ArchiveBuilder(TolerantBuilder):
    """A builder of a published set; a subclass names its archive."""

    ARCHIVE: Archive  # of the class; a builder whose configuration has SIZES of its own holds a copy with these
    SIZES: ClassVar[dict[str, dict[str, int]]] = {}  # `Archive.sizes` by configuration, where these are split otherwise

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.SIZES:
            self.ARCHIVE = replace(self.ARCHIVE, sizes=self.SIZES.get(self.config.name, {}))

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

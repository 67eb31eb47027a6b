"""Base classes of the builders of published data sets: their folder, their metadata, and changes of their files.

All sets are in one data_dir, in the same layout as for LISA: `ade20k/`, `coco/`, `cocostuff/`, `mapillary/`, `vlpart/`,
`refer_seg/`, `llava_dataset/`, `reason_seg/`. Nothing is downloaded. `Archive.instructions` tells users how to get a
set.
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
    """Metadata of a published data set, for errors, the dataset card and `inspect`."""

    title: str
    folder: str  # below data_dir
    get: str  # which archives to download, and where to unpack them
    homepage: str
    license: str
    citation: str  # authors, title, venue and year in one line
    sizes: dict[str, int] = field(default_factory=dict)  # published size of each split
    unit: str = "images"  # unit of `sizes`: rows, or targets if it is QUESTIONS

    @property
    def instructions(self) -> str:
        """How to get the data set, for error messages."""
        return f"{self.title}: {self.get} Homepage: {self.homepage}"


@dataclass
class ArchiveConfig(TolerantConfig):
    """Options of all published data sets."""

    @property
    def root(self) -> Path:
        if self.data_dir is None:
            raise ValueError("data_dir is missing; set it to the folder with the data sets' original files.")
        return Path(os.path.abspath(self.data_dir))

    def state_of_files(self) -> list[str]:
        """Return strings that change if one of `index_paths`, or a file anywhere in one of these folders, changes."""
        return [f"{path} {_state_of(path)}" for path in self.index_paths() if path.exists()]

    def index_paths(self) -> list[Path]:
        """Return the JSON files and the folders of label maps and photos that the rows are made from."""
        raise NotImplementedError


def _state_of(path: Path, inside: tuple[str, ...] = ()) -> str:
    """Return size and modification time of a file, or a hash of those of all files in a folder.

    inside: real paths of the parent folders. Links to one of them are skipped, because they would never end.
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
    """Builder of a published data set. Subclasses define ARCHIVE."""

    ARCHIVE: Archive  # instances of classes with SIZES have a copy with the sizes of their configuration
    SIZES: ClassVar[dict[str, dict[str, int]]] = {}  # `Archive.sizes` for each configuration, if they differ

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
        """Return the data set's folder.

        Raises:
            ValueError: the folder does not exist. The message tells how to get the data set.
        """
        folder = self.config.root / self.ARCHIVE.folder
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder. {self.ARCHIVE.instructions}")
        return folder


def require_file(path: Path, archive: Archive) -> Path:
    """Return the path of a required file.

    Raises:
        ValueError: the file does not exist. The message tells how to get the data set.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file. {archive.instructions}")
    return path

"""What the builders of published data sets share: the folder they are unpacked in, what is said of each, and bad files.

Every set lies below one data_dir, in the layout that LISA's users have: `ade20k/`, `coco/`, `cocostuff/`, `mapillary/`,
`vlpart/`, `refer_seg/`, `llava_dataset/`, `reason_seg/`. Nothing is downloaded: `Archive.get` says where it is got.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import datasets

from gemma_lisa.datasets_builder.rows import ROW_FEATURES, is_unicode
from gemma_lisa.datasets_builder.rows_builder import RowsBuilder
from gemma_lisa.safety.short_text import shorten, show

logger = logging.getLogger(__name__)

QUESTIONS = "questions"
REMARKS = "remarks.json"  # beside the rows in the cache: what was said when they were made


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
class ArchiveConfig(datasets.BuilderConfig):
    """Options of every published set."""

    # So many files or records, of all splits together, may be wrong: each is left out and listed, at every start. The
    # next one stops the run.
    max_bad: int = 0

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """The name of the cache, which changes with the folder and with the files that the rows are made from.

        Raises:
            ValueError: no folder, or a `max_bad` that is no number. datasets calls this for every configuration.
        """
        if type(self.max_bad) is not int or self.max_bad < 0:
            raise ValueError(f"max_bad must be a whole number, 0 or more, not {show(self.max_bad)}.")
        return super().create_config_id(
            {**config_kwargs, "data_dir": str(self.root), "files": self.state_of_files()}, custom_features
        )

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


class TolerantBuilder(RowsBuilder):
    """A builder that leaves out so many bad records as its configuration's `max_bad` allows."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.bad: list[ValueError] = []  # what preparing the rows left out, as max_bad allows
        self.remarks: list[str] = []  # what was said meanwhile

    @property
    def title(self) -> str:
        return self.name

    def download_and_prepare(self, *args, **kwargs) -> None:
        """Make the rows, or find them made; then say again what was left out when they were."""
        super().download_and_prepare(*args, **kwargs)
        file = Path(self._output_dir) / REMARKS
        if not self.remarks and file.is_file():
            for text in json.loads(file.read_bytes()):
                self.remark(text)

    def _download_and_prepare(self, *args, **kwargs) -> None:
        super()._download_and_prepare(*args, **kwargs)
        # the folder is still the incomplete one, which is renamed once all of it is there
        (Path(self._output_dir) / REMARKS).write_text(json.dumps(self.remarks), encoding="utf-8")

    def remark(self, text: str) -> None:
        """Say what was left out of the rows, now and at every start that finds them made."""
        text = shorten(_escaped(text))
        logger.warning("%s", text)
        self.remarks.append(text)

    def remark_cases(self, where: Any, left_out: dict[str, list]) -> None:
        """Say how many cases of each reason were left out, and the first of them."""
        for reason, cases in left_out.items():
            if cases:
                self.remark(f"{where}: left out {len(cases)} {reason}; the first: {cases[0]}")

    def tolerate(self, error: ValueError) -> None:
        """Note and say what is left out; raise it, if so many were before it as `max_bad` allows."""
        if (text := shorten(_escaped(str(error)))) != str(error):
            error = ValueError(text)
        self.bad.append(error)
        if len(self.bad) > self.config.max_bad:
            raise error
        self.remark(f"left out, as max_bad allows: {error}")

    def rows(self, records: Iterable[tuple[str, Any]], row_of: Callable[[Any], dict | None]) -> Iterator[tuple]:
        """(where, row) of every (where, record), where names the record in errors.

        row_of: gives a record's row, or none where nothing can be asked.

        Raises:
            ValueError: of `row_of`, or a row that cannot be written, from the (`max_bad` + 1)th on.
        """
        empty = []
        for where, record in records:
            try:
                row = row_of(record)
                if row is not None:
                    _check_texts(row, where)
            except (OSError, UnicodeError) as error:  # a name that is too long, or no name at all
                self.tolerate(ValueError(f"{where}: {error}"))
                continue
            except ValueError as error:
                self.tolerate(error)
                continue
            if row is None:
                empty.append(where)
            else:
                yield where, row
        self.remark_cases(self.title, {"of its records, in which nothing can be asked": empty})


def _escaped(text: str) -> str:
    """The text with a lone surrogate, which no terminal or file takes, as JSON writes it: "\\ud83d"."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _check_texts(row: dict, where: str) -> None:
    """Refuse a row with a text that is no Unicode, which Arrow cannot write and would not name."""
    texts = [row["source"]]
    if row["image"] is not None:
        texts.append(row["image"]["path"])
    for target in row["targets"]:
        texts += [*target["texts"], target["kind"], target["answer"], target["explanation"]]
    for part in row["conversation"]:
        texts += part.values()
    for text in texts:
        if text is not None and not is_unicode(text):
            raise ValueError(f"{where}: {show(text)} holds half a character, as of a cut emoji; correct it.")


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

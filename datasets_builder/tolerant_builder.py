"""A builder that skips and lists bad files and records of a data set, up to its option `max_bad`."""

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from gemma_lisa.safety.short_text import shorten, show

from .formats.annotated import SHOWN, Notes
from .rows import is_unicode
from .rows_builder import RowsBuilder

logger = logging.getLogger(__name__)

# In the cache, next to the rows: the warnings logged when they were prepared, and the photos that show their cases
REMARKS, EXAMPLES = "remarks.json", "examples.json"
SKIP_ADVICE = "To skip up to N bad files or records, set --max_bad N."
NO_LIMIT = sys.maxsize  # a `max_bad` that collects all errors in `TolerantBuilder.bad` and logs none of them


@dataclass
class TolerantConfig(datasets.BuilderConfig):
    """Options of a data set that is made from files."""

    # Maximum number of bad files or records of all splits together. Each is skipped, and listed at every start.
    max_bad: int = 0

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        """Return the name of the cache. It changes with the folder and with the files that the rows are made from.

        🤗 Datasets calls this for every configuration.

        Raises:
            ValueError: `data_dir` is missing, or `max_bad` is not an integer of at least 0.
        """
        if type(self.max_bad) is not int or self.max_bad < 0:
            raise ValueError(f"max_bad must be an integer of at least 0, got {show(self.max_bad)}.")
        return super().create_config_id(
            {**config_kwargs, "data_dir": str(self.root), "files": self.state_of_files()}, custom_features
        )

    @property
    def root(self) -> Path:
        """Return the absolute path of the data folder.

        Raises:
            ValueError: `data_dir` is missing.
        """
        raise NotImplementedError

    def state_of_files(self) -> list[str]:
        """Return texts that change when a file that the rows are made from changes."""
        raise NotImplementedError


class TooManyBadError(ValueError):
    """More files or records are bad than `max_bad` allows."""


class TolerantBuilder(RowsBuilder):
    """A builder that skips at most `max_bad` (an option of its configuration) bad files and records."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.bad: list[ValueError] = []  # errors of the files and records that were skipped
        self.remarks: list[str] = []  # the warnings logged when the rows were prepared
        self.logs_remarks = True
        self.examples: list[list[str]] = []  # for each warning, paths of photos that show what it is about

    @property
    def title(self) -> str:
        return self.name

    def download_and_prepare(self, *args, **kwargs) -> None:
        """Prepare the rows if they are not cached. For cached rows, log again the warnings of their preparation."""
        super().download_and_prepare(*args, **kwargs)
        texts, examples = (Path(self._output_dir) / name for name in (REMARKS, EXAMPLES))
        if not self.remarks and texts.is_file():
            for text in json.loads(texts.read_bytes()):
                self.remark(text)
        if not self.examples and examples.is_file():
            self.examples = json.loads(examples.read_bytes())

    def _download_and_prepare(self, *args, **kwargs) -> None:
        super()._download_and_prepare(*args, **kwargs)
        # 🤗 Datasets renames this temporary folder when it is complete
        for name, content in ((REMARKS, self.remarks), (EXAMPLES, self.examples)):
            (Path(self._output_dir) / name).write_text(json.dumps(content), encoding="utf-8")

    def remark(self, text: str) -> None:
        """Log a warning about the rows, now and at every start that reads them from the cache."""
        text = shorten(_escaped(text))
        if self.logs_remarks:
            logger.warning("%s", text)
        self.remarks.append(text)

    def remark_cases(self, where: Any, skipped: dict[str, list]) -> None:
        """Log how many records were skipped for each reason, and the first of them.

        Args:
            where: file, folder or split.
            skipped: names of the skipped records by reason. A reason is a plural, such as "empty masks".
        """
        for reason, cases in skipped.items():
            if cases:
                self.remark(f"{where}: skipped {reason} ({len(cases):,}), first: {cases[0]}")

    def remark_notes(self, where: Any, notes: Notes) -> None:
        """Log each kind of `notes` with its count and its first case, and record the photos of its first cases.

        Args:
            where: file, folder or split.
            notes: what was interpreted, united or skipped. It is emptied, so that it can be used further.
        """
        for kind, cases in notes.cases.items():
            self.remark(f"{where}: {kind} ({len(cases):,}), first: {cases[0].where}")
            photos = list(dict.fromkeys(str(case.photo) for case in cases[:SHOWN] if case.photo is not None))
            self.examples += [photos] if photos else []
        notes.cases.clear()

    def tolerate(self, error: ValueError) -> None:
        """Record the error of a skipped file or record and log it.

        Raises:
            TooManyBadError: the error, with advice, if `max_bad` errors were recorded before it.
        """
        text, max_bad = shorten(_escaped(str(error))), self.config.max_bad
        self.bad.append(ValueError(text))
        if len(self.bad) > max_bad:
            allowed = f"This is one more than max_bad {max_bad} allows. " if max_bad else ""
            raise TooManyBadError(f"{text} {allowed}{SKIP_ADVICE}") from error
        if max_bad < NO_LIMIT:
            self.remark(f"skipped: {text}")

    def rows(self, records: Iterable[tuple[str, Any]], row_of: Callable[[Any], dict | None]) -> Iterator[tuple]:
        """Yield (where, row) for every (where, record). `where` names the record in errors.

        Args:
            records: pairs of a name and a record.
            row_of: returns the row of a record, or None if the record has no question.

        Raises:
            ValueError: more than `max_bad` records are bad: `row_of` raised, or their row cannot be written.
        """
        empty = []
        for where, record in records:
            try:
                row = row_of(record)
                if row is not None:
                    _check_texts(row, where)
            except (OSError, UnicodeError) as error:  # not a valid file name
                self.tolerate(ValueError(f"{where}: {error}"))
                continue
            except TooManyBadError:  # from a part of the record
                raise
            except ValueError as error:
                self.tolerate(error)
                continue
            if row is None:
                empty.append(where)
            else:
                yield where, row
        self.remark_cases(self.title, {"records without a question": empty})


def check_choice(name: str, option: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise an error if the value of an option of data set `name` is not one of the choices."""
    if value not in choices:
        raise ValueError(f"{name}: {option} must be {' or '.join(choices)}, got {show(value)}.")


def _escaped(text: str) -> str:
    """Return the text with lone surrogates escaped ("\\ud83d"); terminals and files do not support them."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _check_texts(row: dict, where: str) -> None:
    """Raise an error for a text that is not valid Unicode: the error of Arrow would not name it."""
    texts = [row["source"]]
    if row["image"] is not None:
        texts.append(row["image"]["path"])
    for target in row["targets"]:
        texts += [*target["texts"], target["kind"], target["answer"], target["explanation"]]
    for part in row["conversation"]:
        texts += part.values()
    for text in texts:
        if text is not None and not is_unicode(text):
            raise ValueError(f"{where}: {show(text)} contains half of a character (a lone surrogate); write it again.")

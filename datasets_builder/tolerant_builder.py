"""A builder that skips bad files and records of a data set, as many as its option `max_bad` allows, and lists them."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from gemma_lisa.safety.short_text import shorten, show

from .rows import is_unicode
from .rows_builder import RowsBuilder

logger = logging.getLogger(__name__)

REMARKS = "remarks.json"  # beside the rows in the cache: what was said when they were made


@dataclass
class TolerantConfig(datasets.BuilderConfig):
    """Options of a data set that is made from files."""

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
        """The data folder, absolute.

        Raises:
            ValueError: `data_dir` is missing.
        """
        raise NotImplementedError

    def state_of_files(self) -> list[str]:
        """Return what changes when a file that the rows are made from does."""
        raise NotImplementedError


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

    def remark_cases(self, where: Any, skipped: dict[str, list]) -> None:
        """Say how many cases of each reason were left out, and the first of them."""
        for reason, cases in skipped.items():
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

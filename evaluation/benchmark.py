"""The questions of a data set with their ids, for the predictions of any system.

The fingerprint is the SHA-256 of all questions, answers, masks and image files. It changes with every row, so two
results with the same fingerprint answer the same questions.
"""

import functools
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np
from datasets import Dataset
from PIL import Image

from gemma_lisa.datasets_builder.formats.coco_segmentation import segmentation_runs
from gemma_lisa.datasets_builder.rows import check_row, content_of, lazy_image, load_image
from gemma_lisa.datasets_builder.templates import Conversation, ask_plainly, place_questions
from gemma_lisa.images_gemma_lisa import pixel_limit
from gemma_lisa.safety.errors import one_line_errors
from gemma_lisa.safety.short_text import count_of, listed, name_of, show
from gemma_lisa.safety.whole_files import write_bytes, write_whole

from .phrases import names_of
from .records import RLE, Question

SHOWN_IDS = 3  # ids that an error names
# Suffixes of images that a name of a question can have
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
IMAGES = ".images"  # suffix of the folder of images that rows contain as bytes
_PNG = b"\x89PNG\r\n\x1a\n"
_STARTS = {_PNG: ".png", b"\xff\xd8": ".jpg"}  # first bytes of a file -> suffix of its name
# Names of the chunks and texts in which a PNG can have an orientation
_ORIENTATIONS = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")


class Benchmark(Sequence[Question]):
    """The questions of a split, in the order of `questions.EvaluationQuestions` and in its plain phrasing.

    A question is made when it is read. Consecutive questions of a row read the row once.

    Args:
        rows: rows with `rows.ROW_FEATURES`.
        dataset: name of the data set.
        with_conversations: whether to include the conversations of VQA rows. Each turn is a question.

    Raises:
        ValueError: two rows have the same source, so their questions would have the same ids.

    Attributes:
        ids: ids of the questions.
    """

    def __init__(self, rows: Dataset, dataset: str, with_conversations: bool):
        self.dataset, self.rows = dataset, rows
        sources = [name_of(source, 10_000) for source in rows["source"]]
        if twice := [source for source, count in Counter(sources).items() if count > 1]:
            raise ValueError(
                f"{dataset}: {count_of(len(twice), 'source')} of its rows occur twice ({listed(twice[:SHOWN_IDS])}), "
                "so their questions would have the same ids; give each row its own source."
            )
        self._places = place_questions(rows, with_conversations)  # (Q, 2): row and number in it
        self._num_targets = np.bincount(place_questions(rows, False)[:, 0], minlength=len(rows))  # (R,)
        self._texts, self._images = rows.remove_columns("image"), rows.select_columns("image")
        self._sizes: dict[int, tuple[int, int] | None] = {}  # row: size of its image
        self._row: tuple[int, dict, list[Conversation], list[list[RLE]]] | None = None  # last result of `_read`
        self.ids = [f"{sources[row]}#{number}" for row, number in self._places.tolist()]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Question:
        at, number = self._places[index].tolist()
        row, conversations, masks = self._read(at)
        text, expected = conversations[number].turns[-1]
        target = row["targets"][number] if conversations[number].targets else None
        ignore = None if target is None else target["ignore"]
        return Question(
            id=self.ids[index],
            dataset=self.dataset,
            source=row["source"],
            kind=None if target is None else target["kind"],
            text=text,
            expected=expected,
            size=self._size(at),
            targets=None if target is None else masks[number],
            ignore=None if ignore is None else self._rle(ignore, at, row["source"]),
            others=[] if target is None else sum(masks[:number] + masks[number + 1 :], []),
            names=[] if target is None else names_of(row["targets"], number),
        )

    def history(self, index: int) -> list[tuple[str, str]]:
        """Return the turns before a question of a conversation, (question, right answer) each; [] for the first."""
        at, number = self._places[index].tolist()
        return list(self._read(at)[1][number].turns[:-1])

    def size(self, index: int) -> tuple[int, int] | None:
        """Return (height, width) in pixels of the upright image of a question; None if it has none."""
        return self._size(int(self._places[index, 0]))

    def asks_for_words(self, index: int) -> bool:
        """Return whether a question is a VQA question, without masks."""
        at, number = self._places[index].tolist()
        return bool(number >= self._num_targets[at])

    def image(self, index: int) -> Image.Image | None:
        """Return the image of a question as upright RGB; None if it has none. Errors as in `rows.load_image`."""
        at = int(self._places[index, 0])
        return load_image(self._images[at]["image"], self._texts[at]["source"])

    def image_file(self, index: int) -> tuple[str | None, bytes | None]:
        """Return the path of the image of a question, and its bytes if the row contains them instead of a file."""
        image = self._images[int(self._places[index, 0])]["image"] or {}
        return image.get("path"), image.get("bytes")

    @functools.cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of all questions in hexadecimal digits. All image files are read."""
        digest = hashlib.sha256()
        for index, question in enumerate(self):
            masks = None if question.targets is None else [mask["counts"] for mask in question.targets]
            ignore = None if question.ignore is None else question.ignore["counts"]
            facts = [question.id, question.kind, question.text, question.expected, question.size, masks, ignore]
            digest.update(json.dumps([*facts, self._digests[index]]).encode() + b"\n")
        return digest.hexdigest()

    @functools.cached_property
    def duplicates(self) -> list[list[str]]:
        """The ids of questions with the same text about the same image file, one list per group of them."""
        asked = defaultdict(list)
        for index, question in enumerate(self):
            asked[self._digests[index], question.text].append(question.id)
        return [ids for ids in asked.values() if len(ids) > 1]

    @functools.cached_property
    def _digests(self) -> list[str | None]:
        """The SHA-256 of the image file of each question; None without an image."""
        found: dict[int, str | None] = {}
        for at in self._places[:, 0].tolist():
            if at not in found:
                image = self._images[at]["image"]
                content = content_of(image)
                if at not in self._sizes:
                    self._sizes[at] = _size_of(image, content, self._texts[at]["source"])
                found[at] = None if content is None else hashlib.sha256(content).hexdigest()
        return [found[at] for at in self._places[:, 0].tolist()]

    def index_of(self, name: str | int) -> int:
        """Return the index of the question that a prediction names.

        Args:
            name: id or index of the question. Also the source of a row with one question, or the last part of such a
                source if it is unique: both with or without the suffix of an image.

        Raises:
            ValueError: it names no question, or several.
        """
        if isinstance(name, int):
            if 0 <= name < len(self):
                return name
            raise ValueError(
                f"no question has the number {show(name)}; the {len(self):,} questions are counted from 0. "
                f"--write_questions lists them."
            )
        for key in (name, _without_suffix(name)):
            if key in self._names:
                if len(self._names[key]) == 1:
                    return self._names[key][0]
                several = [self.ids[index] for index in self._names[key][:SHOWN_IDS]]
                raise ValueError(
                    f"{name_of(name)} names {len(self._names[key]):,} questions ({listed(several)}, …); give their ids."
                )
        if name in self._ids_of_words():
            raise ValueError(
                f"the question {name_of(name)} asks for words, but no prediction has a text; remove it, or add texts."
            )
        raise ValueError(f"no question has the id {name_of(name)}. --write_questions lists the ids.")

    def _ids_of_words(self) -> set[str]:
        """Return the ids of the questions that ask for words and are not in this benchmark."""
        sources = self.rows["source"]
        every = place_questions(self.rows, True).tolist()
        return {f"{name_of(sources[row], 10_000)}#{number}" for row, number in every} - set(self.ids)

    def knows(self, name: str) -> bool:
        """Return whether a name of `index_of` names a question, or several."""
        return name in self._names or _without_suffix(name) in self._names

    @functools.cached_property
    def _names(self) -> dict[str, list[int]]:
        """Each name of `index_of` with the questions that it names. An id names one question only."""
        names: dict[str, list[int]] = defaultdict(list)
        for index, id_ in enumerate(self.ids):
            source = id_.rpartition("#")[0]
            last = PurePosixPath(source).name
            for name in {source, last, _without_suffix(source), _without_suffix(last)}:
                names[name].append(index)
        return {**names, **{id_: [index] for index, id_ in enumerate(self.ids)}}

    def asked_about(self, image: str, text: str) -> int:
        """Return the index of the question with a text about an image, for files that name no ids.

        Args:
            image: path of the image. Only its name without the suffix is compared: with that of the row's image, and
                with the last part of its source.
            text: of the question, in its plain phrasing.

        Raises:
            ValueError: no question or several questions fit.
        """
        stem = _without_suffix(PurePosixPath(image.replace("\\", "/")).name)
        found = self._asked.get((stem, text), [])
        if len(found) == 1:
            return found[0]
        what = "no question fits" if not found else f"{len(found):,} questions fit"
        raise ValueError(f"{what} the image {name_of(stem)} and the text {show(text)}; add the key id.")

    @functools.cached_property
    def _asked(self) -> dict[tuple[str, str], list[int]]:
        asked = defaultdict(list)
        for index, question in enumerate(self):
            image = self._images[int(self._places[index, 0])]["image"] or {}
            # The last one is the name of an image that `write_questions` wrote
            places = {question.source, image.get("path") or question.source, quote(question.source, safe="")}
            for stem in {_without_suffix(PurePosixPath(place.replace("\\", "/")).name) for place in places}:
                asked[stem, question.text].append(index)
        return dict(asked)

    def _read(self, at: int) -> tuple[dict, list[Conversation], list[list[RLE]]]:
        """Return a row without its image, its questions, and the masks of each of its targets."""
        if self._row is None or self._row[0] != at:
            row = self._texts[at]
            check_row(row)
            if self._size(at) is None and row["targets"]:
                raise ValueError(
                    f"{name_of(row['source'])}: a row without an image cannot have targets; add the image or remove "
                    "them."
                )
            masks = [[self._rle(mask, at, row["source"]) for mask in target["masks"]] for target in row["targets"]]
            self._row = (at, row, ask_plainly(row), masks)
        return self._row[1:]

    def _rle(self, mask: RLE, at: int, source: str) -> RLE:
        """Return a mask of a row with valid counts, at the size of its image."""
        return segmentation_runs({**mask, "size": list(mask["size"])}, self._size(at), name_of(source))

    def _size(self, at: int) -> tuple[int, int] | None:
        if at not in self._sizes:
            image = self._images[at]["image"]
            self._sizes[at] = _size_of(image, content_of(image), self._texts[at]["source"])
        return self._sizes[at]


def list_questions(rows: Dataset, dataset: str, with_conversations: bool = False) -> Benchmark:
    """Return the questions of rows; see `Benchmark` for the arguments and errors."""
    return Benchmark(rows, dataset, with_conversations)


def manifest(benchmark: Benchmark) -> dict[str, Any]:
    """Return what identifies a benchmark: ids, count, fingerprint and known duplicates."""
    return {
        "dataset": benchmark.dataset,
        "count": len(benchmark),
        "fingerprint": benchmark.fingerprint,
        "duplicates": benchmark.duplicates,
        "ids": benchmark.ids,
    }


def questions_files(path: Path) -> dict[str, Path]:
    """Return the files that `write_questions` writes: {"questions": path, "manifest": file beside it}."""
    return {"questions": path, "manifest": path.with_suffix(".manifest.json")}


def write_questions(benchmark: Benchmark, path: Path) -> int:
    """Write the questions as JSON Lines without their answers, and the manifest beside them.

    Keys of a line: `index`, `id`, `question`, `source`, `image`, `size` ([height, width] in pixels), `asks` ("masks",
    or "words" for a VQA question). A later turn of a conversation has `history`, a list of [question, right answer] to
    be given before the question.

    `image` is the path of the image file, or null if there is none. The images of rows that contain them as bytes are
    written into the folder F.images beside F.jsonl, and their paths are relative to F.jsonl.

    Returns:
        Number of images in the folder F.images.

    Raises:
        WriteError: a file cannot be written.
        ValueError: a row is not valid, or the folder has another file with the name of an image.
    """
    lines, images = [], {}
    for index, question in enumerate(benchmark):
        if question.source not in images:
            images[question.source] = _place_image(*benchmark.image_file(index), question.source, path)
        line = {"index": index, "id": question.id, "question": question.text, "source": question.source}
        line |= {"image": images[question.source], "size": question.size}
        line |= {"asks": "words" if question.targets is None else "masks"}
        if history := benchmark.history(index):
            line["history"] = history
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    files = questions_files(path)
    write_whole(files["questions"], "".join(lines))
    write_whole(files["manifest"], manifest(benchmark))
    return sum(image is not None and image.startswith(f"{path.with_suffix(IMAGES).name}/") for image in images.values())


def _place_image(stored: str | None, content: bytes | None, source: str, questions: Path) -> str | None:
    """Return the path of an image; one that is not in a file is written beside the questions file."""
    if content is None:
        return stored
    kind = next((suffix for start, suffix in _STARTS.items() if content.startswith(start)), "")
    folder = questions.with_suffix(IMAGES)
    place = folder / f"{quote(source, safe='')}{kind}"
    with one_line_errors(place, "cannot be written"):
        if place.exists() and place.read_bytes() != content:
            raise ValueError(f"{place}: a different file with this name exists; delete the folder {folder}.")
    write_bytes(place, content)
    return f"{folder.name}/{place.name}"


def _without_suffix(name: str) -> str:
    """Return a name without the suffix of an image. Other suffixes stay: they are part of the name."""
    stem, dot, suffix = name.rpartition(".")
    return stem if stem and f"{dot}{suffix}".lower() in SUFFIXES else name


def _size_of(image: Any, content: bytes | None, source: str) -> tuple[int, int] | None:
    """Return (height, width) in pixels of an upright image. A PNG without an orientation is not decoded.

    Raises:
        ValueError: as `LazyImage.size`.
    """
    if content is not None and content.startswith(_PNG) and content[12:16] == b"IHDR":
        width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
        if 0 < width * height <= pixel_limit() and not any(name in content for name in _ORIENTATIONS):
            return height, width
    lazy = lazy_image(image, source)
    return None if lazy is None else (lazy.height, lazy.width)

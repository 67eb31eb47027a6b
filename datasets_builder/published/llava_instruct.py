"""Read LLaVA-Instruct: conversations about photos, without masks.

    llava_dataset/llava_instruct_150k.json    "150k": image "000000033471.jpg" is relative to coco/train2017
    llava_dataset/llava_v1_5_mix665k.json     "mix665k": image "gqa/images/2376553.jpg" is relative to data_dir
    coco/train2017/, gqa/images/, ocr_vqa/images/, textvqa/train_images/, vg/{VG_100K,VG_100K_2}/

A row is one conversation of questions by a person and answers by the assistant. Some of mix665k have no photo.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from gemma_lisa.datasets_builder.formats.coco_files import path_inside
from gemma_lisa.datasets_builder.formats.jpeg_header import stored_size
from gemma_lisa.datasets_builder.formats.json_files import read_records
from gemma_lisa.datasets_builder.rows import RESERVED, new_row
from gemma_lisa.safety.short_text import listed, name_of, show

from .archives import Archive, ArchiveBuilder, ArchiveConfig, require_file

FILES = {"150k": "llava_instruct_150k.json", "mix665k": "llava_v1_5_mix665k.json"}
COUNTS_FROM = {"150k": "coco/train2017", "mix665k": ""}  # folder that `image` is relative to, relative to data_dir
PHOTOS = {
    "150k": ("coco/train2017",),
    "mix665k": (
        "coco/train2017",
        "gqa/images",
        "ocr_vqa/images",
        "textvqa/train_images",
        "vg/VG_100K",
        "vg/VG_100K_2",
    ),
}
HUMAN, GPT = "human", "gpt"
SLOT = "<image>"  # position of the photo in LLaVA's text; removed, because here the photo always comes first


@dataclass
class LlavaInstructConfig(ArchiveConfig):
    def index_paths(self) -> list[Path]:
        return [self.json_file, *(self.root / folder for folder in PHOTOS[self.name])]

    @property
    def json_file(self) -> Path:
        return self.root / LlavaInstruct.ARCHIVE.folder / FILES[self.name]


class LlavaInstruct(ArchiveBuilder):
    VERSION = datasets.Version("1.1.0")  # increase it if the rows of the same files change
    BUILDER_CONFIG_CLASS = LlavaInstructConfig
    BUILDER_CONFIGS = [
        LlavaInstructConfig(name="150k", version=VERSION),
        LlavaInstructConfig(name="mix665k", version=VERSION),
    ]
    DEFAULT_CONFIG_NAME = "150k"
    SIZES = {"150k": {"train": 157_712}, "mix665k": {"train": 665_298}}
    ARCHIVE = Archive(
        title="LLaVA-Instruct",
        folder="llava_dataset",
        get="Download llava_instruct_150k.json or llava_v1_5_mix665k.json into llava_dataset; move the folder of "
        "COCO's train2017.zip into coco. mix665k also needs the photos of GQA, OCR-VQA, TextVQA and Visual Genome in "
        "gqa/images, ocr_vqa/images, textvqa/train_images, vg/VG_100K and vg/VG_100K_2.",
        homepage="https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
        license="CC-BY-4.0, use must comply with OpenAI's terms; photos under their own terms",
        citation="Liu et al., Visual Instruction Tuning, NeurIPS 2023",
        unit="records",
    )

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        self.folder()
        file = require_file(self.config.json_file, self.ARCHIVE)
        return [datasets.SplitGenerator("train", gen_kwargs={"split": "train", "file": file})]

    def _generate_examples(self, split: str, file: Path) -> Iterator[tuple[str, dict]]:
        photos = Photos(self.config.root, self.config.root / COUNTS_FROM[self.config.name])
        answer_first = []  # records that start with an answer

        def row_of(numbered: tuple[str, int, Any]) -> dict | None:
            where, place, record = numbered
            if not isinstance(record, dict) or not isinstance(record.get("id"), str | int):
                raise ValueError(f"{where}: has no id (a string or an integer); download the file again.")
            where += f", id {name_of(record['id'])}"
            turns, dropped = _turns(record, where)
            if dropped:
                answer_first.append(where)
            if not turns:
                return None
            image = None
            if record.get("image") is not None:
                image = photos.find(record["image"], where)
            elif any(_has_slot_line(turn["value"]) for turn in record["conversations"] if turn["from"] == HUMAN):
                raise ValueError(
                    f"{where}: its questions contain {SLOT}, but it has no image; add the image or remove {SLOT}."
                )
            # Several conversations about a photo have the same id
            source = f"{self.name}/{split}/{record['id']}-{place}"
            return new_row(image, source, [], turns)

        records = enumerate(read_records(file))
        named = ((f"{file}: record {place} (counted from 0)", place, record) for place, record in records)
        yield from self.rows(((numbered[0], numbered) for numbered in named), row_of)
        self.remark_cases(file, {"answers before the first question": answer_first})


class Photos:
    """Find photos, and list each folder and check each photo only once.

    There are several hundred thousand lookups, and several conversations about each photo.

    Args:
        root: the data folder.
        folder: folder that the names of photos are relative to.
    """

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder = root, folder
        self._listed: dict[Path, set[str]] = {}
        self._whole: set[str] = set()

    def find(self, name: Any, where: str) -> str:
        """Return the path of a photo.

        Raises:
            ValueError: the name is not a path in the data folder, or the file does not exist or cannot be read.
        """
        if not isinstance(name, str) or not Path(name).suffix:
            raise ValueError(f"{where}: image must be the path of an image file, got {show(str(name))}.")
        path = path_inside(self.folder, name, (self.root,), where)
        folder = path.parent
        if folder not in self._listed:
            self._listed[folder] = set(os.listdir(folder)) if folder.is_dir() else set()
        if path.name not in self._listed[folder]:
            raise ValueError(f"{where}: {path}: no such file. {LlavaInstruct.ARCHIVE.instructions}")
        found = str(path)  # only once, because it is slow for the paths of 🤗 Datasets
        if found not in self._whole:
            stored_size(path, where)
            self._whole.add(found)
        return found


def _turns(record: dict, where: str) -> tuple[list[dict], bool]:
    """Return the turns of a record, and whether answers before the first question were skipped.

    Raises:
        ValueError: questions and answers do not alternate, one of them is empty, or an answer contains [SEG] or {seg}.
    """
    turns = record.get("conversations")
    if not isinstance(turns, list) or not all(map(_is_turn, turns)):
        raise ValueError(
            f"{where}: conversations must be a list of objects with the texts from and value, got {show(turns)}."
        )
    first = next((at for at, turn in enumerate(turns) if turn["from"] != GPT), len(turns))
    asked = turns[first:]
    speakers = [turn["from"] for turn in asked]
    if len(speakers) % 2 or speakers != [HUMAN, GPT] * (len(speakers) // 2):
        raise ValueError(f"{where}: its turns must alternate between {HUMAN} and {GPT}, got {listed(speakers)}.")
    turns = []
    for human, gpt in zip(asked[::2], asked[1::2], strict=True):
        question = human["value"] if record.get("image") is None else _without_slot(human["value"])
        question, answer = question.strip(), gpt["value"].strip()
        if not question or not answer:
            raise ValueError(f"{where}: a question or an answer is empty.")
        if reserved := next((mark for mark in RESERVED if mark in answer), None):
            raise ValueError(f"{where}: an answer contains {reserved}, which is reserved for masks; remove it.")
        turns.append({"question": question, "answer": answer})
    return turns, first > 0


def _has_slot_line(text: str) -> bool:
    """Return whether the first or last line of a text is only the slot. Text about code can contain it elsewhere."""
    begin, end = text.lstrip(), text.rstrip()
    behind = begin.removeprefix(SLOT) if begin.startswith(SLOT) else ""
    before = end.removesuffix(SLOT) if end.endswith(SLOT) else ""
    return "\n" in behind[: len(behind) - len(behind.lstrip())] or "\n" in before[len(before.rstrip()) :]


def _without_slot(text: str) -> str:
    """Return the text with each slot and the spaces around it replaced by one space.

    A regular expression would take quadratic time.
    """
    first, *others = text.split(SLOT)
    if not others:
        return text
    *middle, last = others
    return " ".join([first.rstrip(), *(part.strip() for part in middle), last.lstrip()])


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("from"), str) and isinstance(turn.get("value"), str)

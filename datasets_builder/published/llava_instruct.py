"""LLaVA-Instruct: dialogues about photos, without masks.

    llava_dataset/llava_instruct_150k.json      "150k": image "000000033471.jpg" counts from coco/train2017
    llava_dataset/llava_v1_5_mix665k.json       "mix665k": image "gqa/images/2376553.jpg" counts from data_dir; or none
    coco/train2017/, gqa/images/, ocr_vqa/images/, textvqa/train_images/, vg/{VG_100K,VG_100K_2}/

A row is one dialogue, of people's questions and the assistant's answers in turn. Of mix665k some are about no photo.
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
COUNTS_FROM = {"150k": "coco/train2017", "mix665k": ""}  # below data_dir, what `image` does
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
SLOT = "<image>"  # where LLaVA puts the photo; here it always stands first


@dataclass
class LlavaInstructConfig(ArchiveConfig):
    def index_paths(self) -> list[Path]:
        return [self.json_file, *(self.root / folder for folder in PHOTOS[self.name])]

    @property
    def json_file(self) -> Path:
        return self.root / LlavaInstruct.ARCHIVE.folder / FILES[self.name]


class LlavaInstruct(ArchiveBuilder):
    VERSION = datasets.Version("1.1.0")  # raise it whenever the rows of the same files change
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
        get="Get llava_instruct_150k.json (or llava_v1_5_mix665k.json) from its homepage into llava_dataset, and "
        "COCO's train2017.zip into coco (for the latter also the photos of GQA, OCR-VQA, TextVQA and Visual Genome "
        "into gqa/images, ocr_vqa/images, textvqa/train_images, vg/VG_100K and vg/VG_100K_2).",
        homepage="https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
        license="CC-BY-4.0, and to be used by OpenAI's terms; photos under their own",
        citation="Liu et al., Visual Instruction Tuning, NeurIPS 2023",
        unit="records",
    )

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        self.folder()
        file = require_file(self.config.json_file, self.ARCHIVE)
        return [datasets.SplitGenerator("train", gen_kwargs={"split": "train", "file": file})]

    def _generate_examples(self, split: str, file: Path) -> Iterator[tuple[str, dict]]:
        photos = Photos(self.config.root, self.config.root / COUNTS_FROM[self.config.name])
        begun_by_gpt = []

        def row_of(numbered: tuple[str, int, Any]) -> dict | None:
            where, place, record = numbered
            if not isinstance(record, dict) or not isinstance(record.get("id"), str | int):
                raise ValueError(f"{where}: has no id; get the file again.")
            where += f", id {name_of(record['id'])}"
            turns, dropped = _rounds(record, where)
            if dropped:
                begun_by_gpt.append(where)
            if not turns:
                return None
            image = None
            if record.get("image") is not None:
                image = photos.find(record["image"], where)
            elif any(_has_slot_line(turn["value"]) for turn in record["conversations"] if turn["from"] == HUMAN):
                raise ValueError(f"{where}: its questions have the place of a photo, {SLOT}, but it names no image.")
            # An id comes several times, for several dialogues about one photo
            source = f"{self.name}/{split}/{record['id']}-{place}"
            return new_row(image, source, [], turns)

        records = enumerate(read_records(file))
        named = ((f"{file}: record {place} (from 0 on)", place, record) for place, record in records)
        yield from self.rows(((numbered[0], numbered) for numbered in named), row_of)
        if begun_by_gpt:
            self.remark(
                f"{file}: left out what {len(begun_by_gpt)} dialogues answer before the first question; the first: "
                f"{begun_by_gpt[0]}"
            )


class Photos:
    """Which photos there are: every folder is listed and every photo looked at once, for several dialogues are about
    one, and several hundred thousand are asked for."""

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder = root, folder  # the data folder, and where names count from
        self._listed: dict[Path, set[str]] = {}
        self._whole: set[str] = set()

    def find(self, name: Any, where: str) -> str:
        """The path of a photo.

        Raises:
            ValueError: no name, one that leads out of the data folder, no such file, or none that can be read.
        """
        if not isinstance(name, str) or not Path(name).suffix:
            raise ValueError(f"{where}: its image is {show(str(name))}, which is no path of a picture.")
        path = path_inside(self.folder, name, (self.root,), where)
        folder = path.parent
        if folder not in self._listed:
            self._listed[folder] = set(os.listdir(folder)) if folder.is_dir() else set()
        if path.name not in self._listed[folder]:
            raise ValueError(f"{where}: {path}: no such file. {LlavaInstruct.ARCHIVE.get}")
        found = str(path)  # once: of the paths that datasets puts in place of pathlib's it takes long
        if found not in self._whole:
            stored_size(path, where)
            self._whole.add(found)
        return found


def _rounds(record: dict, where: str) -> tuple[list[dict], bool]:
    """A record's questions and answers, and whether it had answers before the first question, which are left out.

    Raises:
        ValueError: turns that do not alternate, that are empty, or an answer that would ask for a mask.
    """
    turns = record.get("conversations")
    if not isinstance(turns, list) or not all(map(_is_turn, turns)):
        raise ValueError(f"{where}: its conversations are no list of turns, each with from and value.")
    first = next((at for at, turn in enumerate(turns) if turn["from"] != GPT), len(turns))
    asked = turns[first:]
    speakers = [turn["from"] for turn in asked]
    if len(speakers) % 2 or speakers != [HUMAN, GPT] * (len(speakers) // 2):
        raise ValueError(f"{where}: its turns are by {listed(speakers)}; {HUMAN} and {GPT} must alternate.")
    turns = []
    for human, gpt in zip(asked[::2], asked[1::2], strict=True):
        question = human["value"] if record.get("image") is None else _without_slot(human["value"])
        question, answer = question.strip(), gpt["value"].strip()
        if not question or not answer:
            raise ValueError(f"{where}: a turn of it says nothing.")
        if reserved := next((mark for mark in RESERVED if mark in answer), None):
            raise ValueError(f"{where}: an answer of it says {reserved}, which stands for a mask.")
        turns.append({"question": question, "answer": answer})
    return turns, first > 0


def _has_slot_line(text: str) -> bool:
    """Whether the first or the last line of a text is the slot alone; a dialogue on code may hold it elsewhere."""
    begin, end = text.lstrip(), text.rstrip()
    behind = begin.removeprefix(SLOT) if begin.startswith(SLOT) else ""
    before = end.removesuffix(SLOT) if end.endswith(SLOT) else ""
    return "\n" in behind[: len(behind) - len(behind.lstrip())] or "\n" in before[len(before.rstrip()) :]


def _without_slot(text: str) -> str:
    """The text with a blank for each slot and the blanks around it. A regular expression would take quadratic time."""
    first, *others = text.split(SLOT)
    if not others:
        return text
    *middle, last = others
    return " ".join([first.rstrip(), *(part.strip() for part in middle), last.lstrip()])


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("from"), str) and isinstance(turn.get("value"), str)

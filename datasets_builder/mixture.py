"""From the name of a data set to samples that a collator takes: rows, asked in words."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from datasets.exceptions import DatasetGenerationError
from torch.utils.data import Dataset as TorchDataset

from .ade20k import Ade20k
from .coco_instances import CocoInstances
from .coco_stuff import CocoStuff
from .folder import Folder
from .grefcoco import Grefcoco
from .llava_instruct import LlavaInstruct
from .mapillary import Mapillary
from .mmr import Mmr
from .muse import Muse
from .paco_lvis import PacoLvis
from .pascal_part import PascalPart
from .prepared import load_prepared
from .reason_seg import ReasonSeg
from .refer import Refclef, Refcoco, Refcocog, RefcocoPlus
from .rows import check_row, load_image, target_masks
from .shapes import Shapes
from .templates import ask, ask_plainly

BUILDERS = {
    "ade20k": Ade20k,
    "coco_instances": CocoInstances,
    "coco_stuff": CocoStuff,
    "folder": Folder,
    "grefcoco": Grefcoco,
    "llava_instruct": LlavaInstruct,
    "mapillary": Mapillary,
    "mmr": Mmr,
    "muse": Muse,
    "paco_lvis": PacoLvis,
    "pascal_part": PascalPart,
    "reason_seg": ReasonSeg,
    "refclef": Refclef,
    "refcoco": Refcoco,
    "refcoco_plus": RefcocoPlus,
    "refcocog": Refcocog,
    "shapes": Shapes,
}


def load_rows(name: str, split: str, data_dir: str | None = None, options: dict[str, Any] | None = None) -> Dataset:
    """The rows (`rows.ROW_FEATURES`) of a split of a data set: prepared at the first call, read from disk after it.

    Args:
        name: a key of `BUILDERS`, with a configuration after a slash where it has several: "shapes/easy". Or rows
            that are prepared already: a folder, or a name of the Hub, see `prepared.load_prepared`.
        split: train, validation, test, or whatever the data set calls its own.
        data_dir: folder of the data set's original files, for sets that have any.
        options: fields of the builder's configuration.

    Raises:
        ValueError: an unknown name, split or option, with those there are; a data set without rows; what a builder
            finds wrong with the files, with the file and the record.
    """
    if name.partition("/")[0] not in BUILDERS and ("/" in name or Path(name).is_dir()):
        if options:
            raise ValueError(f"{name}: rows that are prepared have no options, not {', '.join(sorted(options))}.")
        return load_prepared(name, split)
    name, _, config_name = name.partition("/")
    if name not in BUILDERS:
        raise ValueError(f"No data set is called {name!r}; there are: {', '.join(BUILDERS)}.")
    builder_class = BUILDERS[name]
    fields = builder_class.BUILDER_CONFIG_CLASS.__dataclass_fields__
    if unknown := set(options or {}) - set(fields):
        raise ValueError(f"{name} has no option {', '.join(sorted(unknown))}; it has: {', '.join(sorted(fields))}.")
    configs = list(builder_class.builder_configs)
    if config_name and config_name not in configs:
        raise ValueError(f"{name} has no configuration {config_name!r}; it has: {', '.join(configs)}.")
    if data_dir is not None and not Path(data_dir).is_dir():
        raise ValueError(f"{data_dir}: no such folder.")
    builder = builder_class(config_name=config_name or None, data_dir=data_dir, **(options or {}))
    try:
        builder.download_and_prepare()
    except DatasetGenerationError as error:  # says only that there was an error; its cause names the row
        raise error.__cause__ or error from None
    if split not in builder.info.splits:
        raise ValueError(f"{name} has no split {split!r}; it has: {', '.join(builder.info.splits)}.")
    if not builder.info.splits[split].num_examples:
        raise ValueError(f"{name}: its split {split!r} holds no row.")
    return builder.as_dataset(split=split)


class TrainingQuestions(TorchDataset):
    """Rows asked in new words every epoch; sample i of epoch e is a function of (seed, e, i).

    A sample: source (str), image (PIL RGB, or None), chats (list of `templates.Chat`) and masks (for each chat a uint8
    (K, H, W) of 0, 1 and 255 = not counted, in the order of its answer's `{seg}`; None where it asks for no target).
    """

    def __init__(self, rows: Dataset, seed: int, max_questions: int):
        self.rows, self.seed, self.max_questions = rows, seed, max_questions
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers that outlive an epoch see it change

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        generator = np.random.default_rng((self.seed, int(self._epoch), index))
        return _sample(row, ask(row, generator, self.max_questions))


class EvaluationQuestions(TorchDataset):
    """Every question of the rows as a sample of its own, in plain words; samples as above, with their index.

    Args:
        rows: a split.
        with_conversations: also the VQA questions, by their first round.
    """

    def __init__(self, rows: Dataset, with_conversations: bool):
        self.rows = rows
        targets = rows.select_columns(["targets", "conversation"])
        self.questions = [
            (at, chat)
            for at, row in enumerate(targets)
            for chat in range(len(row["targets"]) + int(with_conversations and bool(row["conversation"])))
        ]

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        at, chat = self.questions[index]
        row = self.rows[at]
        return {**_sample(row, [ask_plainly(row)[chat]]), "index": index}


def _sample(row: dict[str, Any], chats: list) -> dict[str, Any]:
    check_row(row)
    image = load_image(row["image"], row["source"])
    if image is None and any(chat.target for chat in chats):
        raise ValueError(f"{row['source']}: a row without an image has targets; give it its image or only a dialogue.")
    masks = [
        target_masks(chat.target, (image.height, image.width), row["source"]) if chat.target else None for chat in chats
    ]
    return {"source": row["source"], "image": image, "chats": chats, "masks": masks}

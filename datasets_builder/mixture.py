"""Load data sets by name, and mixtures of them, without photos of evaluation splits."""

import json
from collections.abc import Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
from datasets import BuilderConfig, Dataset
from datasets.exceptions import DatasetGenerationError

from gemma_lisa.datasets_builder.custom.coco_instances import CocoInstances
from gemma_lisa.datasets_builder.custom.folder import Folder
from gemma_lisa.datasets_builder.published.ade20k import Ade20k
from gemma_lisa.datasets_builder.published.coco_stuff import CocoStuff
from gemma_lisa.datasets_builder.published.grefcoco import Grefcoco
from gemma_lisa.datasets_builder.published.llava_instruct import LlavaInstruct
from gemma_lisa.datasets_builder.published.mapillary import Mapillary
from gemma_lisa.datasets_builder.published.mmr import Mmr
from gemma_lisa.datasets_builder.published.muse import Muse
from gemma_lisa.datasets_builder.published.paco_lvis import PacoLvis
from gemma_lisa.datasets_builder.published.pascal_part import PascalPart
from gemma_lisa.datasets_builder.published.reason_seg import ReasonSeg
from gemma_lisa.datasets_builder.published.reason_seg_tables import ReasonSegR, ReasonSegX
from gemma_lisa.datasets_builder.published.refer import Refclef, Refcoco, Refcocog, RefcocoPlus
from gemma_lisa.datasets_builder.synthetic.shapes import Shapes
from gemma_lisa.safety.short_text import show

from .leakage import kept_rows, report
from .prepared import is_prepared, load_prepared, own_data_advice
from .rows_builder import RowsBuilder, damaged_cache
from .tolerant_builder import TolerantBuilder

if TYPE_CHECKING:
    from .streams import Stream

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
    "reason_seg_r": ReasonSegR,
    "reason_seg_x": ReasonSegX,
    "refclef": Refclef,
    "refcoco": Refcoco,
    "refcoco_plus": RefcocoPlus,
    "refcocog": Refcocog,
    "shapes": Shapes,
}


NO_OPTIONS = "prepared rows do not support options"


@dataclass(frozen=True)
class Part:
    """A data set of a mixture: its rows, and its share of the samples relative to the other shares."""

    name: str
    rows: Sized  # a datasets.Dataset, or a streams.Stream for streams.StreamedQuestions
    share: float


def load_rows(name: str, split: str, data_dir: str | None = None, options: dict[str, Any] | None = None) -> Dataset:
    """Load the rows (`rows.ROW_FEATURES`) of a split of a data set.

    The first call prepares the rows and caches them on disk. Later calls read the cache.

    Args:
        name: a key of `BUILDERS`, with a configuration after a slash if it has several: "shapes/easy". Or prepared
            rows: a folder or a Hub name, see `prepared.load_prepared`.
        split: train, validation, test, or another split of the data set.
        data_dir: folder of the data set's original files. For rows saved with `save_to_disk`, folder of their images.
        options: fields of the builder's configuration.

    Raises:
        ValueError: the name, split or option does not exist (the message lists those that do), the split has no rows,
            or a file is wrong (the message names the file and the record).
    """
    if name.partition("/")[0] not in BUILDERS and ("/" in name or Path(name).is_dir()):
        if Path(name).is_dir() and not is_prepared(Path(name)):
            raise ValueError(own_data_advice(name))
        if options:
            raise ValueError(f"{name}: {NO_OPTIONS}, got {', '.join(sorted(options))}.")
        return load_prepared(name, split, data_dir)
    builder = builder_of(name, data_dir, options)
    make_rows(builder)
    if split not in builder.info.splits:
        raise ValueError(f"{name} has no split {show(split)}; it has: {', '.join(builder.info.splits)}.")
    if not builder.info.splits[split].num_examples:
        raise ValueError(f"{name}: its split {show(split)} has no rows.")
    return builder.as_dataset(split=split)


def builder_of(
    name: str, data_dir: str | None = None, options: dict[str, Any] | None = None, cache_dir: str | None = None
) -> RowsBuilder:
    """Return the builder of a data set.

    Args:
        name, data_dir, options: as in `load_rows`.
        cache_dir: folder of the prepared rows (default: the cache of 🤗 Datasets).
    """
    name, _, config_name = name.partition("/")
    if name not in BUILDERS:
        raise ValueError(
            f"Unknown data set {show(name)}; choose one of: {', '.join(BUILDERS)}. "
            "For your own images, use --dataset folder --data_dir FOLDER."
        )
    builder_class = BUILDERS[name]
    config_class = builder_class.BUILDER_CONFIG_CLASS
    fields = [field for field in config_class.__dataclass_fields__ if field not in BuilderConfig.__dataclass_fields__]
    if unknown := set(options or {}) - set(fields):
        raise ValueError(f"{name} has no option {', '.join(sorted(unknown))}; it has: {', '.join(sorted(fields))}.")
    configs = list(builder_class.builder_configs)
    if config_name and config_name not in configs:
        raise ValueError(f"{name} has no configuration {show(config_name)}; it has: {', '.join(configs)}.")
    if data_dir is not None and not Path(data_dir).is_dir():
        raise ValueError(f"{data_dir}: no such folder; set data_dir to the folder of the data sets' original files.")
    try:
        return builder_class(config_name=config_name or None, data_dir=data_dir, cache_dir=cache_dir, **(options or {}))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:  # a damaged dataset_info.json in the cache
        folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / name
        raise ValueError(damaged_cache(str(folder), error)) from error


def make_rows(builder: RowsBuilder) -> None:
    """Prepare the builder's rows if they are not cached; a wrong file raises a ValueError that names it."""
    try:
        builder.download_and_prepare()
    except DatasetGenerationError as error:  # only its cause names the row
        raise error.__cause__ or error from None


def load_mixture(
    groups: dict[str, Any],
    split: str,
    data_dir: str | None,
    held_out: dict[int | str, str] | None,
    streaming: bool = False,
    max_bad: int | None = None,
) -> list[Part]:
    """Load the data sets of a mixture, each with its share of the samples.

    Args:
        groups: {group: {"weight": w, "sets": [name, ...] or {name: options, ...}, "by_size": bool}}. The weight of a
            group is divided equally among its sets, or in proportion to their numbers of rows if by_size is true. The
            options of a set can include its own data_dir.
        split: name of the training split.
        data_dir: folder of the data sets' original files.
        held_out: as in `load_training_rows`.
        streaming: read the rows during training (`streams.open_stream`). All sets must be prepared rows.
        max_bad: default of this option for sets that have it (`tolerating`).

    Raises:
        ValueError: a group has another format, or a data set cannot be loaded (see `load_rows`).
    """
    options_of, parts = sets_of(groups), []
    for content in groups.values():
        loaded = {}
        for name in content["sets"]:
            options = tolerating(name, options_of[name], max_bad)
            if streaming:
                loaded[name] = _stream(name, split, options, held_out)
            else:
                loaded[name] = load_training_rows(name, split, options.pop("data_dir", data_dir), options, held_out)
        sizes = {name: len(rows) if content.get("by_size") else 1 for name, rows in loaded.items()}
        for name, rows in loaded.items():
            parts.append(Part(name, rows, content["weight"] * sizes[name] / sum(sizes.values())))
    return parts


def sets_of(groups: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the options of each data set in a mixture's groups: {name: options}.

    Raises:
        ValueError: a group does not have the format of `load_mixture`.
    """
    found = {}
    for group, content in groups.items():
        if not isinstance(content, dict) or not {"weight", "sets"} <= set(content) <= {"weight", "sets", "by_size"}:
            raise ValueError(
                f"mixture: group {group} must have the keys weight and sets, and optionally by_size, "
                f"got {show(content)}."
            )
        weight, sets = content["weight"], content["sets"]
        if not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise ValueError(f"mixture: weight of group {group} must be a number above 0, got {show(weight)}.")
        if not isinstance(sets, list | dict) or not sets or not all(isinstance(name, str) and name for name in sets):
            raise ValueError(
                f"mixture: sets of group {group} must list at least one data set, such as [ade20k], got {show(sets)}."
            )
        if len(set(sets)) < len(sets) or set(sets) & set(found):
            twice = sorted(name for name in set(sets) if list(sets).count(name) > 1 or name in found)
            raise ValueError(f"mixture: {', '.join(twice)} of group {group} is listed twice; list each data set once.")
        for name, options in sets.items() if isinstance(sets, dict) else dict.fromkeys(sets).items():
            if not isinstance(options, dict | None):
                raise ValueError(
                    f"mixture: options of {name} in group {group} must be a mapping such as {{max_bad: 1}}, "
                    f"got {show(options)}."
                )
            found[name] = dict(options or {})
    return found


def tolerating(name: str, options: dict[str, Any] | None, max_bad: int | None) -> dict[str, Any]:
    """Return the options of a data set with `max_bad` added, if the set has this option and it is not given.

    Data sets that are not made from files, such as shapes, do not have this option.
    """
    builder_class = BUILDERS.get(name.partition("/")[0])
    has_it = builder_class is not None and issubclass(builder_class, TolerantBuilder)
    return {**({"max_bad": max_bad} if max_bad is not None and has_it else {}), **(options or {})}


def _stream(name: str, split: str, options: dict[str, Any], held_out: dict[int | str, str] | None) -> "Stream":
    if name.partition("/")[0] in BUILDERS:
        raise ValueError(
            f"{name}: streaming requires prepared rows; run `python -m gemma_lisa.datasets_builder prepare {name}` and "
            "list its output folder instead."
        )
    if options:
        raise ValueError(f"{name}: {NO_OPTIONS}, got {', '.join(sorted(options))}.")
    from .streams import open_stream  # imports torch, which takes seconds

    return open_stream(name, split, held_out)


def load_training_rows(
    name: str,
    split: str,
    data_dir: str | None,
    options: dict[str, Any] | None,
    held_out: dict[int | str, str] | None,
) -> Dataset:
    """Load rows as `load_rows` does, without rows that show photos of evaluation splits.

    Args:
        name, split, data_dir, options: as in `load_rows`.
        held_out: photos that must not be trained on (`leakage.photo_of`); None to keep all rows.
    """
    rows = load_rows(name, split, data_dir, options)
    return rows if held_out is None else _without(rows, held_out, name)


def _without(rows: Dataset, held_out: dict[int | str, str], name: str) -> Dataset:
    """Return the rows that do not show a held-out photo, and log how many were skipped."""
    kept, counts = kept_rows(rows.select_columns(["image", "source"]).with_format("arrow")[:], held_out)
    report(name, counts, held_out)
    return rows.select(kept) if counts["skipped"] else rows

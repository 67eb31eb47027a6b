"""The data sets by their names, and mixtures of them: rows that are loaded, shared out, and kept from leaking."""

import json
from pathlib import Path
from typing import Any

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
from gemma_lisa.datasets_builder.published.refer import Refclef, Refcoco, Refcocog, RefcocoPlus
from gemma_lisa.datasets_builder.synthetic.shapes import Shapes
from gemma_lisa.safety.short_text import show

from .leakage import kept_rows, report
from .prepared import is_prepared, load_prepared, own_data_advice
from .questions import Part
from .rows_builder import RowsBuilder, damaged_cache
from .streams import Stream, open_stream
from .tolerant_builder import TolerantBuilder

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
        data_dir: folder of the data set's original files, for sets that have any; of the pictures that rows saved to
            disk name.
        options: fields of the builder's configuration.

    Raises:
        ValueError: an unknown name, split or option, with those there are; a data set without rows; what a builder
            finds wrong with the files, with the file and the record.
    """
    if name.partition("/")[0] not in BUILDERS and ("/" in name or Path(name).is_dir()):
        if Path(name).is_dir() and not is_prepared(Path(name)):
            raise ValueError(own_data_advice(name))
        if options:
            raise ValueError(f"{name}: rows that are prepared have no options, not {', '.join(sorted(options))}.")
        return load_prepared(name, split, data_dir)
    builder = builder_of(name, data_dir, options)
    make_rows(builder)
    if split not in builder.info.splits:
        raise ValueError(f"{name} has no split {show(split)}; it has: {', '.join(builder.info.splits)}.")
    if not builder.info.splits[split].num_examples:
        raise ValueError(f"{name}: its split {show(split)} holds no row.")
    return builder.as_dataset(split=split)


def builder_of(
    name: str, data_dir: str | None = None, options: dict[str, Any] | None = None, cache_dir: str | None = None
) -> RowsBuilder:
    """The builder of a data set, arguments as in `load_rows`; cache_dir: where it keeps its rows, if not as usual."""
    name, _, config_name = name.partition("/")
    if name not in BUILDERS:
        raise ValueError(f"No data set is called {show(name)}; there are: {', '.join(BUILDERS)}.")
    builder_class = BUILDERS[name]
    config_class = builder_class.BUILDER_CONFIG_CLASS
    fields = [field for field in config_class.__dataclass_fields__ if field not in BuilderConfig.__dataclass_fields__]
    if unknown := set(options or {}) - set(fields):
        raise ValueError(f"{name} has no option {', '.join(sorted(unknown))}; it has: {', '.join(sorted(fields))}.")
    configs = list(builder_class.builder_configs)
    if config_name and config_name not in configs:
        raise ValueError(f"{name} has no configuration {show(config_name)}; it has: {', '.join(configs)}.")
    if data_dir is not None and not Path(data_dir).is_dir():
        raise ValueError(f"{data_dir}: no such folder.")
    try:
        return builder_class(config_name=config_name or None, data_dir=data_dir, cache_dir=cache_dir, **(options or {}))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:  # its dataset_info.json, of rows that are there
        folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / name
        raise ValueError(damaged_cache(str(folder), error)) from error


def make_rows(builder: RowsBuilder) -> None:
    """Make the builder's rows, or find them made; what is wrong with the files is a ValueError that names them."""
    try:
        builder.download_and_prepare()
    except DatasetGenerationError as error:  # says only that there was an error; its cause names the row
        raise error.__cause__ or error from None


def load_mixture(
    groups: dict[str, Any],
    split: str,
    data_dir: str | None,
    held_out: dict[int, str] | None,
    streaming: bool = False,
    max_bad: int | None = None,
) -> list[Part]:
    """The sets of a mixture's groups, each with its share of the samples.

    Args:
        groups: {name: {"weight": w, "sets": [name, ...] or {name: options, ...}, "by_size": bool}}. A group's weight is
            shared by its sets equally, or with by_size in proportion to their rows. Among the options of a set may be
            a data_dir of its own.
        split: the training split's name.
        data_dir: the folder below which the sets lie.
        held_out: as in `load_training_rows`.
        streaming: sets are prepared rows, and stay where they are (`streams.open_stream`).
        max_bad: of every set that has this option and does not give it itself (`tolerating`).

    Raises:
        ValueError: a group that is not written so; what `load_rows` refuses.
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
    """The options of every set in a mixture's groups, by its name.

    Raises:
        ValueError: a group that is not written as `load_mixture` says.
    """
    found = {}
    for group, content in groups.items():
        if not isinstance(content, dict) or not {"weight", "sets"} <= set(content) <= {"weight", "sets", "by_size"}:
            raise ValueError(f"mixture: {group} needs weight and sets, and may have by_size; it has {show(content)}.")
        weight, sets = content["weight"], content["sets"]
        if not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise ValueError(f"mixture: {group} needs a weight above 0, not {show(weight)}.")
        if not isinstance(sets, list | dict) or not sets or not all(isinstance(name, str) and name for name in sets):
            raise ValueError(f"mixture: {group} needs at least one set, as in sets: [ade20k], not {show(sets)}.")
        if len(set(sets)) < len(sets) or set(sets) & set(found):
            raise ValueError(f"mixture: a set of {group} is there twice; give it its weight in one place.")
        for name, options in sets.items() if isinstance(sets, dict) else dict.fromkeys(sets).items():
            if not isinstance(options, dict | None):
                raise ValueError(
                    f"mixture: {name} in {group} needs options with names, as {{...}}, not {show(options)}."
                )
            found[name] = dict(options or {})
    return found


def tolerating(name: str, options: dict[str, Any] | None, max_bad: int | None) -> dict[str, Any]:
    """The options of a set with so many bad files or records allowed, unless they say it themselves.

    Sets that have no such option, as those that are drawn, get none.
    """
    builder_class = BUILDERS.get(name.partition("/")[0])
    has_it = builder_class is not None and issubclass(builder_class, TolerantBuilder)
    return {**({"max_bad": max_bad} if max_bad is not None and has_it else {}), **(options or {})}


def _stream(name: str, split: str, options: dict[str, Any], held_out: dict[int, str] | None) -> Stream:
    if name.partition("/")[0] in BUILDERS:
        raise ValueError(
            f"{name}: only prepared rows are streamed; run `prepare {name}`, and name the folder it wrote."
        )
    if options:
        raise ValueError(f"{name}: rows that are prepared have no options, not {', '.join(sorted(options))}.")
    return open_stream(name, split, held_out)


def load_training_rows(
    name: str,
    split: str,
    data_dir: str | None,
    options: dict[str, Any] | None,
    held_out: dict[int, str] | None,
) -> Dataset:
    """`load_rows`, without the photos that are kept for evaluation.

    held_out: numbers of COCO's photos that must not be trained on (`leakage.held_out_images`); none: all may.
    """
    rows = load_rows(name, split, data_dir, options)
    return rows if held_out is None else _without(rows, held_out, name)


def _without(rows: Dataset, held_out: dict[int, str], name: str) -> Dataset:
    """The rows of a set but for those about a held-out photo of COCO's; how many those are is said."""
    kept, counts = kept_rows(rows.select_columns(["image", "source"]).with_format("arrow")[:], held_out)
    report(name, counts, held_out)
    return rows.select(kept) if counts["skipped"] else rows

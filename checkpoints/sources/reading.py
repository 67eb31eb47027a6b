"""Read configurations, processors and weights of other projects' checkpoints. Every error is one line."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedConfig

from gemma_lisa.checkpoints.adapter_base import is_adapter
from gemma_lisa.safety.short_text import VALUE_LENGTH, reason_of, shorten, show


def read(load: Callable[[str], Any], name: str, what: str) -> Any:
    """Return `load(name)`. `what` describes the result in the error message.

    Raises:
        ValueError: the folder or Hub name does not exist, or a file is missing or damaged.
    """
    try:
        return load(name)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{name}: the {what} cannot be read ({reason_of(error)}).") from error


def read_fields(name: str, option: str, accepted: Iterable[str], wanted: str) -> dict[str, Any]:
    """Return the fields of the config.json of a folder or Hub name.

    Args:
        name: folder or Hub name.
        option: option for the error message, such as "--gemma".
        accepted: expected values of `model_type`.
        wanted: description of the expected model, for the error message.

    Raises:
        ValueError: the folder or name does not exist, is of another model type, is an adapter, or has quantized
            weights.
    """
    if Path(name).is_file():
        raise ValueError(f"{option} {name}: this is a file; expected a folder or a Hub name in Hugging Face format.")
    is_file_name = name.endswith((".pth", ".gguf"))
    if not Path(name).is_dir() and (name.count("/") > 1 or name.startswith((".", "/", "~")) or is_file_name):
        what = "file" if is_file_name else "folder"
        raise ValueError(f"{option} {shorten(name, VALUE_LENGTH)}: the {what} does not exist.")  # and not a Hub name
    if is_adapter(name):
        raise ValueError(
            f"{option} {name}: this is an adapter. Merge it into its base model first: "
            f"python scripts/export.py --model {name} --output FOLDER"
        )
    fields, _ = read(PreTrainedConfig.get_config_dict, name, "checkpoint")
    if (found := fields.get("model_type")) not in accepted:
        found = f"a checkpoint of type {show(found)}" if found else "no config.json with a model_type"
        raise ValueError(f"{option} {name}: {found}; expected {wanted}.")
    if "quantization_config" in fields:
        raise ValueError(f"{option} {name}: its weights are quantized. Use the original checkpoint.")
    return fields


def check_whole(name: str, info: dict[str, Iterable], added: tuple[str, ...] = ()) -> None:
    """Check that a checkpoint has all weights of the model, except those of `added`, and no others.

    Args:
        info: loading info of `from_pretrained`.
        added: prefixes of modules that the checkpoint does not have.

    Raises:
        ValueError: weights are missing, unexpected or of the wrong shape.
    """
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(added))
    mismatched = sorted(key for key, *_ in info["mismatched_keys"])
    for keys, what in (
        (missing, "missing"),
        (sorted(info["unexpected_keys"]), "unexpected"),
        (mismatched, "not of the shape in config.json"),
    ):
        if keys:
            count = "1 weight is" if len(keys) == 1 else f"{len(keys)} weights are"
            raise ValueError(f"{name}: {count} {what}, such as {shorten(keys[0], VALUE_LENGTH)}.")

"""Record and check the base model of an adapter: its name, revision and a fingerprint of its weights."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from transformers.utils import CONFIG_NAME, cached_file

from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.short_text import VALUE_LENGTH, name_of, on_one_line, reason_of

BASE_FILE = "base.json"
ADAPTER_CONFIG = "adapter_config.json"
# Number of bytes that are hashed at the beginning and at the end of every tensor.
SAMPLED_BYTES = 2048
# A name that begins so is a path relative to the adapter's folder. No name on the Hub begins with a dot.
RELATIVE = ("./", "../")


@dataclass(frozen=True)
class Base:
    """The base model of an adapter.

    Args:
        name: absolute path of a folder, or a name on the Hub.
        revision: commit on the Hub, or None for a folder.
        fingerprint: hash of the weights (see `fingerprint`).
        made_by: command that makes the folder, or None. It is only shown, never run.
    """

    name: str
    revision: str | None
    fingerprint: str
    made_by: str | None = None


def is_adapter(path: str | Path) -> bool:
    """Return whether a folder contains an adapter instead of a whole checkpoint."""
    return (Path(path) / ADAPTER_CONFIG).is_file()


def identify(path: str | Path, revision: str | None = None) -> Base:
    """Return the `Base` of a folder or a Hub name. A model on the Hub must already be in the local cache.

    Raises:
        ValueError: the folder contains no safetensors file.
    """
    if Path(path).is_dir():
        return Base(str(Path(path).resolve()), None, fingerprint(Path(path)))
    snapshot = Path(cached_file(str(path), CONFIG_NAME, revision=revision)).parent  # .../snapshots/COMMIT
    return Base(str(path), snapshot.name, fingerprint(snapshot))


def fingerprint(folder: Path) -> str:
    """Return a hash of a folder's weights: name, type, shape and first and last bytes of every tensor.

    It takes seconds for gigabytes of weights and does not depend on how the weights are sharded.

    Raises:
        ValueError: the folder contains no safetensors file, or a damaged one.
    """
    tensors = {}
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            start = 8 + (size := int.from_bytes(file.read(8), "little"))  # the format: length, header, data
            if size > path.stat().st_size:
                raise ValueError(f"{path}: not a safetensors file, or the file is truncated. Copy it again.")
            header = parse_json(file.read(size))
            header.pop("__metadata__", None)
            for name, facts in header.items():
                begin, end = facts["data_offsets"]
                sampled = b""
                for at in (begin, max(begin, end - SAMPLED_BYTES)):
                    file.seek(start + at)
                    sampled += file.read(min(SAMPLED_BYTES, end - at))
                tensors[name] = f"{name} {facts['dtype']} {facts['shape']} ".encode() + sampled
    if not tensors:
        raise ValueError(f"{folder}: no .safetensors file, so its weights cannot be identified.")
    return hashlib.sha256(b"".join(tensors[name] for name in sorted(tensors))).hexdigest()


def write_base(folder: str | Path, base: Base) -> None:
    fields = {name: value for name, value in asdict(base).items() if name != "made_by" or value is not None}
    (Path(folder) / BASE_FILE).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def relative_to(adapter: str | Path, base: Base, made_by: str | None = None) -> Base:
    """Return a record that stays right when the folders of adapter and base model move together.

    Args:
        adapter: future folder of the adapter.
        base: its base model. A name on the Hub stays as it is.
        made_by: command that makes the base model.
    """
    if not Path(base.name).is_dir():
        return replace(base, made_by=made_by)
    path = Path(os.path.relpath(Path(base.name).resolve(), Path(adapter).resolve())).as_posix()
    return replace(base, name=path if path.startswith(RELATIVE) else f"./{path}", made_by=made_by)


def read_base(adapter: str | Path) -> Base:
    """Return the base model that an adapter's folder records. A relative path becomes an absolute one.

    Raises:
        ValueError: the record is missing or cannot be read.
    """
    path = Path(adapter) / BASE_FILE
    try:
        base = Base(**parse_json(path.read_bytes()))
        if base.name.startswith(RELATIVE):
            base = replace(base, name=str((path.parent / base.name).resolve()))
        return base
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: cannot be read ({reason_of(error, VALUE_LENGTH)}); expected name, revision and fingerprint of "
            "the adapter's base model. Copy the adapter again."
        ) from error


def find_base(adapter: str | Path) -> Base:
    """Return the base model that an adapter's folder records, after checking that its folder exists.

    Raises:
        ValueError: the record cannot be read, or the folder does not exist.
    """
    base = read_base(adapter)
    if base.revision is not None or os.path.isdir(base.name):  # Path.is_dir raises for a long name
        return base
    here = Path.cwd()
    name = base.name.removeprefix(f"{here}{os.sep}") if len(here.parts) > 1 else base.name
    name = on_one_line(name)
    if base.made_by:
        raise ValueError(f"The base model of {adapter} is not at {name}; make it with `{on_one_line(base.made_by)}`.")
    raise ValueError(
        f"{adapter}: the base model of this adapter, {name}, does not exist any more. If it was moved, give its folder "
        f"with --model BASE --adapter {adapter}."
    )


def check_base(adapter: str | Path, base: Base) -> None:
    """Check that an adapter was trained on this base model.

    Raises:
        ValueError: it was trained on another one.
    """
    wanted = read_base(adapter)
    if wanted.fingerprint != base.fingerprint:
        at = f" at revision {name_of(wanted.revision)}" if wanted.revision else ""
        raise ValueError(
            f"{adapter}: this adapter was trained on {on_one_line(wanted.name)}{at} (weights "
            f"{name_of(wanted.fingerprint, 12)}), not on {base.name} (weights {name_of(base.fingerprint, 12)}). Give "
            f"its base model with --model BASE --adapter {adapter}."
        )

"""Which checkpoint an adapter belongs to: its name, its revision and a fingerprint of its weights."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers.utils import CONFIG_NAME, cached_file

from gemma_lisa.safety.parsing import parse_json

BASE_FILE = "base.json"
ADAPTER_CONFIG = "adapter_config.json"
# Bytes that are hashed at the beginning and at the end of every tensor.
SAMPLED_BYTES = 2048


@dataclass(frozen=True)
class Base:
    """The checkpoint below an adapter.

    Args:
        name: absolute folder, or a name on the Hub.
        revision: the Hub's commit; None for a folder.
        fingerprint: of its weights (`fingerprint`).
    """

    name: str
    revision: str | None
    fingerprint: str


def is_adapter(path: str | Path) -> bool:
    """Whether a folder holds an adapter and not a whole checkpoint."""
    return (Path(path) / ADAPTER_CONFIG).is_file()


def identify(path: str | Path, revision: str | None = None) -> Base:
    """The folder or Hub name as the base of an adapter; what is on the Hub must have been opened before.

    Raises:
        ValueError: it holds no safetensors.
    """
    if Path(path).is_dir():
        return Base(str(Path(path).resolve()), None, fingerprint(Path(path)))
    snapshot = Path(cached_file(str(path), CONFIG_NAME, revision=revision)).parent  # .../snapshots/COMMIT
    return Base(str(path), snapshot.name, fingerprint(snapshot))


def fingerprint(folder: Path) -> str:
    """A hash over name, type, shape and some bytes of every tensor in the folder's safetensors, however they are cut
    into files: seconds for gigabytes, and other weights have another.

    Raises:
        ValueError: no safetensors there.
    """
    tensors = {}
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            start = 8 + (size := int.from_bytes(file.read(8), "little"))  # the format: length, header, data
            if size > path.stat().st_size:
                raise ValueError(f"{path}: no safetensors file, or it is cut off; get it again.")
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
        raise ValueError(f"{folder}: no .safetensors file, so nothing tells these weights from others.")
    return hashlib.sha256(b"".join(tensors[name] for name in sorted(tensors))).hexdigest()


def write_base(folder: str | Path, base: Base) -> None:
    (Path(folder) / BASE_FILE).write_text(json.dumps(asdict(base), indent=2) + "\n", encoding="utf-8")


def read_base(adapter: str | Path) -> Base:
    """What the adapter's folder says of its base.

    Raises:
        ValueError: it says nothing that can be read.
    """
    path = Path(adapter) / BASE_FILE
    try:
        return Base(**parse_json(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: it should say which base the adapter belongs to, but cannot be read ({error})."
        ) from error


def check_base(adapter: str | Path, base: Base) -> None:
    """The adapter was trained on this base.

    Raises:
        ValueError: it was trained on another.
    """
    wanted = read_base(adapter)
    if wanted.fingerprint != base.fingerprint:
        at = f" at revision {wanted.revision}" if wanted.revision else ""
        raise ValueError(
            f"{adapter}: the adapter of {wanted.name}{at} (weights {wanted.fingerprint[:12]}), not of {base.name} "
            f"(weights {base.fingerprint[:12]}); give it its own base with --model BASE --adapter {adapter}."
        )

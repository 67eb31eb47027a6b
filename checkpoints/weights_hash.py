"""Hash the weights of a checkpoint, so that results name what they were measured with."""

import hashlib
from pathlib import Path

from transformers.utils import CONFIG_NAME, cached_file

from .adapter_base import is_adapter, read_base
from .checksums import read_checksums, sums_of

_WEIGHTS = ("*.safetensors", "*.bin")  # the first pattern with files


def checkpoint_hash(model: str | Path, adapter: str | Path | None = None) -> str:
    """Return a SHA-256 of all bytes of the weights that a model is loaded from, also of the base model of an adapter.

    Loading has already compared a folder with its SHA256SUMS. So its hashes are read from there, without the weights.

    Args:
        model: folder or Hub name of a checkpoint, or folder of an adapter.
        adapter: folder of an adapter whose base model is `model`.
    """
    if adapter is None and is_adapter(model):
        adapter, base = model, read_base(model)
        model = base.name
        revision = base.revision
    else:
        revision = None
    folders = [_folder_of(model, revision), *([Path(adapter)] if adapter is not None else [])]
    return hashlib.sha256("".join(map(_hash_of, folders)).encode()).hexdigest()


def _hash_of(folder: Path) -> str:
    known = read_checksums(folder)
    for pattern in _WEIGHTS:
        if paths := sorted(folder.glob(pattern)):
            unknown = [path for path in paths if path.name not in known]
            sums = known | dict(zip((path.name for path in unknown), sums_of(unknown), strict=True))
            return "".join(f"{path.name} {sums[path.name]}\n" for path in paths)
    raise ValueError(f"{folder}: no .safetensors file, so its weights cannot be identified.")


def _folder_of(model: str | Path, revision: str | None) -> Path:
    """Return the folder of a model, or its snapshot in the cache of the Hub."""
    return Path(model) if Path(model).is_dir() else Path(cached_file(str(model), CONFIG_NAME, revision=revision)).parent

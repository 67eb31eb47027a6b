"""Check the files that a program will write before it starts: inputs are never overwritten, others only with notice."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from PIL import ExifTags

from gemma_lisa.images_gemma_lisa import open_image, own_limit
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.short_text import show
from gemma_lisa.safety.whole_files import SIGNATURE, SOFTWARE

# Suffixes of the pictures that are written. These formats keep the EXIF tag by which `is_own` recognizes them
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
# Suffixes of the files that eval.py writes next to X.json. Older versions did not sign them
BESIDE_RESULTS = (".questions.parquet", ".report.html", ".worst.png", ".preview.png")
_ANSWER = {"image": str, "query": str, "text": str, "masks": list}  # an answer of predict.py, key -> type
_QUESTION = {"id": str, "question": str, "source": str, "asks": str}  # a line of --write_questions, key -> type
_MANIFEST = {"dataset": str, "count": int, "fingerprint": str, "ids": list}  # the file beside it, key -> type
_SAMPLE = {"source": str, "question": str, "expected": str, "answer": str}  # a line of older samples, key -> type
_PROTOCOLS = ("generate", "teacher_forced")
_NO_LIMIT = sys.maxsize
_START = 1000  # bytes of a page with its signature


def check_outputs(
    outputs: Iterable[tuple[str, Path]],
    inputs: Iterable[str | Path | None],
    overwrite: bool = False,
    models: Iterable[str | Path | None] = (),
) -> None:
    """Refuse to overwrite an input or a file that this project did not write. Print which other files are overwritten.

    Files are compared by identity, so links are followed and case is ignored where the file system ignores it.

    Args:
        outputs: (option, file) of each file that will be written.
        inputs: files and folders that the program reads. In these folders, only files of this project are overwritten.
            None and names that are not paths are ignored.
        overwrite: overwrite files that this project did not write, unless they are inputs.
        models: folders and Hub names of checkpoints and adapters. Their `model_files.MODEL_FILES`, and those of the
            base model of an adapter, are inputs. Other files in these folders are not.

    Raises:
        UsageError: the file, the reason and what to do.
    """
    known = {_identity(path): path for path in inputs if path is not None and os.path.exists(path)}
    of_models = _files_of_models([str(model) for model in models if model is not None], known)
    taken, replaced = {}, []
    for option, output in outputs:
        earlier = taken.setdefault(os.path.realpath(output).casefold(), option)
        if earlier is not option:
            raise UsageError(f"{option} {output}: {earlier} writes to the same file; choose different names.")
        if not os.path.exists(output):
            continue
        if _identity(output) in known and not os.path.isdir(output):
            raise UsageError(
                f"{option} {output}: this file is an input ({known[_identity(output)]}), and inputs are never "
                "overwritten; choose another name."
            )
        if not os.path.isfile(output):
            continue
        folder = of_models.get(_identity(output))
        if folder is None and not (is_ours := is_own(output)):
            folder = next((known[found] for found in _folders(output) if found in known), None)
        if folder is not None:
            raise UsageError(
                f"{option} {output}: this file is in the input folder {folder}, and inputs are never overwritten; "
                "choose another name."
            )
        if not is_ours and not overwrite and os.path.getsize(output):
            raise UsageError(
                f"{option} {output}: this file exists and was not written by Gemma-LISA; choose another name, or add "
                "--overwrite to replace it."
            )
        replaced.append(output)
    if replaced:
        others = len(replaced) - 1
        more = f" and {others:,} other {'file' if others == 1 else 'files'}" if others else ""
        print(f"overwriting {replaced[0]}{more}", file=sys.stderr)


def check_new_folder(output: Path) -> None:
    """Check that `--output` does not exist or is an empty folder.

    Raises:
        ValueError: it is a file or a folder that is not empty.
    """
    if output.is_dir():
        if any(output.iterdir()):
            raise ValueError(f"--output {output}: the folder is not empty; choose a new folder.")
    elif output.exists():
        raise ValueError(f"--output {output}: a file with this name exists; choose a new folder.")


def check_suffix(option: str, output: Path, endings: tuple[str, ...]) -> None:
    """Refuse an output whose suffix is not one of `endings`.

    Raises:
        UsageError: which suffixes are supported.
    """
    if output.suffix.lower() not in endings:
        names = endings[0] if len(endings) == 1 else f"{', '.join(endings[:-1])} or {endings[-1]}"
        raise UsageError(f"{option} must be a file name that ends in {names}, got {show(str(output))}.")


def data_inputs(dataset: str, data_dir: str | None, options: dict[str, Any] | None) -> list[str | Path | None]:
    """Return the folders that a data set is read from: its own, `data_dir`, and the cache of a Hub name."""
    found: list[str | Path | None] = [data_dir, dataset if os.path.isdir(dataset) else hub_cache(dataset, "dataset")]
    folder = (options or {}).get("data_dir")
    return [*found, folder if isinstance(folder, str) else None]


def hub_cache(name: str | Path, repo_type: str = "model") -> Path | None:
    """Return the cache folder of a repository on the Hub, or None if it was never downloaded."""
    folder = Path(constants.HF_HUB_CACHE) / f"{repo_type}s--{str(name).replace('/', '--')}"
    return folder if os.path.isdir(folder) else None


def is_own(path: str | Path) -> bool:
    """Return whether this project wrote a picture, a page, a questions file or a JSON file."""
    path = Path(path)
    for ending in BESIDE_RESULTS:
        if path.name.endswith(ending):
            results = path.with_name(f"{path.name.removesuffix(ending)}.json")
            if results.is_file() and _is_results(_json_of(results)):
                return True
    if path.suffix.lower() == ".json":
        content = _json_of(path)
        return _is_results(content) or _is_list_of(content, _ANSWER) or _is_list_of([content], _MANIFEST)
    if path.suffix.lower() == ".jsonl":
        lines = _lines_of(path)
        return _is_list_of(lines, _QUESTION) or _is_list_of(lines, _SAMPLE)
    if path.suffix.lower() == ".html":
        with open(path, "rb") as page:
            return SIGNATURE.encode() in page.read(_START)
    if path.suffix.lower() == ".parquet":
        return _is_signed_table(path)
    return path.suffix.lower() in PICTURES and _software_of(path) == SOFTWARE


def _is_signed_table(path: Path) -> bool:
    from pyarrow import ArrowException, parquet  # imported only if such a file exists

    try:
        return (parquet.read_schema(path).metadata or {}).get(b"software") == SOFTWARE.encode()
    except (OSError, ValueError, ArrowException):
        return False


def _software_of(path: Path) -> Any:
    """Return the EXIF tag "Software" of a picture, or None without one. Pixels are not decoded."""
    try:
        with own_limit(_NO_LIMIT), open(path, "rb") as file, open_image(file) as opened:
            if opened.format == "PNG" and "exif" not in opened.info:
                return None  # Pillow would decode the pixels to find EXIF after them; ours is written before them
            return opened.getexif().get(ExifTags.Base.Software)
    except Exception:  # a damaged file: Pillow raises many classes
        return None


def _json_of(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except ValueError:
        return None


def _lines_of(path: Path) -> list[Any] | None:
    try:
        return [parse_json(line) for line in path.read_bytes().splitlines()]
    except ValueError:
        return None


def _is_list_of(content: Any, types: dict[str, type]) -> bool:
    """Return whether `content` is a non-empty list of objects with these keys and types."""
    return (
        isinstance(content, list)
        and bool(content)
        and all(
            isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in types.items())
            for found in content
        )
    )


def _is_results(content: Any) -> bool:
    """Return whether `content` is a results file of eval.py."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("scores"), dict)
        and "gIoU" in content["scores"]
        and content.get("protocol") in _PROTOCOLS
    )


def _files_of_models(models: list[str], known: dict[tuple[int, int], str | Path]) -> dict[tuple[int, int], str]:
    """Return the identity of each file that is read from models, with its folder. Hub caches are added to `known`."""
    if not models:
        return {}
    from .model_files import files_of_model, with_bases  # imports transformers, which takes seconds

    found: dict[tuple[int, int], str] = {}
    for model in with_bases(models):
        found |= {_identity(path): model for path in files_of_model(model)}
        if not os.path.isdir(model) and (cache := hub_cache(model)) is not None:
            known[_identity(cache)] = cache
    return found


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _folders(path: str | Path) -> Iterable[tuple[int, int]]:
    """Return the identity of each parent folder of a file, innermost first."""
    return (_identity(folder) for folder in Path(os.path.realpath(path)).parents)

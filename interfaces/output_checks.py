"""Check what a program is about to write, before it works: no input is overwritten, and no other file silently."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from PIL import ExifTags
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from gemma_lisa.checkpoints.adapter_base import ADAPTER_CONFIG, BASE_FILE, is_adapter, read_base
from gemma_lisa.checkpoints.checksums import CHECKSUMS
from gemma_lisa.checkpoints.small_files import CONFIGURATIONS
from gemma_lisa.checkpoints.training_record import TRAINING_RECORD, read_stages
from gemma_lisa.images_gemma_lisa import open_image, own_limit
from gemma_lisa.safety.errors import UsageError
from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.whole_files import SOFTWARE
from gemma_lisa.training.atomic_saves import checkpoints_of

# Endings of the pictures that are written: those formats keep the mark by which `is_own` knows them again
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
# What is read of a model's folder
MODEL_FILES = (
    *CONFIGURATIONS,
    *("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*config.json", "*.jinja", "*.py"),
    *("tokenizer.json", "*.model", "vocab.*", "merges.txt", "adapter_*", "additional_chat_templates/*.jinja"),
    *(BASE_FILE, TRAINING_RECORD, CHECKSUMS),
)
# What eval.py writes beside X.json
BESIDE_RESULTS = (".samples.jsonl", ".worst.png", ".preview.png")
# Of a model that a training would replace
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "adapter_model.bin")
_CHECKPOINTS = [f"{PREFIX_CHECKPOINT_DIR}-*/{name}" for name in ("config.json", ADAPTER_CONFIG, *_WEIGHTS)]
_RUN_PICTURES = ("curve.png", "previews/step-*.png")
_ANSWER = {"image": str, "query": str, "text": str, "masks": list}  # of predict.py, by column
_SAMPLE = {"source": str, "question": str, "expected": str, "answer": str}  # a line of eval.py
_PROTOCOLS = ("generate", "teacher_forced")
_NO_LIMIT = sys.maxsize


def check_outputs(
    outputs: Iterable[tuple[str, Path]],
    inputs: Iterable[str | Path | None],
    overwrite: bool = False,
    models: Iterable[str | Path | None] = (),
) -> None:
    """Refuse to overwrite an input, or a file that this project did not write; say what else is overwritten.

    Files are compared as the file system sees them: through links, and in any upper or lower case where it ignores
    case.

    Args:
        outputs: (option, file) of each file that is going to be written.
        inputs: what the program reads: files, and folders in which only files of this project are overwritten. A name
            that is no path and None are ignored.
        overwrite: overwrite files that this project did not write, unless they are inputs.
        models: folders and Hub names of checkpoints and adapters. What is read of a folder is never overwritten
            (`MODEL_FILES`); its other files are as any others. So is the base that an adapter names.

    Raises:
        UsageError: which file, and what to do.
    """
    known = {_identity(path): path for path in inputs if path is not None and os.path.exists(path)}
    of_models: dict[tuple[int, int], str] = {}
    for model in _with_bases(models):
        of_models |= {_identity(path): model for path in _files_of_model(model)}
        if not os.path.isdir(model) and (cache := hub_cache(model)) is not None:
            known[_identity(cache)] = cache
    taken, replaced = {}, []
    for option, output in outputs:
        earlier = taken.setdefault(os.path.realpath(output).casefold(), option)
        if earlier is not option:
            raise UsageError(f"{option} {output}: {earlier} writes to the same file; name another one.")
        if not os.path.exists(output):
            continue
        if _identity(output) in known and not os.path.isdir(output):
            raise UsageError(
                f"{option} {output}: this file is an input ({known[_identity(output)]}), and inputs are never "
                "overwritten; name another file."
            )
        if not os.path.isfile(output):
            continue
        folder = of_models.get(_identity(output))
        if folder is None and not (is_ours := is_own(output)):
            folder = next((known[found] for found in _folders(output) if found in known), None)
        if folder is not None:
            raise UsageError(
                f"{option} {output}: this file is in the input folder {folder}, and inputs are never overwritten; "
                "name another file."
            )
        if not is_ours and not overwrite and os.path.getsize(output):
            raise UsageError(
                f"{option} {output}: this file exists and was not written by Gemma-LISA; name another file, or add "
                "--overwrite to replace it."
            )
        replaced.append(output)
    if replaced:
        more = f" and {len(replaced) - 1:,} other files" if len(replaced) > 1 else ""
        print(f"overwriting {replaced[0]}{more}", file=sys.stderr)


def check_new_folder(output: Path) -> None:
    """Check that `--output` does not exist yet, or is an empty folder.

    Raises:
        ValueError: something would be overwritten.
    """
    if output.is_dir():
        if any(output.iterdir()):
            raise ValueError(f"--output {output}: the folder is not empty; name a new one.")
    elif output.exists():
        raise ValueError(f"--output {output}: there is a file of that name; name a new folder.")


def check_suffix(option: str, output: Path, endings: tuple[str, ...]) -> None:
    """Refuse an output whose name ends in none of these.

    Raises:
        UsageError: which endings there are.
    """
    if output.suffix.lower() not in endings:
        kind = "a JSON file" if endings == (".json",) else "a picture file"
        names = endings[0] if len(endings) == 1 else f"{', '.join(endings[:-1])} or {endings[-1]}"
        raise UsageError(f"{option} {output}: give {kind}, whose name ends in {names}.")


def data_inputs(dataset: str, data_dir: str | None, options: dict[str, Any] | None) -> list[str | Path | None]:
    """What the rows of a data set are read from: its folders, and the cache of a name on the Hub."""
    found: list[str | Path | None] = [data_dir, dataset if os.path.isdir(dataset) else hub_cache(dataset, "dataset")]
    folder = (options or {}).get("data_dir")
    return [*found, folder if isinstance(folder, str) else None]


def hub_cache(name: str | Path, repo_type: str = "model") -> Path | None:
    """The folder that keeps the files of a name on the Hub; None: none of them is here."""
    folder = Path(constants.HF_HUB_CACHE) / f"{repo_type}s--{str(name).replace('/', '--')}"
    return folder if os.path.isdir(folder) else None


def check_run_folder(folder: Path, inputs: Iterable[str | Path | None], draws: bool = False) -> None:
    """Refuse a folder for a training that is an input, or that holds a model which no run of this project put there.

    A run replaces the configuration and deletes the weights that lie in its folder, and, begun anew, checkpoints.

    Args:
        folder: that the run writes to.
        inputs: what the training reads.
        draws: the run draws its curve and previews there (`_RUN_PICTURES`).

    Raises:
        UsageError: what is there, and what to do.
    """
    if not folder.is_dir():
        return
    for path in inputs:
        if path is not None and os.path.isdir(path) and os.path.samefile(path, folder):
            raise UsageError(f"output_dir {folder}: the training reads what is there; give another folder.")
    if is_own_run(folder):
        return
    patterns = ("config.json", ADAPTER_CONFIG, *_WEIGHTS, *_CHECKPOINTS)
    found = next((path for pattern in patterns for path in folder.glob(pattern)), None)
    if found is not None:
        raise UsageError(
            f"output_dir {folder}: it holds a model that no training run saved there ({found.relative_to(folder)}), "
            "which would be overwritten; give another folder."
        )
    drawn = (path for pattern in _RUN_PICTURES for path in sorted(folder.glob(pattern)) if draws)
    foreign = next((path for path in drawn if not is_own(path)), None)
    if foreign is not None:
        raise UsageError(
            f"output_dir {folder}: {foreign.relative_to(folder)} was not written by Gemma-LISA and would be "
            "overwritten; rename it, or give another folder."
        )


def is_own_run(folder: Path) -> bool:
    """Whether a run of this project trains or trained in a folder: it, or its newest checkpoint, says so.

    The record alone does not say it: a published checkpoint has that too, but not the state of the Trainer.
    """
    if _names_own_arguments(folder) or ((folder / TRAINER_STATE_NAME).is_file() and _has_own_record(folder)):
        return True
    newest = checkpoints_of(folder)[-1:]
    return any(_has_own_record(path) or _names_own_arguments(path) for path in newest)


def is_own(path: str | Path) -> bool:
    """Whether this project wrote a picture or a JSON file. What lies beside its results is its own too."""
    path = Path(path)
    for ending in BESIDE_RESULTS:
        if path.name.endswith(ending):
            results = path.with_name(f"{path.name.removesuffix(ending)}.json")
            if results.is_file() and _is_results(_json_of(results)):
                return True
    if path.suffix.lower() == ".json":
        content = _json_of(path)
        return _is_results(content) or _is_list_of(content, _ANSWER)
    if path.suffix.lower() == ".jsonl":
        return _is_list_of(_lines_of(path), _SAMPLE)
    return path.suffix.lower() in PICTURES and _software_of(path) == SOFTWARE


def _software_of(path: Path) -> Any:
    """What the EXIF of a picture says wrote it; None: nothing, or it is no picture. No pixel is decoded."""
    try:
        with own_limit(_NO_LIMIT), open(path, "rb") as file, open_image(file) as opened:
            if opened.format == "PNG" and "exif" not in opened.info:
                return None  # Pillow would decode the pixels to look behind them; ours is before them
            return opened.getexif().get(ExifTags.Base.Software)
    except Exception:  # a damaged file; Pillow raises many kinds
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
    """Whether it is a list, not empty, of objects that have these columns of these types."""
    return (
        isinstance(content, list)
        and bool(content)
        and all(
            isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in types.items())
            for found in content
        )
    )


def _is_results(content: Any) -> bool:
    """Whether it is what eval.py writes."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("scores"), dict)
        and "gIoU" in content["scores"]
        and content.get("protocol") in _PROTOCOLS
    )


def _has_own_record(folder: Path) -> bool:
    try:
        stage = read_stages(folder)[-1]
    except (ValueError, LookupError, TypeError):
        return False  # no record, or that of another program
    if not isinstance(stage, dict):
        return False
    return isinstance(stage.get("settings"), dict) or str(stage.get("command")).startswith("train.py ")


def _names_own_arguments(folder: Path) -> bool:
    """Whether the Trainer's arguments are there, of this project's class. They are looked at, never unpickled."""
    path = folder / TRAINING_ARGS_NAME
    return path.is_file() and b"GemmaLisaTrainingArguments" in path.read_bytes()


def _with_bases(models: Iterable[str | Path | None]) -> list[str]:
    """Folders and names of models, and of the bases of those that are adapters."""
    found = [str(model) for model in models if model is not None]
    return [*found, *(read_base(model).name for model in found if is_adapter(model))]


def _files_of_model(folder: str) -> list[Path]:
    return [path for pattern in MODEL_FILES for path in Path(folder).glob(pattern) if path.is_file()]


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _folders(path: str | Path) -> Iterable[tuple[int, int]]:
    """The identities of the folders that a file lies in, from the innermost on."""
    return (_identity(folder) for folder in Path(os.path.realpath(path)).parents)

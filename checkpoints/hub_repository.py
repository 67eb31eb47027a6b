"""Add to a checkpoint what its Hub repository needs: model card, handler, requirements, training record, results."""

import os
import re
import shutil
from pathlib import Path

from gemma_lisa.safety.local_paths import shortened_file
from gemma_lisa.safety.whole_files import write_whole

from .checksums import CHECKSUMS
from .eval_results import EVAL_RESULTS, write_eval_results
from .model_card import CARD, GEMMA_LICENSE, Facts, card
from .training_record import TRAINING_RECORD

HUB = Path(__file__).parents[1] / "hub"
# Files of hub/ that are copied unchanged
COPIED = ("handler.py", "requirements.txt")
EXAMPLES, ANSWERS, NOTICE = "examples", "answers.json", "NOTICE"
# Files of a saved model that are uploaded. A run also saves its own state, including pickles.
MODEL_FILES = re.compile(rf".*\.(safetensors|json|jinja|model)|.*_gemma_lisa\.py|{CHECKSUMS}")
NOT_MODEL_FILES = {"trainer_state.json", "nonfinite.json"}
# Gemma's terms (section 3.1) require the first sentence, in a file of this name, and a note about modifications
_GEMMA_SENTENCE = """\
Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms

"""
GEMMA_NOTICE = f"""{_GEMMA_SENTENCE}\
The weights in this repository were modified: the weights of Gemma were fine-tuned and combined with those of a Segment
Anything model and of a projector that connects the two models. If you distribute these weights, you must include the
terms, this notice, and the Gemma Prohibited Use Policy found at ai.google.dev/gemma/prohibited_use_policy.
"""
ADAPTER_NOTICE = f"""{_GEMMA_SENTENCE}\
This folder contains an adapter that was trained on Gemma. It modifies the weights of Gemma, but does not contain them.
Together with its base model it is a Model Derivative of Gemma. If you distribute it, you must include the terms, this
notice, and the Gemma Prohibited Use Policy found at ai.google.dev/gemma/prohibited_use_policy.
"""


def complete(folder: Path, facts: Facts) -> list[str]:
    """Add the other files of the repository to weights and code. The pictures of the examples must already be there.

    Returns:
        lines of `write_eval_results`: results without an entry for the Hub's leaderboards.

    Raises:
        ValueError: a results file has the name of another file.
    """
    _write_records(folder, facts)
    for name in COPIED:
        shutil.copyfile(HUB / name, folder / name)
    if facts.license == GEMMA_LICENSE:
        write_whole(folder / NOTICE, GEMMA_NOTICE)
    write_whole(folder / CARD, card(facts))
    title = facts.title if "/" in facts.title else None
    missing = write_eval_results(folder, facts.results, facts.hub_datasets, title)
    shorten_files(folder)
    return missing


def complete_adapter(folder: Path, facts: Facts, terms: dict[str, str] | None = None) -> None:
    """Add records, notice, terms and model card to the weights of an adapter that goes without its base model.

    Args:
        folder: folder of the adapter.
        facts: content of the model card.
        terms: file name -> text of license terms.

    Raises:
        ValueError: a results file or a file of terms has the name of another file.
    """
    _write_records(folder, facts)
    if facts.license == GEMMA_LICENSE:
        write_whole(folder / NOTICE, ADAPTER_NOTICE)
    for name, text in (terms or {}).items():
        if (folder / name).exists() or name == CARD:
            raise ValueError(f"{name}: a file of terms with this name would overwrite another file. Rename it.")
        write_whole(folder / name, text)
    write_whole(folder / CARD, card(facts))
    shorten_files(folder)


def _write_records(folder: Path, facts: Facts) -> None:
    for name, content in facts.results.items():
        if (folder / name).exists() or name == TRAINING_RECORD:
            raise ValueError(f"{name}: a results file with this name would overwrite a file of the model. Rename it.")
        write_whole(folder / name, content)
    if facts.stages:
        write_whole(folder / TRAINING_RECORD, {"stages": facts.stages})


def shorten_files(folder: Path) -> None:
    """Remove absolute local paths from the records and configurations of a folder.

    A changed file is written as a new file. The old one can be a hard link to a file of the run, which must not change.
    """
    for path in files_of(folder):
        if (text := shortened_file(folder / path)) is not None:
            write_whole(folder / path, text)


def stage(saved: Path, folder: Path, facts: Facts) -> None:
    """Build the Hub repository of a model that a training run saved.

    Args:
        saved: folder of the run. Its files are hard-linked if the file system can, else copied.
        folder: new folder for the repository.
        facts: content of the model card.

    Raises:
        ValueError: the folder contains no weights, or only the sharded weights of DeepSpeed or FSDP.
    """
    names = [path.name for path in saved.iterdir() if path.is_file() and MODEL_FILES.fullmatch(path.name)]
    if not any(name.endswith(".safetensors") for name in names):
        raise ValueError(
            f"{saved}: no .safetensors file. For sharded weights of DeepSpeed or FSDP, run scripts/export.py first."
        )
    folder.mkdir(parents=True)
    for name in names:
        if name not in NOT_MODEL_FILES:
            link(saved / name, folder / name)
    complete(folder, facts)


def link(source: str | Path, target: str | Path) -> None:
    """Create a hard link, or a copy if the file system does not support links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def files_of(folder: Path) -> list[Path]:
    """Return all files of a repository, as paths relative to its folder. Hidden files are skipped."""
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in paths if not any(map(_is_hidden, path.parts))]


def _is_hidden(part: str) -> bool:
    return (part.startswith(".") and part != EVAL_RESULTS) or part == "__pycache__"

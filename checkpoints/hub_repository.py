"""Put together what a published checkpoint holds beside weights and code: card, handler, requirements, records."""

import os
import re
import shutil
from pathlib import Path

from gemma_lisa.safety.local_paths import shortened_file
from gemma_lisa.safety.whole_files import write_whole

from .checksums import CHECKSUMS
from .model_card import CARD, GEMMA_LICENSE, Facts, card
from .training_record import TRAINING_RECORD

HUB = Path(__file__).parents[1] / "hub"
# As they lie in hub/
COPIED = ("handler.py", "requirements.txt")
EXAMPLES, ANSWERS = "examples", "answers.json"
# What of a saved model goes to the Hub; beside it a training leaves its own state, pickles among it
MODEL_FILES = re.compile(rf".*\.(safetensors|json|jinja|model)|.*_gemma_lisa\.py|{CHECKSUMS}")
NOT_MODEL_FILES = {"trainer_state.json", "nonfinite.json"}
# Gemma's terms (section 3.1) ask for the first sentence, in a file of this name, and for word of every change
GEMMA_NOTICE = """\
Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms

The weights in this repository were modified: Gemma's were trained further, and joined with those of a Segment Anything
model and of a projector between them. Whoever passes them on passes on these terms, this notice, and the Gemma
Prohibited Use Policy found at ai.google.dev/gemma/prohibited_use_policy.
"""


def complete(folder: Path, facts: Facts) -> None:
    """Write beside weights and code what else the repository holds; the examples' pictures are there already.

    Raises:
        ValueError: a results file whose name something else has.
    """
    for name, content in facts.results.items():
        if (folder / name).exists() or name == TRAINING_RECORD:
            raise ValueError(f"{name}: a results file of this name would overwrite the model's own; rename it.")
        write_whole(folder / name, content)
    if facts.stages:
        write_whole(folder / TRAINING_RECORD, {"stages": facts.stages})
    for name in COPIED:
        shutil.copyfile(HUB / name, folder / name)
    if facts.license == GEMMA_LICENSE:
        write_whole(folder / "NOTICE", GEMMA_NOTICE)
    write_whole(folder / CARD, card(facts))
    shorten_files(folder)


def shorten_files(folder: Path) -> None:
    """Remove absolute local paths from the records and configurations of a folder.

    A file that changes is written anew, so that a link to the training's own file leaves that as it is.
    """
    for path in files_of(folder):
        if (text := shortened_file(folder / path)) is not None:
            write_whole(folder / path, text)


def stage(saved: Path, folder: Path, facts: Facts) -> None:
    """Make the repository of a model that a training saved, beside it: its files are linked where the disc can.

    Raises:
        ValueError: it holds no weights, or those of an engine's pieces.
    """
    names = [path.name for path in saved.iterdir() if path.is_file() and MODEL_FILES.fullmatch(path.name)]
    if not any(name.endswith(".safetensors") for name in names):
        raise ValueError(f"{saved} holds no safetensors; scripts/export.py puts an engine's pieces together.")
    folder.mkdir(parents=True)
    for name in names:
        if name not in NOT_MODEL_FILES:
            link(saved / name, folder / name)
    complete(folder, facts)


def link(source: str | Path, target: str | Path) -> None:
    """The same file at a second place, or a copy where the disc has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def files_of(folder: Path) -> list[Path]:
    """All files of a repository, as paths from its folder."""
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in paths if not any(part.startswith(".") or part == "__pycache__" for part in path.parts)]

"""What a published checkpoint holds beside weights and code: card, handler, requirements, records, examples."""

import html
import os
import re
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    EvalResult,
    HfApi,
    ModelCard,
    ModelCardData,
)

from gemma_lisa.safety.local_paths import shortened_file
from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.redaction import redact
from gemma_lisa.safety.secret_names import environment_secrets
from gemma_lisa.safety.upload_scan import find_local_path, find_secret
from gemma_lisa.safety.whole_files import write_whole
from gemma_lisa.versions_gemma_lisa import HIGHEST, LOWEST

from .checksums import CHECKSUMS
from .training_record import TRAINING_RECORD

HUB = Path(__file__).parents[1] / "hub"
CARD, TEMPLATE = "README.md", HUB / "card.md"
# As they lie in hub/
COPIED = ("handler.py", "requirements.txt")
EXAMPLES, ANSWERS = "examples", "answers.json"
GEMMA_LICENSE, OWN_LICENSE = "gemma", "apache-2.0"
# What of a saved model goes to the Hub; beside it a training leaves its own state, pickles among it
MODEL_FILES = re.compile(rf".*\.(safetensors|json|jinja|model)|.*_gemma_lisa\.py|{CHECKSUMS}")
NOT_MODEL_FILES = {"trainer_state.json", "nonfinite.json"}
# Of these the repository holds what the folder holds, and nothing of an earlier push: half of two models would load
OWN_FILES = re.compile(rf"[^/]*\.safetensors(\.index\.json)?|[^/]*_gemma_lisa\.py|{CHECKSUMS}")
# Gemma's terms (section 3.1) ask for the first sentence, in a file of this name, and for word of every change
GEMMA_NOTICE = """\
Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms

The weights in this repository were modified: Gemma's were trained further, and joined with those of a Segment Anything
model and of a projector between them. Whoever passes them on passes on these terms, this notice, and the Gemma
Prohibited Use Policy found at ai.google.dev/gemma/prohibited_use_policy.
"""
TAGS = ["reasoning-segmentation", "referring-segmentation", "gemma-lisa", "gemma3", "sam", "custom_code"]
METRICS = ("gIoU", "cIoU", "N-acc", "T-acc")


@dataclass
class Facts:
    """What the card tells.

    Args:
        title: org/name, or the folder's name.
        license: as the Hub writes it; None: Gemma's, unless the weights are known not to come from it.
        base_models: Hub names of the models it was made of; None: not known, []: of none.
        stages: of the training's record; None: it could not be looked up, []: there is none.
        results: file name and content of each results.json.
        examples: as `answers.json` has them.
        datasets: names of the data sets it was trained on.
    """

    title: str
    license: str | None = None
    base_models: list[str] | None = None
    stages: list[dict[str, Any]] | None = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)

    def __post_init__(self):
        # What is published names no secret and no local path, whatever older records hold
        self.stages, self.results = redact(self.stages), redact(self.results)
        if self.license is None:
            self.license = OWN_LICENSE if self.base_models == [] else GEMMA_LICENSE


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


def read_results(path: Path) -> dict[str, Any]:
    """A results.json of eval.py.

    Raises:
        ValueError: no such file, or none of eval.py's.
    """
    try:
        content = parse_json(path.read_bytes())
        for name in ("dataset", "split", "protocol", "scores"):
            content[name]
        content["scores"]["count"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no results file of eval.py ({error}).") from error
    return content


# ---------------------------------------------------------------------------------------------------------------------
# The folder
# ---------------------------------------------------------------------------------------------------------------------
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


def check_no_secrets(folder: Path, secrets: Collection[str] = (), paths: Iterable[Path] | None = None) -> None:
    """Search what is about to be uploaded for tokens, passwords and keys: every file, in its bytes.

    A pickle that holds a path of this machine is refused too.

    Args:
        folder: of the files.
        secrets: values in use, beside those of the environment and of the login.
        paths: of the files, from the folder; by default all of it.

    Raises:
        ValueError: with the file's name; the secret itself is in no message.
    """
    values = dict.fromkeys((secret for secret in secrets if secret), "") | environment_secrets()
    for path in paths or (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()):
        found = find_secret(folder / path, values) or find_local_path(folder / path)
        if found is None and any(value in path.as_posix() for value in values):
            found = "in its name, a token or password in use"
        if found is not None:
            raise ValueError(
                f"{path.as_posix()} contains {found}. Nothing was uploaded. Remove it from the file, and revoke it if "
                "it is a token that others could read."
            )


def commit_folder(
    folder: Path,
    name: str,
    message: str,
    revision: str | None = None,
    token: str | None = None,
    secrets: Collection[str] = (),
) -> CommitInfo:
    """Upload a folder to a repository that is there, in one commit, the last of its calls to the Hub.

    Weights and code that an earlier commit left, and this folder has not, are taken away; other files stay. Records and
    configurations go without absolute local paths.

    Raises:
        ValueError: a file contains a secret; nothing is uploaded then.
    """
    check_no_secrets(folder, {*secrets, token or ""}, files_of(folder))
    api = HfApi(token=token)
    there = api.model_info(name, revision=revision)
    paths = [path.as_posix() for path in files_of(folder)]
    shortened = {path: shortened_file(folder / path) for path in paths}
    contents = {path: folder / path if text is None else text.encode() for path, text in shortened.items()}
    operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=contents[path]) for path in paths]
    for entry in there.siblings or []:
        if OWN_FILES.fullmatch(entry.rfilename) and entry.rfilename not in paths:
            operations.append(CommitOperationDelete(path_in_repo=entry.rfilename))
    return api.create_commit(name, operations, commit_message=message, revision=revision, parent_commit=there.sha)


# ---------------------------------------------------------------------------------------------------------------------
# The card
# ---------------------------------------------------------------------------------------------------------------------
def card(facts: Facts) -> str:
    """README.md: front matter that the Hub reads, and the page."""
    first = facts.examples[0] if facts.examples else {"image": "photo.jpg", "text": "the red circle"}
    written = ModelCard.from_template(
        front_matter(facts),
        template_path=str(TEMPLATE),
        title=facts.title,
        lowest=LOWEST,
        highest=HIGHEST,
        is_random=facts.base_models == [],
        image=first["image"],
        question=first["text"].replace("\\", "\\\\").replace('"', '\\"').replace("\n", " "),
        examples=[
            {**example, **{name: _cell(example[name]) for name in ("text", "answer")}} for example in facts.examples
        ],
        stages=None if facts.stages is None else [_stage(stage) for stage in facts.stages],
        results=[_result(content) for content in facts.results.values()],
        leaks=_leaks(facts.stages),
        files=", ".join(f"`{name}`" for name in facts.results),
    )
    return str(written).rstrip() + "\n"


def _leaks(stages: list[dict[str, Any]] | None) -> bool | None:
    """Whether photos of evaluation splits were allowed in the training; None where a stage does not know it."""
    said = [None] if stages is None else [stage.get("allow_leakage", False) for stage in stages]
    return True if True in said else None if None in said else False


def front_matter(facts: Facts) -> ModelCardData:
    """What the Hub's page, search and widget read."""
    measured = [result["dataset"].split("/")[0] for result in facts.results.values()]
    widget = [
        {
            "src": example["image"],
            "text": example["text"],
            "example_title": example["text"],
            "output": {"text": example["answer"], "url": example["picture"]},
        }
        for example in facts.examples
    ]
    return ModelCardData(
        license=facts.license,
        base_model=facts.base_models or None,
        pipeline_tag="image-segmentation",
        library_name="transformers",
        tags=list(TAGS),
        datasets=list(dict.fromkeys([*facts.datasets, *measured])) or None,
        metrics=list(METRICS) if facts.results else None,
        model_name=facts.title.split("/")[-1],
        eval_results=[entry for result in facts.results.values() for entry in eval_results(result)] or None,
        **({"widget": widget} if widget else {}),
    )


def eval_results(result: dict[str, Any]) -> list[EvalResult]:
    """A results.json as entries of the card's model-index."""
    name, _, level = result["dataset"].partition("/")
    return [
        EvalResult(
            task_type="image-segmentation",
            task_name="Reasoning segmentation",
            dataset_type=name,
            dataset_name=result["dataset"],
            dataset_config=level or None,
            dataset_split=result["split"],
            metric_type=metric,
            metric_name=f"{metric}, {result['protocol']}",
            metric_value=round(result["scores"][metric], 4),
        )
        for metric in METRICS
        if result["scores"].get(metric) is not None
    ]


def _result(content: dict[str, Any]) -> dict[str, str]:
    """A row of the card's table of scores."""
    scores = content["scores"]
    shown = {metric: "–" if scores.get(metric) is None else f"{scores[metric]:.3f}" for metric in METRICS}
    row = {"dataset": content["dataset"], "split": content["split"], "protocol": content["protocol"]}
    return {
        **{name: _cell(str(value)) for name, value in row.items()},
        "count": f"{scores['count']:,}",
        "gIoU": shown["gIoU"],
        "cIoU": shown["cIoU"],
        "Nacc": shown["N-acc"],
        "Tacc": shown["T-acc"],
    }


def _stage(stage: dict[str, Any]) -> dict[str, str]:
    """A row of the card's table of stages; a record of an older version may not say all."""
    row = {"rows": stage.get("rows_a_step"), "seed": stage.get("seed"), "commit": stage.get("commit")}
    shown = {name: "–" if value is None else _cell(str(value)) for name, value in row.items()}
    return {
        **shown,
        "steps": f"{stage['steps']:,}" if "steps" in stage else "–",
        "date": str(stage.get("date", "–"))[:10],
        "minutes": f"{stage['seconds'] / 60:,.0f}" if "seconds" in stage else "–",
        "command": " ".join(str(stage.get("command", "")).split()).replace("```", ""),
    }


def _cell(text: str) -> str:
    """What anybody may have written, as text of a cell."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;").replace("`", "&#96;")

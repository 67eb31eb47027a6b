"""Write report.html: one file without a network, from results files and their questions."""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from gemma_lisa.safety.redaction import mask
from gemma_lisa.safety.secret_names import environment_secrets
from gemma_lisa.safety.short_text import count_of
from gemma_lisa.safety.whole_files import SIGNATURE, write_whole

from ..records import Judged
from .pane import MAX_KINDS, pane_of, score_rows
from .sheets import cards_per_sheet, choose_sheets, draw_cards

FOLDER = Path(__file__).parent
VQA_SHOWN = 12  # maximum number of wrong answers to VQA questions that are listed
# Keys of results files with their own place on the page
SHOWN_ELSEWHERE = {"scores", "exact_scores", "intervals", "by_kind", "errors"}
Result = tuple[dict[str, Any], Sequence[Judged], Callable[[int], Image.Image | None] | None]


def write_report(path: Path, results: Sequence[Result]) -> None:
    """Write a report about one or more data sets as one HTML file.

    Args:
        path: of the file.
        results: contents of each results file, its questions, and a function that returns the upright image of the
            question at an index, or None if it cannot be read. None instead of the function: masks are drawn without
            images.

    Raises:
        ValueError: there is no question, or an image has another size than its question says.
        WriteError: the file cannot be written.
    """
    if not results or not all(len(judged) for _, judged, _ in results):
        raise ValueError(f"{path}: a report needs at least one question for each data set.")
    write_whole(path, report_of(results))


def report_of(results: Sequence[Result]) -> str:
    """Return the report as HTML. Arguments: `write_report`."""
    # A report is published, and results that were never written to a file still have secrets and local paths
    results = [(mask(content, environment_secrets()), judged, image_of) for content, judged, image_of in results]
    names = _distinct([content for content, _, _ in results])
    per_sheet = cards_per_sheet(sum(len(choose_sheets(judged)) for _, judged, _ in results))
    sections = [
        _section(name, content, judged, image_of, per_sheet)
        for name, (content, judged, image_of) in zip(names, results, strict=True)
    ]
    models = list(dict.fromkeys(model_of(content) for content, _, _ in results))
    return render(
        "report.html.jinja",
        title=f"Segmentation report: {', '.join(models)}",
        models=models,
        protocols=list(dict.fromkeys(content.get("protocol") or "unknown" for content, _, _ in results)),
        styles=list(dict.fromkeys(content.get("style") or "unknown" for content, _, _ in results)),
        sections=sections,
        kinds=sorted({kind for section in sections for kind in section["kinds"]}),
        total=sum(len(judged) for _, judged, _ in results),
    )


def render(template: str, **values: Any) -> str:
    """Return a page from a template of this folder. Values are escaped, except SVG from `charts`."""
    script = (FOLDER / "report.js").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template(template)
        .render(
            style=Markup((FOLDER / "style.css").read_text(encoding="utf-8")),
            signature=Markup(SIGNATURE),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
            **values,
        )
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["count_of"] = count_of
    return environment


def _section(
    name: str,
    content: dict[str, Any],
    judged: Sequence[Judged],
    image_of: Callable[[int], Image.Image | None] | None,
    per_sheet: int,
) -> dict[str, Any]:
    """Return what the template shows of one data set."""
    counts = Counter(one.question.kind for one in judged if one.question.kind)
    kinds = [kind for kind, _ in counts.most_common()]
    panes = [pane_of("", content, judged)]
    panes += [
        pane_of(kind, content, [one for one in judged if one.question.kind == kind]) for kind in kinds[:MAX_KINDS]
    ]
    sheets = choose_sheets(judged, per_sheet)
    wrong = [one for one in judged if one.is_right is False]
    return {
        "name": name,
        "model": model_of(content),
        "panes": panes,
        "kinds": kinds[:MAX_KINDS],
        "kind_rows": [(kind, counts[kind], content.get("by_kind", {}).get(kind, {})) for kind in kinds],
        "has_images": image_of is not None,
        "sheets": [(sheet, draw_cards(sheet, judged, image_of)) for sheet in sheets],
        "vqa": {"count": sum(one.question.targets is None for one in judged), "wrong": len(wrong)},
        "vqa_wrong": wrong[:VQA_SHOWN],
        "overview": {row.name: row for row in score_rows(content.get("scores", {}), content.get("intervals", {}))},
        "details": [
            (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            for key, value in content.items()
            if key not in SHOWN_ELSEWHERE
        ],
    }


def model_of(content: dict[str, Any]) -> str:
    """Return the name of the model or of the predictions file; of an absolute path only the last part."""
    name = content.get("adapter") or content.get("model") or content.get("predictions")
    if name is None:
        return "unknown system"
    path = Path(name)
    return path.name if path.is_absolute() else str(name).rstrip("/")


def title_of(content: dict[str, Any]) -> str:
    """Return the name and the split of the data set."""
    return " ".join(str(content[key]) for key in ("dataset", "split") if content.get(key)) or "data set"


def _distinct(contents: list[dict[str, Any]]) -> list[str]:
    """Return a name for each result: its data set. If a data set occurs twice, with the system or a number."""
    titles = [title_of(content) for content in contents]
    found: list[str] = []
    for title, content in zip(titles, contents, strict=True):
        name = title if titles.count(title) == 1 else f"{title}, {model_of(content)}"
        found.append(name if name not in found else f"{name} ({len(found) + 1})")
    return found

"""Write the model card of a published checkpoint: front matter that the Hub reads, training, results, examples."""

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.redaction import redact
from gemma_lisa.versions_gemma_lisa import HIGHEST, LOWEST

CARD, TEMPLATE = "README.md", Path(__file__).parents[1] / "hub" / "model_card.md"
GEMMA_LICENSE, OWN_LICENSE = "gemma", "apache-2.0"
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

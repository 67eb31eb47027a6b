"""Write the model card of a published checkpoint: metadata for the Hub, training, results and examples."""

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from gemma_lisa.safety.parsing import parse_json
from gemma_lisa.safety.redaction import redact
from gemma_lisa.safety.short_text import VALUE_LENGTH, reason_of

CARD, TEMPLATE = "README.md", Path(__file__).parents[1] / "hub" / "model_card.md"
GEMMA_LICENSE, OWN_LICENSE = "gemma", "apache-2.0"
TAGS = ["reasoning-segmentation", "referring-segmentation", "gemma-lisa", "gemma3", "sam", "custom_code"]
METRICS = ("gIoU", "cIoU", "N-acc", "T-acc")


@dataclass
class Facts:
    """The content of a model card. Secrets and local paths are removed from `stages` and `results`.

    Args:
        title: org/name, or the name of the folder.
        license: identifier of the license on the Hub. None is "gemma", or "apache-2.0" if `base_models` is [].
        base_models: Hub names of the base models; None if unknown, [] if the weights started from random values.
        stages: stages of the training record; None if it could not be read, [] if there is no record.
        results: file name -> content of each results file.
        examples: entries of `answers.json`.
        datasets: names of the training data sets.
        hub_datasets: data sets of the Hub by the names of evaluated data sets, for `eval_results`.
        base: record of the base model, for an adapter that is distributed without it.
        base_note: sentences about this base model.
    """

    title: str
    license: str | None = None
    base_models: list[str] | None = None
    stages: list[dict[str, Any]] | None = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)
    datasets: list[str] = field(default_factory=list)
    hub_datasets: dict[str, str] = field(default_factory=dict)
    base: str | None = None
    made_by: str | None = None
    base_note: str = ""

    def __post_init__(self):
        # Older records can contain secrets and local paths
        self.stages, self.results = redact(self.stages), redact(self.results)
        if self.license is None:
            self.license = OWN_LICENSE if self.base_models == [] else GEMMA_LICENSE


def read_results(path: Path) -> dict[str, Any]:
    """Return the content of a results file of eval.py.

    Raises:
        ValueError: the file does not exist or is not a results file.
    """
    if not path.is_file():
        raise ValueError(f"{path}: this results file does not exist.")
    try:
        content = parse_json(path.read_bytes())
        for name in ("dataset", "split", "protocol", "scores"):
            content[name]
        content["scores"]["count"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else reason_of(error, VALUE_LENGTH)
        raise ValueError(f"{path}: not a results file of eval.py ({reason}).") from error
    return content


def card(facts: Facts) -> str:
    """Return the text of the model card: YAML metadata and the page in Markdown."""
    from gemma_lisa.versions_gemma_lisa import HIGHEST, LOWEST  # imports transformers, which `read_results` must not

    first = facts.examples[0] if facts.examples else {"image": "photo.jpg", "text": "the red circle"}
    written = ModelCard.from_template(
        front_matter(facts),
        template_path=str(TEMPLATE),
        title=facts.title,
        lowest=LOWEST,
        highest=HIGHEST,
        is_random=facts.base_models == [],
        base=facts.base,
        made_by=facts.made_by,
        base_note=facts.base_note,
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
    """Return whether a stage could train on photos of evaluation splits, or None if this is unknown."""
    allowed = [None] if stages is None else [stage.get("allow_leakage", False) for stage in stages]
    return True if True in allowed else None if None in allowed else False


def front_matter(facts: Facts) -> ModelCardData:
    """Return the metadata that the Hub uses for the page, the search and the widget."""
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
        library_name="transformers" if facts.base is None else "peft",
        tags=list(TAGS) if facts.base is None else [*(tag for tag in TAGS if tag != "custom_code"), "lora"],
        datasets=list(dict.fromkeys([*facts.datasets, *measured])) or None,
        metrics=list(METRICS) if facts.results else None,
        model_name=facts.title.split("/")[-1],
        eval_results=[entry for result in facts.results.values() for entry in eval_results(result)] or None,
        **({"widget": widget} if widget else {}),
        **({"base_model_relation": "adapter"} if facts.base and facts.base_models else {}),
    )


def eval_results(result: dict[str, Any]) -> list[EvalResult]:
    """Return a results file as entries of the card's `model-index`."""
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
    """Return a row of the table of scores."""
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
    """Return a row of the table of training stages. Values that an older record does not have are shown as "–"."""
    row = {"rows": stage.get("global_batch_size"), "seed": stage.get("seed"), "commit": stage.get("commit")}
    shown = {name: "–" if value is None else _cell(str(value)) for name, value in row.items()}
    return {
        **shown,
        "steps": f"{stage['steps']:,}" if "steps" in stage else "–",
        "date": str(stage.get("date", "–"))[:10],
        "minutes": f"{stage['seconds'] / 60:,.0f}" if "seconds" in stage else "–",
        "command": " ".join(str(stage.get("command", "")).split()).replace("```", ""),
    }


def _cell(text: str) -> str:
    """Return text from users or models, escaped for a table cell in Markdown."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "&#124;").replace("`", "&#96;")

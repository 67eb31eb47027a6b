"""Write the scores of a checkpoint for the Hub's leaderboards: `.eval_results/*.yaml`.

The format is that of https://huggingface.co/docs/hub/eval-results. An entry is a score on a data set of the Hub, so
results on other data sets have no entry. They stay in the model card and its `model-index`.
"""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from gemma_lisa.datasets_builder.published_sizes import published_size
from gemma_lisa.safety.whole_files import write_whole

EVAL_RESULTS = ".eval_results"
SCORE = "gIoU"
TASK = "default"  # `task_id`; none of the data sets defines its own tasks yet
# (data set, split) -> data set of the Hub
HUB_DATASETS = {
    ("reason_seg_r", "test"): "sj9909/ReasonSeg_refine",
    ("reason_seg_x", "train"): "sj9909/ReasonSegX_train",
    ("reason_seg_x", "validation"): "sj9909/ReasonSegX_val",
    ("reason_seg_x", "test"): "sj9909/ReasonSegX_test",
}
GIVEN_ANSWER = (
    "teacher_forced protocol: the right answer is given, so the score is not comparable with generated answers"
)


def write_eval_results(
    folder: Path, results: dict[str, dict[str, Any]], names: dict[str, str], title: str | None = None
) -> list[str]:
    """Write one file per results file that has an entry, and return one line for each other: why it has none.

    Args:
        folder: of the Hub repository.
        results: content of each results file of eval.py by its file name.
        names: data sets of the Hub by the names of data sets: {"shapes/hard": "org/shapes-hard"}.
        title: org/name of the repository, whose results files are linked; None for a folder that is not uploaded.
    """
    missing = []
    for file, content in results.items():
        dataset, reason = find_hub_dataset(content, names)
        if dataset is None:
            missing.append(f"{file}: no entry in {EVAL_RESULTS}, because {reason}")
            continue
        source = (
            {"source_url": f"https://huggingface.co/{title}/blob/main/{file}", "source_name": file} if title else {}
        )
        entry = EvalResultEntry(
            dataset_id=dataset,
            task_id=TASK,
            value=round(content["scores"][SCORE], 4),
            date=content.get("date"),
            notes=notes_of(content),
            **source,
        )
        text = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False, allow_unicode=True)
        (folder / EVAL_RESULTS).mkdir(exist_ok=True)
        write_whole(folder / EVAL_RESULTS / f"{Path(file).stem}.yaml", text)
    return missing


def find_hub_dataset(content: dict[str, Any], names: dict[str, str]) -> tuple[str | None, str]:
    """Return the data set of the Hub that a results file is about, or None and the reason.

    Args:
        content: of the results file.
        names: as in `write_eval_results`.
    """
    name, split = content["dataset"], content["split"]
    dataset = names.get(name) or HUB_DATASETS.get((name, split))
    if dataset is None:
        return None, f"no data set of the Hub is known for {name}; give it with --hub_datasets {name}=org/name"
    if content.get("predictions"):
        return None, "it holds the predictions of a file, not of this checkpoint"
    if content["scores"].get(SCORE) is None:
        return None, f"it has no {SCORE}"
    if content.get("rows") is not None:
        return None, f"only the first {content['rows']:,} rows were evaluated"
    published, count = published_size(name, split), content["scores"]["count"]
    if published is not None and published[1] == "questions" and published[0] != count:
        return None, f"{count:,} questions were evaluated, but {published[0]:,} are published"
    return dataset, ""


def notes_of(content: dict[str, Any]) -> str:
    """Return what a reader must know about a score: its name, the split and the conditions of the measurement."""
    scores = content["scores"]
    others = [f"{name} {scores[name]:.4f}" for name in ("cIoU", "N-acc", "T-acc") if scores.get(name) is not None]
    notes = [f"{SCORE} between 0 and 1", *others, f"{content['split']} split, {scores['count']:,} questions"]
    generated = content["protocol"] == "generate"
    notes.append("generated answers" if generated else GIVEN_ANSWER)
    if content.get("style") == "lisa":
        notes.append("computed with LISA's arithmetic")
    if content.get("weights"):
        notes.append(f"weights quantized to {content['weights']}")
    leakage = content.get("leakage")
    if leakage is None:
        notes.append("it is not recorded whether photos of evaluation splits were trained on")
    elif leakage.get("allow_leakage"):
        notes.append("photos of evaluation splits could be trained on")
    return "; ".join(notes)

"""A small benchmark, baselines as predictions, and writers of each format of prediction files."""

import io
import json
from pathlib import Path
from urllib.parse import quote

import numpy as np
from datasets import Dataset
from PIL import Image

from gemma_lisa.datasets_builder.rows import ROW_FEATURES, decode_mask, encode_mask, new_row, new_target
from gemma_lisa.evaluation.benchmark import Benchmark, list_questions
from gemma_lisa.evaluation.records import Prediction, Question

SIZE = (4, 6)  # (height, width) in pixels
LEFT, RIGHT = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
LEFT[:, :2] = RIGHT[1:3, 4:] = 1


def png(seed: int = 0, size: tuple[int, int] = SIZE, **options) -> bytes:
    """Return a PNG file of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def small_rows(**changes) -> list[dict]:
    """Return three rows: two questions and a conversation, a plural question, and a question without a target."""
    left, right = encode_mask(LEFT), encode_mask(RIGHT)
    first = [new_target(["the left bar"], [left], kind="bar"), new_target(["the box"], [right])]
    conversation = [{"question": "How many?", "answer": "2."}]
    rows = [
        new_row(png(0), "small/test/1", first, conversation),
        new_row(png(1), "small/test/2.jpg", [new_target(["all"], [left, right], ignore=encode_mask(1 - LEFT - RIGHT))]),
        new_row(png(2), "small/test/3", [new_target(["the dog"], [])]),
    ]
    return [{**row, **(changes if number == 0 else {})} for number, row in enumerate(rows)]


def dataset_of(rows: list[dict]) -> Dataset:
    return Dataset.from_list(rows, features=ROW_FEATURES)


def small_benchmark(with_conversations: bool = False) -> Benchmark:
    return list_questions(dataset_of(small_rows()), "small", with_conversations)


# ---------------------------------------------------------------------------------------------------------------------
# Baselines
# ---------------------------------------------------------------------------------------------------------------------
def truth(question: Question) -> list[dict]:
    return question.targets


def nothing(question: Question) -> list[dict]:
    """Never [SEG]."""
    return []


def empty_mask(question: Question) -> list[dict]:
    """Always [SEG], but without a pixel."""
    return [encode_mask(np.zeros(question.size, np.uint8))]


def whole_image(question: Question) -> list[dict]:
    """Always [SEG], with every pixel."""
    return [encode_mask(np.ones(question.size, np.uint8))]


def random_box(question: Question) -> list[dict]:
    generator = np.random.default_rng([*question.id.encode()])
    mask = np.zeros(question.size, np.uint8)
    (top, bottom), (left, right) = (np.sort(generator.integers(0, side + 1, 2)) for side in question.size)
    mask[top:bottom, left:right] = 1
    return [encode_mask(mask)]


BASELINES = (truth, nothing, empty_mask, whole_image, random_box)


# ---------------------------------------------------------------------------------------------------------------------
# Formats
# ---------------------------------------------------------------------------------------------------------------------
def write_jsonl(path: Path, benchmark: Benchmark, answer) -> Path:
    lines = [{"id": question.id, "masks": answer(question), "scores": []} for question in benchmark]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_coco(path: Path, benchmark: Benchmark, answer) -> Path:
    """Questions without a mask have no record."""
    records = [
        {"image_id": index, "category_id": 1, "segmentation": mask, "score": 0.5}
        for index, question in enumerate(benchmark)
        for mask in answer(question)
    ]
    path.write_text(json.dumps(records))
    return path


def write_pngs(folder: Path, benchmark: Benchmark, answer, in_one_folder: bool = False) -> Path:
    for question in benchmark:
        masks = [decode_mask(mask, "") for mask in answer(question)] or [np.zeros(question.size, np.uint8)]
        name = quote(question.id, safe="") if in_one_folder else question.id
        for number, mask in enumerate(masks):
            file = folder / (f"{name}.png" if len(masks) == 1 else f"{name}/{number}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask * 255).save(file)
    return folder


def agent_output(question: Question, masks: list[dict]) -> dict:
    """Return an output of SAM 3's agent, with the keys that it writes."""
    height, width = question.size
    return {
        "original_image_path": f"images/{Path(question.source).stem}.jpg",
        "orig_img_h": height,
        "orig_img_w": width,
        "pred_boxes": [[0.0, 0.0, 1.0, 1.0]] * len(masks),
        "pred_scores": [0.5] * len(masks),
        "pred_masks": [mask["counts"] for mask in masks],
        "text_prompt": question.text,
        "image_path": f"images/{Path(question.source).stem}.jpg",
    }


def write_agent(folder: Path, benchmark: Benchmark, answer) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, question in enumerate(benchmark):
        (folder / f"{index}_agent_pred.json").write_text(json.dumps(agent_output(question, answer(question))))
        (folder / f"{index}_agent_history.json").write_text("[]")
        Image.new("RGB", (2, 2)).save(folder / f"{index}_agent_pred.png")
    return folder


def write_lmms(path: Path, benchmark: Benchmark, answer) -> Path:
    """Write a log of samples as lmms-eval does."""
    lines = []
    for index, question in enumerate(benchmark):
        masks = answer(question)
        response = json.dumps({"masks": masks, "boxes": [{"x_min": 0.0}] * len(masks), "scores": [0.5] * len(masks)})
        lines.append({"doc_id": index, "target": "", "filtered_resps": [response], "doc_hash": "0"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def predicted(benchmark: Benchmark, answer) -> dict[str, Prediction]:
    return {question.id: Prediction(question.id, answer(question), []) for question in benchmark}
